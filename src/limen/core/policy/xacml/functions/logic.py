"""and, or, n-of, not (core, A.3.5): stop as soon as the answer is certain.

An argument that is Indeterminate does not stop them: if another argument decides, that is the
answer; else the last error is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml import datatypes as t
from limen.core.policy.xacml.errors import EvaluationError, processing_error
from limen.core.policy.xacml.functions.function import UNKNOWN, Function
from limen.core.policy.xacml.names import V1
from limen.core.policy.xacml.static import one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from limen.core.policy.xacml.context import Context

    Evaluate = Callable[[Context], Any]


def any_true(calls: Iterator[Callable[[], bool]]) -> bool:
    """Whether one is True. If none is but some fail, raises the last failure."""
    failure: EvaluationError | None = None
    for call in calls:
        try:
            if call():
                return True
        except EvaluationError as error:
            failure = error
    if failure is not None:
        raise failure
    return False


def all_true(calls: Iterator[Callable[[], bool]]) -> bool:
    """Whether all are True. If none is False but some fail, raises the last failure."""
    failure: EvaluationError | None = None
    for call in calls:
        try:
            if not call():
                return False
        except EvaluationError as error:
            failure = error
    if failure is not None:
        raise failure
    return True


def _or(parts: Sequence[Evaluate]) -> Evaluate:
    def evaluate(ctx: Context) -> bool:
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

    return evaluate


def _and(parts: Sequence[Evaluate]) -> Evaluate:
    def evaluate(ctx: Context) -> bool:
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

    return evaluate


def _n_of(parts: Sequence[Evaluate]) -> Evaluate:
    first, rest = parts[0], parts[1:]

    def evaluate(ctx: Context) -> bool:
        needed: int = first(ctx)
        _check_count(needed, len(rest))
        failure: EvaluationError | None = None
        doubtful, left = 0, len(rest)
        for part in rest:
            if needed <= 0 or needed > left + doubtful:
                break
            left -= 1
            try:
                if part(ctx):
                    needed -= 1
            except EvaluationError as error:
                failure = error
                doubtful += 1
        if needed > 0 and failure is not None and needed <= doubtful + left:
            raise failure
        return needed <= 0

    return evaluate


def _check_count(needed: int, count: int) -> None:
    if not 0 <= needed <= count:
        raise processing_error(f"n-of wants {needed} of {count} arguments")


def _n_of_values(needed: int, *values: bool) -> bool:
    _check_count(needed, len(values))
    return sum(values) >= needed


def _n_of_literals(arguments: Sequence[Any]) -> None:
    needed = arguments[0]
    if needed is not UNKNOWN and not 0 <= needed < len(arguments):
        raise ValueError(f"n-of wants {needed} of {len(arguments) - 1} arguments")


def _not(value: bool) -> bool:  # noqa: FBT001 - the argument of a logical function
    return not value


def _all(*values: bool) -> bool:
    return all(values)


def _any(*values: bool) -> bool:
    return any(values)


def functions() -> Iterator[Function]:
    """All of this family."""
    boolean = one(t.BOOLEAN)
    fn = f"{V1}function:"
    yield Function(f"{fn}or", (boolean,), boolean, _any, repeats=True, least=0, lazy=_or)
    yield Function(f"{fn}and", (boolean,), boolean, _all, repeats=True, least=0, lazy=_and)
    yield Function(
        f"{fn}n-of",
        (one(t.INTEGER), boolean),
        boolean,
        _n_of_values,
        repeats=True,
        least=1,
        lazy=_n_of,
        prepare=_n_of_literals,
    )
    yield Function(f"{fn}not", (boolean,), boolean, _not)
