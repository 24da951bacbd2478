"""Who decides by a policy: every instance that holds it, and whether it has confirmed that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from limen.services.server.api.models import Missing, WaitAnswer
from limen.services.server.roles import RoleKind

if TYPE_CHECKING:
    from limen.core.model.names import InstanceName
    from limen.core.model.resource import ResourceKey
    from limen.services.server.control import Control
    from limen.services.server.roles import Role


def subscribers_of(control: Control, key: ResourceKey) -> list[InstanceName]:
    """The registered instances whose decision point is to hold a policy, sorted."""
    graph = control.loop.graph(key.mesh)
    wanted = (key.kind, key.namespace, key.name)
    found = [
        name
        for name in graph.instances
        if any((h.kind, h.namespace, h.name) == wanted for h in graph.view.held_by(name))
    ]
    return sorted(found, key=lambda name: name.sort_key)


async def wait_for_subscribers(control: Control, key: ResourceKey, timeout_s: float) -> WaitAnswer:
    """Wait until every subscriber decides by the newest publish, `timeout_s` at most."""
    revision = control.mirror.revision_of(key)
    try:
        async with asyncio.timeout(timeout_s):
            await control.loop.compiled(revision)
            while _missing(control, key, revision):
                await control.proxies.next_change()
    except TimeoutError:
        pass
    missing = _missing(control, key, revision)
    total = len(subscribers_of(control, key)) + len(_apart(control, key))
    return WaitAnswer(
        revision=revision, enforced=total - len(missing), total=total, missing=missing
    )


def _missing(control: Control, key: ResourceKey, revision: int) -> list[Missing]:
    newest = control.loop.revision
    apart = [
        Missing(mesh=key.mesh, instance=role.actor, why="has not confirmed yet")
        for role in _apart(control, key)
        if control.confirmed.get(role.name, 0) < revision
    ]
    return apart + [
        Missing(mesh=key.mesh, instance=str(instance), why=why)
        for instance in subscribers_of(control, key)
        if (why := control.proxies.of(instance).missing(revision, newest))
    ]


def _apart(control: Control, key: ResourceKey) -> list[Role]:
    """Decision points of the mesh that run apart: they hold every policy."""
    return control.credentials.roles(RoleKind.PDP, key.mesh)
