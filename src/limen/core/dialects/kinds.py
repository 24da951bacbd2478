"""The table of kinds: which documents are understood, in which shapes, and which are known but not.

Kinds that the design promises for later are refused by name: a policy that would not be enforced
must not be accepted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from limen.core.dialects import (
    gateway_api,
    gateway_api_references,
    gateway_api_routes,
    istio,
    istio_authorization,
    istio_gateway,
    istio_jwt,
    istio_peer,
    istio_virtual_service,
    kuma_dataplane,
    kuma_mesh,
    kuma_permission,
    limen,
    limen_policies,
    limen_sources,
    limen_tokens,
    limen_user_context,
    secret,
)
from limen.core.dialects.metadata import metadata_schema
from limen.core.dialects.schema import Field, Refused, Rule, ServerMade, Struct, Text
from limen.core.model import resource

if TYPE_CHECKING:
    from collections.abc import Mapping


class Flat(Enum):
    """How Kuma's `type:` shape holds the spec of a kind: not at all, at the top, or in `spec`."""

    NONE = "none"
    TOP = "top"
    SPEC = "spec"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. `legacy_mesh`: a top-level `mesh:` is read; `own_mesh`: it is named as its mesh.

    Documents of `older_versions` mean the same as those of `api_version`. `annotations` are those
    that only this kind has; `rules` judge a whole document that is well formed. `top` are fields
    beside `metadata` of a kind that has no spec.
    """

    name: str
    api_version: str
    spec: Struct
    flat: Flat = Flat.NONE
    legacy_mesh: bool = False
    own_mesh: bool = False
    namespaced: bool = True
    spec_required: bool = True
    internal: bool = False
    older_versions: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    top: Mapping[str, Field] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """`Mesh` of `kuma.io/Mesh`."""
        return self.name.rpartition("/")[2]

    @property
    def group(self) -> str:
        """`kuma.io` of `kuma.io/Mesh`."""
        return self.name.rpartition("/")[0]

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that is read, the one that is stored first."""
        return (self.api_version, *self.older_versions)

    @property
    def schema(self) -> Struct:
        """The schema of a whole document in canonical shape."""
        spec: Mapping[str, Field] = {
            "spec": Field(self.spec, required=self.spec_required),
            "data": Field(Refused("this kind has a spec")),
        }
        return Struct(
            {
                "apiVersion": Field(Text(), required=True),
                "kind": Field(Text(), required=True),
                "metadata": Field(metadata_schema(self.annotations), required=True),
                "status": Field(ServerMade()),
                **(self.top or spec),
            },
            self.rules,
        )


_KUMA = "kuma.io/v1alpha1"

ISTIO_SECURITY: tuple[Kind, ...] = (
    Kind(
        resource.PEER_AUTHENTICATION,
        istio.API_VERSION,
        istio_peer.SPEC,
        older_versions=istio.OLDER_VERSIONS,
        rules=istio_peer.RULES,
    ),
    Kind(
        resource.REQUEST_AUTHENTICATION,
        istio.API_VERSION,
        istio_jwt.SPEC,
        older_versions=istio.OLDER_VERSIONS,
        annotations=istio_jwt.ANNOTATIONS,
        rules=istio_jwt.RULES,
    ),
    Kind(
        resource.AUTHORIZATION_POLICY,
        istio.API_VERSION,
        istio_authorization.SPEC,
        older_versions=istio.OLDER_VERSIONS,
        annotations=istio_authorization.ANNOTATIONS,
        rules=istio_authorization.RULES,
    ),
)
"""Read, but refused with `later-kind` as long as `KINDS` has not the line that names them."""

EDGE: tuple[Kind, ...] = (
    Kind(
        resource.ISTIO_GATEWAY,
        istio_gateway.API_VERSION,
        istio_gateway.SPEC,
        older_versions=istio_gateway.OLDER_VERSIONS,
    ),
    Kind(
        resource.VIRTUAL_SERVICE,
        istio_gateway.API_VERSION,
        istio_virtual_service.SPEC,
        older_versions=istio_gateway.OLDER_VERSIONS,
    ),
    Kind(
        resource.DESTINATION_RULE,
        istio_gateway.API_VERSION,
        istio_virtual_service.DESTINATION_RULE,
        older_versions=istio_gateway.OLDER_VERSIONS,
    ),
    Kind(
        resource.GATEWAY,
        gateway_api.API_VERSION,
        gateway_api.SPEC,
        older_versions=gateway_api.OLDER_VERSIONS,
    ),
    Kind(
        resource.HTTP_ROUTE,
        gateway_api.API_VERSION,
        gateway_api_routes.HTTP_ROUTE,
        older_versions=gateway_api.OLDER_VERSIONS,
    ),
    Kind(resource.GRPC_ROUTE, gateway_api.API_VERSION, gateway_api_routes.GRPC_ROUTE),
    Kind(resource.TLS_ROUTE, gateway_api.API_VERSION, gateway_api_routes.TLS_ROUTE),
    Kind(
        resource.REFERENCE_GRANT,
        gateway_api.API_VERSION,
        gateway_api_references.REFERENCE_GRANT,
        older_versions=gateway_api.OLDER_VERSIONS,
    ),
    Kind(
        resource.SECRET,
        secret.API_VERSION,
        Struct({}),
        rules=secret.RULES,
        top=secret.FIELDS,
    ),
)
"""Read, but refused with `later-kind` as long as `KINDS` has not the line that names them."""

USER_CONTEXTS: tuple[Kind, ...] = (
    Kind(resource.USER_CONTEXT, limen.API_VERSION, limen_user_context.USER_CONTEXT),
)
"""Read, but refused with `later-kind` as long as `KINDS` has not the line that names them."""

KINDS: tuple[Kind, ...] = (
    Kind(
        resource.MESH,
        _KUMA,
        kuma_mesh.SPEC,
        Flat.TOP,
        legacy_mesh=True,
        own_mesh=True,
        namespaced=False,
        spec_required=False,
    ),
    Kind(resource.DATAPLANE, _KUMA, kuma_dataplane.SPEC, Flat.TOP, legacy_mesh=True),
    Kind(
        resource.TRAFFIC_PERMISSION,
        _KUMA,
        kuma_permission.TRAFFIC_PERMISSION,
        Flat.TOP,
        legacy_mesh=True,
        namespaced=False,
    ),
    Kind(
        resource.MESH_TRAFFIC_PERMISSION,
        _KUMA,
        kuma_permission.MESH_TRAFFIC_PERMISSION,
        Flat.SPEC,
    ),
    Kind(
        resource.MESH_SETTINGS,
        limen.API_VERSION,
        limen.MESH_SETTINGS,
        own_mesh=True,
        namespaced=False,
    ),
    Kind(
        resource.TRUSTED_ISSUER,
        limen.API_VERSION,
        limen_tokens.TRUSTED_ISSUER,
        namespaced=False,
        rules=limen_tokens.TRUSTED_ISSUER_RULES,
    ),
    Kind(
        resource.TOKEN_EXCHANGE_POLICY,
        limen.API_VERSION,
        limen_tokens.TOKEN_EXCHANGE_POLICY,
    ),
    Kind(resource.XACML_POLICY, limen.API_VERSION, limen_policies.XACML_POLICY),
    Kind(resource.REGO_POLICY, limen.API_VERSION, limen_policies.REGO_POLICY),
    Kind(resource.ATTRIBUTE_SOURCE, limen.API_VERSION, limen_sources.ATTRIBUTE_SOURCE),
    Kind(resource.CUTOVER, limen.API_VERSION, limen.CUTOVER, internal=True),
    *USER_CONTEXTS,
    *ISTIO_SECURITY,
    *EDGE,
)

BY_NAME = {kind.name: kind for kind in KINDS}
PUBLIC = tuple(kind for kind in KINDS if not kind.internal)

_PROMISED: dict[str, str] = {
    "security.istio.io": "PeerAuthentication, RequestAuthentication and AuthorizationPolicy",
    "networking.istio.io": "Gateway, VirtualService and DestinationRule",
    "gateway.networking.k8s.io": "Gateway, HTTPRoute and GRPCRoute",
    "networking.k8s.io": "NetworkPolicy",
}
LATER = {
    group: what for group, what in _PROMISED.items() if group not in {kind.group for kind in KINDS}
}
"""API groups that a later version reads, and their kinds."""

LATER_CORE_KINDS = frozenset({"Secret"} - {kind.short for kind in KINDS if not kind.group})

LATER_LIMEN_KINDS = frozenset({"AttributeSource", "RegoPolicy", "XacmlPolicy", "UserContext"}) - {
    kind.short for kind in KINDS if kind.group == "limen.dev"
}
"""Read when they are distributed as resources."""

KUMA_KINDS = frozenset(
    {
        "CircuitBreaker", "ContainerPatch", "DataplaneInsight", "ExternalService", "FaultInjection",
        "HealthCheck", "HostnameGenerator", "MeshAccessLog", "MeshCircuitBreaker",
        "MeshExternalService", "MeshFaultInjection", "MeshGateway", "MeshGatewayConfig",
        "MeshGatewayInstance", "MeshGatewayRoute", "MeshHTTPRoute", "MeshHealthCheck",
        "MeshIdentity", "MeshInsight", "MeshLoadBalancingStrategy", "MeshMetric",
        "MeshMultiZoneService", "MeshPassthrough", "MeshProxyPatch", "MeshRateLimit", "MeshRetry",
        "MeshService", "MeshTCPRoute", "MeshTLS", "MeshTimeout", "MeshTrace", "MeshTrust",
        "ProxyTemplate", "RateLimit", "Retry", "ServiceInsight", "Timeout", "TrafficLog",
        "TrafficRoute", "TrafficTrace", "VirtualOutbound", "Workload", "Zone", "ZoneEgress",
        "ZoneIngress", "ZoneInsight",
    }
)  # fmt: skip
"""Kinds of Kuma that are refused as known but not supported, not as misspelt."""
