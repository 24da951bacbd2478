"""A Rego text before the engine sees it, and the bounds on its size and nesting.

The engine reads `[` and `{` by trying one reading after another: every level of nesting doubles
the work. It evaluates an expression of many parts by recursion, without end. `check_text` measures
both, so that a short text cannot take minutes, or the process.
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_ENTRY = "envoy/authz/allow"
"""The decision that `opa-envoy-plugin` asks for unless told otherwise."""

MAX_MODULE_BYTES = 1024 * 1024
MAX_DATA_BYTES = 32 * 1024 * 1024
MAX_NESTING = 30
MAX_COST = 1 << 18
"""Of one module; the engine takes about a microsecond for each."""

MAX_PARTS = 150
"""Operators and brackets of one expression, brackets inside it apart."""

_OPEN, _CLOSE, _OPERATORS = "([{", ")]}", "+-*/%|&<>=.!"


@dataclass(frozen=True, slots=True)
class RegoModule:
    """A policy and where it came from."""

    file: str
    text: str


def check_text(text: str) -> str | None:
    """Why `text` is not given to the engine; None: it may be."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_MODULE_BYTES:
        return f"more than {MAX_MODULE_BYTES} bytes"
    if "\0" in text:
        return "it holds a zero byte"
    return _Measure(text).reason()


class _Measure:
    """Walks over a text once. `levels`: the open brackets, and the parts counted inside each."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._levels: list[list[str | int]] = [["", 0]]
        self._cost = 0

    def reason(self) -> str | None:
        """What is too much; None: nothing."""
        position = 0
        while position < len(self._text):
            sign = self._text[position]
            if sign in '"`#':
                position = _skip(self._text, position)
                continue
            self._take(sign, position)
            if len(self._levels) > MAX_NESTING or self._cost > MAX_COST:
                return "brackets are nested too deeply, or too often"
            if int(self._levels[-1][1]) > MAX_PARTS:
                return f"an expression of more than {MAX_PARTS} parts"
            position += 1
        return None

    def _take(self, sign: str, position: int) -> None:
        level = self._levels[-1]
        if sign in _OPEN:
            level[1] = int(level[1]) + 1
            self._levels.append([sign, 0])
            self._cost += 1 << len(self._levels) if sign != "(" else 1
        elif sign in _CLOSE:
            if len(self._levels) > 1:
                self._levels.pop()
        elif sign in _OPERATORS or (sign == "i" and self._is_in(position)):
            level[1] = int(level[1]) + 1
        elif sign in ",;" or (sign == "\n" and level[0] in ("", "{") and self._ends(position)):
            level[1] = 0

    def _is_in(self, position: int) -> bool:
        """Whether the word `in` stands at `position`."""
        around = self._text[position - 1 : position] + self._text[position + 2 : position + 3]
        return self._text[position : position + 2] == "in" and not around.strip()

    def _ends(self, position: int) -> bool:
        """Whether an expression ends with its line: there is no operator on either side."""
        before = self._text[max(0, position - 100) : position].rstrip()
        after = self._text[position : position + 100].lstrip()
        goes_on = before[-1:] in _OPERATORS or after[:1] in _OPERATORS
        return (
            bool(before and after) and not goes_on and before[-3:] != " in" and after[:3] != "in "
        )


def _skip(text: str, start: int) -> int:
    """The position behind the string or comment that begins at `start`."""
    sign = text[start]
    if sign == "#":
        end = text.find("\n", start)
        return len(text) if end < 0 else end
    position = start + 1
    while position < len(text) and text[position] != sign:
        position += 2 if sign == '"' and text[position] == "\\" else 1
    return position + 1
