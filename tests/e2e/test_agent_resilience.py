"""Nothing that dies on the control side is felt by traffic; what must be refused is refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.agent_fake_server import FakeServer
from tests.e2e.agent_harness import (
    Application,
    Host,
    Load,
    Way,
    application,
    host,
    seconds_since,
)

from limen.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ITEMS = "http://items.mesh/x"


@dataclass
class Pair:
    """`invoices` calls `items`, through one agent."""

    server: FakeServer
    host: Host
    app: Application
    items: Way
    invoices: Way

    def load(self) -> Load:
        return Load(self.invoices, ITEMS)


@contextlib.asynccontextmanager
async def pair(server: FakeServer, *options: str) -> AsyncIterator[Pair]:
    async with asyncio.timeout(60), host(server.token()) as box, application("items") as app:
        await box.start(*options)
        items = await box.add("items", app.port)
        invoices = await box.add("invoices", app.port)
        status, body = await _first_answer(invoices)
        assert (status, body) == (200, b"items")
        yield Pair(server, box, app, items, invoices)


async def _first_answer(way: Way) -> tuple[int, bytes]:
    """The edge may reach the caller a moment after both are ready."""
    async with asyncio.timeout(5):
        while True:
            status, body = await way.get(ITEMS)
            if status == 200:
                return status, body
            await asyncio.sleep(0.02)


async def test_agent_killed_under_load_is_not_felt_and_the_next_adopts_its_envoys() -> None:
    async with FakeServer() as server, pair(server) as mesh:
        before = sorted(mesh.host.envoy_pids())
        load = mesh.load()
        load.start()
        await load.more(300)
        await mesh.host.kill()
        await load.more(300)
        await mesh.host.start()
        await load.more(300)
        await mesh.host.until(
            mesh.items.info["instance"], lambda w: w["server_connected"] and w["envoy_connected"]
        )
        await load.more(300)
        await load.stop()
        assert load.failures == []
        assert sorted(mesh.host.envoy_pids()) == before
        print(f"\nagent killed and replaced: {load.done} requests, 0 failed")  # noqa: T201 - a measured value


async def test_killed_envoy_is_back_within_about_a_second() -> None:
    async with FakeServer() as server, pair(server) as mesh:
        instance = mesh.items.info["instance"]
        pid = (await mesh.host.workload(instance))["envoy_pid"]
        os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        await mesh.host.until(instance, lambda w: w["envoy_pid"] not in {None, pid})
        await _first_answer(mesh.invoices)
        took = seconds_since(started)
        print(f"\nEnvoy killed: served again after {took:.2f} s")  # noqa: T201 - a measured value
        assert took < 2.0
        assert (await mesh.host.workload(instance))["envoy_restarts"] == 1


async def test_certificates_rotated_every_second_under_load_fail_no_request() -> None:
    async with FakeServer() as server:
        server.lifetime_s, server.renew_after_s = 30, 1
        async with pair(server) as mesh:
            load = mesh.load()
            load.start()
            signed = server.signed
            await server.wait(lambda: server.signed >= signed + 8, 30)
            await load.more(50)
            await load.stop()
            assert load.failures == []
            print(f"\n{server.signed - signed} rotations, {load.done} requests, 0 failed")  # noqa: T201 - a measured value


async def test_with_the_server_dead_agent_and_envoys_restart_and_traffic_goes_on() -> None:
    async with FakeServer() as server, pair(server) as mesh:
        await server.stop()
        load = mesh.load()
        load.start()
        await load.more(200)
        await mesh.host.kill()
        await mesh.host.start()
        await load.more(200)
        await load.stop()
        assert load.failures == []
        for pid in mesh.host.envoy_pids():
            os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.05)
        await mesh.host.until(mesh.items.info["instance"], lambda w: w["envoy_restarts"] == 1)
        assert await _first_answer_again(mesh.invoices) == 200
        workload = await mesh.host.workload(mesh.items.info["instance"])
        assert not workload["server_connected"]
        await server.start()
        await mesh.host.until(mesh.items.info["instance"], lambda w: w["server_connected"])


async def _first_answer_again(way: Way) -> int:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                status, _ = await way.get(ITEMS)
                if status == 200:
                    return status
            await asyncio.sleep(0.02)


async def test_refused_configuration_goes_upstream_and_the_old_one_stays() -> None:
    async with FakeServer() as server, pair(server) as mesh:
        server.send_broken_cluster()
        await server.wait(lambda: server.refusals)
        assert "duration" in server.refusals[0]
        assert (await mesh.invoices.get(ITEMS))[0] == 200
        workload = await mesh.host.workload(mesh.items.info["instance"])
        assert "broken" in workload["refusal"]
        os.kill(workload["envoy_pid"], signal.SIGKILL)
        await mesh.host.until(
            mesh.items.info["instance"], lambda w: w["envoy_restarts"] == 1 and w["envoy_connected"]
        )
        assert await _first_answer_again(mesh.invoices) == 200


async def test_way_out_wants_the_secret() -> None:
    async with FakeServer() as server, pair(server) as mesh:
        assert (await mesh.invoices.get(ITEMS, authorization=""))[0] in {403, 407}
        other = mesh.items.authorization
        assert (await mesh.invoices.get(ITEMS, authorization=other))[0] in {403, 407}
        assert (await mesh.invoices.get(ITEMS))[0] == 200


async def test_program_that_does_not_listen_is_a_clear_503_and_visible() -> None:
    async with FakeServer() as server, pair(server) as mesh:
        instance = mesh.items.info["instance"]
        await mesh.host.until(instance, lambda w: w["application_listening"])
        await mesh.app.stop()
        await mesh.host.until(instance, lambda w: not w["application_listening"])
        await server.wait(
            lambda: any(
                i["instance"] == instance and not i["ready"]
                for i in server.statuses[-1]["instances"]
            )
        )
        # connections that the proxy keeps open to the application end with it
        async with asyncio.timeout(10):
            while (answer := await mesh.invoices.get(ITEMS))[0] != 503:  # noqa: ASYNC110 - Envoy tells nobody
                await asyncio.sleep(0.05)
        assert answer[1]


async def test_stale_agent_refuses_when_the_mesh_says_so_and_serves_again_after() -> None:
    async with FakeServer() as server:
        server.settings = {"max_staleness_s": 1, "when_stale": "Refuse"}
        async with pair(server) as mesh:
            instance = mesh.items.info["instance"]
            await server.stop()
            await mesh.host.until(instance, lambda w: not w["serving"] and w["envoy_pid"] is None)
            await server.start()
            await mesh.host.until(instance, lambda w: w["serving"] and w["envoy_connected"])


async def test_expired_certificate_is_not_used() -> None:
    async with FakeServer() as server:
        server.lifetime_s, server.renew_after_s = 3, 60
        async with pair(server) as mesh:
            instance = mesh.items.info["instance"]
            await server.stop()
            found = await mesh.host.until(instance, lambda w: w["envoy_pid"] is None)
            assert not found["serving"]
            server.lifetime_s = 300
            await server.start()
            await mesh.host.until(instance, lambda w: w["serving"] and w["envoy_pid"])


async def test_sigterm_stops_everything_and_keep_proxies_leaves_them() -> None:
    async with FakeServer() as server, pair(server, "--keep-proxies") as mesh:
        before = sorted(mesh.host.envoy_pids())
        await mesh.host.stop()
        assert sorted(mesh.host.envoy_pids()) == before
        assert (await mesh.invoices.get(ITEMS))[0] == 200
        await mesh.host.start()
        assert sorted(mesh.host.envoy_pids()) == before
        await mesh.host.stop()
        assert mesh.host.envoy_pids() == []
        assert not list(mesh.host.paths.runtime.glob("w/*"))
        assert not mesh.host.paths.sealed.exists()


async def test_secrets_are_in_no_argument_list_log_or_readable_file() -> None:
    async with FakeServer() as server, pair(server) as mesh:
        secret = mesh.items.info["outbound_secret"]
        token = mesh.host.token
        own = [mesh.host.agent.pid if mesh.host.agent else 0, *mesh.host.envoy_pids()]
        for pid in own:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert secret.encode() not in line
            assert token.encode() not in line
            for envoy in mesh.host.envoy_pids():
                environ = Path(f"/proc/{envoy}/environ").read_bytes()
                assert token.encode() not in environ
        for path in [*mesh.host.root.rglob("*")]:
            if path.is_file():
                data = path.read_bytes()
                assert secret.encode() not in data, path
                assert token.encode() not in data, path
                if path != mesh.host.log:
                    assert path.stat().st_mode & 0o077 == 0, path
                if path.name != "node.json":
                    assert b"PRIVATE KEY" not in data, path
        sockets = {p.name: p.stat().st_mode & 0o777 for p in mesh.host.root.rglob("*.sock")}
        assert sockets.pop("workload.sock") == 0o666
        assert set(sockets.values()) == {0o600}, sockets


async def test_restored_store_is_not_followed_unless_told() -> None:
    async with FakeServer() as server, pair(server) as mesh:
        server.epoch = "epoch-2"
        with pytest.raises(Conflict, match="restored from a backup"):
            await mesh.host.add("users", mesh.app.port)
        assert (await mesh.invoices.get(ITEMS))[0] == 200
        await mesh.host.kill()
        await mesh.host.start("--accept-epoch")
        await mesh.host.add("users", mesh.app.port)


async def test_second_agent_of_a_mesh_on_this_host_is_refused() -> None:
    async with FakeServer() as server, host(server.token()) as box:
        await box.start()
        first = box.agent
        with pytest.raises(AssertionError, match="agent-running"):
            await box.start()
        box.agent = first
        assert (await box.ask("status"))["mesh"] == "default"


async def test_a_rejoin_needs_no_token_and_a_used_token_is_refused() -> None:
    async with FakeServer() as server, host(server.token()) as box:
        await box.start()
        await box.stop()
        await box.start()  # its token is used up; its certificate is enough
        await box.stop()
        box.paths.node.unlink()
        with pytest.raises(AssertionError, match="token-refused"):
            await box.start()
