"""Several instances of one service on two hosts: balanced; one dies in every way; 0 GETs fail."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.e2e.agent_harness import Load, application
from tests.e2e.mesh_harness import mesh

from limen.adapters.envoy_process import admin_request
from limen.adapters.runtime_dir import AgentPaths

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.e2e.agent_harness import Host
    from tests.e2e.mesh_harness import Mesh, Program

URL = "http://items.mesh/"


@asynccontextmanager
async def two_hosts(
    path: Path,
) -> AsyncIterator[tuple[Mesh, Program, list[Program], Host]]:
    """A caller and one instance on the first host, the other instance on the second."""
    async with (
        mesh(path, "web", "items", presence_grace_s=1.0) as m,
        application("one") as one,
        application("two") as two,
    ):
        other = await m.another_host("items")
        first = await m.run("items", one.port)
        second = await m.run("items", two.port, box=other)
        web = await m.run("web", one.port)
        await m.allow(("web", "items"))
        yield m, web, [first, second], other


async def who_answers(web: Program, count: int = 40) -> set[bytes]:
    return {(await web.way.get(URL))[1] for _ in range(count)}


async def addresses(m: Mesh, web: Program) -> set[int]:
    """Ports that the caller's Envoy has for the callee."""
    paths = AgentPaths(m.box.paths.runtime, m.box.paths.state).workload(web.instance)
    text = await admin_request(paths.admin_socket, "GET", "/clusters?format=json")
    cluster = next(
        c for c in json.loads(text)["cluster_statuses"] if c["name"] == "out:default/items"
    )
    places: list[Any] = cluster.get("host_statuses", [])
    return {p["address"]["socket_address"]["port_value"] for p in places}


async def gone(m: Mesh, web: Program, port: int, timeout_s: float = 12) -> None:
    async with asyncio.timeout(timeout_s):
        while port in await addresses(m, web):  # noqa: ASYNC110 - Envoy, from outside
            await asyncio.sleep(0.05)


def guarded(program: Program) -> int:
    return int(program.environment["LIMEN_GUARDED_ADDRESS"].rpartition(":")[2])


async def test_balanced_and_no_get_fails_when_a_run_an_envoy_or_an_agent_is_killed(
    tmp_path: Path,
) -> None:
    async with two_hosts(tmp_path) as (m, web, (first, second), other):
        assert await who_answers(web) == {b"one", b"two"}
        assert await addresses(m, web) == {guarded(first), guarded(second)}
        load = Load(web.way, URL)
        load.start(4)
        await load.more(200)
        # Envoy of the second: back within moments
        os.kill(other.envoy_pids()[0], signal.SIGKILL)
        await load.more(400)
        assert load.failures == []
        # the agent of the second: its lease ends, and with it its address; its Envoy serves on
        await other.kill()
        await gone(m, web, guarded(second))
        await load.more(200)
        assert load.failures == []
        await other.start()
        async with asyncio.timeout(15):
            while guarded(second) not in await addresses(m, web):  # noqa: ASYNC110 - Envoy, from outside
                await asyncio.sleep(0.05)
        # `limen run` of the first: withdrawn at once
        first.process.kill()
        await gone(m, web, guarded(first), 5)
        await load.more(200)
        assert load.failures == []
        assert await who_answers(web, 10) == {b"two"}
        await load.stop()


async def test_host_that_dies_as_a_whole_and_the_last_instance_that_is_kept(
    tmp_path: Path,
) -> None:
    async with two_hosts(tmp_path) as (m, web, (first, second), other):
        load = Load(web.way, URL)
        load.start(4)
        await load.more(200)
        (envoy,) = other.envoy_pids()
        await other.kill()
        os.kill(envoy, signal.SIGKILL)
        await gone(m, web, guarded(second))
        await load.more(200)
        assert load.failures == []
        await load.stop()
        # the last one is kept: an address that may come back is better than none
        left = guarded(first)
        assert await addresses(m, web) == {left}
        pid = next(
            w["envoy_pid"]
            for w in (await m.box.ask("status"))["workloads"]
            if w["instance"] == first.instance
        )
        os.kill(pid, signal.SIGKILL)
        assert await addresses(m, web) == {left}
        async with asyncio.timeout(10):
            while (await web.way.get(URL))[0] != 200:  # noqa: ASYNC110 - Envoy, from outside
                await asyncio.sleep(0.02)


async def test_a_program_that_is_killed_takes_its_instance_along(tmp_path: Path) -> None:
    """The program, not `limen run`: its end is the run's end, with the shells' exit code."""
    async with two_hosts(tmp_path) as (m, web, (_, second), _other):
        load = Load(web.way, URL)
        load.start(2)
        await load.more(50)
        runner = second.process.pid
        children = f"/proc/{runner}/task/{runner}/children"
        with open(children, encoding="ascii") as file:  # noqa: ASYNC230, PTH123 - procfs
            program = int(file.read().split()[0])
        os.kill(program, signal.SIGKILL)
        await gone(m, web, guarded(second), 5)
        assert await second.process.wait() == 128 + signal.SIGKILL
        await load.more(100)
        assert load.failures == []
        await load.stop()
