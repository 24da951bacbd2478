"""The tree of a regular expression to an automaton, and the search for a match with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from limen.core.policy.xacml.limits import MAX_REGEX_STATES
from limen.core.policy.xacml.regex.syntax import (
    Char,
    Choice,
    Edge,
    Node,
    Repeat,
    Sequence,
    parse_regex,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from limen.core.policy.xacml.regex.charset import CharSet

_CACHED_STEPS = 256
_CACHED_SIZE = 64


class _Builder:
    """Thompson's construction: every state reads one set, or goes on without reading."""

    def __init__(self) -> None:
        self.reads: list[tuple[CharSet, int] | None] = []
        self.free: list[list[int]] = []
        self.edges: list[Edge | None] = []

    def state(self) -> int:
        if len(self.reads) >= MAX_REGEX_STATES:
            raise ValueError(f"more than {MAX_REGEX_STATES} states: shorten its counts")
        self.reads.append(None)
        self.free.append([])
        self.edges.append(None)
        return len(self.reads) - 1

    def build(self, node: Node, start: int) -> int:
        """Add `node` behind `start`; the state where it ends."""
        match node:
            case Char(chars):
                end = self.state()
                self.reads[start] = (chars, end)
            case Edge():
                end = self.state()
                self.edges[start] = node
                self.free[start].append(end)
            case Sequence(parts):
                end = start
                for part in parts:
                    end = self.build(part, self.fresh(end))
            case Choice(parts):
                end = self.state()
                for part in parts:
                    self.free[self.build(part, self.fresh(start))].append(end)
            case Repeat():
                end = self.repeat(node, start)
            case _:
                assert_never(node)
        return end

    def fresh(self, start: int) -> int:
        """A state of its own that follows `start` freely."""
        state = self.state()
        self.free[start].append(state)
        return state

    def repeat(self, node: Repeat, start: int) -> int:
        for _ in range(node.low):
            start = self.build(node.part, self.fresh(start))
        if node.high is None:
            loop = self.fresh(start)
            self.free[self.build(node.part, self.fresh(loop))].append(loop)
            return self.fresh(loop)
        end = self.state()
        self.free[start].append(end)
        for _ in range(node.high - node.low):
            start = self.build(node.part, self.fresh(start))
            self.free[start].append(end)
        return end


class Regex:
    """A compiled expression. `search` says whether some part of a text matches."""

    __slots__ = ("_accept", "_builder", "_cache", "_start", "pattern")

    def __init__(self, pattern: str) -> None:
        """Raises ValueError if `pattern` is not a regular expression, or too large."""
        self.pattern = pattern
        self._builder = _Builder()
        self._start = self._builder.state()
        self._accept = self._builder.build(parse_regex(pattern), self._start)
        self._cache: dict[tuple[frozenset[int], str], frozenset[int]] = {}

    def search(self, text: str, spend: Callable[[int], None]) -> bool:
        """Whether `text` contains a match. `spend(n)` is told of every n steps and may raise."""
        current = self._closure((self._start,), first=True, last=not text)
        if self._accept in current:
            return True
        cache, final = self._cache, len(text) - 1
        for position, char in enumerate(text):
            if position == final:
                spend(len(current) + 1)
                return self._accept in self._step(current, char, last=True)
            following = cache.get((current, char))
            if following is None:
                spend(len(current) + 1)
                following = self._step(current, char, last=False)
                self._remember(current, char, following)
            else:
                spend(1)
            if self._accept in following:
                return True
            current = following
        return False

    def _remember(self, current: frozenset[int], char: str, following: frozenset[int]) -> None:
        if len(current) <= _CACHED_SIZE and len(following) <= _CACHED_SIZE:
            if len(self._cache) >= _CACHED_STEPS:
                self._cache.clear()
            self._cache[current, char] = following

    def _step(self, current: frozenset[int], char: str, *, last: bool) -> frozenset[int]:
        reads = self._builder.reads
        reached = {self._start}
        for state in current:
            read = reads[state]
            if read is not None and read[0].has(char):
                reached.add(read[1])
        return self._closure(reached, first=False, last=last)

    def _closure(self, states: Iterable[int], *, first: bool, last: bool) -> frozenset[int]:
        """Every state that `states` reach without reading."""
        free, edges = self._builder.free, self._builder.edges
        seen = set(states)
        waiting = list(seen)
        while waiting:
            state = waiting.pop()
            edge = edges[state]
            if edge is not None and not (last if edge.end else first):
                continue
            for following in free[state]:
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
        return frozenset(seen)
