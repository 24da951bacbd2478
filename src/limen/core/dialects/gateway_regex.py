r"""Regular expressions of routes: only those that RE2 reads, and every reader reads alike.

Accepted: ASCII characters, `.`, classes, `\d \w \s` and their opposites, groups, alternatives,
`* + ?` and `{n,m}` (lazy too), `^` and `$`, and `(?i)` at the beginning. Everything else is
refused, because RE2 does not have it (look-around, back-references) or readers differ about it.

Source: google/re2 `doc/syntax.txt`; limits measured with Envoy 1.40 (a repetition counts at most
1,000, nested ones multiplied).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from limen.core.dialects.document import show
from limen.errors import InvalidInput

MAX_LENGTH = 1024
MAX_REPEAT = 1000
MAX_SIZE = 10_000
"""Instructions that RE2 may need, estimated from above."""
_MAX_DEPTH = 50
_CLASS_SIZE = 20
"""A class of characters is compared byte by byte of UTF-8: about as many instructions."""

_REPEAT = re.compile(r"\{(0|[1-9][0-9]{0,4})(?:(,)(0|[1-9][0-9]{0,4})?)?\}", re.ASCII)
_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_HINT = "use RE2's syntax without look-around and back-references"


def _bad(text: str, at: int, what: str, hint: str = _HINT) -> InvalidInput:
    return InvalidInput(
        f"{show(text)} is not usable as a regular expression: {what} at character {at + 1}",
        code="bad-regex",
        hint=hint,
    )


@dataclass(slots=True)
class _Group:
    """A group so far: the `size` of all, the greatest count inside (`repeat`), the last atom."""

    size: int = 0
    repeat: int = 1
    atom: tuple[int, int] | None = field(default=None)
    """Size and greatest count of what a repetition would repeat."""

    def add(self, size: int, repeat: int = 1) -> None:
        """One more atom."""
        self.size += size
        self.repeat = max(self.repeat, repeat)
        self.atom = (size, repeat)


def check_regex(text: str) -> int:
    """How many groups `text` captures. Raises InvalidInput (code `bad-regex`)."""
    if not 0 < len(text) <= MAX_LENGTH:
        raise InvalidInput(
            f"a regular expression has 1 to {MAX_LENGTH} characters, not {len(text)}",
            code="bad-regex",
            hint="match everything by leaving the field out" if not text else "split it",
        )
    return _Reader(text).read()


class _Reader:
    """Reads one expression from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._open = [_Group()]
        self._captures = 0

    def read(self) -> int:
        text = self._text
        if text.startswith("(?i)"):
            self._at = 4
        while self._at < len(text):
            self._step(text[self._at])
        if len(self._open) > 1:
            raise _bad(text, len(text) - 1, "a ( is not closed", "close it, or write \\(")
        if self._open[0].size > MAX_SIZE:
            raise _bad(text, 0, "it is too large for a proxy", "repeat less")
        return self._captures

    def _step(self, char: str) -> None:
        group = self._open[-1]
        if char == "(":
            self._enter()
        elif char == ")":
            self._leave()
        elif char in "*+?{":
            self._repeat(char)
        elif char == "[":
            group.add(_CLASS_SIZE)
            self._at = self._class_end()
        elif char == "\\":
            group.add(1 if self._escape(self._at) else _CLASS_SIZE)
            self._at += 2
        elif char in "^$|":
            group.size += 2
            group.atom = None
            self._at += 1
        elif char in "]}":
            raise _bad(self._text, self._at, f"{char} has no beginning", f"write \\{char}")
        elif not " " <= char <= "~":
            hint = "paths and headers have ASCII characters only"
            raise _bad(self._text, self._at, "there is a character that is not ASCII", hint)
        else:
            group.add(_CLASS_SIZE if char == "." else 1)
            self._at += 1

    def _enter(self) -> None:
        plain = not self._text.startswith("(?", self._at)
        if not plain and not self._text.startswith("(?:", self._at):
            raise _bad(self._text, self._at, "there is a (? other than (?:")
        if len(self._open) > _MAX_DEPTH:
            raise _bad(self._text, self._at, "groups are nested too deeply", "nest less")
        self._captures += plain
        self._open.append(_Group())
        self._at += 1 if plain else 3

    def _leave(self) -> None:
        if len(self._open) == 1:
            raise _bad(self._text, self._at, ") has no beginning", "write \\)")
        inner = self._open.pop()
        self._open[-1].add(inner.size + 2, inner.repeat)
        self._at += 1

    def _repeat(self, char: str) -> None:
        group = self._open[-1]
        if group.atom is None:
            raise _bad(self._text, self._at, f"{char} repeats nothing", f"write \\{char}")
        size, repeat = group.atom
        times = 1
        if char == "{":
            times, length = self._counted()
            self._at += length
        else:
            self._at += 1
        if times * repeat > MAX_REPEAT:
            what = f"more than {MAX_REPEAT} repetitions"
            raise _bad(self._text, self._at - 1, what, "repeat less")
        group.size += size * max(times - 1, 0) + 2
        group.repeat = max(group.repeat, times * repeat)
        group.atom = None
        if self._text.startswith("?", self._at):
            self._at += 1

    def _counted(self) -> tuple[int, int]:
        """How often `{n,m}` repeats at most, and its length."""
        found = _REPEAT.match(self._text, self._at)
        if found is None:
            raise _bad(self._text, self._at, "{ begins no repetition", "write {n,m}, or \\{")
        least, most = int(found[1]), int(found[3] or found[1])
        if most < least:
            raise _bad(self._text, self._at, "the most is less than the least", "write {n,m}")
        return max(most, 1), len(found[0])

    def _escape(self, at: int) -> bool:
        """Whether the escape at `at` stands for one character, not for a class."""
        char = self._text[at + 1 : at + 2]
        if char in _PUNCTUATION and char:
            return True
        if char and char in "dDwWsS":
            return False
        raise _bad(self._text, at, "there is an escape that not every reader knows")

    def _class_end(self) -> int:
        """Where the class that begins here ends."""
        text, at = self._text, self._at + 1
        at += text.startswith("^", at)
        first, low = at, ""
        while at < len(text):
            char, end, single = text[at], at + 1, True
            if char == "]" and at > first:
                return at + 1
            if char == "\\":
                single, end = self._escape(at), at + 2
                char = text[at + 1]
            elif char in "[]" or not " " <= char <= "~":
                raise _bad(text, at, f"{show(char)} stands in a class", "write it with \\ before")
            elif char in "&|~-" and text.startswith(char, at + 1):
                raise _bad(text, at, "readers differ about this class", "write it with \\ before")
            at = end
            if low:
                if not single or char < low:
                    raise _bad(text, at - 1, "a range ends before it begins", "write a-z")
                low = ""
            elif text.startswith("-", at) and not text.startswith("-]", at):
                if not single:
                    raise _bad(text, at, "a range begins with a class", "write \\- for a minus")
                low, at = char, at + 1
        raise _bad(text, self._at, "a [ is not closed", "close it, or write \\[")
