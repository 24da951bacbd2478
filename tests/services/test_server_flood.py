"""A flood of changes: every one is kept and enforced, nobody else is bothered, all in good time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tests.services.server_harness import permission, running

from limen.adapters.store_sqlite import open_store
from limen.core.envoy import names
from limen.core.model.names import WorkloadName

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.server_harness import FakeProxy, Running

CHANGES = 1000
SERVICES = 50
AT_ONCE = 20
BOUND_S = 30.0
STATUS_S = 0.5
"""A bound for a machine that others use too; alone it is a tenth of that."""


def rule(number: int) -> str:
    caller, callee = f"svc-{number % (SERVICES - 3)}", f"svc-{number % SERVICES}"
    return permission(caller, callee, f"p-{number:04}")


async def watch_status(server: Running, slowest: list[float]) -> None:
    while True:
        start = time.perf_counter()
        (await server.api.get("/v1/status")).raise_for_status()
        slowest[0] = max(slowest[0], time.perf_counter() - start)
        await asyncio.sleep(0.05)


async def flood(server: Running) -> None:
    """The first half one after the other, the second twenty at a time."""
    for number in range(CHANGES // 2):
        assert (await server.apply(rule(number))).status_code == 200
    rest = iter(range(CHANGES // 2, CHANGES))

    async def client() -> None:
        for number in rest:
            assert (await server.apply(rule(number))).status_code == 200

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))


def state(proxy: FakeProxy) -> dict[str, dict[str, str]]:
    return {url: dict(found) for url, found in proxy.resources.items()}


async def test_a_thousand_changes_are_applied_while_the_server_answers(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "flood.db")
    async with running(tmp_path, store) as server:
        services = [f"svc-{i}" for i in range(SERVICES)]
        node = await server.join(*services, "bystander")
        proxies = []
        for service in (*services, "bystander"):
            await node.register(service)
            proxies.append(await node.open(f"default/{service}/1"))
        settled = await server.apply(permission("ghost", "bystander"), wait_s=30)
        assert not settled.json()["wait"]["missing"]
        bystander, before = proxies[-1], state(proxies[-1])
        bystander.changed.clear()
        slowest = [0.0]
        watching = asyncio.create_task(watch_status(server, slowest))
        start = time.perf_counter()
        await flood(server)
        status = (await server.api.get("/v1/status")).json()
        waited = await server.api.get(f"/v1/wait?revision={status['revision']}&timeout=20")
        took_s = time.perf_counter() - start
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert waited.json()["missing"] == []
        assert took_s < BOUND_S
        assert slowest[0] < STATUS_S
        assert not bystander.changed.is_set()
        assert state(bystander) == before
        assert all(proxy.error is None for proxy in proxies)
        stored = (await server.api.get("/v1/resources/TrafficPermission")).json()["items"]
        assert len(stored) == CHANGES + 1
        first = names.callee_cluster(WorkloadName("default", "default", "svc-49"))
        assert first in proxies[49 % (SERVICES - 3)].resources[names.CLUSTER]
        await node.close()
