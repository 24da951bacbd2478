"""The decision point of one workload as a process: started, told its policies, ended.

Frames both ways: four bytes of length, then JSON. A process whose agent is gone goes on deciding
with what it has; the next agent starts another in its place, and ends this one after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from limen.adapters.bounded_child import QUIET
from limen.adapters.log_files import LogFiles, Retention
from limen.adapters.peercred import ProcessId, is_alive, read_process
from limen.adapters.runtime_dir import write_atomic
from limen.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from limen.adapters.runtime_dir import WorkloadPaths

PROGRAM = "limen.services.pdp.hosted"
_LENGTH = struct.Struct(">I")
_START_S = 30.0
_KEPT = frozenset({"PATH", "LANG", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV"})


class PdpProcess:
    """A running decision point that is a child of ours."""

    def __init__(self, process: asyncio.subprocess.Process, record: Path) -> None:
        self._process = process
        self._record = record

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    async def wait(self) -> None:
        """Return when it has exited."""
        await self._process.wait()

    async def ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a frame and read one. Raises Unavailable if it died or is too slow."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ask(message)
        except (OSError, EOFError, TimeoutError) as error:
            raise Unavailable(
                "the decision point died, or took too long", code="pdp-died"
            ) from error

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        writer, reader = self._process.stdin, self._process.stdout
        if writer is None or reader is None:
            raise AssertionError("it was started with pipes")
        data = json.dumps(message, separators=(",", ":")).encode()
        writer.write(_LENGTH.pack(len(data)) + data)
        await writer.drain()
        (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        found: dict[str, Any] = json.loads(await reader.readexactly(size))
        return found

    def kill(self) -> None:
        """End it without waiting."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def stop(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._record.unlink(missing_ok=True)


async def start_pdp(socket: Path, log: Path, record: Path, sources: Path) -> PdpProcess:
    """Start it. It listens on `socket` when it has its first policies. Raises Unavailable.

    Files that attribute sources name are below `sources`.
    """
    files = LogFiles(log)
    files.recover()
    files.rotate(Retention(), time.time())
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    file = os.open(log, flags, 0o600)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", PROGRAM, str(socket), str(sources)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=file,
            start_new_session=True,
            cwd="/",
            env={**{k: v for k, v in os.environ.items() if k in _KEPT}, **QUIET},
        )
    except OSError as error:
        message = f"the decision point does not start: {error.strerror}"
        raise Unavailable(message, code="pdp-broken") from error
    finally:
        os.close(file)
    found = read_process(process.pid)
    if found is not None:
        write_atomic(record, json.dumps(asdict(found[0])).encode())
    return PdpProcess(process, record)


def left_over(record: Path) -> ProcessId | None:
    """The decision point that an earlier agent started for this workload, if it still runs."""
    try:
        found = json.loads(record.read_bytes())
        process = ProcessId(int(found["pid"]), int(found["start_ticks"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return process if is_alive(process) else None


def end_left_over(paths: WorkloadPaths) -> None:
    """End the decision point that an earlier agent left for this workload, if there is one."""
    process = left_over(paths.pdp_record)
    if process is not None:
        end_process(process)
        paths.pdp_record.unlink(missing_ok=True)
        paths.pdp_socket.unlink(missing_ok=True)


def end_process(process: ProcessId) -> None:
    """Tell it to finish what it was asked and to end."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(process.pid)
        try:
            if is_alive(process):
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        finally:
            os.close(pidfd)
