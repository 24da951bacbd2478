"""Plain YAML scalars to values, as Kubernetes reads them (YAML 1.1), without its traps.

`yes`, `no`, `on` and `off` are booleans, as in Kubernetes: where a text is wanted, the schema then
says that it must be quoted. `y` and `n` are texts: readers and writers differ about them, and where
a boolean is wanted they are refused. Numbers that two readers could take differently (octal,
hexadecimal, binary, `1_000`) are refused; `1:30` and dates stay texts.
"""

from __future__ import annotations

import math
import re

_BOOLEANS = {
    **{
        form: True
        for word in ("true", "yes", "on")
        for form in (word, word.capitalize(), word.upper())
    },
    **{
        form: False
        for word in ("false", "no", "off")
        for form in (word, word.capitalize(), word.upper())
    },
}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", re.ASCII
)
_AMBIGUOUS = re.compile(
    r"[-+]?(?:0[0-9_]+|0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9][0-9_]*_[0-9_]*)", re.ASCII
)
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", re.ASCII)
_MAX_INT = 2**63 - 1
_MAX_NUMBER_LENGTH = 40


class BadScalar(ValueError):
    """A scalar that is refused: `code`, message, `hint`."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


def resolve(text: str) -> bool | int | float | str | None:
    """The value of an unquoted scalar. Raises BadScalar."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _NOT_FINITE.fullmatch(text):
        raise BadScalar("not-finite", f"{text} is not a number", "write a finite number")
    if _AMBIGUOUS.fullmatch(text):
        raise BadScalar(
            "ambiguous-number",
            f"{text[:40]!a} is read differently by different YAML readers",
            "write a decimal number, or put it in quotes if it is a text",
        )
    if _INT.fullmatch(text) or _FLOAT.fullmatch(text):
        return _number(text)
    return text


def _number(text: str) -> int | float:
    value: int | float = math.inf
    if len(text) <= _MAX_NUMBER_LENGTH:
        value = int(text) if _INT.fullmatch(text) else float(text)
    if not -_MAX_INT - 1 <= value <= _MAX_INT:
        raise BadScalar(
            "number-too-large",
            f"the number {text[:20]}… is too large" if len(text) > 20 else f"{text} is too large",
            "numbers have at most 63 bits",
        )
    return value
