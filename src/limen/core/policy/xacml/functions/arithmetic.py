"""Numbers, numeric conversion, and arithmetic of dates (core, A.3.2, A.3.4, A.3.7).

Integers have no limit but `MAX_INTEGER_DIGITS`; doubles are IEEE 754. A division by zero is
Indeterminate for both. `round` follows IEEE 754's default: ties to even.
"""

from __future__ import annotations

import math
import operator
from functools import reduce
from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml import datatypes as t
from limen.core.policy.xacml.errors import processing_error
from limen.core.policy.xacml.functions.function import Function
from limen.core.policy.xacml.limits import MAX_INTEGER_DIGITS
from limen.core.policy.xacml.names import V1, V3
from limen.core.policy.xacml.static import one
from limen.core.policy.xacml.temporal import plus_months, plus_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from limen.core.policy.xacml.temporal import Date, DateTime, Seconds

_MAX_BITS = int(MAX_INTEGER_DIGITS * 3.32)


def bounded(value: int) -> int:
    """`value`, or an `EvaluationError` if it is beyond the limit of digits."""
    if value.bit_length() > _MAX_BITS:
        raise processing_error("the integer result is too large")
    return value


def _add(*values: int) -> int:
    return bounded(sum(values))


def _subtract(first: int, second: int) -> int:
    return bounded(first - second)


def _multiply(*values: int) -> int:
    return reduce(lambda a, b: bounded(a * b), values)


def _divide(first: int, second: int) -> int:
    if second == 0:
        raise processing_error("integer-divide by zero")
    quotient = abs(first) // abs(second)
    return quotient if (first < 0) == (second < 0) else -quotient


def _mod(first: int, second: int) -> int:
    if second == 0:
        raise processing_error("integer-mod by zero")
    rest = abs(first) % abs(second)
    return -rest if first < 0 else rest


def _double(value: float) -> float:
    """`value`, with every NaN the same object, so that bags and sets can find it."""
    return math.nan if math.isnan(value) else value


def _add_doubles(*values: float) -> float:
    return _double(reduce(operator.add, values))


def _subtract_doubles(first: float, second: float) -> float:
    return _double(first - second)


def _multiply_doubles(*values: float) -> float:
    return _double(reduce(operator.mul, values))


def _divide_doubles(first: float, second: float) -> float:
    if second == 0:
        raise processing_error("double-divide by zero")
    return _double(first / second)


def _round(value: float) -> float:
    return math.copysign(float(round(value)), value) if math.isfinite(value) else value


def _floor(value: float) -> float:
    return float(math.floor(value)) if math.isfinite(value) else value


def _to_integer(value: float) -> int:
    if not math.isfinite(value):
        raise processing_error("double-to-integer of a value that is not finite")
    return int(value)


def _to_double(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise processing_error("integer-to-double of a value beyond the range") from None


def _seconds(sign: int) -> Callable[[DateTime, Seconds], DateTime]:
    def call(moment: DateTime, seconds: Seconds) -> DateTime:
        try:
            return plus_seconds(moment, sign * seconds)
        except ValueError as error:
            raise processing_error(str(error)) from None

    return call


def _months(sign: int) -> Callable[[Any, int], DateTime | Date]:
    def call(moment: DateTime | Date, months: int) -> DateTime | Date:
        try:
            return plus_months(moment, sign * months)
        except ValueError as error:
            raise processing_error(str(error)) from None

    return call


def _numeric() -> Iterator[Function]:
    integer, double = one(t.INTEGER), one(t.DOUBLE)
    fn = f"{V1}function:"
    yield Function(f"{fn}integer-add", (integer, integer), integer, _add, repeats=True)
    yield Function(f"{fn}double-add", (double, double), double, _add_doubles, repeats=True)
    yield Function(f"{fn}integer-subtract", (integer, integer), integer, _subtract)
    yield Function(f"{fn}double-subtract", (double, double), double, _subtract_doubles)
    yield Function(f"{fn}integer-multiply", (integer, integer), integer, _multiply, repeats=True)
    yield Function(
        f"{fn}double-multiply", (double, double), double, _multiply_doubles, repeats=True
    )
    yield Function(f"{fn}integer-divide", (integer, integer), integer, _divide)
    yield Function(f"{fn}double-divide", (double, double), double, _divide_doubles)
    yield Function(f"{fn}integer-mod", (integer, integer), integer, _mod)
    yield Function(f"{fn}integer-abs", (integer,), integer, abs)
    yield Function(f"{fn}double-abs", (double,), double, abs)
    yield Function(f"{fn}round", (double,), double, _round)
    yield Function(f"{fn}floor", (double,), double, _floor)
    yield Function(f"{fn}double-to-integer", (double,), integer, _to_integer)
    yield Function(f"{fn}integer-to-double", (integer,), double, _to_double)


def functions() -> Iterator[Function]:
    """All of this family."""
    yield from _numeric()
    for version in (V3, V1):
        old = version == V1
        for word, sign in (("add", 1), ("subtract", -1)):
            for moment, amount, make in (
                (t.DATE_TIME, t.DAY_TIME_DURATION, _seconds),
                (t.DATE_TIME, t.YEAR_MONTH_DURATION, _months),
                (t.DATE, t.YEAR_MONTH_DURATION, _months),
            ):
                uri = f"{version}function:{moment.name}-{word}-{amount.name}"
                params = (one(moment), one(amount))
                yield Function(uri, params, one(moment), make(sign), deprecated=old)
