"""Files that a source names: which may be opened, and how much of them is read."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from limen.adapters.attributes.failure import SourceFailure

MAX_SECRET_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Places:
    """`base`: where relative paths begin. `within`: no file elsewhere is opened; None: any is.

    Whoever writes a source for a host that is not theirs must not read that host's files: an agent
    sets `within`.
    """

    base: Path
    within: Path | None = None

    def resolve(self, path: str) -> Path:
        """The file that `path` means, links followed. Raises `SourceFailure`."""
        found = Path(os.path.realpath(self.base / path))
        if self.within is not None and not found.is_relative_to(os.path.realpath(self.within)):
            raise SourceFailure("its file lies outside of the directory for sources")
        return found

    def read(self, path: str, limit: int) -> bytes:
        """The bytes of a regular file. Raises `SourceFailure`."""
        try:
            number = os.open(self.resolve(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(number, "rb") as file:
                if not stat.S_ISREG(os.fstat(number).st_mode):
                    raise SourceFailure("its file is no regular file")
                data = file.read(limit + 1)
        except OSError as error:
            raise SourceFailure(f"its file cannot be read: {error.strerror}") from None
        if len(data) > limit:
            raise SourceFailure(f"its file has more than {limit} bytes")
        return data

    def secret(self, path: str) -> str:
        """The text of a file that holds a secret, without the line's end; empty for no path."""
        if not path:
            return ""
        try:
            return self.read(path, MAX_SECRET_BYTES).decode("utf-8").strip("\r\n")
        except UnicodeDecodeError:
            raise SourceFailure("a file with a secret is not text") from None
