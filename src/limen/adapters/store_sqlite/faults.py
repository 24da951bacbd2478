"""What SQLite and the file system can refuse, as Limen's errors. One table, nothing else."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import apsw

from limen.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

DISK_FULL = "store-disk-full"
LOCKED = "store-locked"
CORRUPT = "store-corrupt"
READ_ONLY = "store-read-only"
IO = "store-io"

_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_TABLE: tuple[tuple[type[apsw.Error], str, str, str], ...] = (
    (apsw.FullError, DISK_FULL, "has no room left", "free some space; nothing was written"),
    (
        apsw.BusyError,
        LOCKED,
        "is locked by another program",
        "end the program that holds it (a database shell, a copy in progress) and retry",
    ),
    (apsw.LockedError, LOCKED, "is locked", "retry"),
    (
        apsw.CorruptError,
        CORRUPT,
        "is damaged",
        "stop the server, move the file and its -wal file away and restore a backup",
    ),
    (
        apsw.NotADBError,
        CORRUPT,
        "is not a database",
        "move the file and its -wal file away and restore a backup, or name another file",
    ),
    (
        apsw.ReadOnlyError,
        READ_ONLY,
        "cannot be written",
        "check the owner of the file and directory, and whether the disk is mounted read-only",
    ),
    (
        apsw.CantOpenError,
        IO,
        "cannot be opened",
        "check that file and directory exist, belong to the server's user, and have room",
    ),
    (apsw.IOError, IO, "could not be read or written", "check the disk and the system's log"),
)


def store_unavailable(error: apsw.Error, path: Path, system_errno: int = 0) -> Unavailable:
    """`error` of an operation on the store at `path`, with what to do about it.

    `system_errno` is the connection's: SQLite calls a quota or a limit on file size an I/O error.
    """
    full = isinstance(error, apsw.IOError) and system_errno in _FULL_ERRNOS
    kind_of_error = apsw.FullError if full else type(error)
    for kind, code, what, hint in _TABLE:
        if issubclass(kind_of_error, kind):
            return Unavailable(f"the store {path} {what}", code=code, hint=hint)
    return Unavailable(
        f"the store {path} failed: {type(error).__name__}: {error}",
        code=IO,
        hint="check the server's log; this is a defect unless the disk failed",
    )


def file_unavailable(error: OSError, path: Path) -> Unavailable:
    """A file operation beside SQLite failed."""
    full = error.errno in _FULL_ERRNOS
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return Unavailable(
        f"{path}: {reason}",
        code=DISK_FULL if full else IO,
        hint="free some space" if full else "check the path, its owner and its permissions",
    )
