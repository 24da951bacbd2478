"""Regular expressions and special matches (core, A.3.13, A.3.14)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml import datatypes as t
from limen.core.policy.xacml.directory import Rfc822Name, X500Name, rfc822_name_matches
from limen.core.policy.xacml.errors import processing_error
from limen.core.policy.xacml.functions.function import UNKNOWN, Function
from limen.core.policy.xacml.names import V1, V2
from limen.core.policy.xacml.regex.automaton import Regex
from limen.core.policy.xacml.static import one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from limen.core.policy.xacml.context import Context

_MATCHED = (
    (t.STRING, V1),
    (t.ANY_URI, V2),
    (t.IP_ADDRESS, V2),
    (t.DNS_NAME, V2),
    (t.RFC822_NAME, V2),
    (t.X500_NAME, V2),
)


def _regexp_match(ctx: Context, pattern: str, value: Any) -> bool:
    try:
        regex = Regex(pattern)
    except ValueError as error:
        raise processing_error(f"regexp-match: {error}") from None
    ctx.spend(len(pattern))
    return regex.search(str(value), ctx.spend)


def _literal_pattern(arguments: Sequence[Any]) -> Callable[..., Any] | None:
    if arguments[0] is UNKNOWN:
        return None
    regex = Regex(arguments[0])

    def call(ctx: Context, _pattern: str, value: Any) -> bool:
        return regex.search(str(value), ctx.spend)

    return call


def _x500_match(tail: X500Name, name: X500Name) -> bool:
    return name.ends_with(tail)


def _rfc822_match(pattern: str, name: Rfc822Name) -> bool:
    try:
        return rfc822_name_matches(pattern, name)
    except ValueError as error:
        raise processing_error(f"rfc822Name-match: {error}") from None


def functions() -> Iterator[Function]:
    """All of this family."""
    boolean, string = one(t.BOOLEAN), one(t.STRING)
    for element, version in _MATCHED:
        yield Function(
            f"{version}function:{element.name}-regexp-match",
            (string, one(element)),
            boolean,
            _regexp_match,
            in_context=True,
            prepare=_literal_pattern,
        )
    yield Function(f"{V1}function:x500Name-match", (one(t.X500_NAME),) * 2, boolean, _x500_match)
    yield Function(
        f"{V1}function:rfc822Name-match", (string, one(t.RFC822_NAME)), boolean, _rfc822_match
    )
