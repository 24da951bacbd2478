"""Every field of the API's of edge and routing is known: honoured, or refused by name.

The lists were written apart from the schemas, from istio/api `networking/v1/gateway.proto`,
`virtual_service.proto` and `destination_rule.proto`, from kubernetes-sigs/gateway-api
`apis/v1/{gateway,httproute,grpcroute,tlsroute,referencegrant,shared,object_reference}_types.go`,
and from kubernetes `core/v1` Secret.
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
    Sealed,
    ServerMade,
    Struct,
    Variants,
)

ISTIO_GATEWAY = """
servers selector servers.port servers.port.number servers.port.protocol servers.port.name
servers.port.targetPort servers.bind servers.hosts servers.tls servers.defaultEndpoint servers.name
servers.tls.httpsRedirect servers.tls.mode servers.tls.serverCertificate servers.tls.privateKey
servers.tls.caCertificates servers.tls.caCrl servers.tls.credentialName servers.tls.credentialNames
servers.tls.caCertCredentialName servers.tls.tlsCertificates servers.tls.subjectAltNames
servers.tls.verifyCertificateSpki servers.tls.verifyCertificateHash
servers.tls.minProtocolVersion servers.tls.maxProtocolVersion servers.tls.cipherSuites
"""
HEADERS = "request request.set request.add request.remove response response.set response.remove"
VIRTUAL_SERVICE = f"""
hosts gateways http tls tcp exportTo
http.name http.match http.route http.redirect http.directResponse http.delegate http.rewrite
http.timeout http.retries http.fault http.mirror http.mirrors http.mirrorPercent
http.mirrorPercentage http.corsPolicy http.headers
http.match.name http.match.uri http.match.scheme http.match.method http.match.authority
http.match.headers http.match.port http.match.sourceLabels http.match.gateways
http.match.queryParams http.match.ignoreUriCase http.match.withoutHeaders
http.match.sourceNamespace http.match.statPrefix
http.match.uri.exact http.match.uri.prefix http.match.uri.regex http.match.scheme.exact
http.match.scheme.prefix http.match.scheme.regex http.match.method.exact http.match.method.prefix
http.match.method.regex http.match.headers.x.exact http.match.headers.x.prefix
http.match.headers.x.regex http.match.queryParams.x.exact http.match.queryParams.x.prefix
http.match.queryParams.x.regex http.match.withoutHeaders.x.exact
http.route.destination http.route.weight http.route.headers http.route.destination.host
http.route.destination.subset http.route.destination.port http.route.destination.port.number
http.redirect.uri http.redirect.authority http.redirect.port http.redirect.derivePort
http.redirect.scheme http.redirect.redirectCode
http.rewrite.uri http.rewrite.authority http.rewrite.uriRegexRewrite
http.rewrite.uriRegexRewrite.match http.rewrite.uriRegexRewrite.rewrite
http.corsPolicy.allowOrigin http.corsPolicy.allowOrigins http.corsPolicy.allowOrigins.exact
http.corsPolicy.allowMethods http.corsPolicy.allowHeaders http.corsPolicy.exposeHeaders
http.corsPolicy.maxAge http.corsPolicy.allowCredentials http.corsPolicy.unmatchedPreflights
{" ".join(f"http.headers.{name} http.route.headers.{name}" for name in HEADERS.split())}
tls.match tls.route tls.match.sniHosts tls.match.destinationSubnets tls.match.port
tls.match.sourceLabels tls.match.gateways tls.match.sourceNamespace tls.route.destination
tls.route.weight tcp.match tcp.route
"""
DESTINATION_RULE = """
host trafficPolicy subsets exportTo workloadSelector subsets.name subsets.labels
subsets.trafficPolicy trafficPolicy.loadBalancer trafficPolicy.connectionPool
trafficPolicy.outlierDetection trafficPolicy.tls trafficPolicy.portLevelSettings
trafficPolicy.tunnel trafficPolicy.proxyProtocol trafficPolicy.retryBudget trafficPolicy.tls.mode
trafficPolicy.tls.clientCertificate trafficPolicy.tls.privateKey trafficPolicy.tls.caCertificates
trafficPolicy.tls.caCrl trafficPolicy.tls.credentialName trafficPolicy.tls.subjectAltNames
trafficPolicy.tls.sni trafficPolicy.tls.insecureSkipVerify
"""
REF = "group kind name namespace"


def refs(path: str, fields: str = REF) -> str:
    return " ".join(f"{path}.{name}" for name in fields.split())


GATEWAY = f"""
gatewayClassName listeners addresses infrastructure allowedListeners tls defaultScope
listeners.name listeners.hostname listeners.port listeners.protocol listeners.tls
listeners.allowedRoutes listeners.tls.mode listeners.tls.certificateRefs listeners.tls.options
{refs("listeners.tls.certificateRefs")}
listeners.allowedRoutes.namespaces listeners.allowedRoutes.kinds
listeners.allowedRoutes.namespaces.from listeners.allowedRoutes.namespaces.selector
listeners.allowedRoutes.namespaces.selector.matchLabels
listeners.allowedRoutes.namespaces.selector.matchExpressions
{refs("listeners.allowedRoutes.namespaces.selector.matchExpressions", "key operator values")}
listeners.allowedRoutes.kinds.group listeners.allowedRoutes.kinds.kind
addresses.type addresses.value infrastructure.labels infrastructure.annotations
infrastructure.parametersRef allowedListeners.namespaces
tls.backend tls.backend.clientCertificateRef tls.frontend tls.frontend.default tls.frontend.perPort
tls.frontend.default.validation tls.frontend.default.validation.caCertificateRefs
{refs("tls.frontend.default.validation.caCertificateRefs")}
tls.frontend.default.validation.mode tls.frontend.perPort.port tls.frontend.perPort.tls
tls.frontend.perPort.tls.validation
"""
PARENTS = f"parentRefs {refs('parentRefs', REF + ' sectionName port')} hostnames rules rules.name"
BACKENDS = f"rules.backendRefs {refs('rules.backendRefs', REF + ' port weight')}"
MODIFIER = "set set.name set.value add add.name add.value remove"


def filters(path: str) -> str:
    kinds_of = ("requestHeaderModifier", "responseHeaderModifier")
    inner = " ".join(refs(f"{path}.{kind}", MODIFIER) for kind in kinds_of)
    return f"{path} {path}.type {' '.join(f'{path}.{kind}' for kind in kinds_of)} {inner}"


HTTP_ROUTE = f"""{PARENTS} {BACKENDS} {filters("rules.filters")}
{filters("rules.backendRefs.filters")} useDefaultGateways
rules.matches rules.timeouts rules.retry rules.sessionPersistence
rules.matches.path rules.matches.headers rules.matches.queryParams rules.matches.method
rules.matches.path.type rules.matches.path.value
{refs("rules.matches.headers", "type name value")}
{refs("rules.matches.queryParams", "type name value")}
rules.filters.requestRedirect {
    refs(
        "rules.filters.requestRedirect",
        "scheme hostname path path.type path.replaceFullPath path.replacePrefixMatch port "
        "statusCode",
    )
}
rules.filters.urlRewrite {refs("rules.filters.urlRewrite", "hostname path")}
rules.filters.cors {refs("rules.filters.cors", "allowOrigins allowCredentials allowMethods")}
{refs("rules.filters.cors", "allowHeaders exposeHeaders maxAge")}
"""
GRPC_ROUTE = f"""{PARENTS} {BACKENDS} {filters("rules.filters")}
{filters("rules.backendRefs.filters")} rules.matches rules.sessionPersistence
rules.matches.method {refs("rules.matches.method", "type service method")}
rules.matches.headers {refs("rules.matches.headers", "type name value")}
"""
TLS_ROUTE = f"{PARENTS} {BACKENDS}"
REFERENCE_GRANT = f"from to {refs('from', 'group kind namespace')} {refs('to', 'group kind name')}"

FIELDS = {
    "networking.istio.io/Gateway": ISTIO_GATEWAY,
    "networking.istio.io/VirtualService": VIRTUAL_SERVICE,
    "networking.istio.io/DestinationRule": DESTINATION_RULE,
    "gateway.networking.k8s.io/Gateway": GATEWAY,
    "gateway.networking.k8s.io/HTTPRoute": HTTP_ROUTE,
    "gateway.networking.k8s.io/GRPCRoute": GRPC_ROUTE,
    "gateway.networking.k8s.io/TLSRoute": TLS_ROUTE,
    "gateway.networking.k8s.io/ReferenceGrant": REFERENCE_GRANT,
}
BY_NAME = {kind.name: kind for kind in kinds.EDGE}


def known(schema: FieldType, path: list[str]) -> bool:
    """Whether `path` leads to a field of `schema`, or into one that is refused as a whole."""
    if not path or isinstance(schema, Refused | ServerMade | Only):
        return True
    match schema:
        case ListOf():
            return known(schema.item, path)
        case MapOf():
            return known(schema.value, path[1:])
        case Sealed():
            return path[0] in schema.fields
        case Variants():
            return path[0] == schema.by or any(known(v, path) for v in schema.variants.values())
        case Struct():
            return path[0] in schema.fields and known(schema.fields[path[0]].type, path[1:])
    return False


@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field) for kind, text in FIELDS.items() for field in text.split()]
)
def test_every_field_is_known(kind: str, field: str) -> None:
    assert known(BY_NAME[kind].spec, field.split("."))


def test_every_kind_has_its_list() -> None:
    assert set(FIELDS) | {"/Secret"} == set(BY_NAME)


def test_every_field_of_a_secret_is_known() -> None:
    assert set(BY_NAME["/Secret"].top) == {"type", "data", "stringData", "immutable"}


def test_values_of_enumerations_that_the_api_has_are_known() -> None:
    """A mode that is refused is refused by name, never as a misspelling."""
    tls = BY_NAME["networking.istio.io/Gateway"].spec.fields["servers"].type
    assert isinstance(tls, ListOf)
    assert isinstance(tls.item, Struct)
    struct = tls.item.fields["tls"].type
    assert isinstance(struct, Struct)
    mode = struct.fields["mode"].type
    every = {*getattr(mode, "values", ()), *getattr(mode, "refused", {})}
    assert every == {
        "PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"
    }  # fmt: skip


def test_the_test_would_see_a_field_that_is_missing() -> None:
    assert not known(BY_NAME["networking.istio.io/Gateway"].spec, ["servers", "tls", "nonsense"])
