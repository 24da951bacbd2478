"""The tables of the store's file, how a connection is set up, and what a file must be to be ours.

Version 1: `PRAGMA user_version`. A newer version is refused; an older one is migrated here, in one
transaction, once there is one. Every connection runs in the thread that uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import apsw

from limen.adapters.store_sqlite.faults import CORRUPT
from limen.core.audit import GENESIS
from limen.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 1
APPLICATION_ID = 0x4C494D45  # "LIME"

_JOURNAL_LIMIT = 16 * 1024 * 1024
"""A write-ahead log that once grew beyond this many bytes is cut back after a checkpoint."""

_TABLES = f"""
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch TEXT NOT NULL,
    revision INTEGER NOT NULL,
    compacted INTEGER NOT NULL       -- the newest revision whose changes are no longer kept
) STRICT;
CREATE TABLE records (
    kind TEXT NOT NULL, mesh TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    revision INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, mesh, namespace, name)
) STRICT;
CREATE TABLE changes (
    seq INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    kind TEXT NOT NULL, mesh TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    body TEXT                        -- NULL: deleted
) STRICT;
CREATE INDEX changes_revision ON changes (revision);
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL,
    entry TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'audit events are never changed'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'audit events are never removed'); END;
CREATE TRIGGER audit_only_append BEFORE INSERT ON audit
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM audit)
  OR NEW.previous IS NOT coalesce((SELECT hash FROM audit ORDER BY seq DESC LIMIT 1), '{GENESIS}')
BEGIN SELECT RAISE(ABORT, 'audit events continue the chain'); END;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""  # noqa: S608 - built from this module's constants


def connect(
    path: Path, *, vfs: str | None = None, busy_ms: int = 0, readonly: bool = False
) -> apsw.Connection:
    """A connection to an existing file, every commit of which is durable. Raises apsw.Error.

    `readonly` forbids statements that write; the file itself is opened for writing even then,
    because a reader of a write-ahead log takes part in its locks.
    """
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    try:
        connection.set_busy_timeout(busy_ms)
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        connection.pragma("synchronous", "FULL")
        connection.pragma("cell_size_check", 1)
        connection.pragma("journal_size_limit", _JOURNAL_LIMIT)
        connection.pragma("query_only", readonly)
    except apsw.Error:
        connection.close()
        raise
    return connection


def fetch(
    connection: apsw.Connection, statement: str, values: tuple[apsw.SQLiteValue, ...] = ()
) -> list[Any]:
    """All rows as tuples, read to the end. Types are those of the STRICT tables above."""
    return connection.execute(statement, values).fetchall()


def create_tables(connection: apsw.Connection, epoch: str) -> None:
    """Fill an empty file, in one transaction. Raises apsw.Error."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_TABLES)
    connection.execute("INSERT INTO meta VALUES (1, ?, 0, 0)", (epoch,))
    connection.execute("COMMIT")


def check_file(connection: apsw.Connection, path: Path) -> None:
    """Refuse what is not a whole store of a version that is known here.

    Raises Unavailable (`store-corrupt`, `store-foreign`, `store-version`), apsw.Error.
    """
    if connection.pragma("application_id") != APPLICATION_ID:
        raise Unavailable(
            f"{path} is not a store of Limen",
            code="store-foreign",
            hint="name another file; if this was a store, it is damaged: restore a backup",
        )
    version = connection.pragma("user_version")
    if version != VERSION:
        raise Unavailable(
            f"the store {path} has version {version}, and this program knows version {VERSION}",
            code="store-version",
            hint="run the version of Limen that wrote it, or a newer one",
        )
    if fetch(connection, "PRAGMA quick_check(1)") != [("ok",)] or not fetch(
        connection, "SELECT 1 FROM meta WHERE epoch <> ''"
    ):
        raise Unavailable(
            f"the store {path} is damaged",
            code=CORRUPT,
            hint="move the file and its -wal file away and restore a backup",
        )


def use_log(connection: apsw.Connection) -> None:
    """Put the file into write-ahead logging; the mark is kept in the file. Raises apsw.Error."""
    mode = connection.pragma("journal_mode", "wal")
    if mode != "wal":
        raise apsw.CantOpenError(f"write-ahead logging is not possible here (mode {mode})")
