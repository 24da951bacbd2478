"""Reads: what one connection reads in one snapshot. No asyncio here. All raise apsw.Error."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from limen.adapters.store import AuditEvent, Change, Compacted, Record
from limen.adapters.store_commit import decode_body, decode_entry
from limen.adapters.store_sqlite.schema import fetch
from limen.core.audit import GENESIS
from limen.core.model.resource import ResourceKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

_COMMITS_AT_ONCE = 64
"""Commits that a watch reads in one go: what a slow watch holds in memory."""

_GET = """SELECT revision, body FROM records
WHERE kind = ? AND mesh = ? AND namespace = ? AND name = ?"""
_LIST = """SELECT kind, mesh, namespace, name, revision, body FROM records
WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR mesh = ?2) AND (?3 IS NULL OR namespace = ?3)
ORDER BY kind, mesh, namespace, name"""
_CHANGES = """SELECT revision, kind, mesh, namespace, name, body FROM changes
WHERE revision > ?1 AND revision <= (
    SELECT max(revision) FROM (
        SELECT DISTINCT revision FROM changes WHERE revision > ?1 ORDER BY revision LIMIT ?2))
ORDER BY seq"""
_AUDIT = """SELECT seq, revision, entry, previous, hash FROM audit
WHERE seq > ? ORDER BY seq LIMIT ?"""


def read_meta(connection: apsw.Connection) -> tuple[str, int, int]:
    """Epoch, revision, and the newest revision whose changes are no longer kept."""
    rows = fetch(connection, "SELECT epoch, revision, compacted FROM meta")
    epoch, revision, compacted = rows[0]
    return epoch, revision, compacted


def read_record(connection: apsw.Connection, key: ResourceKey) -> Record | None:
    """See `Store.get`."""
    rows = fetch(connection, _GET, (key.kind, key.mesh, key.namespace, key.name))
    return Record(key, _decoded(decode_body, rows[0][1]), rows[0][0]) if rows else None


def list_records(
    connection: apsw.Connection, kind: str | None, mesh: str | None, namespace: str | None
) -> tuple[Sequence[Record], int]:
    """See `Store.list`."""
    with _snapshot(connection):
        _, revision, _ = read_meta(connection)
        rows = fetch(connection, _LIST, (kind, mesh, namespace))
    return [
        Record(ResourceKey(*row[:4]), _decoded(decode_body, row[5]), row[4]) for row in rows
    ], revision


def read_changes(connection: apsw.Connection, after: int) -> tuple[Sequence[Sequence[Change]], int]:
    """Some commits after revision `after`, in order, and the revision up to which that is all.

    Raises Compacted when they are not all kept, or `after` is no revision of this history.
    """
    with _snapshot(connection):
        _, revision, compacted = read_meta(connection)
        if not compacted <= after <= revision:
            raise Compacted(
                f"changes after revision {after} are not kept",
                hint="list again and watch from there",
            )
        rows = fetch(connection, _CHANGES, (after, _COMMITS_AT_ONCE))
    commits = [[_change(row) for row in rows_] for _, rows_ in groupby(rows, key=itemgetter(0))]
    return commits, commits[-1][0].revision if len(commits) == _COMMITS_AT_ONCE else revision


def read_audit(connection: apsw.Connection, after_seq: int, limit: int) -> Sequence[AuditEvent]:
    """See `Store.audit`."""
    rows = fetch(connection, _AUDIT, (after_seq, limit))
    return [
        AuditEvent(row[0], row[1], _decoded(decode_entry, row[2]), row[3], row[4]) for row in rows
    ]


def read_audit_head(connection: apsw.Connection) -> tuple[int, str]:
    """See `Store.audit_head`."""
    last = fetch(connection, "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
    return (last[0][0], last[0][1]) if last else (0, GENESIS)


def _change(row: Sequence[Any]) -> Change:
    return Change(
        row[0], ResourceKey(*row[1:5]), None if row[5] is None else _decoded(decode_body, row[5])
    )


def _decoded(decode: Callable[[str], T], text: str) -> T:
    """Raises apsw.CorruptError: only damage makes what was encoded here unreadable."""
    try:
        return decode(text)
    except (ValueError, TypeError) as error:
        raise apsw.CorruptError("a stored text is not what was written") from error


@contextmanager
def _snapshot(connection: apsw.Connection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("COMMIT")
