"""Extension providers: who is asked about requests that a CUSTOM AuthorizationPolicy matches."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limen.core.model.decision import PolicyRef

DEFAULT_TIMEOUT_S = 2.0
DEFAULT_STATUS_ON_ERROR = 403


class ProviderProtocol(Enum):
    """How a provider is asked; the value is the field of MeshSettings.

    `PDP`: Limen's own decision point beside the proxy, of which a plan makes one of `HTTP`.
    """

    HTTP = "envoyExtAuthzHttp"
    GRPC = "envoyExtAuthzGrpc"
    PDP = "limenPdp"


class Stage(Enum):
    """When a provider is asked: before tokens are looked at, as in Istio, or after."""

    BEFORE_TOKENS = "BeforeTokens"
    AFTER_TOKENS = "AfterTokens"


@dataclass(frozen=True, slots=True)
class ProviderBody:
    """How much of a request's body a provider gets. A longer one is refused with 413."""

    max_bytes: int
    as_bytes: bool = False


@dataclass(frozen=True, slots=True)
class HeaderPatterns:
    """Names of headers in lower case, as written: exact, `prefix*` or `*suffix`."""

    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExtensionProvider:
    """Asked by ext_authz. Whatever is no clear consent within `timeout_s` refuses the request.

    It is a workload of the mesh (`service`: namespace and name), reached by mutual TLS as any
    other, or something on the proxy's own host: `address` is a loopback address with `port`, or
    the path of a Unix socket. `to_upstream` are headers that only the provider fills. `policy`: of
    a decision point, what decides there.
    """

    name: str
    protocol: ProviderProtocol
    service: tuple[str, str] | None = None
    address: str = ""
    port: int = 0
    timeout_s: float = DEFAULT_TIMEOUT_S
    stage: Stage = Stage.BEFORE_TOKENS
    path_prefix: str = ""
    status_on_error: int = DEFAULT_STATUS_ON_ERROR
    request_headers: HeaderPatterns = HeaderPatterns()
    additional_headers: tuple[tuple[str, str], ...] = ()
    body: ProviderBody | None = None
    to_upstream: tuple[str, ...] = ()
    on_deny: HeaderPatterns = HeaderPatterns()
    on_allow: HeaderPatterns = HeaderPatterns()
    policy: PolicyRef | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is on the proxy's own host."""
        return self.service is None
