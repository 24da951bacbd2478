"""Single use: who remembers what was seen, and what happens when the memory is full.

A receiver that cannot remember refuses: forgetting early would let a token be used twice.
"""

from __future__ import annotations

import heapq
from typing import Protocol

MAX_REMEMBERED = 100_000


class ReplayMemory(Protocol):
    """Where single-use tokens are noted. One call decides, so that two racing ones cannot both."""

    def note(self, name: str, until_s: float, now_s: float) -> bool:
        """Remember `name` until then. False: it is known already, or there is no room."""


class Seen:
    """A bounded memory of one process. Names that are over leave it with later calls."""

    def __init__(self, capacity: int = MAX_REMEMBERED) -> None:
        self._capacity = capacity
        self._names: set[str] = set()
        self._ends: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._names)

    def note(self, name: str, until_s: float, now_s: float) -> bool:
        """See `ReplayMemory`."""
        while self._ends and self._ends[0][0] <= now_s:
            self._names.discard(heapq.heappop(self._ends)[1])
        if name in self._names or len(self._names) >= self._capacity:
            return False
        self._names.add(name)
        heapq.heappush(self._ends, (until_s, name))
        return True
