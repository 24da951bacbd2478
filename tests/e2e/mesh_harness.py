"""The real product: a server, agents in processes of their own, and programs under `limen run`.

The program that is run says what it was given and waits; the test plays the application on its
port and, with what it was given, the caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.e2e.agent_harness import LIMEN, Host, Way, host
from tests.services.server_harness import permission, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.services.server_harness import Running

PROGRAM = "import json,os,sys;print(json.dumps(dict(os.environ)),flush=True);sys.stdin.read()"


@dataclass
class Program:
    """One `limen run`."""

    process: asyncio.subprocess.Process
    environment: dict[str, str]

    @property
    def instance(self) -> str:
        return self.environment["LIMEN_INSTANCE"]

    @property
    def way(self) -> Way:
        user, _, rest = self.environment["HTTP_PROXY"].removeprefix("http://").partition(":")
        secret, _, place = rest.partition("@")
        return Way(
            {
                "outbound_user": user,
                "outbound_secret": secret,
                "outbound_port": int(place.rpartition(":")[2]),
            }
        )

    async def stop(self) -> int:
        """As a program that ends by itself, also where `limen run` was killed. The exit code."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        async with asyncio.timeout(30):
            await self.process.wait()
            await self.process.stdout.read()
        return self.process.returncode or 0


@dataclass
class Mesh:
    """Everything that runs. `close` leaves nothing."""

    server: Running
    box: Host
    programs: list[Program] = field(default_factory=list)
    more: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def allow(self, *edges: tuple[str, str]) -> None:
        """Permissions from caller to callee, until every proxy has them."""
        applied = await self.server.apply(*(permission(a, b) for a, b in edges), wait_s=10)
        assert applied.is_success, applied.text

    async def another_host(self, *services: str) -> Host:
        """A second agent, as if on another host."""
        made = await self.more.enter_async_context(host(await self.server.token(*services)))
        await made.start()
        return made

    async def run(
        self,
        service: str,
        port: int,
        *options: str,
        box: Host | None = None,
        program: tuple[str, ...] = (sys.executable, "-c", PROGRAM),
        token: str = "",
    ) -> Program:
        """`limen run`, until its program has started."""
        process = await asyncio.create_subprocess_exec(
            *(*LIMEN, "run", *(box or self.box).places),
            *("--service", service, "--port", str(port), *options, "--", *program),
            env=dict(os.environ, LIMEN_TOKEN=token),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.timeout(40):
            line = await process.stdout.readline()
        if not line:
            raise AssertionError((await process.stderr.read()).decode())
        made = Program(process, json.loads(line))
        self.programs.append(made)
        return made

    async def refused(self, service: str, port: int, *options: str) -> str:
        """`limen run` that must fail: what it says."""
        try:
            await self.run(service, port, *options)
        except AssertionError as error:
            return str(error)
        raise AssertionError("it ran")


@contextlib.asynccontextmanager
async def mesh(path: Path, *services: str, **settings: Any) -> AsyncIterator[Mesh]:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(path, **settings))
        box = await stack.enter_async_context(host(await server.token(*services)))
        await box.start()
        made = Mesh(server, box)
        await stack.enter_async_context(made.more)
        try:
            yield made
        finally:
            for program in made.programs:
                with contextlib.suppress(TimeoutError, ProcessLookupError):
                    await program.stop()
                if program.process.returncode is None:
                    program.process.kill()
                    await program.process.wait()


@contextlib.asynccontextmanager
async def serve(handler: Any, address: str = "127.0.0.1") -> AsyncIterator[int]:
    """An application: `handler(reader, writer)` for each connection. Its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with (
            contextlib.closing(writer),
            contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError),
        ):
            await handler(reader, writer)
        tasks.discard(task)

    server = await asyncio.start_server(one, address, 0, limit=1 << 20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
