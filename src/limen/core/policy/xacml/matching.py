"""Targets to closures (core, 7.6 to 7.8): True, False, or `EvaluationError` for Indeterminate."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml import datatypes as t
from limen.core.policy.xacml import syntax as s
from limen.core.policy.xacml.errors import EvaluationError, PolicyFault
from limen.core.policy.xacml.expression import (
    Compiled,
    check_arguments,
    compile_expression,
    compile_literal,
    function_of,
    short,
)
from limen.core.policy.xacml.functions.function import UNKNOWN
from limen.core.policy.xacml.functions.higher import HigherOrder
from limen.core.policy.xacml.static import one

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limen.core.policy.xacml.context import Context
    from limen.core.policy.xacml.functions.function import Function

    Matches = Callable[[Context], bool]


def compile_target(target: s.Target) -> Matches | None:
    """None: everything matches. Raises `PolicyFault`."""
    if not target:
        return None
    return _all([_any([_all([_match(m) for m in all_of]) for all_of in a]) for a in target])


def _all(parts: Sequence[Matches]) -> Matches:
    """Every part: one False decides, else the last error stands."""
    if len(parts) == 1:
        return parts[0]

    def matches(ctx: Context) -> bool:
        failure: EvaluationError | None = None
        for part in parts:
            try:
                if not part(ctx):
                    return False
            except EvaluationError as error:
                failure = error
        if failure is not None:
            raise failure
        return True

    return matches


def _any(parts: Sequence[Matches]) -> Matches:
    """Some part: one True decides, else the last error stands."""
    if len(parts) == 1:
        return parts[0]

    def matches(ctx: Context) -> bool:
        failure: EvaluationError | None = None
        for part in parts:
            try:
                if part(ctx):
                    return True
            except EvaluationError as error:
                failure = error
        if failure is not None:
            raise failure
        return False

    return matches


def _no_variable(_: str, line: int) -> Compiled:
    raise PolicyFault("xacml-misplaced-variable", "a target has no variables", line)


def is_plain_equality(function: Function) -> bool:
    """Whether the function is Python's equality of its values (not of doubles: NaN)."""
    return function.call is operator.eq and function.param(0) != one(t.DOUBLE)


def match_function(match: s.Match) -> Function:
    """The function of `match`, checked. Raises `PolicyFault`."""
    function = function_of(match.function, match.line)
    if isinstance(function, HigherOrder):
        message = f"{short(match.function)} cannot be the function of a Match"
        raise PolicyFault("xacml-wrong-type", message, match.line)
    if function.result != one(t.BOOLEAN):
        message = f"{short(match.function)} does not return a boolean"
        raise PolicyFault("xacml-wrong-type", message, match.line)
    return function


def _match(match: s.Match) -> Matches:
    function = match_function(match)
    literal = compile_literal(match.literal)
    bag = compile_expression(match.attribute, _no_variable)
    check_arguments(function, [literal.type, one(bag.type.element)], match.line)
    value, values = literal.literal, bag.evaluate
    if is_plain_equality(function):
        return lambda ctx: value in values(ctx)
    return _tested(_call_of(function, value, match), values, value)


def _call_of(function: Function, value: Any, match: s.Match) -> Callable[..., bool]:
    call = function.call
    if function.prepare is not None:
        try:
            call = function.prepare([value, UNKNOWN]) or call
        except ValueError as error:
            message = f"{short(function.uri)}: {error}"
            raise PolicyFault("xacml-bad-argument", message, match.line) from None
    if function.in_context:
        return call
    return lambda _, *arguments: call(*arguments)


def _tested(
    call: Callable[..., bool], values: Callable[[Context], Sequence[Any]], literal: Any
) -> Matches:
    def matches(ctx: Context) -> bool:
        failure: EvaluationError | None = None
        for value in values(ctx):
            try:
                if call(ctx, literal, value):
                    return True
            except EvaluationError as error:
                failure = error
        if failure is not None:
            raise failure
        return False

    return matches
