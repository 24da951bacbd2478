"""The store's file as the file system sees it: who may read it, who has it open, how it appears.

A new store or a restored one is built under another name and renamed when it is whole, so that a
file under the store's own name is always a whole store or a damaged one, never a half-made one.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from limen.adapters.store_sqlite.faults import LOCKED, file_unavailable
from limen.errors import Conflict, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXPOSED = "store-exposed"
_SIDE_FILES = ("-wal", "-shm", "-journal")


class FileLock:
    """Exclusive use of a store by one process: `flock` on `<store>.lock`, freed when it ends.

    The database file itself is never opened beside SQLite: closing such a descriptor would drop
    SQLite's own locks in this process (POSIX advisory locks).
    """

    def __init__(self, store: Path) -> None:
        self._path = store.with_name(store.name + ".lock")
        self._store = store
        self._descriptor = -1

    def acquire(self) -> None:
        """Raises Conflict if another process has it, Unavailable if the file cannot be made."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise file_unavailable(error, self._path) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            os.close(descriptor)
            by = f" (process {holder})" if holder.isdecimal() else ""
            raise Conflict(
                f"the store {self._store} is in use by another server{by}",
                code=LOCKED,
                hint="stop that server first, or give this one another data directory",
            ) from error
        self._descriptor = descriptor
        self._note_holder()

    def release(self) -> None:
        """Give it up; the file stays, empty."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _note_holder(self) -> None:
        """Best effort: on a full disk the lock holds without its note."""
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
        except OSError:
            return


def prepare_directory(directory: Path) -> None:
    """Make the directory (0700) if need be, and refuse one where others could swap the file.

    Raises Unavailable (`store-exposed`).
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise file_unavailable(error, directory) from error
    if status.st_mode & stat.S_IWOTH:
        raise Unavailable(
            f"everybody may write to the directory {directory}",
            code=EXPOSED,
            hint=f"chmod o-w {directory}, or use a directory of the server's own",
        )
    if status.st_uid not in {0, os.geteuid()}:
        raise Unavailable(
            f"the directory {directory} belongs to user {status.st_uid}",
            code=EXPOSED,
            hint="use a directory that belongs to the server's user",
        )


def check_private(path: Path) -> None:
    """Refuse a file that others may read or that is no plain file. Raises Unavailable."""
    try:
        status = path.stat()
    except OSError as error:
        raise file_unavailable(error, path) from error
    if not stat.S_ISREG(status.st_mode):
        raise Unavailable(f"{path} is not a plain file", code=EXPOSED, hint="name another file")
    if status.st_mode & 0o077:
        raise Unavailable(
            f"others may open the store {path} (mode {stat.S_IMODE(status.st_mode):04o})",
            code=EXPOSED,
            hint=f"chmod 600 {path}, and think about who has read it",
        )


def check_absent(path: Path) -> None:
    """Refuse to build a store where one is, or where the remains of one are. Raises Conflict."""
    for name in (path.name, *(path.name + suffix for suffix in _SIDE_FILES)):
        if os.path.lexists(path.with_name(name)):
            raise Conflict(
                f"{path.with_name(name)} exists",
                code="store-exists",
                hint="move it away, with the files beside it that begin with the same name",
            )


@contextmanager
def built_aside(path: Path) -> Iterator[Path]:
    """Yield the name of a new empty file (0600); rename it to `path` when the block ends well.

    The file's content must have been synced by the block (SQLite does). Raises Unavailable.
    """
    aside = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        _remove_all(aside)
        os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        yield aside
        aside.rename(path)
        sync_directory(path.parent)
    except OSError as error:
        raise file_unavailable(error, path) from error
    finally:
        _remove_all(aside)


def sync_directory(directory: Path) -> None:
    """Make names in `directory` durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_all(path: Path) -> None:
    for name in (path.name, *(path.name + suffix for suffix in _SIDE_FILES)):
        path.with_name(name).unlink(missing_ok=True)
