"""What is put on which stream, in which order, and when a revision counts as out."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.core.compiler import build as b

from limen.core.envoy import names
from limen.core.model.permission import PermissionRule
from limen.core.plan.node import LocalSide
from limen.services.server.compile_loop import AT_ONCE, CompileLoop
from limen.services.server.metrics import Metrics
from limen.services.server.proxies import Proxies

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from limen.core.compiler.graph import Change
    from limen.core.envoy.encoded import NodeResources
    from limen.core.model.names import InstanceName
    from limen.core.model.resource import Resource, ResourceKey
    from limen.errors import LimenError

COPIES = 2 * AT_ONCE
Puts = list[tuple["InstanceName", "NodeResources", int]]


class Recorder:
    """A stream that writes down what it is given; all share one book."""

    def __init__(self, instance: InstanceName, book: Puts) -> None:
        self.instance = instance
        self.ended = False
        self._book = book

    def put(self, resources: NodeResources, revision: int, previous: int) -> None:
        assert previous <= revision
        self._book.append((self.instance, resources, revision))

    def end(self, error: LimenError) -> None:
        del error
        self.ended = True


class Running:
    def __init__(self, loop: CompileLoop, book: Puts) -> None:
        self.loop, self.book = loop, book
        self._revision = 1

    def change(self, *changes: Change) -> int:
        self._revision += 1
        wanted: dict[ResourceKey, Resource | None] = {}
        for change in changes:
            wanted[getattr(change, "key", change)] = change if hasattr(change, "key") else None
        self.loop.changed(wanted, self._revision)
        return self._revision

    async def out(self, revision: int) -> None:
        await asyncio.wait_for(self.loop.compiled(revision), 10)


@asynccontextmanager
async def running() -> AsyncIterator[Running]:
    """`users` in many copies and one `items`, all streams open, `users` may call nobody."""
    loop = CompileLoop(Proxies(), Metrics(), lambda _: LocalSide(outbound_port=15001), grace_s=5)
    copies = [b.dataplane("users", f"users-{i}", address=f"10.0.0.{i}") for i in range(COPIES)]
    resources = [*copies, b.dataplane("items")]
    loop.changed({r.key: r for r in resources}, 1)
    loop.start()
    book: Puts = []
    for instance in sorted(loop.graph("default").instances):
        loop.open(Recorder(instance, book))
    book.clear()
    task = asyncio.create_task(loop.run())
    try:
        yield Running(loop, book)
    finally:
        task.cancel()
        loop.presence.stop()
        await asyncio.gather(task, return_exceptions=True)


ALLOW = b.permission("p", [b.tags("items")], [b.tags("users")])


async def test_a_withdrawn_right_goes_out_before_any_listener_is_built_anew() -> None:
    async with running() as server:
        await server.out(server.change(ALLOW))
        given = {instance: resources for instance, resources, _ in server.book}
        server.book.clear()
        revision = server.change(ALLOW.key, b.cutover("users", 3))
        await server.out(revision)
        callees = [put for put in server.book if put[0].workload.name == "users"]
        assert len(callees) == 2 * COPIES
        for instance, resources, _ in callees[:COPIES]:
            before = given[instance]
            assert resources[names.LISTENER] is before[names.LISTENER]
            assert resources[names.EXTENSION] != before[names.EXTENSION]
        for instance, resources, _ in callees[COPIES:]:
            before = given[instance]
            assert resources[names.LISTENER] != before[names.LISTENER]
            assert resources[names.CLUSTER] == before[names.CLUSTER]
        assert len({instance for instance, _, _ in callees[:COPIES]}) == COPIES
        assert {revision for _, _, revision in server.book} == {revision}


async def test_others_get_their_turn_while_a_change_is_rolled_out() -> None:
    async with running() as server:
        revision = server.change(ALLOW)
        seen = []
        while server.loop.revision < revision:
            seen.append(len(server.book))
            await asyncio.sleep(0)
        assert [n for n in seen if 0 < n < COPIES], "nobody had a turn in between"
        assert len(server.book) == COPIES + 1


async def test_a_revision_is_out_when_its_last_proxy_is_though_newer_ones_wait() -> None:
    async with running() as server:
        first = server.change(ALLOW)
        await asyncio.sleep(0)
        second = server.change(b.permission("q", [b.tags("users")], [b.tags("items")]))
        await server.out(first)
        await server.out(second)
        last = {instance: resources for instance, resources, _ in server.book}
        for instance, resources in last.items():
            if instance.workload.name == "users":
                assert "out:default/items" in resources[names.CLUSTER]


async def test_an_instance_that_leaves_while_it_waits_holds_nobody_up() -> None:
    async with running() as server:
        server.change(ALLOW)
        gone = b.dataplane("users", f"users-{COPIES - 1}")
        await server.out(server.change(gone.key))
        assert gone.spec.name not in {s.instance for s in server.loop.streams()}


async def test_nothing_is_built_again_for_a_permission() -> None:
    def allowing(*names: str) -> Resource:
        rule = PermissionRule(allow=b.exact(*(b.who(name) for name in names)))
        return b.mesh_permission("m", rule, target=b.labelled(app="users"))

    async with running() as server:
        await server.out(server.change(allowing("items")))
        before = {instance: resources for instance, resources, _ in server.book}
        server.book.clear()
        await server.out(server.change(allowing("items", "of-another-day")))
        assert len(server.book) == COPIES
        for instance, resources, _ in server.book:
            assert resources[names.LISTENER] is before[instance][names.LISTENER]
            assert resources[names.EXTENSION] != before[instance][names.EXTENSION]
