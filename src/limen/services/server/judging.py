"""The whole judged: what a change brings that was not there before, and who loses a right by it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.compiler.checks import check
from limen.core.compiler.touched import can_judge, judge
from limen.core.model.resource import MESH, MESH_SETTINGS, Resource
from limen.services.server.meshes import exists

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.core.compiler.graph import Change
    from limen.core.compiler.touched import Judged
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.names import WorkloadName
    from limen.core.model.resource import ResourceKey
    from limen.core.model.snapshot import Snapshot
    from limen.services.server.control import Control

MAX_LIVE = 32
"""More changes at once are judged aside, in a thread: the loop has others to serve."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """`findings` about the change: an old fault refuses nobody's. `narrowed`: who loses, sorted."""

    findings: tuple[Diagnostic, ...]
    narrowed: tuple[WorkloadName, ...]


async def judge_changes(control: Control, changes: Sequence[Change]) -> Judgement:
    """What these changes to the mirror's snapshot would bring.

    What only touches permissions is tried out in the living graph; the rest is compared as a whole,
    in a thread. The server goes on meanwhile.
    """
    judged = _judge_live(control, changes)
    if judged is not None:
        narrowed = sorted(w for one in judged for w in one.dirty.narrowed)
        return Judgement(tuple(d for one in judged for d in one.findings), tuple(narrowed))
    before = control.mirror.snapshot
    puts = [c for c in changes if isinstance(c, Resource)]
    deleted = [c for c in changes if not isinstance(c, Resource)]
    after = before.replaced(puts, deleted)
    found = await asyncio.to_thread(_new_findings, before, after)
    return Judgement(found, tuple(control.loop.narrowed(changes)))


def _judge_live(control: Control, changes: Sequence[Change]) -> list[Judged] | None:
    """By the living graphs; None if they cannot tell all."""
    if len(changes) > MAX_LIVE:
        return None
    control.loop.absorb()
    by_mesh: dict[str, list[Change]] = {}
    for change in changes:
        key = change.key if isinstance(change, Resource) else change
        by_mesh.setdefault(key.mesh, []).append(change)
    for mesh, some in by_mesh.items():
        known = exists(control.mirror.snapshot, mesh)
        if not known or not can_judge(control.loop.graph(mesh), some):
            return None
    return [judge(control.loop.graph(mesh), some) for mesh, some in sorted(by_mesh.items())]


def _new_findings(before: Snapshot, after: Snapshot) -> tuple[Diagnostic, ...]:
    found = check(after, before)
    if not found:
        return ()
    known = set(check(before))
    return tuple(d for d in found if d not in known)


def users_of_mesh(snapshot: Snapshot, mesh: str) -> list[ResourceKey]:
    """Resources that a mesh still has, its own documents left aside, sorted."""
    own = {MESH, MESH_SETTINGS}
    return sorted(k for k in snapshot.resources if k.mesh == mesh and k.kind not in own)
