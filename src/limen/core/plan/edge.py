"""What a gateway's proxy must do: listeners, the hosts and routes of each, and given certificates.

Texts are literal, as in `model/route.py`: `core/envoy` escapes what Envoy would read as a command.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from limen.core.model.route import NO_CHANGE, UNCHANGED, HeaderChange, HeaderChanges

if TYPE_CHECKING:
    from limen.core.model.gateway import SecretRef, ServerTlsMode, TlsVersion
    from limen.core.model.names import WorkloadName
    from limen.core.model.provider import ExtensionProvider
    from limen.core.model.route import Cors, HttpMatch, PathChange, Rewrite
    from limen.core.model.secret import PrivateKeyPem
    from limen.core.plan.node import Edge, Endpoint, ExchangePlan, JwtPlan
    from limen.core.policy.rule import Policy


@dataclass(frozen=True, slots=True)
class CertificatePlan:
    """A certificate (chain, leaf first, PEM) and its key for a listener, as a Secret of its own."""

    ref: SecretRef
    chain_pem: bytes = field(repr=False)
    key: PrivateKeyPem


@dataclass(frozen=True, slots=True)
class AuthoritiesPlan:
    """Who may have signed a client's certificate (PEM), as a Secret of its own."""

    ref: SecretRef
    bundle_pem: bytes = field(repr=False)


SecretPlan = CertificatePlan | AuthoritiesPlan
"""A secret given by hand; the namespace of its `ref` is never empty."""


@dataclass(frozen=True, slots=True)
class ClientCheckPlan:
    """How a client's certificate is judged: by the chain to `authorities`, and besides.

    `required` False: no certificate at all is fine, one that is sent must be valid. `names`,
    `spki_sha256`, `certificate_sha256` as in `model/gateway.py`.
    """

    authorities: SecretRef
    required: bool
    names: tuple[str, ...] = ()
    spki_sha256: tuple[str, ...] = ()
    certificate_sha256: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EdgeTls:
    """TLS that ends at the gateway. `certificates`: empty for ISTIO_MUTUAL."""

    mode: ServerTlsMode
    certificates: tuple[SecretRef, ...]
    client: ClientCheckPlan | None
    minimum: TlsVersion
    maximum: TlsVersion
    ciphers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteRef:
    """Where a route was written: its document, and the rule in it (counted from 0)."""

    kind: str
    namespace: str
    name: str
    index: int
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}[{self.index}]"


class Missing(Enum):
    """Why a share of the requests goes nowhere; its value is the status that is answered.

    `BACKEND`: what a Gateway API route names is not there or not granted. `NOBODY`: there is no
    such instance. `FORBIDDEN`: no policy of the service may let the gateway in.
    """

    BACKEND = 500
    NOBODY = 503
    FORBIDDEN = 403


@dataclass(frozen=True, slots=True)
class Share:
    """`weight` of the requests go to `callee`, or are answered by `missing`.

    `part` "": to the whole service, else to that `PartPlan` of it.
    """

    callee: WorkloadName
    weight: int
    part: str = ""
    headers: HeaderChanges = UNCHANGED
    missing: Missing | None = None


@dataclass(frozen=True, slots=True)
class ForwardPlan:
    """Sent on; no share with a weight: 500."""

    shares: tuple[Share, ...]
    rewrite: Rewrite | None = None


@dataclass(frozen=True, slots=True)
class RedirectPlan:
    """Answered with a Location. `port` 0: what the Host header had, none if there is a `host`."""

    scheme: str = ""
    host: str = ""
    path: PathChange | None = None
    port: int = 0
    status: int = 302


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """Answered by the gateway itself with `status` and `text`."""

    status: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """One match and what is done then; `match` None: everything. The first that matches decides.

    Of `match` neither port nor parents nor scheme are left.
    """

    ref: RouteRef
    match: HttpMatch | None
    action: ForwardPlan | RedirectPlan | AnswerPlan
    request: HeaderChange = NO_CHANGE
    response: HeaderChange = NO_CHANGE
    cors: Cors | None = None


@dataclass(frozen=True, slots=True)
class HostPlan:
    """The routes of one domain (exact, `*.suffix`, `*`); nothing matches: 404."""

    domain: str
    routes: tuple[RoutePlan, ...]


@dataclass(frozen=True, slots=True)
class HttpChain:
    """One filter chain that speaks HTTP: plaintext (`tls` None) or TLS for `server_names`.

    `server_names` empty: whatever is asked for. A host of none of `hosts` is answered 404.
    """

    name: str
    server_names: tuple[str, ...]
    tls: EdgeTls | None
    hosts: tuple[HostPlan, ...]


@dataclass(frozen=True, slots=True)
class TunnelChain:
    """Connections for `server_names` that are passed on unopened."""

    name: str
    server_names: tuple[str, ...]
    shares: tuple[Share, ...]
    ref: RouteRef


@dataclass(frozen=True, slots=True)
class EdgeListener:
    """One address and port. What guards it is the same for all its chains that speak HTTP.

    `proxy_protocol`: every connection must begin with a PROXY header (a load balancer's).
    """

    bind: str
    port: int
    chains: tuple[HttpChain | TunnelChain, ...]
    policy: Policy
    tokens: tuple[JwtPlan, ...] = ()
    cutover: int = 0
    rule_header: str = ""
    proxy_protocol: bool = False
    log_all: bool = False
    providers: tuple[ExtensionProvider, ...] = ()
    exchange: ExchangePlan | None = None
    context_header: str = ""

    @property
    def tls(self) -> bool:
        """Whether it speaks TLS."""
        return any(isinstance(c, TunnelChain) or c.tls is not None for c in self.chains)


@dataclass(frozen=True, slots=True)
class PartPlan:
    """A part of a service: one port of it, or a subset. A cluster and its addresses."""

    name: str
    edge: Edge
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class EdgePlan:
    """All that a gateway does. `trusted_hops`: proxies in front whose `x-forwarded-for` counts."""

    listeners: tuple[EdgeListener, ...] = ()
    secrets: tuple[SecretPlan, ...] = ()
    parts: tuple[PartPlan, ...] = ()
    trusted_hops: int = 0
