"""`NodePlan`: everything that one proxy must do, complete and comparable.

Made by `core/compiler`, turned into Envoy resources by `core/envoy`. Equal plans give equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.model.attribute_source import AttributeSource
    from limen.core.model.decision import DecisionPolicy
    from limen.core.model.mesh import Isolation
    from limen.core.model.names import InstanceName, SpiffeId, WorkloadName
    from limen.core.model.provider import ExtensionProvider
    from limen.core.model.request_authentication import ClaimHeader, TokenHeader
    from limen.core.model.user_context import HopStyle
    from limen.core.model.workload import Probe, Protocol
    from limen.core.plan.edge import EdgePlan
    from limen.core.policy.rule import Policy


@dataclass(frozen=True, slots=True)
class LocalSide:
    """What only the agent knows: how the program leaves through its proxy.

    `outbound_port` is a loopback port guarded by a per-workload secret; `outbound_socket` a Unix
    socket that only the workload's uid opens; 0 and "" mean not offered. The secret itself never
    reaches the server: the agent supplies the extension config `names.LOCAL_GUARD`. `pdp_socket`:
    where the agent runs this workload's decision point; "": an agent that has none.
    """

    outbound_port: int = 0
    outbound_socket: str = ""
    isolation: Isolation | None = None
    pdp_socket: str = ""


class PortMode(Enum):
    """What a guarded port speaks.

    STRICT: mTLS of the mesh only. PERMISSIVE: that, and plaintext on the same port, whose callers
    have no identity. DISABLE: plaintext only.
    """

    STRICT = "strict"
    PERMISSIVE = "permissive"
    DISABLE = "disable"


DEFAULT_TOKEN_HEADER = ("authorization", "Bearer ")
DEFAULT_TOKEN_PARAMETER = "access_token"  # noqa: S105 - a parameter's name


@dataclass(frozen=True, slots=True)
class JwtPlan:
    """One issuer whose tokens a guarded port verifies.

    `audiences` empty: any. `jwks`: JSON text of a key set with fit keys only; "" if none is known:
    tokens of that issuer are refused, never let through. `from_*` all empty: `Authorization:
    Bearer` and `?access_token=`. `space_delimited`: top-level claims that are split into lists,
    sorted, `scope` and `permission` among them. `forward` False: the token is taken out of the
    request. `required`: a request must carry a verified token of one of the plans that say so.
    `typ` empty: an issuer outside; else exactly this one, byte for byte: the mesh's own tokens.
    """

    issuer: str
    audiences: tuple[str, ...] = ()
    jwks: str = ""
    from_headers: tuple[TokenHeader, ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    output_payload_to_header: str = ""
    output_claims: tuple[ClaimHeader, ...] = ()
    forward: bool = False
    required: bool = False
    space_delimited: tuple[str, ...] = ("permission", "scope")
    typ: str = ""

    @property
    def in_headers(self) -> tuple[tuple[str, str], ...]:
        """Headers (lower case) and prefixes that may carry the issuer's token."""
        if self.from_headers or self.from_params or self.from_cookies:
            return tuple((h.name.lower(), h.prefix) for h in self.from_headers)
        return (DEFAULT_TOKEN_HEADER,)

    @property
    def in_parameters(self) -> tuple[str, ...]:
        """Query parameters that may carry the issuer's token."""
        if self.from_headers or self.from_params or self.from_cookies:
            return self.from_params
        return (DEFAULT_TOKEN_PARAMETER,)

    @property
    def places(self) -> frozenset[str]:
        """All of them, as an access log names them."""
        headers = {f"header {name}: {prefix}" for name, prefix in self.in_headers}
        parameters = {f"parameter {name}" for name in self.in_parameters}
        return frozenset(headers | parameters | {f"cookie {name}" for name in self.from_cookies})


def read_at(plan: JwtPlan, other: JwtPlan) -> JwtPlan:
    """`plan`, its tokens in the places of those of `other`."""
    return replace(
        plan,
        from_headers=other.from_headers,
        from_params=other.from_params,
        from_cookies=other.from_cookies,
    )


def token_places(plans: Iterable[JwtPlan]) -> frozenset[str]:
    """Where a port looks for tokens."""
    return frozenset(place for plan in plans for place in plan.places)


DEFAULT_TOKEN_PLACES = JwtPlan("").places


@dataclass(frozen=True, slots=True)
class TokenServicePlan:
    """The token service that this proxy's agent asks. Another `generation`: nothing it said holds.

    `url` is where it is reached, `issuer` what its tokens say.
    """

    issuer: str
    url: str
    generation: str = ""


@dataclass(frozen=True, slots=True)
class ExchangePlan:
    """What an incoming token becomes before it is verified: a token for `audiences`.

    `issuers`: the names of the TrustedIssuers whose users may come in; empty: any. `headers` empty:
    `Authorization: Bearer`. `lifetime_s` 0: what the service's policy says.
    """

    audiences: tuple[str, ...]
    issuers: tuple[str, ...] = ()
    headers: tuple[TokenHeader, ...] = ()
    scopes: tuple[str, ...] = ()
    lifetime_s: int = 0
    cache_s: int = 60
    negative_cache_s: int = 5


@dataclass(frozen=True, slots=True)
class HopPlan:
    """How the user whom the application passes on in `context_header` goes to callees."""

    style: HopStyle
    context_header: str
    scopes: tuple[str, ...] = ()
    lifetime_s: int = 0
    cache_s: int = 60
    negative_cache_s: int = 5


@dataclass(frozen=True, slots=True)
class InboundPlan:
    """One guarded port. `cutover` changes when a right was withdrawn (see model `Cutover`).

    `tokens`: issuers whose tokens are verified, sorted; a request whose token none of them verifies
    is refused with 401. `rule_header`: header of every response that names what decided; "": none.
    `log_all`: every request has its line in the access log, not only those that were refused.
    `providers`: those that the policy's CUSTOM rules ask, sorted by name; a rule whose provider is
    not among them refuses what it matches. `exchange`: see there. `context_header`: the
    application gets the verified token in it, to pass it on; "": it does not.
    """

    address: str
    port: int
    service_address: str
    service_port: int
    protocol: Protocol
    policy: Policy
    cutover: int = 0
    mode: PortMode = PortMode.STRICT
    tokens: tuple[JwtPlan, ...] = ()
    rule_header: str = ""
    log_all: bool = False
    providers: tuple[ExtensionProvider, ...] = ()
    exchange: ExchangePlan | None = None
    context_header: str = ""


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """Health paths reachable without identity, GET and HEAD only, on a port of their own."""

    address: str
    port: int
    probes: tuple[Probe, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """A callee that this workload may reach.

    `hostnames` are matched against the authority, any port. `principals` are the identities that
    may answer: a peer with another certificate is refused by the caller. `mtls` False: plaintext,
    for a callee whose ports all have mode DISABLE. `mixed`: some of its ports do, and each address
    says what it speaks (`Endpoint.mtls`); `mtls` is then True.
    """

    callee: WorkloadName
    hostnames: tuple[str, ...]
    principals: tuple[SpiffeId, ...]
    mtls: bool = True
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class LocalPortPlan:
    """A plain local port that leads to one callee."""

    address: str
    port: int
    callee: WorkloadName


EPOCH_HEADER = "x-limen-policy"
"""Of every response that a decision point decided about: `XacmlPolicy/NAMESPACE/NAME@EPOCH`."""


@dataclass(frozen=True, slots=True)
class HeldPolicy:
    """A policy that the decision point beside a proxy holds, and the name that it has there.

    `sources` are asked for attributes that a request lacks. `stale_after_s`: the mesh's
    `maxStaleness`.
    """

    kind: str
    namespace: str
    name: str
    policy: DecisionPolicy
    sources: tuple[AttributeSource, ...] = ()
    stale_after_s: int | None = None

    @property
    def path(self) -> str:
        """Where it answers: `/XacmlPolicy/NAMESPACE/NAME`."""
        return f"/{self.kind.rpartition('/')[2]}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class NodePlan:
    """The proxy of one instance. Edges sorted by callee. `edge` is there for gateways only.

    `token_service` is there where an `exchange` or `hop` needs it.
    `decisions`: what its decision point holds, sorted; the whole set, or nothing is decided.
    """

    instance: InstanceName
    spiffe_id: SpiffeId
    trusted_domains: tuple[str, ...]
    inbounds: tuple[InboundPlan, ...]
    edges: tuple[Edge, ...]
    local: LocalSide
    local_ports: tuple[LocalPortPlan, ...] = ()
    probes: ProbePlan | None = None
    max_connection_age_s: int | None = None
    edge: EdgePlan | None = None
    hop: HopPlan | None = None
    token_service: TokenServicePlan | None = None
    decisions: tuple[HeldPolicy, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a callee: where its guarded port is reached, and whether by mTLS."""

    address: str
    port: int
    mtls: bool = True


@dataclass(frozen=True, slots=True)
class EndpointsPlan:
    """All live addresses of one callee, shared by every proxy that may reach it. Sorted."""

    callee: WorkloadName
    endpoints: tuple[Endpoint, ...]
