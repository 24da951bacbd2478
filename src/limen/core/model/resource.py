"""The envelope of every resource: its key, where it was written, its parsed meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.model.attribute_source import AttributeSource
    from limen.core.model.authorization import AuthorizationPolicy
    from limen.core.model.decision import DecisionPolicy
    from limen.core.model.gateway import Gateway, ReferenceGrant
    from limen.core.model.mesh import Mesh, MeshSettings
    from limen.core.model.peer_authentication import PeerAuthentication
    from limen.core.model.permission import MeshTrafficPermission, TrafficPermission
    from limen.core.model.request_authentication import RequestAuthentication
    from limen.core.model.route import DestinationRule, Route
    from limen.core.model.secret import Secret
    from limen.core.model.token_service import TokenExchangePolicy, TrustedIssuer
    from limen.core.model.user_context import UserContext
    from limen.core.model.workload import Cutover, Dataplane

MESH = "kuma.io/Mesh"
DATAPLANE = "kuma.io/Dataplane"
TRAFFIC_PERMISSION = "kuma.io/TrafficPermission"
MESH_TRAFFIC_PERMISSION = "kuma.io/MeshTrafficPermission"
MESH_SETTINGS = "limen.dev/MeshSettings"
CUTOVER = "limen.dev/Cutover"
TRUSTED_ISSUER = "limen.dev/TrustedIssuer"
TOKEN_EXCHANGE_POLICY = "limen.dev/TokenExchangePolicy"  # noqa: S105 - the name of a kind
USER_CONTEXT = "limen.dev/UserContext"
XACML_POLICY = "limen.dev/XacmlPolicy"
REGO_POLICY = "limen.dev/RegoPolicy"
TOKEN_SERVICE = "limen.dev/TokenService"  # noqa: S105 - the name of a kind
"""Written by a token service: `{issuer, url, jwks: JSON text}`; its name is the role's."""
REVOCATION = "limen.dev/Revocation"
"""Written by a token service or operator: `{issuer, by: jti | sub | txn, value, until_s}`."""
JWKS_CACHE = "limen.dev/JwksCache"
"""Records `{"issuer", "uri", "jwks": text with public members only, "confirmed_at_s"}`."""
ATTRIBUTE_SOURCE = "limen.dev/AttributeSource"
PEER_AUTHENTICATION = "security.istio.io/PeerAuthentication"
REQUEST_AUTHENTICATION = "security.istio.io/RequestAuthentication"
AUTHORIZATION_POLICY = "security.istio.io/AuthorizationPolicy"
ISTIO_GATEWAY = "networking.istio.io/Gateway"
VIRTUAL_SERVICE = "networking.istio.io/VirtualService"
DESTINATION_RULE = "networking.istio.io/DestinationRule"
GATEWAY = "gateway.networking.k8s.io/Gateway"
HTTP_ROUTE = "gateway.networking.k8s.io/HTTPRoute"
GRPC_ROUTE = "gateway.networking.k8s.io/GRPCRoute"
TLS_ROUTE = "gateway.networking.k8s.io/TLSRoute"
REFERENCE_GRANT = "gateway.networking.k8s.io/ReferenceGrant"
SECRET = "/Secret"  # noqa: S105 - the name of a kind; the group of core kinds is empty
SERVICE = "/Service"


@dataclass(frozen=True, slots=True, order=True)
class ResourceKey:
    """Identity of a stored resource. `kind` is `GROUP/Kind`; a Mesh lies in itself."""

    kind: str
    mesh: str
    namespace: str
    name: str

    def __str__(self) -> str:
        short = self.kind.rpartition("/")[2]
        return f"{short} {self.mesh}:{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a resource was written: file and the 1-based line of each path in the document."""

    file: str = ""
    lines: Mapping[str, int] = field(default_factory=dict, hash=False, compare=False)

    def line(self, path: str = "") -> int:
        """Line of `path`, or of its nearest ancestor that has one; 0 if unknown."""
        while path and path not in self.lines:
            path = path.rpartition("/")[0]
        return self.lines.get(path, 0)


Spec: TypeAlias = (
    "Mesh | MeshSettings | Dataplane | TrafficPermission | MeshTrafficPermission | Cutover"
    " | PeerAuthentication | RequestAuthentication | AuthorizationPolicy"
    " | Gateway | ReferenceGrant | Route | DestinationRule | Secret"
    " | TrustedIssuer | TokenExchangePolicy | UserContext | DecisionPolicy"
    " | AttributeSource"
)
"""What a resource may mean, one type for each kind."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource that was understood in full. Compared without `origin`."""

    key: ResourceKey
    spec: Spec
    labels: tuple[tuple[str, str], ...] = ()
    origin: Origin = field(default_factory=Origin, compare=False)
