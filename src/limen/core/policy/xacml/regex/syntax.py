"""The text of a regular expression to a tree."""

from __future__ import annotations

import re
from dataclasses import dataclass

from limen.core.policy.xacml.limits import MAX_REGEX_LENGTH
from limen.core.policy.xacml.regex.charset import (
    DOT,
    NAMED,
    CharSet,
    inverse,
    property_set,
    single,
)

_QUANTITY = re.compile(r"\{(\d{1,4})(?:(,)(\d{1,4})?)?\}", re.ASCII)
_PROPERTY = re.compile(r"\{([A-Za-z0-9-]{1,40})\}", re.ASCII)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t"}
_ESCAPABLE = frozenset("\\|.-^?*+{}()[]$")
_MAX_DEPTH = 40


@dataclass(frozen=True, slots=True)
class Char:
    """One character of a set."""

    chars: CharSet


@dataclass(frozen=True, slots=True)
class Edge:
    """The start of the text, or its end."""

    end: bool


@dataclass(frozen=True, slots=True)
class Sequence:
    """Parts one after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """`part` from `low` to `high` times; None: without limit."""

    part: Node
    low: int
    high: int | None


Node = Char | Edge | Sequence | Choice | Repeat


def parse_regex(text: str) -> Node:
    """The tree of `text`. Raises ValueError, saying where."""
    if len(text) > MAX_REGEX_LENGTH:
        raise ValueError(f"longer than {MAX_REGEX_LENGTH} characters")
    parser = _Parser(text)
    node = parser.choice(0)
    if parser.at < len(text):
        raise parser.fault("a ) without its (")
    return node


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fault(self, reason: str) -> ValueError:
        return ValueError(f"at character {self.at + 1}: {reason}")

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self) -> str:
        char = self.peek()
        if not char:
            raise self.fault("the expression ends too early")
        self.at += 1
        return char

    def choice(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise self.fault("groups are nested too deeply")
        parts = [self.sequence(depth)]
        while self.peek() == "|":
            self.at += 1
            parts.append(self.sequence(depth))
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.quantified(self.atom(depth)))
        return Sequence(tuple(parts))

    def quantified(self, node: Node) -> Node:
        simple = {"?": (0, 1), "*": (0, None), "+": (1, None)}.get(self.peek())
        if simple is not None:
            self.at += 1
        elif self.peek() == "{":
            simple = self.quantity()
        else:
            return node
        if self.peek() == "?":
            self.at += 1
        if self.peek() and self.peek() in "?*+{":
            raise self.fault("a quantifier after a quantifier")
        return Repeat(node, *simple)

    def quantity(self) -> tuple[int, int | None]:
        found = _QUANTITY.match(self.text, self.at)
        if found is None:
            raise self.fault("not {n}, {n,} or {n,m}")
        low, comma, last = found.groups()
        high = int(last) if last else (None if comma else int(low))
        if high is not None and high < int(low):
            raise self.fault("the range of a quantifier is empty")
        self.at = found.end()
        return int(low), high

    def atom(self, depth: int) -> Node:
        char = self.take()
        match char:
            case "(":
                if self.text.startswith("?:", self.at):
                    self.at += 2
                node = self.choice(depth + 1)
                if self.peek() != ")":
                    raise self.fault("a ( without its )")
                self.at += 1
                return node
            case "^" | "$":
                return Edge(end=char == "$")
            case ".":
                return Char(DOT)
            case "[":
                return Char(self.group(depth))
            case "\\":
                found = self.escape()
                return Char(single(found) if isinstance(found, str) else found)
        if char in "?*+{}]":
            raise self.fault(f"an unescaped {char}")
        return Char(single(char))

    def escape(self) -> str | CharSet:
        char = self.take()
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char in _ESCAPABLE:
            return char
        if char in NAMED:
            return NAMED[char]
        if char in "pP":
            found = _PROPERTY.match(self.text, self.at)
            if found is None:
                raise self.fault("not \\p{Name}")
            self.at = found.end()
            chars = property_set(found[1])
            return chars if char == "p" else inverse(chars)
        if char in "0123456789":
            raise self.fault("back-references are not supported")
        raise self.fault(f"\\{char} is not known")

    def group(self, depth: int) -> CharSet:
        """After `[`: a group of characters up to its `]`."""
        if depth > _MAX_DEPTH:
            raise self.fault("groups are nested too deeply")
        negated = self.peek() == "^"
        self.at += negated
        ranges: list[tuple[str, str]] = []
        parts: list[CharSet] = []
        minus: CharSet | None = None
        while self.peek() != "]":
            if self.text.startswith("-[", self.at) and (ranges or parts):
                self.at += 2
                minus = self.group(depth + 1)
                if self.peek() != "]":
                    raise self.fault("nothing may follow a subtraction")
                break
            self.member(ranges, parts)
        if not ranges and not parts:
            raise self.fault("an empty group")
        self.at += 1
        return CharSet(tuple(ranges), (), tuple(parts), negated, minus)

    def member(self, ranges: list[tuple[str, str]], parts: list[CharSet]) -> None:
        low = self.group_char()
        if isinstance(low, CharSet):
            parts.append(low)
            return
        following = self.text[self.at + 1 : self.at + 2]
        if self.peek() != "-" or following in ("]", "[", ""):
            ranges.append((low, low))
            return
        self.at += 1
        high = self.group_char()
        if isinstance(high, CharSet) or high < low:
            raise self.fault("not a range of characters")
        ranges.append((low, high))

    def group_char(self) -> str | CharSet:
        char = self.take()
        if char == "\\":
            return self.escape()
        if char == "[":
            raise self.fault("an unescaped [ in a group")
        return char
