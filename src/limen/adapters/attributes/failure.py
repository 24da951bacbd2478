"""What a fetcher raises, and the bounds that all of them keep."""

from __future__ import annotations

MAX_ANSWER_BYTES = 1024 * 1024
"""Of one answer, whatever its origin."""
MAX_FILE_BYTES = 4 * 1024 * 1024
"""Of a file of rows."""
MAX_DEPTH = 16
MAX_ITEMS = 200_000


class SourceFailure(Exception):
    """No answer, or one that cannot be believed. The message shows no secret and no value."""


def rows_of(value: object, max_rows: int) -> tuple[dict[str, object], ...]:
    """An object is one row, a list of objects several; null is none. Raises `SourceFailure`."""
    found = [] if value is None else value if isinstance(value, list) else [value]
    if len(found) > max_rows:
        raise SourceFailure(f"it gives more than {max_rows} rows")
    if not all(isinstance(row, dict) for row in found):
        raise SourceFailure("its answer is neither an object nor a list of objects")
    return tuple(found)
