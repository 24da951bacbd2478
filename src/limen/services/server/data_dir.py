"""The server's data directory: private, and used by one server at a time.

<data>/limen.db      the store          <data>/client.json   the admin's credential (0600)
<data>/lock          held while running <data>/server.json   where the server listens (0600)
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from limen.errors import Conflict, InvalidInput, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from limen.adapters.store import JsonValue


def prepare(data: Path) -> None:
    """Make the directory, 0700. Raises InvalidInput if others may use it, Unavailable if it fails.

    A directory that exists with wider rights is refused, not mended: somebody may have been in.
    """
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = data.stat()
    except OSError as error:
        raise Unavailable(f"cannot use {data}: {error.strerror}", code="data-dir") from error
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise InvalidInput(f"{data} is not a directory of this user", code="data-dir")
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise InvalidInput(
            f"{data} may be read by others (mode {stat.S_IMODE(info.st_mode):04o})",
            code="data-dir",
            hint=f"look who could have read it, then: chmod 700 {data}",
        )


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Hold the directory for this process. Raises Conflict if a server already runs on it."""
    descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise Conflict(
                f"another server (pid {owner}) already uses {data}",
                code="data-dir-in-use",
                hint="stop it, or give this one its own --data",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


def save_private_json(path: Path, value: Mapping[str, JsonValue]) -> None:
    """Write `value` to `path`, 0600 from the first byte, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_json(path: Path) -> dict[str, JsonValue] | None:
    """The object in `path`, or None if there is no such file. Raises InvalidInput."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot read {path}", code="data-dir") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{path} does not hold a JSON object", code="data-dir")
    return value
