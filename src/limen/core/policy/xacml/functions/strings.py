"""Strings and URIs (core, A.3.3, A.3.9) and their conversion to and from every other datatype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml import datatypes as t
from limen.core.policy.xacml.errors import processing_error, syntax_error
from limen.core.policy.xacml.functions.function import UNKNOWN, Function
from limen.core.policy.xacml.limits import MAX_STRING_LENGTH
from limen.core.policy.xacml.names import V1, V2, V3
from limen.core.policy.xacml.static import one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from limen.core.policy.xacml.datatypes import DataType

_CONVERTIBLE = (
    t.BOOLEAN,
    t.INTEGER,
    t.DOUBLE,
    t.TIME,
    t.DATE,
    t.DATE_TIME,
    t.ANY_URI,
    t.DAY_TIME_DURATION,
    t.YEAR_MONTH_DURATION,
    t.X500_NAME,
    t.RFC822_NAME,
    t.IP_ADDRESS,
    t.DNS_NAME,
)


def _normalize_space(value: str) -> str:
    return value.strip(" \t\r\n")


def _concatenate(*values: str) -> str:
    if sum(len(value) for value in values) > MAX_STRING_LENGTH:
        raise processing_error("the concatenated string is too long")
    return "".join(values)


def _concatenate_uri(*values: str) -> str:
    text = _concatenate(*values)
    try:
        return str(t.ANY_URI.read(text))
    except ValueError as error:
        raise syntax_error(f"uri-string-concatenate makes no URI: {error}") from None


def _starts_with(part: str, whole: str) -> bool:
    return whole.startswith(part)


def _ends_with(part: str, whole: str) -> bool:
    return whole.endswith(part)


def _contains(part: str, whole: str) -> bool:
    return part in whole


def _substring(value: str, begin: int, end: int) -> str:
    stop = len(value) if end == -1 else end
    if not 0 <= begin <= stop <= len(value):
        raise processing_error(f"substring {begin} to {end} of {len(value)} characters")
    return value[begin:stop]


def _substring_literals(arguments: Sequence[Any]) -> None:
    _, begin, end = arguments
    if begin is not UNKNOWN and begin < 0:
        raise ValueError(f"a substring cannot begin at {begin}")
    if end is not UNKNOWN and end < -1:
        raise ValueError(f"a substring cannot end at {end}")
    if UNKNOWN not in (begin, end) and -1 < end < begin:
        raise ValueError(f"a substring cannot begin at {begin} and end at {end}")


def _from_string(element: DataType) -> Callable[[str], Any]:
    def call(text: str) -> Any:
        try:
            return element.read(text)
        except ValueError as error:
            raise syntax_error(f"{element.name}-from-string: {error}") from None

    return call


def _conversions() -> Iterator[Function]:
    string = one(t.STRING)
    for element in _CONVERTIBLE:
        to, back = f"{element.name}-from-string", f"string-from-{element.name}"
        kind = one(element)
        yield Function(f"{V3}function:{to}", (string,), kind, _from_string(element))
        yield Function(f"{V3}function:{back}", (kind,), string, element.text)


def functions() -> Iterator[Function]:
    """All of this family."""
    string, uri, integer, boolean = one(t.STRING), one(t.ANY_URI), one(t.INTEGER), one(t.BOOLEAN)
    yield Function(f"{V1}function:string-normalize-space", (string,), string, _normalize_space)
    yield Function(f"{V1}function:string-normalize-to-lower-case", (string,), string, str.lower)
    for version in (V2, V3):
        yield Function(
            f"{version}function:string-concatenate",
            (string, string),
            string,
            _concatenate,
            repeats=True,
        )
    for name in ("uri", "url"):  # 3.0 and 2.0 spell it differently
        yield Function(
            f"{V2}function:{name}-string-concatenate",
            (uri, string),
            uri,
            _concatenate_uri,
            repeats=True,
            deprecated=True,
        )
    for whole in (string, uri):
        prefix = f"{V3}function:{whole.element.name}"
        yield Function(f"{prefix}-starts-with", (string, whole), boolean, _starts_with)
        yield Function(f"{prefix}-ends-with", (string, whole), boolean, _ends_with)
        yield Function(f"{prefix}-contains", (string, whole), boolean, _contains)
        yield Function(
            f"{prefix}-substring",
            (whole, integer, integer),
            string,
            _substring,
            prepare=_substring_literals,
        )
    yield from _conversions()
