"""`limen gateway run`: the real server, agent and Envoy at the edge, as a user starts them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests.e2e.agent_harness import LIMEN, Host, application, host
from tests.e2e.edge_harness import Company
from tests.e2e.envoy_harness import Connection, client_tls
from tests.e2e.mesh_harness import Mesh
from tests.e2e.test_past_requests import limen
from tests.services.server_harness import permission, running

from limen.adapters.peercred import read_peer_credentials
from limen.adapters.ports import free_port
from limen.adapters.runtime_dir import AgentPaths

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

HOST = "myapp.mycompany.de"
INSTANCE = "istio-system/ingress/edge-1"


def documents(port: int) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: {port}, name: https, protocol: HTTPS}}
    hosts: [{HOST}]
    tls: {{mode: SIMPLE, credentialName: mytls-credential}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: items}}
spec:
  hosts: [{HOST}]
  gateways: [istio-system/edge]
  http: [{{route: [{{destination: {{host: items}}}}]}}]
"""


@dataclass
class Front:
    """A running `limen gateway run`."""

    process: asyncio.subprocess.Process
    said: str

    async def stop(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            return await self.process.wait()


async def start_front(box: Host, token: str) -> Front:
    process = await asyncio.create_subprocess_exec(
        *(*LIMEN, "gateway", "run", *box.places, "--instance", "edge-1", "--address", "127.0.0.1"),
        env=dict(os.environ, LIMEN_TOKEN=token),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(40):
        line = await process.stdout.readline()
    if not line:
        raise AssertionError((await process.stderr.read()).decode())
    return Front(process, line.decode())


@dataclass
class Edge:
    mesh: Mesh
    box: Host
    port: int
    company: Company
    server_life: contextlib.AsyncExitStack

    async def lose_server(self) -> None:
        """No server any more."""
        await self.server_life.aclose()

    async def kill_proxy(self) -> None:
        """Kill the gateway's Envoy and its agent, the agent first."""
        status = await self.box.ask("status")
        found = next(w for w in status["workloads"] if w["instance"] == INSTANCE)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.box.paths.control_socket))
            agent = read_peer_credentials(connection).pid
        os.kill(agent, signal.SIGKILL)
        os.kill(found["envoy_pid"], signal.SIGKILL)

    async def apply(self, *texts: str) -> dict[str, object]:
        answer = await self.mesh.server.apply(*texts, wait_s=10)
        assert answer.is_success, answer.text
        found: dict[str, object] = answer.json()
        return found

    async def status(self, tls: ssl.SSLContext | None = None) -> int:
        connection = await Connection.open(self.port, tls or client_tls(None), HOST)
        try:
            async with asyncio.timeout(10):
                return (await connection.request("GET", "/", host=HOST)).status
        finally:
            connection.writer.transport.abort()

    async def until(self, status: int) -> None:
        """Until the edge answers so; 0: nothing is served."""
        async with asyncio.timeout(20):
            while True:
                try:
                    found = await self.status()
                except (OSError, EOFError):
                    found = 0
                if found == status:
                    return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def edge(path: Path) -> AsyncIterator[Edge]:
    async with (
        contextlib.AsyncExitStack() as life,
        host("") as box,
        application("items") as app,
    ):
        server = await life.enter_async_context(running(path))
        m = Mesh(server, box)
        token = await server.token(
            "ingress", namespace="istio-system", tags={"istio": "ingressgateway"}, gateway=True
        )
        front = await start_front(box, token)
        try:
            assert "default/ingress" not in front.said
            assert "sa/ingress" in front.said
            await m.run("items", app.port, token=await server.token("items"))
            made = Edge(m, box, free_port(), Company(), life)
            await made.apply(documents(made.port), permission("ingress", "items"))
            yield made
        finally:
            await Connection.close_all()
            for program in m.programs:
                await program.stop()
            assert await front.stop() == 0


async def test_a_gateway_serves_rotates_survives_and_keeps_its_secret(tmp_path: Path) -> None:
    """Istio 2021-34824: a Secret goes to the gateway that serves it, and nowhere else."""
    async with edge(tmp_path) as e:
        server = e.mesh.server
        with pytest.raises((OSError, EOFError)):
            await e.status()  # its Secret is missing: not opened
        (closed,) = (await server.api.get("/v1/status")).json()["unopened_listeners"]
        (shown,) = (await server.api.get("/v1/proxies", params={"name": "ingress"})).json()["items"]
        assert shown["closed_listeners"] == [closed]
        assert "istio-system/mytls-credential" in closed
        await e.apply(e.company.secret("mytls-credential", HOST))
        await e.until(200)
        assert (await server.api.get("/v1/status")).json()["unopened_listeners"] == []
        # rotation: what is open stays open
        kept = await Connection.open(e.port, client_tls(None), HOST)
        assert (await kept.request("GET", "/", host=HOST)).status == 200
        before = _certificate(kept)
        secret = e.company.secret("mytls-credential", HOST)
        await e.apply(secret)
        assert (await kept.request("GET", "/", host=HOST)).status == 200
        fresh = await Connection.open(e.port, client_tls(None), HOST)
        assert _certificate(fresh) != before
        # a bad one is refused, the old one goes on
        wrong = e.company.secret("mytls-credential", HOST).split("tls.key:")[0]
        wrong += "tls.key:" + e.company.secret("x", HOST).split("tls.key:")[1]
        refused = await server.apply(wrong)
        assert refused.status_code == 400
        assert "key-mismatch" in refused.text
        await e.until(200)
        # the key is nowhere to be seen
        shown = (await server.api.get("/v1/resources/secrets")).text
        assert "(hidden)" in shown
        assert "PRIVATE KEY" not in shown
        assert "tls.key" not in shown
        records, _ = await server.control.store.list()
        held = secret.split("tls.key:")[1].split()[0].strip("'\"")[60:120]
        assert held in secret
        assert not any(held in str(record.body) for record in records)
        files = [p for p in e.box.root.rglob("*") if p.is_file()]
        assert not any(b"PRIVATE KEY" in p.read_bytes() for p in files if p.name != "node.json")
        # an unchanged Secret is unchanged
        text = e.company.secret("mytls-credential", HOST)
        await e.apply(text)
        (result,) = (await server.apply(text)).json()["results"]
        assert result["result"] == "unchanged"
        # a withdrawn permission bites at the edge
        gone = await server.api.delete("/v1/resources/trafficpermissions/ingress-to-items")
        assert gone.is_success, gone.text
        await e.until(403)
        await e.apply(permission("ingress", "items"))
        await e.until(200)
        await check_replay(e, tmp_path / "data" / "client.json")
        # with its Secret deleted the listener closes
        deleted = await server.api.delete(
            "/v1/resources/secrets/mytls-credential", params={"namespace": "istio-system"}
        )
        assert deleted.is_success, deleted.text
        await e.until(0)


async def check_replay(e: Edge, client: Path) -> None:
    """What its routes refused is asked again under what holds now: nothing is guessed."""
    paths = AgentPaths(e.box.paths.runtime, e.box.paths.state)
    log = paths.workload("istio-system/ingress/edge-1").envoy_log
    asked = ("replay", "--log", str(log), "--server", "--config", str(client), "-o", "json")
    _, out, err = await limen(e.mesh, None, *asked)
    assert (json.loads(out)["changed"], err) == (0, "")


async def test_killed_envoys_and_agents_serve_again(tmp_path: Path) -> None:
    async with edge(tmp_path) as e:
        await e.apply(e.company.secret("mytls-credential", HOST))
        await e.until(200)
        status = await e.box.ask("status")
        found = next(w for w in status["workloads"] if w["instance"] == INSTANCE)
        os.kill(found["envoy_pid"], signal.SIGKILL)
        await e.until(200)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(e.box.paths.control_socket))
            agent = read_peer_credentials(connection).pid
        os.kill(agent, signal.SIGKILL)
        await e.until(200)
        await e.apply(e.company.secret("mytls-credential", HOST))  # it is awaited: it is back
        await e.until(200)


async def test_a_gateway_starts_again_while_there_is_no_server(tmp_path: Path) -> None:
    """With the documents, the identity and the certificate that it had."""
    async with edge(tmp_path) as e:
        await e.apply(e.company.secret("mytls-credential", HOST))
        await e.until(200)
        served = await Connection.open(e.port, client_tls(None), HOST)
        before = _certificate(served)
        await e.lose_server()
        await e.until(200)
        await e.kill_proxy()
        with pytest.raises((OSError, EOFError)):
            async with asyncio.timeout(20):
                await served.request("GET", "/", host=HOST)
        await e.until(200)
        assert _certificate(await Connection.open(e.port, client_tls(None), HOST)) == before


@dataclass
class Clients:
    """Requests from outside, some on connections that stay open, some each on its own."""

    edge: Edge
    done: int = 0
    failures: list[str] = field(default_factory=list)
    certificates: set[bytes] = field(default_factory=set)

    async def stay(self) -> None:
        connection = await Connection.open(self.edge.port, client_tls(None), HOST)
        while True:
            await self._ask(connection)

    async def come_and_go(self) -> None:
        while True:
            connection = await Connection.open(self.edge.port, client_tls(None), HOST)
            self.certificates.add(_certificate(connection))
            await self._ask(connection)
            connection.writer.transport.abort()

    async def _ask(self, connection: Connection) -> None:
        answer = await connection.request("GET", "/", host=HOST)
        self.done += 1
        if answer.status != 200:
            self.failures.append(str(answer.status))

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (OSError, EOFError) as error:
            self.failures.append(repr(error))


async def test_rotating_under_load_fails_no_request(tmp_path: Path) -> None:
    async with edge(tmp_path) as e:
        await e.apply(e.company.secret("mytls-credential", HOST))
        await e.until(200)
        clients = Clients(e)
        work = [clients.stay] * 4 + [clients.come_and_go] * 4
        tasks = [asyncio.create_task(clients.run(each)) for each in work]
        for number in range(1, 6):
            seen, done = len(clients.certificates), clients.done
            await e.apply(e.company.secret("mytls-credential", HOST))
            async with asyncio.timeout(30):
                while len(clients.certificates) <= max(seen, number) or clients.done < done + 50:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)  # requests go on meanwhile
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert clients.failures == []
        assert len(clients.certificates) == 6


async def test_a_token_decides_what_is_a_gateway(tmp_path: Path) -> None:
    async with running(tmp_path) as server, host("") as box:
        plain = await server.token("ingress", namespace="istio-system")
        with pytest.raises(AssertionError, match="not-entitled"):
            await start_front(box, plain)


def _certificate(connection: Connection) -> bytes:
    found: bytes = connection.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return found
