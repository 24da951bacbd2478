"""Events on this service's own disk before an answer leaves, in the server's audit chain soon.

Numbered lines in segments. What the server has confirmed is removed; what it has not is sent again
after a restart, and the server leaves out what it knows (`role_calls.record_audit`). Many events at
once cost one flush. A spool that is full, or a disk that fails, refuses: nothing goes unrecorded.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import secrets
from collections import deque
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from limen.adapters.runtime_dir import write_atomic
from limen.errors import LimenError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from limen.services.tokens.link import TokenLink

MAX_WAITING = 200_000
BATCH = 1000
SEGMENT = 20_000
RETRY_S = 1.0
_WRITER = json.JSONEncoder(separators=(",", ":"))
_log = logging.getLogger("limen.tokens")


class Spool:
    """`load` once; `run` ships, as a task; `write` returns when the event is on disk."""

    def __init__(self, directory: Path, link: TokenLink) -> None:
        self._directory = directory
        self._link = link
        self._source = ""
        self._seq = 0
        self._shipped = 0
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._unwritten: list[Mapping[str, Any]] = []
        self._writers: list[asyncio.Future[None]] = []
        self._flushing: asyncio.Task[None] | None = None
        self._file = -1
        self._in_segment = 0
        self._size = 0
        self._wake = asyncio.Event()
        self._shipping = asyncio.Lock()

    @property
    def unshipped(self) -> int:
        """Events that the server has not confirmed."""
        return len(self._waiting)

    def load(self) -> None:
        """Take up what an earlier process left. Raises Unavailable."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = self._directory / "source"
        if not name.exists():
            write_atomic(name, secrets.token_hex(8).encode())
        self._source = name.read_text(encoding="ascii").strip()
        counted = self._directory / "shipped"
        self._shipped = int(counted.read_text(encoding="ascii")) if counted.exists() else 0
        self._seq = self._shipped
        for path in self._segments():
            self._seq = int(path.stem) - 1
            for line in path.read_bytes().split(b"\n"):
                with suppress(ValueError):
                    if line:
                        self._take(json.loads(line))
        self._shipped = self._seq - len(self._waiting)
        self._wake.set()

    def _take(self, event: Mapping[str, Any]) -> None:
        self._seq += 1
        if self._seq > self._shipped:
            self._waiting.append(event)

    async def write(self, event: Mapping[str, Any]) -> None:
        """Raises Unavailable (`audit-full`, `audit-disk`)."""
        if len(self._waiting) + len(self._unwritten) >= MAX_WAITING:
            raise Unavailable("the audit spool is full", code="audit-full")
        self._unwritten.append(event)
        done = asyncio.get_running_loop().create_future()
        self._writers.append(done)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        await done

    async def _flush(self) -> None:
        try:
            while self._writers:
                events, self._unwritten = self._unwritten, []
                writers, self._writers = self._writers, []
                try:
                    await asyncio.to_thread(self._append, events)
                except OSError as error:
                    why = Unavailable(f"the audit spool: {error.strerror}", code="audit-disk")
                    for one in writers:
                        _fail(one, why)
                else:
                    self._waiting.extend(events)
                    self._seq += len(events)
                    for one in writers:
                        if not one.done():
                            one.set_result(None)
                self._wake.set()
        finally:
            self._flushing = None

    def _append(self, events: list[Mapping[str, Any]]) -> None:
        """All of them durable, or none of them there. Raises OSError."""
        if self._file < 0 or self._in_segment >= SEGMENT:
            self._close_file()
            path = self._directory / f"{self._seq + 1:020}.jsonl"
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(path, flags, 0o600)
            self._size = os.fstat(self._file).st_size
        data = b"".join(_WRITER.encode(e).encode() + b"\n" for e in events)
        try:
            _write_whole(self._file, data)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)
        self._in_segment += len(events)

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._in_segment = -1, 0

    async def run(self) -> None:
        """Ship until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.ship()
            except LimenError as error:
                fields = {"code": error.code, "waiting": len(self._waiting)}
                _log.warning("events wait for the server", extra={"fields": fields})
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def ship(self) -> None:
        """Hand over everything that is on disk. Raises Unavailable."""
        async with self._shipping:
            await self._ship()

    async def _ship(self) -> None:
        while self._waiting:
            batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
            await self._link.audit(self._source, self._shipped, batch)
            for _ in batch:
                self._waiting.popleft()
            self._shipped += len(batch)
            if self._shipped == self._seq or self._in_segment >= SEGMENT:
                await asyncio.to_thread(self._drop)

    def _drop(self) -> None:
        """Remove older segments whose every event the server has; note how far it is."""
        segments = self._segments()
        for path, following in pairwise(segments):
            if int(following.stem) - 1 <= self._shipped:
                write_atomic(self._directory / "shipped", str(self._shipped).encode())
                path.unlink(missing_ok=True)

    def _segments(self) -> list[Path]:
        return sorted(self._directory.glob("*.jsonl"))

    async def close(self) -> None:
        """Everything is on disk; the last try to ship."""
        if self._flushing is not None:
            await self._flushing
        with suppress(LimenError, TimeoutError):
            async with asyncio.timeout(2):
                await self.ship()
        self._close_file()
        write_atomic(self._directory / "shipped", str(self._shipped).encode())


def _write_whole(file: int, data: bytes) -> None:
    if os.write(file, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fdatasync(file)


def _fail(done: asyncio.Future[None], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
