"""The whole judged: what a change brings that was not there before."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from limen.core.compiler.checks import check
from limen.core.model.resource import MESH, MESH_SETTINGS

if TYPE_CHECKING:
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.resource import ResourceKey
    from limen.core.model.snapshot import Snapshot


async def new_findings(before: Snapshot, after: Snapshot) -> list[Diagnostic]:
    """Findings about `after` that `before` did not have: an old fault refuses nobody's change.

    Works in a thread; the server goes on meanwhile.
    """
    found = await asyncio.to_thread(check, after, before)
    if not found:
        return []
    known = set(await asyncio.to_thread(check, before))
    return [d for d in found if d not in known]


def users_of_mesh(snapshot: Snapshot, mesh: str) -> list[ResourceKey]:
    """Resources that a mesh still has, its own documents left aside, sorted."""
    own = {MESH, MESH_SETTINGS}
    return sorted(k for k in snapshot.resources if k.mesh == mesh and k.kind not in own)
