"""Whom a condition could be true of at all, without asking about everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from limen.core.policy.match import How
from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Authenticated,
    Claim,
    DestinationIp,
    HasToken,
    Header,
    Host,
    Method,
    Not,
    Path,
    PathTemplate,
    Port,
    Principal,
    PrincipalNamespace,
    RemoteIp,
    RequestPrincipal,
    Sni,
    SourceIp,
)

if TYPE_CHECKING:
    from limen.core.policy.rule import Condition


def identities_of(condition: Condition) -> frozenset[str] | None:
    """The SPIFFE IDs of which alone `condition` can be true; None if not bounded.

    Law: if `condition` holds of a request, this is None or holds its caller.
    """
    match condition:
        case Principal(match):
            exact = match.how is How.EXACT and not match.ignore_case
            return frozenset({match.value}) if exact else None
        case AllOf(parts):
            bounds = [b for p in parts if (b := identities_of(p)) is not None]
            return min(bounds, key=len) if bounds else None
        case AnyOf(parts):
            united: set[str] = set()
            for part in parts:
                bound = identities_of(part)
                if bound is None:
                    return None
                united |= bound
            return frozenset(united)
        case (
            Always() | Authenticated() | PrincipalNamespace() | Not()
            | Method() | Path() | PathTemplate() | Host() | Header() | Port() | Sni()
            | HasToken() | RequestPrincipal() | Claim()
            | SourceIp() | RemoteIp() | DestinationIp()
        ):  # fmt: skip
            return None
    assert_never(condition)
