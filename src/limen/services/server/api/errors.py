"""The error tree as HTTP, in one table.

Every answer that is an error has the same JSON shape:
`{code, message, hint, diagnostics: [{severity, code, message, file, line, path, hint}]}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.adapters.store import Compacted
from limen.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    LimenError,
    NotFound,
    Unauthenticated,
    Unavailable,
    Untrusted,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.adapters.store import JsonValue
    from limen.core.model.diagnostic import Diagnostic

STATUS: tuple[tuple[type[LimenError], int], ...] = (
    (InvalidInput, 400),
    (Unauthenticated, 401),
    (Forbidden, 403),
    (Untrusted, 403),
    (NotFound, 404),
    (Conflict, 409),
    (Compacted, 410),
    (Unavailable, 503),
    (LimenError, 500),
)
STATUS_BY_CODE = {"too-large": 413, "too-many-requests": 429, "timeout": 408}
"""Codes that have a status of their own, whatever their class."""


def status_of(error: LimenError) -> int:
    """The HTTP status of an error."""
    by_class = next(status for kind, status in STATUS if isinstance(error, kind))
    return STATUS_BY_CODE.get(error.code, by_class)


def diagnostic_to_json(diagnostic: Diagnostic) -> dict[str, JsonValue]:
    """A finding as JSON."""
    return {
        "severity": diagnostic.severity.value,
        "code": diagnostic.code,
        "message": diagnostic.message,
        "file": diagnostic.file,
        "line": diagnostic.line,
        "path": diagnostic.path,
        "hint": diagnostic.hint,
    }


def diagnostics_to_json(diagnostics: Iterable[Diagnostic]) -> list[JsonValue]:
    """Findings as JSON, in order."""
    return [diagnostic_to_json(d) for d in diagnostics]


def error_to_json(error: LimenError) -> dict[str, JsonValue]:
    """The body of an error's answer."""
    found = error.diagnostics if isinstance(error, InvalidInput) else ()
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "diagnostics": diagnostics_to_json(found),
    }
