"""An open stream is a lease: what others are told when it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.services.server_harness import running

from limen.adapters.store_memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.services.server_harness import FakeNode, Running


def addresses(server: Running, workload: str = "items") -> list[str]:
    graph = server.control.loop.graph("default")
    (name,) = [w for w in graph.workloads if w.name == workload]
    return [e.address for e in graph.endpoints(name).endpoints]


async def until(server: Running, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await server.control.loop.next_flush()


async def test_a_dead_instance_is_withdrawn_after_a_grace_unless_it_is_the_last(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items", "1", address="10.0.0.1")
        await node.register("items", "2", address="10.0.0.2")
        one, two = await node.open("default/items/1"), await node.open("default/items/2")
        await until(server, lambda: addresses(server) == ["10.0.0.1", "10.0.0.2"])
        await one.close()
        assert addresses(server) == ["10.0.0.1", "10.0.0.2"]
        await until(server, lambda: addresses(server) == ["10.0.0.2"])
        await two.close()
        await asyncio.sleep(0.4)  # longer than the grace: the rest must have settled
        assert addresses(server) == ["10.0.0.1", "10.0.0.2"]
        await node.close()


async def report(node: FakeNode, instance: str, *, ready: bool) -> None:
    instances = [{"instance": f"default/items/{instance}", "ready": ready}]
    await node.call("Status", {"instances": instances})


async def test_callers_are_sent_where_the_program_listens(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items", "1", address="10.0.0.1", reports_ready=True)
        await node.open("default/items/1")
        await report(node, "1", ready=True)
        await node.register("items", "2", address="10.0.0.2", reports_ready=True)
        two = await node.open("default/items/2")
        await two.until(lambda: two.has("inbound:9080"))
        await report(node, "1", ready=True)  # a round trip: the other's confirmation has come in
        assert addresses(server) == ["10.0.0.1"]
        await report(node, "2", ready=True)
        await until(server, lambda: addresses(server) == ["10.0.0.1", "10.0.0.2"])
        await report(node, "1", ready=False)
        await until(server, lambda: addresses(server) == ["10.0.0.2"])
        await report(node, "2", ready=False)  # the last ones stay: nothing would be better
        await until(server, lambda: addresses(server) == ["10.0.0.1", "10.0.0.2"])
        await node.close()


async def test_a_short_break_changes_nothing_for_others(tmp_path: Path) -> None:
    async with running(tmp_path, presence_grace_s=20.0) as server:
        node = await server.join("items")
        await node.register("items", "1", address="10.0.0.1")
        await node.register("items", "2", address="10.0.0.2")
        one = await node.open("default/items/1")
        await node.open("default/items/2")
        # while nobody has confirmed, all count: two addresses alone would say nothing
        await until(server, lambda: not server.control.loop.presence.absent)
        await until(server, lambda: len(addresses(server)) == 2)
        await one.close()
        again = await node.open("default/items/1")
        await again.until(lambda: again.has("inbound:9080"))
        await until(server, lambda: len(addresses(server)) == 2)
        await node.close()


async def test_a_new_instance_counts_when_its_proxy_has_confirmed(tmp_path: Path) -> None:
    async with running(tmp_path, presence_grace_s=30.0) as server:
        node = await server.join("items")
        await node.register("items", "1", address="10.0.0.1")
        await node.open("default/items/1")
        await until(server, lambda: not server.control.loop.presence.absent)
        await node.register("items", "2", address="10.0.0.2")
        assert addresses(server) == ["10.0.0.1"]
        await node.open("default/items/2")
        await until(server, lambda: addresses(server) == ["10.0.0.1", "10.0.0.2"])
        await node.close()


async def test_after_a_restart_nobody_is_absent_at_first(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as server:
        node = await server.join("items")
        await node.register("items", "1", address="10.0.0.1")
        await node.register("items", "2", address="10.0.0.2")
        await node.close()
        copy = store.restored()
    async with running(tmp_path, copy, presence_grace_s=30.0) as server:
        assert addresses(server) == ["10.0.0.1", "10.0.0.2"]
        assert server.control.loop.presence.absent == set()


async def test_deregistering_withdraws_at_once_and_ends_the_stream(tmp_path: Path) -> None:
    async with running(tmp_path, presence_grace_s=30.0) as server:
        node = await server.join("items")
        await node.register("items", "1", address="10.0.0.1")
        await node.register("items", "2", address="10.0.0.2")
        one = await node.open("default/items/1")
        await one.until(lambda: one.has("inbound:9080"))
        await node.call("Deregister", {"instance": "default/items/1"})
        await one.ended()
        assert addresses(server) == ["10.0.0.2"]
        names = [p["instance"] for p in (await server.api.get("/v1/proxies")).json()["items"]]
        assert "default/items/1" not in names
        await node.close()


async def test_a_newer_stream_replaces_the_older(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items")
        old = await node.open("default/items/1")
        await old.until(lambda: old.has("inbound:9080"))
        new = await node.open("default/items/1")
        await new.until(lambda: new.has("inbound:9080"))
        await old.ended()
        proxies = (await server.api.get("/v1/proxies")).json()["items"]
        assert [p["connected"] for p in proxies] == [True]
        await node.close()


async def test_a_reconnecting_proxy_is_sent_nothing_that_it_has(tmp_path: Path) -> None:
    """Same content, same versions: also after a restart of the server."""
    store = MemoryStore()
    async with running(tmp_path, store) as server:
        node = await server.join("items")
        await node.register("items")
        first = await node.open("default/items/1")
        await first.until(lambda: first.has("inbound:9080"))
        versions = {url: dict(found) for url, found in first.resources.items()}
        second = await node.open("default/items/1")
        await second.until(lambda: second.has("permission.allow:9080"))
        await second.until(lambda: second.resources == versions)
        await node.close()
