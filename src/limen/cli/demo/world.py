"""The demo's world: a server, an agent, three services, and what the tour asks of them."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from limen.adapters.ports import free_port
from limen.cli.client import Client, load_client_file
from limen.cli.demo.processes import (
    Program,
    Programs,
    end_process,
    limen_command,
    processes_of,
)
from limen.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from limen.cli.demo import direct

SERVICES = ("users", "items", "invoices")
MARKETPLACE = "limen.cli.demo.marketplace"
MAY_CALL = {("invoices", "users"), ("invoices", "items"), ("users", "invoices")}
READY_S = 30.0


@dataclass(slots=True)
class World:
    """Everything that runs. `base`: state and logs. `runtime`: the agent's sockets, on tmpfs."""

    base: Path
    runtime: Path
    programs: Programs
    client: Client | None = None
    server: Program | None = None
    agent: Program | None = None
    services: dict[str, Program] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    expiring: direct.Identity | None = None
    http: httpx.AsyncClient = field(
        default_factory=lambda: httpx.AsyncClient(trust_env=False, timeout=60)
    )

    @property
    def client_file(self) -> Path:
        """The admin's credential."""
        return self.base / "server" / "client.json"

    async def call(self, method: str, path: str, **arguments: Any) -> Any:
        """A call of the server's API, off the event loop."""
        if self.client is None:
            self.client = Client(load_client_file(self.client_file))
        return await asyncio.to_thread(getattr(self.client, method), path, **arguments)

    async def apply(self, name: str, text: str) -> Any:
        """Apply documents and wait until every proxy that they concern has them."""
        body = {"files": [{"name": name, "text": text}], "wait_s": 10}
        return await self.call("post", "/v1/apply", body=body)

    async def start_server(self, *more: str) -> None:
        """Start the server, or start it again on the same ports and data. `more`: arguments."""
        described = self.base / "server" / "server.json"
        api = node = "127.0.0.1:0"
        if described.exists():
            known = json.loads(described.read_text(encoding="utf-8"))
            api, node = known["api"].removeprefix("https://"), known["node"]
            described.unlink()
        self.server = await self.programs.start(
            "server",
            [
                "server", "run", "--data", str(self.base / "server"),
                "--kek", str(self.base / "kek" / "kek"), "--api", api, "--node", node,
                *more,
            ],
        )  # fmt: skip

        async def ready() -> bool:
            return described.exists()

        await self.programs.wait_until("the server starts", ready, self.server, READY_S)

    async def new_token(
        self, path: Path, mesh: str, services: tuple[str, ...], **more: object
    ) -> None:
        """Write a join token for `services` to a file that only we can read."""
        body = {"mesh": mesh, "services": list(services), "namespace": "default", "ttl_s": 600}
        body |= more
        answer = await self.call("post", "/v1/tokens", body=body)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(answer["token"])

    async def start_agent(self, services: tuple[str, ...] = SERVICES) -> None:
        """Start the agent; the first time it joins with a token, later it knows who it is."""
        token = self.base / "join-token"
        if not token.exists():
            await self.new_token(token, "default", services)
        self.agent = await self.programs.start(
            "agent",
            [
                "agent", "run", "--token-file", str(token),
                "--state", str(self.base / "agent"), "--runtime", str(self.runtime),
            ],
        )  # fmt: skip

        async def ready() -> bool:
            return (await self.agent_status()) is not None

        await self.programs.wait_until("the agent starts", ready, self.agent, READY_S)

    async def agent_status(self) -> list[dict[str, Any]] | None:
        """The agent's workloads, or None while it does not answer."""
        process = await asyncio.create_subprocess_exec(
            *limen_command(), "agent", "status", "--runtime", str(self.runtime), "-o", "json",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        out, _ = await process.communicate()
        if process.returncode != 0:
            return None
        workloads: list[dict[str, Any]] = json.loads(out)["workloads"]
        return workloads

    async def agent_command(self, *words: str) -> None:
        """`limen agent WORDS…`. Raises Unavailable with what it said."""
        process = await asyncio.create_subprocess_exec(
            *limen_command(), "agent", *words, "--runtime", str(self.runtime),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, error = await process.communicate()
        if process.returncode != 0:
            raise Unavailable(f"limen agent {words[0]}: {error.decode()}", code="demo")

    async def envoy_pid(self, service: str) -> int:
        """The process id of a service's proxy. Raises Unavailable."""
        for workload in await self.agent_status() or ():
            if workload["instance"].split("/")[1] == service and workload["envoy_pid"]:
                return int(workload["envoy_pid"])
        raise Unavailable(f"the agent knows no proxy of {service}", code="demo")

    async def start_gateway(self) -> None:
        """`limen gateway run`, until the agent knows it."""
        token = self.base / "gateway-token"
        labels = {"istio": "ingressgateway"}
        await self.new_token(
            token, "default", ("ingress",), namespace="istio-system", gateway=True, tags=labels
        )
        program = await self.programs.start(
            "gateway",
            [
                "gateway", "run", "--address", "127.0.0.1", "--token-file", str(token),
                "--state", str(self.base / "agent"), "--runtime", str(self.runtime),
            ],
        )  # fmt: skip

        async def ready() -> bool:
            workloads = await self.agent_status() or ()
            return any(w["instance"].startswith("istio-system/ingress/") for w in workloads)

        await self.programs.wait_until("the gateway starts", ready, program, READY_S)

    async def start_service(
        self, name: str, module: str = MARKETPLACE, environment: dict[str, str] | None = None
    ) -> None:
        """`limen run --service NAME --port PORT -- program`, until its proxy lets it out."""
        port = self.ports[name] = free_port()
        program = self.services[name] = await self.programs.start(
            name,
            [
                "run", "--service", name, "--port", str(port), "--runtime", str(self.runtime),
                "--", limen_command()[0], "-m", module,
            ],
            {"MARKETPLACE_PORT": str(port), **(environment or {})},
        )  # fmt: skip

        async def ready() -> bool:
            try:
                return (await self.http.get(f"http://127.0.0.1:{port}/healthz")).is_success
            except httpx.HTTPError:
                return False

        await self.programs.wait_until(f"{name} starts", ready, program, READY_S)

    async def ask(self, service: str, path: str, **query: str | float) -> dict[str, Any]:
        """Ask a service's program (on its own loopback port) to do something."""
        url = f"http://127.0.0.1:{self.ports[service]}{path}"
        answer = await self.http.get(url, params=query)
        answer.raise_for_status()
        value: dict[str, Any] = answer.json()
        return value

    async def follow(
        self, service: str, path: str, **query: str | float
    ) -> AsyncIterator[dict[str, Any]]:
        """The JSON lines that a service's program reports."""
        url = f"http://127.0.0.1:{self.ports[service]}{path}"
        async with self.http.stream("GET", url, params=query) as answer:
            async for line in answer.aiter_lines():
                yield json.loads(line)

    async def guarded_address(self, service: str) -> str:
        """`HOST:PORT` of a service's mTLS port, as registered. Raises Unavailable."""
        answer = await self.call("get", "/v1/resources/Dataplane", mesh="default")
        for item in answer["items"]:
            place = item["registration"]["place"]
            if place["service"] == service:
                return f"{place['address']}:{place['inbounds'][0]['port']}"
        raise Unavailable(f"{service} is not registered", code="demo")

    async def close(self) -> None:
        """Stop everything; what an agent that was killed had started, too."""
        await self.programs.stop_all()
        for pid in processes_of(self.runtime):
            end_process(pid)
        await self.http.aclose()
        if self.client is not None:
            self.client.__exit__()


def policies() -> str:
    """The marketplace's documents."""
    return files("limen.cli.demo").joinpath("marketplace.yaml").read_text(encoding="utf-8")


@asynccontextmanager
async def new_world(*, keep: bool) -> AsyncIterator[World]:
    """A world in fresh directories. Unless `keep`, nothing of it is left."""
    base, runtime = _new_directories()
    world = World(base, runtime, Programs(base / "logs"))
    try:
        yield world
    except BaseException:
        keep = False
        raise
    finally:
        if not keep:
            await world.close()
            for directory in (base, runtime):
                await asyncio.to_thread(_remove, directory)


def _new_directories() -> tuple[Path, Path]:
    """Private directories (0700): for state, and, on tmpfs where there is one, for sockets."""
    memory = Path("/dev/shm")  # noqa: S108 - a private directory is made in it
    base = Path(tempfile.mkdtemp(prefix="limen-demo-"))
    (base / "logs").mkdir()
    runtime = tempfile.mkdtemp(prefix="limen-demo-", dir=memory if memory.is_dir() else None)
    return base, Path(runtime)


def _remove(directory: Path) -> None:
    import shutil  # noqa: PLC0415 - only at the very end

    shutil.rmtree(directory, ignore_errors=True)
