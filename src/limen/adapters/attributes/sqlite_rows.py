"""Rows of a query to a SQLite file that is only read: bound parameters, a deadline, caps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import apsw

from limen.adapters.attributes.failure import MAX_ANSWER_BYTES, SourceFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.attributes.places import Places
    from limen.core.model.attribute_source import SqliteOrigin
    from limen.core.policy.sources import Value

_STEPS = 2_000
"""Instructions of the engine between two looks at the clock."""
_ALLOWED = frozenset(
    {apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE}
)


def sqlite_rows(
    origin: SqliteOrigin,
    values: Mapping[str, Value],
    places: Places,
    *,
    timeout_s: float,
    max_rows: int,
) -> tuple[dict[str, Any], ...]:
    """The rows. Blocks at most for about `timeout_s`. Raises `SourceFailure`."""
    end = time.monotonic() + timeout_s
    path = places.resolve(origin.path)
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.Error:
        raise SourceFailure("its file cannot be opened as SQLite") from None
    try:
        connection.set_busy_timeout(int(timeout_s * 1000))
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, MAX_ANSWER_BYTES)
        connection.limit(apsw.SQLITE_LIMIT_ATTACHED, 0)
        connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
        connection.set_authorizer(
            lambda operation, *_: apsw.SQLITE_OK if operation in _ALLOWED else apsw.SQLITE_DENY
        )
        return _rows(connection, origin.query, values, max_rows)
    except apsw.InterruptError:
        raise SourceFailure("its query did not end in time") from None
    except apsw.Error as error:
        raise SourceFailure(f"its query fails: {type(error).__name__}") from None
    finally:
        connection.close(force=True)


def _rows(
    connection: apsw.Connection, query: str, values: Mapping[str, Value], max_rows: int
) -> tuple[dict[str, Any], ...]:
    cursor = connection.cursor()
    cursor.execute(query, dict(values))
    found: list[dict[str, Any]] = []
    size = 0
    names: list[str] = []
    for row in cursor:
        names = names or [column[0] for column in cursor.get_description()]
        if len(found) >= max_rows:
            raise SourceFailure(f"it gives more than {max_rows} rows")
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
        if size > MAX_ANSWER_BYTES:
            raise SourceFailure(f"it gives more than {MAX_ANSWER_BYTES} bytes")
        found.append({name: _plain(value) for name, value in zip(names, row, strict=True)})
    return tuple(found)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        raise SourceFailure("it gives binary data")
    return value
