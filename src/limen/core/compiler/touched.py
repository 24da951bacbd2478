"""What changed policies bring that was not there before, at the price of what they touch.

Law (tests/core/compiler/test_touched.py): `judge(graph, changes).findings` are those that `check`
has after the changes and did not have before; the graph stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.compiler.permission_checks import check_permissions, each_port, ports_near
from limen.core.model.permission import MeshTrafficPermission, TrafficPermission
from limen.core.model.resource import Resource

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from limen.core.compiler.graph import Change, Dirty, MeshGraph
    from limen.core.compiler.permissions import Concerned
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.resource import ResourceKey

Permission = TrafficPermission | MeshTrafficPermission


@dataclass(frozen=True, slots=True)
class Judged:
    """`findings`: new ones, by file, line and code. `dirty`: what the changes would change."""

    findings: tuple[Diagnostic, ...]
    dirty: Dirty


def can_judge(graph: MeshGraph, changes: Iterable[Change]) -> bool:
    """Whether `judge` knows all that these changes touch.

    Permissions, in a mesh without Istio's and without edge documents. For everything else there is
    `check`.
    """
    if graph.view.doors.documents.scoped or graph.view.edges.resources:
        return False
    return all(
        isinstance(known.spec, Permission)
        for change in changes
        for known in (change if isinstance(change, Resource) else None, graph.find(_key(change)))
        if known is not None
    )


def judge(graph: MeshGraph, changes: Sequence[Change]) -> Judged:
    """Try the changes out in the graph of their mesh; what they bring. Asks `can_judge` first."""
    if not can_judge(graph, changes):
        raise ValueError("these changes touch more than permissions: use check")
    keys = [_key(change) for change in changes]
    touched = _touched(graph, keys)
    with graph.trial(changes) as dirty:
        touched |= _touched(graph, keys)
        after = list(check_permissions(graph, touched))
    before = set(check_permissions(graph, touched)) if after else set()
    new = [finding for finding in dict.fromkeys(after) if finding not in before]
    new.sort(key=lambda d: (d.file, d.line, d.code, d.message))
    return Judged(tuple(new), dirty)


def _touched(graph: MeshGraph, keys: Iterable[ResourceKey]) -> set[ResourceKey]:
    """The documents whose findings depend on one of these being as it is now."""
    found = set(keys)
    for key in keys:
        resource = graph.find(key)
        if resource is None:
            continue
        names, assumed = ports_near(graph, [resource])
        registered = [graph.resource(name) for name in names]
        alone = {r.key for r in graph.view.doors.undeclared.only_by(resource)}
        for _, dataplane, inbound in each_port([*registered, *assumed]):
            concerned = graph.view.doors.concerned(dataplane, inbound)
            found |= _neighbours(resource, concerned, alone=dataplane.key in alone)
    return found


def _neighbours(resource: Resource, concerned: Concerned, *, alone: bool) -> set[ResourceKey]:
    """Of the documents of one port, those whose findings name `resource` or hang on its being.

    A TrafficPermission that wins is named by all that lose, one of either sort by every
    MeshTrafficPermission. `alone`: without `resource` the port would not be there.
    """
    others: list[Resource] = []
    if alone or concerned.traffic is resource:
        others += concerned.lost
    if alone or isinstance(resource.spec, TrafficPermission):
        others += concerned.mesh_traffic
    if alone and concerned.traffic is not None:
        others.append(concerned.traffic)
    return {other.key for other in others}


def _key(change: Change) -> ResourceKey:
    return change.key if isinstance(change, Resource) else change
