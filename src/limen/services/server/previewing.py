"""What a change would do to each proxy: names of resources added, changed, removed.

Works on graphs of its own, in a thread: the server goes on meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from limen.core.compiler.graph import MeshGraph
from limen.core.envoy import names
from limen.core.envoy.endpoints import endpoints_resource
from limen.core.envoy.resources import node_resources
from limen.services.server.api.models import ProxyChange

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from limen.core.model.names import InstanceName
    from limen.core.model.resource import Resource
    from limen.core.model.snapshot import Snapshot
    from limen.services.server.compile_loop import CompileLoop

Versions = dict[str, str]


async def preview(
    loop: CompileLoop, before: Snapshot, after: Snapshot, puts: Iterable[Resource]
) -> list[ProxyChange]:
    """The proxies that would change by `puts`, sorted, each with the names."""
    changes: list[ProxyChange] = []
    loop.absorb()
    for mesh, some in _by_mesh(puts).items():
        dirty = loop.preview(mesh, some)
        found = await asyncio.to_thread(_compare, mesh, before, after, sorted(dirty.instances))
        changes.extend(found)
    return changes


def _compare(
    mesh: str, before: Snapshot, after: Snapshot, instances: Sequence[InstanceName]
) -> list[ProxyChange]:
    old_graph = MeshGraph(mesh, before.resources.values())
    new_graph = MeshGraph(mesh, after.resources.values())
    found = []
    for instance in instances:
        old, new = _versions(old_graph, instance), _versions(new_graph, instance)
        change = ProxyChange(
            instance=str(instance),
            added=sorted(new.keys() - old.keys()),
            changed=sorted(n for n in old.keys() & new.keys() if old[n] != new[n]),
            removed=sorted(old.keys() - new.keys()),
        )
        if change.added or change.changed or change.removed:
            found.append(change)
    return found


def _versions(graph: MeshGraph, instance: InstanceName) -> Versions:
    """`TYPE name` of each resource of a proxy, and its version; nothing if it is not registered."""
    if instance not in graph.instances:
        return {}
    plan = graph.plan(instance)
    resources = node_resources(plan)
    endpoints = [endpoints_resource(graph.endpoints(e.callee)) for e in plan.edges]
    shared = {e.name: e for e in endpoints}
    resources[names.ENDPOINTS] = {**resources.get(names.ENDPOINTS, {}), **shared}
    return {
        f"{url.rpartition('.')[2]} {name}": encoded.version
        for url, some in resources.items()
        for name, encoded in some.items()
    }


def _by_mesh(puts: Iterable[Resource]) -> dict[str, list[Resource]]:
    found: dict[str, list[Resource]] = {}
    for resource in puts:
        found.setdefault(resource.key.mesh, []).append(resource)
    return found
