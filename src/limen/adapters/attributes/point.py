"""The policy information point: asks sources, keeps their answers for the declared time.

One question is asked once at a time, whoever waits for it. A failure is kept for a moment, so that
a source that hangs is not asked by every request. Each source has its own share of everything: one
that hangs holds up nobody who does not need it.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, assert_never

from limen.adapters.attributes.failure import SourceFailure
from limen.adapters.attributes.file_rows import FileRows
from limen.adapters.attributes.http_rows import http_rows
from limen.adapters.attributes.postgres_rows import postgres_rows
from limen.adapters.attributes.sqlite_rows import sqlite_rows
from limen.adapters.attributes.threads import Threads
from limen.core.model.attribute_source import (
    ClaimsOrigin,
    FileOrigin,
    HttpOrigin,
    LabelsOrigin,
    PostgresOrigin,
    SqliteOrigin,
)
from limen.core.policy.sources import MAX_ROUNDS, Answer, AnswersNeeded, Asking, Borne, Question

if TYPE_CHECKING:
    from collections.abc import Callable

    from limen.adapters.attributes.places import Places
    from limen.core.model.attribute_source import AttributeSource
    from limen.core.policy.sources import SourceBook

Result = TypeVar("Result")

MAX_KEPT = 10_000
MAX_KEPT_BYTES = 32 * 1024 * 1024
FAILURE_S = 1.0
"""How long a failure is kept."""
MAX_FETCHES = 64
"""Of one source at once; others wait, in their own time."""
MAX_OPEN = 20_000
"""Questions that wait for an answer."""
DEADLINE_S = 12.0
"""For all answers that one request needs."""


class InformationPoint:
    """The sources of one service. Belongs to one event loop; only `kept` is for any thread."""

    def __init__(
        self, book: SourceBook, places: Places, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.book = book
        self._places = places
        self._clock = clock
        self._kept: OrderedDict[Question, tuple[float, int, Answer]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._open: dict[Question, asyncio.Task[Answer]] = {}
        self._turns = {str(s): asyncio.Semaphore(MAX_FETCHES) for s in book.sources}
        self._threads = {str(source): Threads() for source in book.sources}
        self._files: dict[str, FileRows] = {}
        for source in book.sources:
            if isinstance(source.origin, FileOrigin):
                names = [parameter.name for parameter in source.parameters]
                self._files[str(source)] = FileRows(source.origin, names, places)

    def asking(self, borne: Borne | None = None) -> Asking:
        """The view of one request."""
        return Asking(self.book, self.kept, borne or Borne())

    def kept(self, question: Question) -> Answer | None:
        """An answer that is still good; None: it has to be fetched."""
        with self._lock:
            found = self._kept.get(question)
            if found is None:
                return None
            if found[0] <= self._clock():
                self._forget(question)
                return None
            return found[2]

    async def decide(self, asking: Asking, evaluate: Callable[[], Result]) -> Result:
        """What `evaluate` gives once it has all answers; it is called at least once.

        When rounds or time are used up it is told so: `evaluate` then ends Indeterminate.
        """
        end = self._clock() + DEADLINE_S
        for round_ in range(MAX_ROUNDS + 1):
            left = end - self._clock()
            if round_ == MAX_ROUNDS or left <= 0:
                asking.given_up = "the answers that the decision needs take too long"
            try:
                return evaluate()
            except AnswersNeeded:
                needed, asking.needed = asking.needed, []
                answers = await asyncio.gather(*(self.answer(q, left) for q in needed))
                asking.answers.update(zip(needed, answers, strict=True))
        raise AssertionError  # the last round cannot need anything

    async def answer(self, question: Question, limit_s: float = DEADLINE_S) -> Answer:
        """The answer, kept or fetched. Total: failures are answers."""
        kept = self.kept(question)
        if kept is not None:
            return kept
        task = self._open.get(question)
        if task is None:
            task = asyncio.ensure_future(self._fetched(question))
            self._open[question] = task
            task.add_done_callback(partial(self._closed, question))
        done, _ = await asyncio.wait({task}, timeout=max(0.0, limit_s))
        return task.result() if done else Answer(failure="it did not answer in time")

    def _closed(self, question: Question, task: asyncio.Task[Answer]) -> None:
        self._open.pop(question, None)
        if not task.cancelled():
            task.exception()

    async def _fetched(self, question: Question) -> Answer:
        source = question.source
        if len(self._open) > MAX_OPEN:
            return Answer(failure="too many questions wait for answers")
        try:
            async with asyncio.timeout(source.timeout_s), self._turns[str(source)]:
                rows = await self._rows(question)
            answer = Answer(rows)
        except TimeoutError:
            answer = Answer(failure=f"it did not answer within {source.timeout_s:g} s")
        except SourceFailure as error:
            answer = Answer(failure=str(error))
        self._keep(question, answer)
        return answer

    async def _rows(self, question: Question) -> tuple[dict[str, Any], ...]:
        source = question.source
        names = [parameter.name for parameter in source.parameters]
        values = dict(zip(names, question.values, strict=True))
        threads, places = self._threads[str(source)], self._places
        time_s, most = source.timeout_s, source.max_rows
        rows: tuple[dict[str, Any], ...]
        match source.origin:
            case FileOrigin():
                file = self._files[str(source)]
                rows = await threads.run(partial(file.rows, question.values, most))
                return rows
            case SqliteOrigin() as origin:
                rows = await threads.run(
                    partial(sqlite_rows, origin, values, places, timeout_s=time_s, max_rows=most)
                )
                return rows
            case HttpOrigin() as origin:
                return await http_rows(origin, values, places, threads, max_rows=most)
            case PostgresOrigin() as origin:
                return await postgres_rows(origin, values, places, timeout_s=time_s, max_rows=most)
            case ClaimsOrigin() | LabelsOrigin():
                raise SourceFailure("the request bears it, or it is not there")
        assert_never(source.origin)

    def _keep(self, question: Question, answer: Answer) -> None:
        lasting = FAILURE_S if answer.failure else question.source.cache_s
        if lasting <= 0:
            return
        size = 200 + sum(len(json.dumps(row, default=str)) for row in answer.rows)
        with self._lock:
            if question in self._kept:
                self._forget(question)
            self._kept[question] = (self._clock() + lasting, size, answer)
            self._bytes += size
            while len(self._kept) > MAX_KEPT or self._bytes > MAX_KEPT_BYTES:
                self._forget(next(iter(self._kept)))

    def _forget(self, question: Question) -> None:
        _, size, _ = self._kept.pop(question)
        self._bytes -= size


def needs_extra(source: AttributeSource) -> str:
    """What is not installed and the source needs; empty: nothing."""
    if isinstance(source.origin, PostgresOrigin):
        try:
            import psycopg  # noqa: F401, PLC0415 - only whether it is there
        except ImportError:
            return "pip install 'limen[postgres]'"
    return ""
