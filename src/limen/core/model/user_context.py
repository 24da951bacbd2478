"""On whose behalf: per gateway or workload, which tokens come in and what goes on with the call."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limen.core.model.request_authentication import TokenHeader
    from limen.core.model.selector import Scope

DEFAULT_CACHE_S = 60
DEFAULT_NEGATIVE_CACHE_S = 5
DEFAULT_CONTEXT_HEADER = "x-limen-user-context"
USER_HEADER = "x-limen-user"
"""Where an application reads the verified token's payload."""
RESERVED_HEADERS = (USER_HEADER, DEFAULT_CONTEXT_HEADER)
"""What applications believe of their proxy: nobody else's arrives, and nothing leaves in them."""


class HopStyle(Enum):
    """What a callee gets. The last three are made anew for each call."""

    SAME_TOKEN = "SameToken"  # noqa: S105 - the name of a style
    EXCHANGED = "Exchanged"
    SERVICE_SIGNED = "ServiceSigned"
    TRANSACTION_TOKEN = "TransactionToken"  # noqa: S105 - the name of a style
    HOP_PROOF = "HopProof"


@dataclass(frozen=True, slots=True)
class AcceptedToken:
    """Tokens of a TrustedIssuer, or of the token service (`mesh`).

    `headers` empty: `Authorization: Bearer`. `audiences` empty: those of the TrustedIssuer.
    """

    issuer: str
    headers: tuple[TokenHeader, ...] = ()
    audiences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenTarget:
    """What is asked of the token service. `lifetime_s` 0: what its policy says."""

    audiences: tuple[str, ...]
    scopes: tuple[str, ...] = ()
    lifetime_s: int = 0


@dataclass(frozen=True, slots=True)
class Hop:
    """How the user goes on to callees. `context_header`: what the application passes on."""

    style: HopStyle
    context_header: str = DEFAULT_CONTEXT_HEADER


@dataclass(frozen=True, slots=True)
class UserContext:
    """`required`: a request without a token is refused. `exchange` None: the token goes as is."""

    scope: Scope
    accept: tuple[AcceptedToken, ...]
    required: bool = False
    exchange: TokenTarget | None = None
    hop: Hop | None = None
    cache_s: int = DEFAULT_CACHE_S
    negative_cache_s: int = DEFAULT_NEGATIVE_CACHE_S
