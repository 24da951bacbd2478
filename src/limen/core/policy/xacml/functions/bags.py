"""Bags and sets (core, A.3.10, A.3.11), for every datatype that the standard names there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml import datatypes as t
from limen.core.policy.xacml.errors import processing_error
from limen.core.policy.xacml.functions.function import Function
from limen.core.policy.xacml.names import V1, V2, V3
from limen.core.policy.xacml.static import many, one

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.policy.xacml.datatypes import DataType

Bag = tuple[Any, ...]

_BAGS: tuple[tuple[DataType, tuple[str, ...]], ...] = (
    (t.STRING, (V1,)),
    (t.BOOLEAN, (V1,)),
    (t.INTEGER, (V1,)),
    (t.DOUBLE, (V1,)),
    (t.TIME, (V1,)),
    (t.DATE, (V1,)),
    (t.DATE_TIME, (V1,)),
    (t.ANY_URI, (V1,)),
    (t.HEX_BINARY, (V1,)),
    (t.BASE64_BINARY, (V1,)),
    (t.DAY_TIME_DURATION, (V3, V1)),
    (t.YEAR_MONTH_DURATION, (V3, V1)),
    (t.X500_NAME, (V1,)),
    (t.RFC822_NAME, (V1,)),
    (t.IP_ADDRESS, (V2,)),
    (t.DNS_NAME, (V2,)),
    (t.XPATH_EXPRESSION, (V3,)),
)
"""Datatype and the versions under which its functions are named."""


def _one_and_only(bag: Bag) -> Any:
    if len(bag) != 1:
        raise processing_error(f"one-and-only of a bag of {len(bag)} values")
    return bag[0]


def _is_in(value: Any, bag: Bag) -> bool:
    return value in bag


def _bag(*values: Any) -> Bag:
    return values


def _intersection(first: Bag, second: Bag) -> Bag:
    other = set(second)
    return tuple(value for value in dict.fromkeys(first) if value in other)


def _at_least_one(first: Bag, second: Bag) -> bool:
    return not set(first).isdisjoint(second)


def _union(*bags: Bag) -> Bag:
    return tuple(dict.fromkeys(value for bag in bags for value in bag))


def _subset(first: Bag, second: Bag) -> bool:
    return set(first) <= set(second)


def _set_equals(first: Bag, second: Bag) -> bool:
    return set(first) == set(second)


def _sets(element: DataType, prefix: str, *, old: bool) -> Iterator[Function]:
    bag, boolean = many(element), one(t.BOOLEAN)
    two = (bag, bag)
    yield Function(f"{prefix}-intersection", two, bag, _intersection, deprecated=old)
    yield Function(f"{prefix}-at-least-one-member-of", two, boolean, _at_least_one, deprecated=old)
    yield Function(f"{prefix}-union", two, bag, _union, repeats=True, deprecated=old)
    yield Function(f"{prefix}-subset", two, boolean, _subset, deprecated=old)
    yield Function(f"{prefix}-set-equals", two, boolean, _set_equals, deprecated=old)


def functions() -> Iterator[Function]:
    """All of this family."""
    boolean, integer = one(t.BOOLEAN), one(t.INTEGER)
    for element, versions in _BAGS:
        bag, single = many(element), one(element)
        for version in versions:
            old = version != versions[0]
            prefix = f"{version}function:{element.name}"
            only = f"{prefix}-one-and-only"
            yield Function(only, (bag,), single, _one_and_only, deprecated=old)
            yield Function(f"{prefix}-bag-size", (bag,), integer, len, deprecated=old)
            yield Function(
                f"{prefix}-bag", (single,), bag, _bag, repeats=True, least=0, deprecated=old
            )
            if element in (t.IP_ADDRESS, t.DNS_NAME, t.XPATH_EXPRESSION):
                continue
            yield Function(f"{prefix}-is-in", (single, bag), boolean, _is_in, deprecated=old)
            yield from _sets(element, prefix, old=old)
