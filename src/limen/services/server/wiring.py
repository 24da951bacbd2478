"""The server's parts put together: store, mirror, compile loop. No port is opened here."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from limen.adapters.judged_https import FetchRules
from limen.core.model.resource import DATAPLANE
from limen.errors import Forbidden, NotFound
from limen.services.server.compile_loop import CompileLoop
from limen.services.server.control import Control
from limen.services.server.joining_records import NODE
from limen.services.server.key_sets import KeySets
from limen.services.server.metrics import Metrics
from limen.services.server.mirror import Mirror
from limen.services.server.proxies import Proxies
from limen.services.server.records import local_side
from limen.services.server.token_services import TokenServices
from limen.services.server.watching import Watchers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from limen.adapters.clock import Clock
    from limen.adapters.store import Change, Store
    from limen.core.model.resource import ResourceKey
    from limen.core.plan.node import LocalSide
    from limen.services.server.authority import Authority
    from limen.services.server.joining import Joining
    from limen.services.server.settings import ServerSettings


@asynccontextmanager
async def wire(
    settings: ServerSettings, store: Store, clock: Clock, authority: Authority, joining: Joining
) -> AsyncIterator[Control]:
    """The parts, following the store while the context lasts."""
    metrics, proxies, mirror = Metrics(), Proxies(), Mirror(store, authority.secrets)
    locals_: dict[ResourceKey, tuple[int, LocalSide]] = {}

    def local_of(key: ResourceKey) -> LocalSide:
        revision = mirror.revision_of(key)
        known = locals_.get(key)
        if known is None or known[0] != revision:
            known = locals_[key] = (revision, local_side(key, mirror.body_of(key) or {}))
        return known[1]

    loop = CompileLoop(proxies, metrics, local_of, grace_s=settings.presence_grace_s)
    control = Control(
        settings, store, clock, mirror, loop, proxies, authority, joining, metrics, Watchers(store)
    )
    mirror.listen(loop.changed)
    mirror.listen_raw(lambda batch: _know_callers(control, batch))
    mirror.listen_raw(lambda batch: _end_streams_of_lost_nodes(control, batch))
    await mirror.load()
    await _load_bundles(control)
    rules = FetchRules(settings.jwks_allowed, settings.jwks_ca_pem)
    control.key_sets = KeySets(mirror, loop, store, clock, rules=rules)
    await control.key_sets.start()
    token_services = TokenServices(store, loop)
    await token_services.load()
    loop.start()
    work = (mirror.run(), loop.run(), control.key_sets.keeper.run(), token_services.run())
    tasks = [asyncio.create_task(one) for one in work]
    for task in tasks:
        task.add_done_callback(_report)
    try:
        yield control
    finally:
        control.watchers.close()
        loop.presence.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _load_bundles(control: Control) -> None:
    """The trust bundles of all meshes that have an authority."""
    for mesh in sorted({k.mesh for k in control.mirror.snapshot.resources if k.kind == DATAPLANE}):
        try:
            control.loop.set_bundle(mesh, await control.authority.bundle_pem(mesh))
        except NotFound:
            continue


def _know_callers(control: Control, batch: Sequence[Change]) -> None:
    control.credentials.take(batch)


def _end_streams_of_lost_nodes(control: Control, batch: Sequence[Change]) -> None:
    """A node that was deleted or revoked loses its open streams at once."""
    lost = {
        c.key.name
        for c in batch
        if c.key.kind == NODE and (c.body is None or c.body.get("revoked_s"))
    }
    if not lost:
        return
    for stream in control.loop.streams():
        proxy = control.proxies.find(stream.instance)
        if proxy is not None and proxy.node in lost:
            stream.end(Forbidden("the node is known no more", code="node-revoked"))


def _report(task: asyncio.Task[None]) -> None:
    """A loop that dies takes the process with it: better no server than one that is deaf."""
    if not task.cancelled() and task.exception() is not None:
        task.get_loop().call_exception_handler(
            {"message": "a server loop failed", "exception": task.exception(), "task": task}
        )
