"""`security.istio.io` RequestAuthentication: which tokens a workload verifies.

All that concern a workload add up. A request without a token passes (unless `required`), one with
an invalid token is refused with 401.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limen.core.model.selector import Scope


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """A header that may carry the token, after `prefix` (`Bearer `)."""

    name: str
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class ClaimHeader:
    """A verified claim that the application gets in a header."""

    header: str
    claim: str


@dataclass(frozen=True, slots=True)
class JwtRule:
    """One issuer. At most one of `jwks_uri` and `jwks` (JSON text); neither: OIDC discovery.

    `audiences` empty: any. Without `from_*`: `Authorization: Bearer` and `?access_token=`. A URI
    without TLS stands here only where the document allows it. Besides `scope` and `permission`,
    claims in `space_delimited` are lists of words.
    """

    issuer: str
    audiences: tuple[str, ...] = ()
    jwks_uri: str = ""
    jwks: str = ""
    from_headers: tuple[TokenHeader, ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    output_payload_to_header: str = ""
    output_claims: tuple[ClaimHeader, ...] = ()
    forward: bool = False
    timeout_s: float = 5.0
    space_delimited: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestAuthentication:
    """`required`: annotation `limen.dev/token-required: "true"`; a request without one gets 401."""

    scope: Scope
    rules: tuple[JwtRule, ...] = ()
    required: bool = False
