"""The log of one Envoy: a live file and the older parts of it, read by positions that only grow.

A position counts all bytes that were ever written. Envoy holds the live file open for appending,
so that rotation copies and truncates: what is written within the microseconds between the last
look and the truncation is lost. Whoever follows the log reads from a position; `oldest` says what
is gone. Parts are kept for a time and up to a size, whichever ends first.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from limen.adapters.runtime_dir import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEEP_S = 24 * 3600.0
KEEP_BYTES = 15 * 1024 * 1024
_PARTS = 3
"""The live one and two older ones."""
_CHUNK = 1 << 20
MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Retention:
    """Lines are kept for `keep_s`, half as long again at most, unless they fill `keep_bytes`."""

    keep_s: float = KEEP_S
    keep_bytes: int = KEEP_BYTES


@dataclass(frozen=True, slots=True)
class LogLine:
    """A whole line without its end, and the position after it."""

    end: int
    raw: bytes


class LogFiles:
    """`path` is the live file. `log_id` tells this log from another that had the same name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._marks = path.with_name(f"{path.name}.marks")
        found = self._load()
        self.log_id = str(found.get("id") or secrets.token_hex(8))
        base, since_s = found.get("base"), found.get("since_s")
        self._base = base if isinstance(base, int) else 0
        self._since_s = since_s if isinstance(since_s, float) else 0.0
        self._before = found.get("rotating_from")

    def recover(self) -> None:
        """Mend a rotation that ended half-way. For the one who rotates, before anything else."""
        if isinstance(self._before, int):
            if self._was_truncated():
                self._base = self._before + _size(self._part(1))
            else:  # all of the newest part is still in the live file
                self._part(1).unlink(missing_ok=True)
                self._base = self._before
        self._save()

    @property
    def end(self) -> int:
        """The position after the last byte."""
        return self._base + _size(self.path)

    @property
    def oldest(self) -> int:
        """The position of the first byte that is still there."""
        return self._base - sum(_size(self._part(age)) for age in range(1, _PARTS))

    def rotate(self, keep: Retention, now_s: float) -> None:
        """Begin a new live file if it is time, and drop what is too old or too much.

        Raises Unavailable, OSError if there is no room for a copy.
        """
        for age in range(self._kept(keep, now_s) + 1, _PARTS):
            self._part(age).unlink(missing_ok=True)
        if not self._since_s or not _size(self.path):
            self._since_s = now_s
            self._save()
        elif self._is_full(keep, now_s):
            for age in range(_PARTS - 1, 1, -1):
                if (newer := self._part(age - 1)).exists():
                    newer.replace(self._part(age))
            self._turn(now_s)

    def due(self, keep: Retention, now_s: float) -> int:
        """Positions before this one are gone after `rotate`."""
        kept = self._kept(keep, now_s)
        return self._base - sum(_size(self._part(age)) for age in range(1, kept + 1))

    def _is_full(self, keep: Retention, now_s: float) -> bool:
        size = _size(self.path)
        old = bool(self._since_s) and now_s - self._since_s >= keep.keep_s / (_PARTS - 1)
        return size > 0 and (old or size >= keep.keep_bytes // _PARTS)

    def _kept(self, keep: Retention, now_s: float) -> int:
        """How many of the present older parts stay."""
        most = _PARTS - 2 if self._is_full(keep, now_s) else _PARTS - 1
        for age in range(1, most + 1):
            part = self._part(age)
            if not part.exists() or now_s - part.stat().st_mtime > keep.keep_s:
                return age - 1
        return most

    def lines(self, start: int = 0) -> Iterator[LogLine]:
        """Whole lines from `start` on (or from the oldest), also those that a rotation cut.

        Lines longer than `MAX_LINE_BYTES` are passed over. Blocking.
        """
        position = max(start, self.oldest)
        rest, too_long = b"", False
        for chunk in self._chunks(position):
            *whole, rest = (rest + chunk).split(b"\n")
            for raw in whole:
                position += len(raw) + 1
                if not too_long and len(raw) <= MAX_LINE_BYTES:
                    yield LogLine(position, raw)
                too_long = False
            if len(rest) > MAX_LINE_BYTES:
                position += len(rest)
                rest, too_long = b"", True

    def files(self) -> tuple[Path, ...]:
        """Everything that belongs to this log and is there."""
        parts = [self._part(age) for age in range(_PARTS - 1, 0, -1)]
        return tuple(p for p in (*parts, self.path, self._marks) if p.exists())

    def _part(self, age: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{age}")

    def _chunks(self, position: int) -> Iterator[bytes]:
        start = self.oldest
        for path in (*(self._part(age) for age in range(_PARTS - 1, 0, -1)), self.path):
            size = _size(path)
            if position < start + size:
                with contextlib.suppress(OSError), path.open("rb") as stream:
                    stream.seek(max(0, position - start))
                    left = size - stream.tell()
                    while left > 0 and (chunk := stream.read(min(_CHUNK, left))):
                        left -= len(chunk)
                        yield chunk
            start += size

    def _turn(self, now_s: float) -> None:
        """Copy the live file into the newest part and truncate it."""
        copied = 0
        newest = self._part(1)
        before = self._base
        with self.path.open("rb") as live, _create(newest) as copy:
            while chunk := live.read(_CHUNK):
                copied += len(chunk)
                copy.write(chunk)
            copy.flush()
            self._base, self._since_s = before + copied, now_s
            self._save(rotating_from=before)
            while chunk := live.read(_CHUNK):  # came meanwhile
                copied += len(chunk)
                copy.write(chunk)
            os.truncate(self.path, 0)
        self._base = before + copied
        self._save()

    def _was_truncated(self) -> bool:
        """After a rotation that ended half-way: the live file does not begin as the part does."""
        part = self._part(1)
        if not part.exists() or _size(self.path) < _size(part):
            return True
        with self.path.open("rb") as live, part.open("rb") as copy:
            return live.read(4096) != copy.read(4096)

    def _load(self) -> dict[str, object]:
        try:
            found = json.loads(self._marks.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _save(self, rotating_from: int | None = None) -> None:
        marks = {"id": self.log_id, "base": self._base, "since_s": self._since_s}
        if rotating_from is not None:
            marks["rotating_from"] = rotating_from
        write_atomic(self._marks, json.dumps(marks).encode())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _create(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")
