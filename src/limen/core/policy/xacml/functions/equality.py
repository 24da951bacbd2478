"""Equality and order (core, A.3.1, A.3.6, A.3.8)."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml import datatypes as t
from limen.core.policy.xacml.functions.function import Function
from limen.core.policy.xacml.names import V1, V2, V3
from limen.core.policy.xacml.static import one
from limen.core.policy.xacml.temporal import in_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_EQUAL = (
    (t.STRING, V1),
    (t.BOOLEAN, V1),
    (t.INTEGER, V1),
    (t.DOUBLE, V1),
    (t.DATE, V1),
    (t.TIME, V1),
    (t.DATE_TIME, V1),
    (t.DAY_TIME_DURATION, V3),
    (t.YEAR_MONTH_DURATION, V3),
    (t.ANY_URI, V1),
    (t.X500_NAME, V1),
    (t.RFC822_NAME, V1),
    (t.HEX_BINARY, V1),
    (t.BASE64_BINARY, V1),
)
_ORDERED = (t.INTEGER, t.DOUBLE, t.STRING, t.TIME, t.DATE_TIME, t.DATE)
_ORDERS: tuple[tuple[str, Callable[[Any, Any], bool]], ...] = (
    ("greater-than", operator.gt),
    ("greater-than-or-equal", operator.ge),
    ("less-than", operator.lt),
    ("less-than-or-equal", operator.le),
)


def _equal_ignore_case(first: str, second: str) -> bool:
    return first.lower() == second.lower()


def _equal_doubles(first: float, second: float) -> bool:
    """NaN equals itself here, as the conformance cases have it; there is one NaN object."""
    return first is second or first == second


def functions() -> Iterator[Function]:
    """All of this family."""
    result = one(t.BOOLEAN)
    for element, version in _EQUAL:
        both = (one(element), one(element))
        equal = _equal_doubles if element is t.DOUBLE else operator.eq
        yield Function(f"{version}function:{element.name}-equal", both, result, equal)
    for element in (t.DAY_TIME_DURATION, t.YEAR_MONTH_DURATION):
        both = (one(element), one(element))
        uri = f"{V1}function:{element.name}-equal"
        yield Function(uri, both, result, operator.eq, deprecated=True)
    strings = (one(t.STRING), one(t.STRING))
    yield Function(f"{V3}function:string-equal-ignore-case", strings, result, _equal_ignore_case)
    for element in _ORDERED:
        both = (one(element), one(element))
        for name, compare in _ORDERS:
            yield Function(f"{V1}function:{element.name}-{name}", both, result, compare)
    yield Function(f"{V2}function:time-in-range", (one(t.TIME),) * 3, result, in_range)
