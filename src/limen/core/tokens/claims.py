"""The registered claims (RFC 7519, section 4.1): types first, then what an issuer's rules want."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from limen.core.tokens.refusal import refuse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_TIME_S = 253_402_300_799
"""The end of the year 9999."""
_LABEL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def check_types(claims: Mapping[str, Any]) -> None:
    """`iss`, `sub`, `jti` are texts, `aud` texts, the times are times. Raises Untrusted.

    Of these only `iss` and `exp` must be there.
    """
    if not isinstance(claims.get("iss"), str):
        raise refuse("claim-iss", "it has no iss, or one that is not a text")
    if not isinstance(claims.get("sub", ""), str):
        raise refuse("claim-sub", "its sub is not a text")
    if not isinstance(claims.get("jti", ""), str):
        raise refuse("claim-jti", "its jti is not a text")
    audiences_of(claims)
    for name in ("exp", "nbf", "iat"):
        time_of(claims, name)


def audiences_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """For whom the token is: `aud`, a text or a list of texts; empty without. Raises Untrusted."""
    found = claims.get("aud", [])
    listed = [found] if isinstance(found, str) else found
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise refuse("claim-aud", "its aud is neither a text nor a list of texts")
    return tuple(listed)


def time_of(claims: Mapping[str, Any], name: str) -> float | None:
    """A time claim in seconds since 1970; None if it is absent and may be. Raises Untrusted."""
    if name not in claims and name != "exp":
        return None
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse(f"claim-{name}", f"it has no {name} that is a number")
    if not 0 <= value <= MAX_TIME_S:
        raise refuse(f"claim-{name}", f"its {name} is no time between 1970 and 9999")
    return float(value)


def check_times(claims: Mapping[str, Any], now_s: float, leeway_s: float) -> float:
    """Whether it is valid now, give or take `leeway_s`; its `exp`. Raises Untrusted.

    `exp` is the first moment at which it is not accepted (RFC 7519, section 4.1.4).
    """
    expires_s, not_before_s, issued_s = (time_of(claims, name) for name in ("exp", "nbf", "iat"))
    if expires_s is None or now_s >= expires_s + leeway_s:
        raise refuse("token-expired", "it has expired")
    if not_before_s is not None and now_s + leeway_s < not_before_s:
        raise refuse("token-early", "it is not valid yet")
    if issued_s is not None and now_s + leeway_s < issued_s:
        raise refuse("token-future", "it was issued in the future")
    return expires_s


def check_audience(claims: Mapping[str, Any], accepted: Sequence[str], *, wildcards: bool) -> None:
    """Whether one of the token's audiences is one of `accepted`. Raises Untrusted."""
    if not any(
        matches_audience(one, pattern, wildcards=wildcards)
        for one in audiences_of(claims)
        for pattern in accepted
    ):
        raise refuse("audience-other", "it is meant for somebody else")


def matches_audience(audience: str, accepted: str, *, wildcards: bool) -> bool:
    """Whether a token's audience is the accepted one, byte for byte.

    With `wildcards`, `*.example.com` accepts any one label in place of the star, as in
    certificates: `api.example.com`, and neither `example.com` nor `a.b.example.com`. A star in the
    token's own audience is a character like any other.
    """
    if wildcards and accepted.startswith("*."):
        label, dot, rest = audience.partition(".")
        return bool(dot) and rest == accepted[2:] and _LABEL.fullmatch(label) is not None
    return audience == accepted
