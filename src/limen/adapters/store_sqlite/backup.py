"""Copies of a store: taken while the server runs, and turned into a store with a new epoch."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from limen.adapters.store_commit import prepare_commit
from limen.adapters.store_sqlite import files, reader, schema
from limen.adapters.store_sqlite.faults import store_unavailable
from limen.adapters.store_sqlite.lanes import new_epoch
from limen.adapters.store_sqlite.writer import write_batch
from limen.core.audit import ChainHead, verify_chain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.adapters.store import AuditEntry
    from limen.adapters.store_sqlite.store import SqliteStore

_PAGE = 1000


async def backup(store: SqliteStore | Path, path: Path) -> int:
    """Copy `store` as it is at one moment to the new file `path` (0600); the copy's revision.

    `store` may be the file of a store that another process uses: that server goes on meanwhile.
    Raises Conflict (`store-exists`), Unavailable.
    """
    source = store if isinstance(store, Path) else store.path
    return await asyncio.to_thread(_backup, source, path)


async def restore(path: Path, into: Path, audit: Sequence[AuditEntry] = ()) -> str:
    """Make the store `into` from the backup `path`; the new epoch. No server may be using `into`.

    The backup is checked whole: structure and audit chain. `audit` says who restored it. Raises
    Conflict (`store-exists`: move the old store away first; `store-locked`), Untrusted
    (`audit-tampered`), Unavailable.
    """
    return await asyncio.to_thread(_restore, path, into, audit)


def _backup(source_path: Path, path: Path) -> int:
    files.prepare_directory(path.parent)
    files.check_absent(path)
    try:
        with files.built_aside(path) as aside:
            _copy(source_path, aside)
            copy = schema.connect(aside)
            try:
                schema.check_file(copy, path)
                copy.pragma("journal_mode", "delete")
                _, revision, _ = reader.read_meta(copy)
            finally:
                copy.close()
    except apsw.Error as error:
        raise store_unavailable(error, path) from error
    return revision


def _restore(path: Path, into: Path, audit: Sequence[AuditEntry]) -> str:
    files.prepare_directory(into.parent)
    lock = files.FileLock(into)
    lock.acquire()
    try:
        files.check_absent(into)
        with files.built_aside(into) as aside:
            _copy(path, aside)
            return _renew(aside, path, audit)
    except apsw.Error as error:
        raise store_unavailable(error, path) from error
    finally:
        lock.release()


def _copy(source_path: Path, aside: Path) -> None:
    """Copy all pages as they are at one moment. Raises apsw.Error."""
    source = apsw.Connection(str(source_path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        source.set_busy_timeout(5000)
        target = apsw.Connection(str(aside), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            with target.backup("main", source, "main") as copying:
                copying.step(-1)
        finally:
            target.close()
    finally:
        source.close()


def _renew(aside: Path, path: Path, audit: Sequence[AuditEntry]) -> str:
    """Check the copy at `aside` and give it a new epoch."""
    epoch = new_epoch()
    connection = schema.connect(aside)
    try:
        schema.check_file(connection, path)
        _verify_audit(connection)
        connection.execute("UPDATE meta SET epoch = ?", (epoch,))
        if audit:
            write_batch(connection, [prepare_commit((), audit)], keep=1 << 62)
        schema.use_log(connection)
    finally:
        connection.close()
    return epoch


def _verify_audit(connection: apsw.Connection) -> None:
    head = ChainHead()
    while events := reader.read_audit(connection, head.seq, _PAGE):
        head = verify_chain(events, head)
