"""Every field of Kuma's and Istio's API is known: honoured, refused by name, or without effect.

The lists were written from Kuma's protocol buffers and Go types (2.x), apart from the schemas:
mesh.proto, dataplane.proto, traffic_permission.proto, selector.proto, envoy_admin.proto,
meshtrafficpermission.go, api/common/v1alpha1/ref.go; and from Istio's authorization_policy.proto,
request_authentication.proto, jwt.proto, peer_authentication.proto and selector.proto.
"""

from __future__ import annotations

import pytest

from limen.core.dialects import kinds
from limen.core.dialects.schema import (
    FieldType,
    ListOf,
    MapOf,
    Only,
    Refused,
    ServerMade,
    Struct,
    Variants,
)

MESH = """
mtls mtls.enabledBackend mtls.backends mtls.skipValidation
mtls.backends.name mtls.backends.type mtls.backends.dpCert mtls.backends.dpCert.rotation
mtls.backends.dpCert.rotation.expiration mtls.backends.dpCert.requestTimeout mtls.backends.conf
mtls.backends.conf.caCert mtls.backends.conf.caCert.RSAbits mtls.backends.conf.caCert.expiration
mtls.backends.mode mtls.backends.rootChain mtls.backends.rootChain.requestTimeout
tracing tracing.defaultBackend tracing.backends tracing.backends.name tracing.backends.sampling
tracing.backends.type tracing.backends.conf
logging logging.defaultBackend logging.backends logging.backends.name logging.backends.format
logging.backends.type logging.backends.conf
metrics metrics.enabledBackend metrics.backends metrics.backends.name metrics.backends.type
metrics.backends.conf
networking networking.outbound networking.outbound.passthrough
routing routing.localityAwareLoadBalancing routing.zoneEgress
routing.defaultForbidMeshExternalServiceAccess
constraints constraints.dataplaneProxy constraints.dataplaneProxy.requirements
constraints.dataplaneProxy.requirements.tags constraints.dataplaneProxy.restrictions
constraints.dataplaneProxy.restrictions.tags
skipCreatingInitialPolicies meshServices meshServices.mode
"""

DATAPLANE = """
networking networking.ingress networking.address networking.advertisedAddress
networking.inbound networking.inbound.port networking.inbound.servicePort
networking.inbound.serviceAddress networking.inbound.address networking.inbound.tags
networking.inbound.health networking.inbound.health.ready networking.inbound.serviceProbe
networking.inbound.serviceProbe.interval networking.inbound.serviceProbe.timeout
networking.inbound.serviceProbe.unhealthyThreshold
networking.inbound.serviceProbe.healthyThreshold networking.inbound.serviceProbe.tcp
networking.inbound.state networking.inbound.name
networking.outbound networking.outbound.address networking.outbound.port
networking.outbound.tags networking.outbound.service networking.outbound.backendRef
networking.outbound.backendRef.kind networking.outbound.backendRef.name
networking.outbound.backendRef.port networking.outbound.backendRef.labels
networking.gateway networking.gateway.tags networking.gateway.type
networking.transparentProxying networking.transparentProxying.redirectPortInbound
networking.transparentProxying.redirectPortOutbound
networking.transparentProxying.directAccessServices
networking.transparentProxying.reachableServices networking.transparentProxying.ipFamilyMode
networking.transparentProxying.reachableBackends
networking.admin networking.admin.port
metrics metrics.name metrics.type metrics.conf
probes probes.port probes.endpoints probes.endpoints.inboundPort probes.endpoints.inboundPath
probes.endpoints.path
envoy envoy.xdsTransportProtocolVariant
"""

TRAFFIC_PERMISSION = "sources sources.match destinations destinations.match"

MESH_TRAFFIC_PERMISSION = """
targetRef targetRef.kind targetRef.name targetRef.tags targetRef.mesh targetRef.proxyTypes
targetRef.namespace targetRef.labels targetRef.sectionName
from from.targetRef from.default from.default.action
rules rules.default rules.default.deny rules.default.allow rules.default.allowWithShadowDeny
rules.default.deny.spiffeID rules.default.deny.spiffeID.type rules.default.deny.spiffeID.value
rules.default.allow.spiffeID rules.default.allow.sni rules.default.allow.sni.type
rules.default.allowWithShadowDeny.spiffeID
"""

SELECTOR = "selector selector.matchLabels"
TARGETS = """
targetRef targetRef.group targetRef.kind targetRef.name targetRef.namespace
targetRefs targetRefs.group targetRefs.kind targetRefs.name targetRefs.namespace
"""

PEER_AUTHENTICATION = f"{SELECTOR} mtls mtls.mode portLevelMtls portLevelMtls.8080.mode"

REQUEST_AUTHENTICATION = f"""{SELECTOR} {TARGETS}
jwtRules jwtRules.issuer jwtRules.audiences jwtRules.jwksUri jwtRules.jwks jwtRules.fromHeaders
jwtRules.fromHeaders.name jwtRules.fromHeaders.prefix jwtRules.fromParams jwtRules.fromCookies
jwtRules.outputPayloadToHeader jwtRules.forwardOriginalToken jwtRules.outputClaimToHeaders
jwtRules.outputClaimToHeaders.header jwtRules.outputClaimToHeaders.claim jwtRules.timeout
jwtRules.spaceDelimitedClaims jwtRules.failureMode
"""

SOURCE = (
    "principals notPrincipals requestPrincipals notRequestPrincipals namespaces notNamespaces "
    "serviceAccounts notServiceAccounts ipBlocks notIpBlocks remoteIpBlocks notRemoteIpBlocks"
)
OPERATION = "hosts notHosts ports notPorts methods notMethods paths notPaths"
AUTHORIZATION_POLICY = f"""{SELECTOR} {TARGETS}
action provider provider.name rules rules.from rules.from.source rules.to rules.to.operation
rules.when rules.when.key rules.when.values rules.when.notValues
{" ".join(f"rules.from.source.{name}" for name in SOURCE.split())}
{" ".join(f"rules.to.operation.{name}" for name in OPERATION.split())}
"""

ISTIO_FIELDS = {
    "security.istio.io/PeerAuthentication": PEER_AUTHENTICATION,
    "security.istio.io/RequestAuthentication": REQUEST_AUTHENTICATION,
    "security.istio.io/AuthorizationPolicy": AUTHORIZATION_POLICY,
}

FIELDS = {
    "kuma.io/Mesh": MESH,
    "kuma.io/Dataplane": DATAPLANE,
    "kuma.io/TrafficPermission": TRAFFIC_PERMISSION,
    "kuma.io/MeshTrafficPermission": MESH_TRAFFIC_PERMISSION,
}


def known(schema: FieldType, path: list[str]) -> bool:
    """Whether `path` leads to a field of `schema`, or into one that is refused as a whole."""
    if not path or isinstance(schema, Refused | ServerMade | Only):
        return True
    match schema:
        case ListOf():
            return known(schema.item, path)
        case MapOf():
            return known(schema.value, path[1:])
        case Variants():
            return path[0] == schema.by or any(known(v, path) for v in schema.variants.values())
        case Struct():
            return path[0] in schema.fields and known(schema.fields[path[0]].type, path[1:])
    return False


@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field) for kind, text in FIELDS.items() for field in text.split()]
)
def test_every_field_of_kuma_is_known(kind: str, field: str) -> None:
    assert known(kinds.BY_NAME[kind].spec, field.split("."))


@pytest.mark.parametrize(
    ("kind", "field"),
    [(kind, field) for kind, text in ISTIO_FIELDS.items() for field in text.split()],
)
def test_every_field_of_istio_is_known(kind: str, field: str) -> None:
    (spec,) = [k.spec for k in kinds.ISTIO_SECURITY if k.name == kind]
    assert known(spec, field.split("."))


def test_the_test_would_see_a_field_that_is_missing() -> None:
    assert not known(kinds.BY_NAME["kuma.io/Mesh"].spec, ["mtls", "backends", "nonsense"])
    assert not known(kinds.BY_NAME["kuma.io/Mesh"].spec, ["nonsense"])
