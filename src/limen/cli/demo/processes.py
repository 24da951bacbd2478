"""The demo's processes: started here, watched here, and none left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from limen.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

STOP_S = 10.0


class Program:
    """One process in a session of its own, its output in a log file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.returncode is None

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if it does not end in time."""
        if self.running:
            self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), STOP_S)
            except TimeoutError:
                await self.kill()

    async def kill(self) -> None:
        """SIGKILL: no chance to say goodbye."""
        if self.running:
            self.process.kill()
            await self.process.wait()

    def last_words(self) -> str:
        """The end of its log."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
        except OSError:
            return ""


class Programs:
    """All that were started, to be stopped in reverse order."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._all: list[Program] = []

    async def start(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Program:
        """Run `limen ARGUMENTS…` (this very installation) in the background."""
        return await self.start_other(name, [*limen_command(), *arguments], environment)

    async def start_other(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Program:
        """Run any program in the background."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        program = Program(name, process, log)
        self._all.append(program)
        return program

    def pids(self) -> list[int]:
        """Process ids of all that still run, last started first."""
        return [p.pid for p in reversed(self._all) if p.running]

    async def stop_all(self) -> None:
        """Stop what still runs, last started first."""
        for program in reversed(self._all):
            await program.stop()

    async def wait_until(
        self, what: str, ready: Callable[[], Awaitable[bool]], program: Program, timeout_s: float
    ) -> None:
        """Ask `ready` until it says yes. Raises Unavailable with the program's last words."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while not await ready():
            if not program.running or loop.time() > until:
                state = "ended" if not program.running else f"took more than {timeout_s:.0f} s"
                raise Unavailable(
                    f"{what}: {program.name} {state}\n{program.last_words()}", code="demo"
                )
            await asyncio.sleep(0.02)


def limen_command() -> list[str]:
    """How to run this installation's `limen`."""
    return [sys.executable, "-m", "limen.cli.main"]


def processes_of(directory: Path) -> list[int]:
    """Processes of this user whose command line names `directory`: proxies of the demo's agent."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            mine = entry.name.isdigit() and entry.stat().st_uid == os.geteuid()
            if mine and os.fsencode(directory) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def end_process(pid: int, with_signal: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that the demo itself caused to run."""
    os.kill(pid, with_signal)
