"""`SqliteStore`: the contract over one writer thread and one reader thread.

Commits that arrive while one is being synced wait together and share the next sync. Readers work
in snapshots of the write-ahead log and never wait for the writer. The event loop never waits for
the disk. Watches read the table of changes again each time they are woken, so that a slow one
costs no memory.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import apsw

from limen.adapters.store_commit import Announcer, check_page, prepare_commit, store_closed
from limen.adapters.store_sqlite import files
from limen.adapters.store_sqlite.faults import store_unavailable
from limen.adapters.store_sqlite.lanes import (
    Lane,
    StoreOptions,
    close_lane,
    open_lane,
    open_reader,
    open_writer,
)
from limen.adapters.store_sqlite.reader import (
    list_records,
    read_audit,
    read_audit_head,
    read_changes,
    read_meta,
    read_record,
)
from limen.adapters.store_sqlite.writer import checkpoint, write_batch
from limen.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from limen.adapters.store import AuditEntry, AuditEvent, Change, Record, Write
    from limen.adapters.store_commit import PreparedCommit
    from limen.core.model.resource import ResourceKey

T = TypeVar("T")

MAX_WAITING = 10_000
"""Commits that may wait at once; more are refused at once, so that a flood costs no memory."""

_LOG = logging.getLogger("limen.store")


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    commit: PreparedCommit
    done: asyncio.Future[int]


class SqliteStore:
    """Fulfils `adapters.store.Store`. Made by `open_store` on the loop that uses it."""

    def __init__(
        self,
        path: Path,
        options: StoreOptions,
        lock: files.FileLock,
        *,
        writer: Lane,
        reader: Lane,
    ) -> None:
        self.path = path
        self._options = options
        self._lock = lock
        self._writer = writer
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._announcer = Announcer(0)
        self._guard = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._draining = False
        self._log_pages = 0
        writer.connection.set_wal_hook(self._note_log)

    async def epoch(self) -> str:
        """See `Store.epoch`."""
        return (await self._read(read_meta))[0]

    async def get(self, key: ResourceKey) -> Record | None:
        """See `Store.get`."""
        return await self._read(partial(read_record, key=key))

    async def list(
        self, kind: str | None = None, mesh: str | None = None, namespace: str | None = None
    ) -> tuple[Sequence[Record], int]:
        """See `Store.list`."""
        return await self._read(partial(list_records, kind=kind, mesh=mesh, namespace=namespace))

    async def audit(self, after_seq: int = 0, limit: int = 1000) -> Sequence[AuditEvent]:
        """See `Store.audit`."""
        return await self._read(partial(read_audit, after_seq=after_seq, limit=check_page(limit)))

    async def audit_head(self) -> tuple[int, str]:
        """See `Store.audit_head`."""
        return await self._read(read_audit_head)

    async def watch(self, after: int) -> AsyncIterator[Sequence[Change]]:
        """See `Store.watch`."""
        while not self._announcer.is_closed():
            commits, after = await self._read(partial(read_changes, after=after))
            for changes in commits:
                yield changes
                if self._announcer.is_closed():
                    return
            if not await self._announcer.newer_than(after):
                return

    async def commit(self, writes: Sequence[Write], audit: Sequence[AuditEntry]) -> int:
        """See `Store.commit`. A cancelled call is either committed whole or not at all."""
        prepared = prepare_commit(writes, audit)
        if self._announcer.is_closed():
            raise store_closed()
        waiting = _Waiting(prepared, self._loop.create_future())
        with self._guard:
            if len(self._waiting) >= MAX_WAITING:
                raise Unavailable(
                    "too many writes are waiting", code="store-busy", hint="retry in a second"
                )
            self._waiting.append(waiting)
            if not self._draining:
                self._draining = True
                self._writer.thread.submit(self._drain)
        return await waiting.done

    async def close(self) -> None:
        """See `Store.close`. Commits that were accepted are finished first."""
        if self._announcer.is_closed():
            return
        self._announcer.close()
        await close_lane(self._reader)
        await close_lane(self._writer)
        self._lock.release()

    async def _read(self, work: Callable[[apsw.Connection], T]) -> T:
        if self._announcer.is_closed():
            raise store_closed()
        try:
            return await self._loop.run_in_executor(
                self._reader.thread, work, self._reader.connection
            )
        except apsw.Error as error:
            raise store_unavailable(error, self.path) from error

    def _drain(self) -> None:
        """In the writer's thread: commit what waits, batch after batch, until nothing does."""
        while True:
            with self._guard:
                batch = self._waiting[: self._options.batch]
                del self._waiting[: len(batch)]
                if not batch:
                    self._draining = False
                    return
            batch = [waiting for waiting in batch if not waiting.done.cancelled()]
            if batch:
                self._commit_batch(batch)
            if self._log_pages >= self._options.checkpoint_pages:
                self._checkpoint()

    def _commit_batch(self, batch: Sequence[_Waiting]) -> None:
        outcomes: Sequence[int | Exception]
        revision = 0
        try:
            outcomes, revision = write_batch(
                self._writer.connection, [w.commit for w in batch], self._options.keep_changes
            )
        except apsw.Error as error:
            number = self._writer.connection.system_errno
            outcomes = [store_unavailable(error, self.path, number) for _ in batch]
        except Exception as error:  # noqa: BLE001 - a defect must reach its callers, not strand them
            outcomes = [error for _ in batch]
        self._loop.call_soon_threadsafe(self._deliver, batch, outcomes, revision)

    def _note_log(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        """SQLite's hook after a commit; taking it over switches its own checkpoints off.

        They would make a commit that is durable wait, or fail, for work that is not part of it.
        """
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        """Nothing is lost when it fails: the log stays, and the next commit brings it up again."""
        try:
            self._log_pages = checkpoint(self._writer.connection)
        except apsw.Error as error:
            _LOG.warning("%s", store_unavailable(error, self.path))

    def _deliver(
        self, batch: Sequence[_Waiting], outcomes: Sequence[int | Exception], revision: int
    ) -> None:
        """On the loop: first the watches learn of it, then the callers."""
        self._announcer.announce(revision)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.done.done():
                continue
            if isinstance(outcome, int):
                waiting.done.set_result(outcome)
            else:
                waiting.done.set_exception(outcome)


async def open_store(path: Path, *, options: StoreOptions | None = None) -> SqliteStore:
    """Open the store at `path`, or make a new one if nothing is there.

    Raises Conflict (`store-locked`: another process has it; `store-exists`: remains of another
    store lie beside a missing file) and Unavailable (`store-exposed`, `store-corrupt`,
    `store-foreign`, `store-version`, `store-disk-full`, `store-io`). A damaged file is never
    replaced by an empty one.
    """
    options = options or StoreOptions()
    lock = files.FileLock(path)
    try:
        writer = await open_lane("store-writer", partial(open_writer, path, options, lock))
        try:
            reader = await open_lane("store-reader", partial(open_reader, path, options))
        except BaseException:
            await close_lane(writer)
            raise
    except BaseException as error:
        lock.release()
        if isinstance(error, apsw.Error):
            raise store_unavailable(error, path) from error
        raise
    return SqliteStore(path, options, lock, writer=writer, reader=reader)
