"""Which workloads a change may have taken a right away from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.graph import Change, MeshGraph

if TYPE_CHECKING:
    from limen.core.model.names import WorkloadName
    from limen.core.model.snapshot import Snapshot


def changes_between(before: Snapshot, after: Snapshot) -> dict[str, list[Change]]:
    """Changes that lead from one snapshot to the other, by mesh, deletions first."""
    found: dict[str, list[Change]] = {}
    for key in before.resources:
        if key not in after.resources:
            found.setdefault(key.mesh, []).append(key)
    for key, resource in after.resources.items():
        known = before.resources.get(key)
        if known is not resource and known != resource:
            found.setdefault(key.mesh, []).append(resource)
    return found


def narrowed(before: Snapshot, after: Snapshot) -> frozenset[WorkloadName]:
    """Workloads for which some caller may have lost a right; pure grants do not count.

    Builds the indexes of the meshes that changed (no policy but those concerned is compiled). Who
    keeps a `MeshGraph` asks `graph.preview(changes).narrowed`, which costs only what they concern.
    """
    found: set[WorkloadName] = set()
    for mesh, changes in changes_between(before, after).items():
        found |= MeshGraph(mesh, before.resources.values()).update(changes).narrowed
    return frozenset(found)
