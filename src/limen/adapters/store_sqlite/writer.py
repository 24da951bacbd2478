"""Transactions: what one connection does to the tables for a batch of commits. No asyncio here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import apsw

from limen.adapters.store_commit import audit_event_text, check_expected
from limen.adapters.store_sqlite.schema import fetch
from limen.core.audit import GENESIS, hash_event
from limen.errors import Conflict, NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.adapters.store import Check
    from limen.adapters.store_commit import PreparedCommit, PreparedWrite

_KEY = "kind = ? AND mesh = ? AND namespace = ? AND name = ?"
_FIND = f"SELECT revision FROM records WHERE {_KEY}"  # noqa: S608 - no value is part of the text
_PUT = """INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET revision = excluded.revision, body = excluded.body"""
_DELETE = f"DELETE FROM records WHERE {_KEY}"  # noqa: S608 - as above
_CHANGE = """INSERT INTO changes (revision, kind, mesh, namespace, name, body)
VALUES (?, ?, ?, ?, ?, ?)"""
_AUDIT = "INSERT INTO audit VALUES (?, ?, ?, ?, ?)"

Outcome = int | Conflict | NotFound
"""A commit's revision, or why it was refused."""


@dataclass(slots=True)
class _Head:
    """Where the history stands inside the open transaction."""

    revision: int
    seq: int
    hash: str


def write_batch(
    connection: apsw.Connection, commits: Sequence[PreparedCommit], keep: int
) -> tuple[list[Outcome], int]:
    """Apply commits in order in one transaction, so that they share one sync of the disk.

    Each gets a revision of its own or is refused without a trace. Returns the outcomes, valid
    since all of it is durable, and the history's revision. Raises apsw.Error: then none of it is
    seen by any reader (after a crash, all of it may turn out to be there; never a part).
    """
    roll_back(connection)
    try:
        connection.execute("BEGIN IMMEDIATE")
        head = _read_head(connection)
        outcomes = [_write(connection, commit, head) for commit in commits]
        if any(isinstance(outcome, int) for outcome in outcomes):
            connection.execute("UPDATE meta SET revision = ?", (head.revision,))
            _compact(connection, keep)
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise
    return outcomes, head.revision


def roll_back(connection: apsw.Connection) -> None:
    """End a transaction that failed, if SQLite has not done so. Raises apsw.Error."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def checkpoint(connection: apsw.Connection) -> int:
    """Copy the write-ahead log into the file as far as no reader needs it; pages still to copy.

    Waits for nobody. Raises apsw.Error.
    """
    pages, copied = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    return max(pages - copied, 0)


def _read_head(connection: apsw.Connection) -> _Head:
    (revision,) = fetch(connection, "SELECT revision FROM meta")[0]
    last = fetch(connection, "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
    return _Head(revision, *(last[0] if last else (0, GENESIS)))


def _write(connection: apsw.Connection, commit: PreparedCommit, head: _Head) -> Outcome:
    try:
        for part in commit.compared():
            check_expected(part, _current(connection, part))
    except (Conflict, NotFound) as refusal:
        return refusal
    head.revision += 1
    for write in commit.writes:
        key = _key(write)
        if write.body is None:
            connection.execute(_DELETE, key)
        else:
            connection.execute(_PUT, (*key, head.revision, write.body))
        connection.execute(_CHANGE, (head.revision, *key, write.body))
    for entry in commit.entries:
        previous, head.seq = head.hash, head.seq + 1
        head.hash = hash_event(previous, audit_event_text(head.seq, head.revision, entry))
        connection.execute(_AUDIT, (head.seq, head.revision, entry, previous, head.hash))
    return head.revision


def _current(connection: apsw.Connection, write: PreparedWrite | Check) -> int:
    found = fetch(connection, _FIND, _key(write))
    return int(found[0][0]) if found else 0


def _key(write: PreparedWrite | Check) -> tuple[str, str, str, str]:
    key = write.key
    return (key.kind, key.mesh, key.namespace, key.name)


def _compact(connection: apsw.Connection, keep: int) -> None:
    """Forget the oldest commits' changes beyond `keep`; never those of the newest commit."""
    surplus = connection.execute(
        "SELECT revision FROM changes WHERE seq <= (SELECT max(seq) FROM changes) - ?"
        " ORDER BY seq DESC LIMIT 1",
        (keep,),
    ).fetchall()
    if not surplus:
        return
    (newest,) = fetch(connection, "SELECT max(revision) FROM changes")[0]
    compacted = min(surplus[0][0], newest - 1)
    connection.execute("DELETE FROM changes WHERE revision <= ?", (compacted,))
    connection.execute("UPDATE meta SET compacted = max(compacted, ?)", (compacted,))
