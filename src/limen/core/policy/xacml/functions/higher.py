"""Functions that take a function (core, A.3.12): what they accept, and how they compute.

The 1.0 identifiers are read as the 3.0 functions, which accept all that they accepted.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml import datatypes as t
from limen.core.policy.xacml.functions.logic import all_true, any_true
from limen.core.policy.xacml.names import V1, V3
from limen.core.policy.xacml.static import Type, many, one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from limen.core.policy.xacml.context import Context
    from limen.core.policy.xacml.functions.function import Function

    Evaluate = Callable[[Context], Any]


class Kind(Enum):
    """What is asked of the calls."""

    ANY_OF = "any-of"
    ALL_OF = "all-of"
    ANY_OF_ANY = "any-of-any"
    ALL_OF_ANY = "all-of-any"
    ANY_OF_ALL = "any-of-all"
    ALL_OF_ALL = "all-of-all"
    MAP = "map"


_ONE_BAG = (Kind.ANY_OF, Kind.ALL_OF, Kind.MAP)
_TWO_BAGS = (Kind.ALL_OF_ANY, Kind.ANY_OF_ALL, Kind.ALL_OF_ALL)


@dataclass(frozen=True, slots=True)
class HigherOrder:
    """A function of a function."""

    uri: str
    kind: Kind
    deprecated: bool = False


def functions() -> Iterator[HigherOrder]:
    """All of this family."""
    for kind in _TWO_BAGS:
        yield HigherOrder(f"{V1}function:{kind.value}", kind)
    for kind in (*_ONE_BAG, Kind.ANY_OF_ANY):
        yield HigherOrder(f"{V3}function:{kind.value}", kind)
        yield HigherOrder(f"{V1}function:{kind.value}", kind, deprecated=True)


def result_type(higher: HigherOrder, function: Function, arguments: Sequence[Type]) -> Type:
    """The type of the whole. Raises ValueError if `function` cannot be called so."""
    bags = sum(argument.bag for argument in arguments)
    if higher.kind in _ONE_BAG and bags != 1:
        raise ValueError(f"{higher.kind.value} needs exactly one bag, not {bags}")
    if higher.kind in _TWO_BAGS and (bags != 2 or len(arguments) != 2):
        raise ValueError(f"{higher.kind.value} needs exactly two bags")
    if not function.accepts(len(arguments)):
        raise ValueError(f"{function.uri} does not take {len(arguments)} arguments")
    for index, argument in enumerate(arguments):
        wanted = function.param(index)
        if wanted.bag or argument.element is not wanted.element:
            raise ValueError(f"argument {index + 1} is {argument}, {function.uri} wants {wanted}")
    if higher.kind is not Kind.MAP:
        if function.result != one(t.BOOLEAN):
            raise ValueError(f"{function.uri} does not return a boolean")
        return function.result
    if function.result.bag:
        raise ValueError(f"map cannot collect the bags of {function.uri}")
    return many(function.result.element)


def build(
    higher: HigherOrder, function: Function, parts: Sequence[Evaluate], bags: Sequence[bool]
) -> Evaluate:
    """The evaluator; `bags` says which of `parts` gives a bag."""

    def calls(ctx: Context, arguments: Sequence[Any]) -> Iterator[Callable[[], Any]]:
        """One call per combination of the bags' values, in order."""
        lists = [a if bag else (a,) for a, bag in zip(arguments, bags, strict=True)]
        for values in itertools.product(*lists):
            ctx.spend(1)
            yield _bound(ctx, function, values)

    def rows(ctx: Context, arguments: Sequence[Any]) -> Iterator[tuple[Callable[[], Any], ...]]:
        """For every value of the first bag: its calls with all values of the second."""
        first, second = arguments
        for value in first:
            ctx.spend(len(second))
            yield tuple(_bound(ctx, function, (value, other)) for other in second)

    def evaluate(ctx: Context) -> Any:
        arguments = [part(ctx) for part in parts]
        match higher.kind:
            case Kind.ANY_OF | Kind.ANY_OF_ANY:
                return any_true(calls(ctx, arguments))
            case Kind.ALL_OF | Kind.ALL_OF_ALL:
                return all_true(calls(ctx, arguments))
            case Kind.MAP:
                return tuple(call() for call in calls(ctx, arguments))
            case Kind.ALL_OF_ANY:
                return all_true(_within(any_true, row) for row in rows(ctx, arguments))
            case Kind.ANY_OF_ALL:
                return any_true(_within(all_true, row) for row in rows(ctx, arguments))

    return evaluate


def _bound(ctx: Context, function: Function, values: tuple[Any, ...]) -> Callable[[], Any]:
    if function.in_context:
        return lambda: function.call(ctx, *values)
    return lambda: function.call(*values)


def _within(
    quantify: Callable[[Iterator[Callable[[], bool]]], bool], row: tuple[Callable[[], bool], ...]
) -> Callable[[], bool]:
    return lambda: quantify(iter(row))
