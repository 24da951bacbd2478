"""The information point for programs without an event loop: it has one in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from limen.adapters.attributes.point import DEADLINE_S
from limen.core.policy.sources import MAX_ROUNDS, AnswersNeeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from limen.adapters.attributes.point import InformationPoint
    from limen.core.policy.sources import Answer, Asking, Question

Found = TypeVar("Found")


class BlockingPoint:
    """Evaluates in the caller's thread, fetches in its own; safe for several threads."""

    def __init__(self, point: InformationPoint) -> None:
        self._point = point
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def decide(self, evaluate: Callable[[Asking], Found]) -> Found:
        """What `evaluate` gives when the sources have answered. Blocks at most for `DEADLINE_S`."""
        asking = self._point.asking()
        end = time.monotonic() + DEADLINE_S
        for round_ in range(MAX_ROUNDS + 1):
            left = end - time.monotonic()
            if round_ == MAX_ROUNDS or left <= 0:
                asking.given_up = "the answers that the decision needs take too long"
            try:
                return evaluate(asking)
            except AnswersNeeded:
                needed, asking.needed = asking.needed, []
                asking.answers.update(zip(needed, self._fetched(needed, left), strict=True))
        raise AssertionError  # the last round cannot need anything

    def _fetched(self, needed: list[Question], left_s: float) -> list[Answer]:
        async def fetch() -> list[Answer]:
            return await asyncio.gather(*(self._point.answer(q, left_s) for q in needed))

        return asyncio.run_coroutine_threadsafe(fetch(), self._running()).result()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, daemon=True).start()
            return self._loop
