"""Opening: a connection and its thread, for the writer and for the reader, and the new file."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import apsw

from limen.adapters.store_sqlite import files, schema
from limen.errors import LimenError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEEP_CHANGES = 10_000
"""Changes kept for watches; a watch that is further behind lists again."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How the store works; the values fit a server.

    `keep_changes` for watches; `batch`: commits per transaction; `busy_s`: how long a locked file
    is waited for; `checkpoint_pages`: length of the write-ahead log from which on it is copied
    back into the file; `vfs`: SQLite's name of another way to the disk.
    """

    keep_changes: int = KEEP_CHANGES
    batch: int = 256
    busy_s: float = 1.0
    checkpoint_pages: int = 1000
    vfs: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """A connection and the one thread that uses it."""

    thread: ThreadPoolExecutor
    connection: apsw.Connection


async def open_lane(name: str, connect: Callable[[], apsw.Connection]) -> Lane:
    """Start a thread and connect in it. Raises what `connect` raises."""
    thread = ThreadPoolExecutor(1, thread_name_prefix=name)
    try:
        return Lane(thread, await asyncio.get_running_loop().run_in_executor(thread, connect))
    except BaseException:
        thread.shutdown(wait=False)
        raise


async def close_lane(lane: Lane) -> None:
    """Close the connection after the work that its thread still has, then end the thread."""
    await asyncio.get_running_loop().run_in_executor(lane.thread, lane.connection.close)
    lane.thread.shutdown(wait=False)


def open_writer(path: Path, options: StoreOptions, lock: files.FileLock) -> apsw.Connection:
    """The connection that writes; takes the lock, makes the file if there is none.

    Raises Conflict, Unavailable, apsw.Error.
    """
    files.prepare_directory(path.parent)
    lock.acquire()
    if not path.exists():
        create_store(path, options.vfs)
    files.check_private(path)
    connection = schema.connect(path, vfs=options.vfs, busy_ms=round(options.busy_s * 1000))
    try:
        schema.check_file(connection, path)
        schema.use_log(connection)
    except (apsw.Error, LimenError):
        connection.close()
        raise
    return connection


def open_reader(path: Path, options: StoreOptions) -> apsw.Connection:
    """The connection that reads. Raises apsw.Error."""
    busy_ms = round(options.busy_s * 1000)
    return schema.connect(path, vfs=options.vfs, busy_ms=busy_ms, readonly=True)


def create_store(path: Path, vfs: str | None = None) -> None:
    """Make an empty store with a new epoch. Raises Conflict, Unavailable, apsw.Error."""
    files.check_absent(path)
    with files.built_aside(path) as aside:
        connection = schema.connect(aside, vfs=vfs)
        try:
            schema.create_tables(connection, new_epoch())
            schema.use_log(connection)
        finally:
            connection.close()


def new_epoch() -> str:
    """128 random bits as text."""
    return secrets.token_hex(16)
