"""Whose proxies wait to be compiled anew, in the order in which changes reached them."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.model.names import InstanceName


class Rollout:
    """A queue without repetitions: who waits already, keeps his place and gets the newest.

    `done` is the newest revision all of whose proxies were taken out.
    """

    def __init__(self) -> None:
        self.done = 0
        self._waiting: dict[InstanceName, None] = {}
        self._added = 0
        self._taken = 0
        self._marks: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, instances: Iterable[InstanceName]) -> None:
        """These wait now."""
        before = len(self._waiting)
        self._waiting.update(dict.fromkeys(instances))
        self._added += len(self._waiting) - before

    def mark(self, revision: int) -> None:
        """All that `revision` touches has been added."""
        self._marks.append((self._added, revision))
        self.settle()

    def take(self, most: int) -> list[InstanceName]:
        """The next ones, at most so many."""
        found = list(islice(self._waiting, most))
        for instance in found:
            del self._waiting[instance]
        self._taken += len(found)
        return found

    def settle(self) -> None:
        """Those taken so far are compiled."""
        while self._marks and self._marks[0][0] <= self._taken:
            self.done = self._marks.popleft()[1]
