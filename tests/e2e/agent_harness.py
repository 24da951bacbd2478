"""A host for agent tests: an agent in a process of its own, applications, and load through it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limen.adapters.runtime_dir import AgentPaths
from limen.services.agent.control_client import AgentGone, call_agent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMEN = (sys.executable, "-m", "limen.cli.main")
LOOPBACK = "127.0.0.1"
TMPFS = next((p for p in ("/dev/shm",) if os.access(p, os.W_OK)), None)  # noqa: S108 - mkdtemp makes 0700


async def read_message(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Start line and body of an HTTP/1.1 message with a length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = head.split("\r\n")
    length = 0
    chunked = False
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            length = int(value)
        chunked |= name.lower() == "transfer-encoding"
    if not chunked:
        return lines[0], await reader.readexactly(length)
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return lines[0], body


class Application:
    """Answers 200 to everything, on loopback."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with (
            contextlib.closing(writer),
            contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError),
        ):
            while True:
                await read_message(reader)
                body = self.name.encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()


@dataclass
class Way:
    """A workload's way out."""

    info: dict[str, Any]

    @property
    def authorization(self) -> str:
        pair = f"{self.info['outbound_user']}:{self.info['outbound_secret']}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(LOOPBACK, self.info["outbound_port"])

    async def get(self, url: str, authorization: str | None = None) -> tuple[int, bytes]:
        """One request on a connection of its own."""
        reader, writer = await self.open()
        try:
            return await self.ask(reader, writer, url, authorization)
        finally:
            writer.close()

    async def ask(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        url: str,
        authorization: str | None = None,
    ) -> tuple[int, bytes]:
        host = url.split("/")[2]
        given = self.authorization if authorization is None else authorization
        head = f"GET {url} HTTP/1.1\r\nHost: {host}\r\n"
        if given:
            head += f"Proxy-Authorization: {given}\r\n"
        writer.write(f"{head}\r\n".encode())
        line, body = await read_message(reader)
        return int(line.split()[1]), body


@dataclass
class Load:
    """Requests in a loop until `stop`; `failures` says what went wrong."""

    way: Way
    url: str
    done: int = 0
    failures: list[str] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _progress: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self, connections: int = 4) -> None:
        self._tasks = [asyncio.create_task(self._work()) for _ in range(connections)]

    async def _work(self) -> None:
        while True:
            try:
                reader, writer = await self.way.open()
                with contextlib.closing(writer):
                    await self._ask_forever(reader, writer)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failures.append(type(error).__name__)
                await asyncio.sleep(0.01)

    async def _ask_forever(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            status, _ = await self.way.ask(reader, writer, self.url)
            self.done += 1
            self._progress.set()
            if status != 200:
                self.failures.append(str(status))

    async def more(self, count: int = 200, timeout_s: float = 20) -> None:
        """Return after `count` more answers."""
        target = self.done + count
        async with asyncio.timeout(timeout_s):
            while self.done < target:
                self._progress.clear()
                await self._progress.wait()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Host:
    """Directories, and the agent process."""

    def __init__(self, token: str = "") -> None:
        self.root = Path(tempfile.mkdtemp(prefix="limen-t-", dir=TMPFS))
        self.paths = AgentPaths(self.root / "r", self.root / "s")
        self.token = token
        self.agent: asyncio.subprocess.Process | None = None
        self.log = self.root / "agent.log"

    @property
    def places(self) -> tuple[str, ...]:
        return ("--runtime", str(self.paths.runtime), "--state", str(self.paths.state))

    async def start(self, *options: str) -> None:
        """Start the agent; returns when it is ready, raises what it reports."""
        reader, writer = os.pipe()
        environment = dict(os.environ, LIMEN_TOKEN=self.token)
        with self.log.open("ab") as log:
            self.agent = await asyncio.create_subprocess_exec(
                *LIMEN,
                *("agent", "run", "--notify-fd", str(writer)),
                *self.places,
                *options,
                env=environment,
                stdout=log,
                stderr=log,
                pass_fds=(writer,),
            )
        os.close(writer)
        with os.fdopen(reader) as pipe:
            line = await asyncio.to_thread(pipe.readline)
        assert json.loads(line or "{}").get("ok"), line + self.log.read_text()

    async def ask(self, verb: str, **fields: Any) -> Any:
        return await asyncio.to_thread(call_agent, self.paths.control_socket, verb, **fields)

    async def add(self, service: str, port: int, **fields: Any) -> Way:
        workload = {"service": service, "service_port": port, "uid": os.geteuid(), **fields}
        return Way(await self.ask("add", workload=workload))

    async def workload(self, instance: str) -> dict[str, Any]:
        status = await self.ask("status")
        return next(w for w in status["workloads"] if w["instance"] == instance)

    async def until(self, instance: str, condition: Any, timeout_s: float = 15) -> dict[str, Any]:
        """Ask for status until `condition(workload)` holds."""
        async with asyncio.timeout(timeout_s):
            while True:
                found = await self.workload(instance)
                if condition(found):
                    return found
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """SIGKILL, as a crash."""
        assert self.agent is not None
        self.agent.kill()
        await self.agent.wait()

    async def stop(self) -> None:
        if self.agent is not None and self.agent.returncode is None:
            self.agent.terminate()
            try:
                async with asyncio.timeout(20):
                    await self.agent.wait()
            except TimeoutError:
                self.agent.kill()
                await self.agent.wait()

    def envoy_pids(self) -> list[int]:
        """Envoys of this host, by their records."""
        found = []
        for record in self.paths.runtime.glob("w/*/p/envoy.json"):
            pid = json.loads(record.read_bytes())["pid"]
            if Path(f"/proc/{pid}").exists():
                found.append(pid)
        return found

    async def close(self) -> None:
        with contextlib.suppress(AgentGone):
            await self.stop()
        for pid in self.envoy_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)


@contextlib.asynccontextmanager
async def host(token: str = "") -> AsyncIterator[Host]:
    made = Host(token)
    try:
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def application(name: str) -> AsyncIterator[Application]:
    made = Application(name)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def seconds_since(start: float) -> float:
    return time.monotonic() - start
