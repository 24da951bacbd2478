"""How far a revision has come: on how many proxies it is enforced, and why not on the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from limen.services.server.api.models import Missing, WaitAnswer

if TYPE_CHECKING:
    from limen.services.server.control import Control


async def wait_for(
    control: Control, revision: int, timeout_s: float, mesh: str | None = None
) -> WaitAnswer:
    """Wait until every connected proxy confirmed or refused `revision`, `timeout_s` at most."""
    try:
        async with asyncio.timeout(timeout_s):
            await control.loop.compiled(revision)
            await control.proxies.settled(revision)
    except TimeoutError:
        pass
    newest = control.loop.revision
    missing = [
        Missing(
            mesh=p.instance.workload.mesh,
            instance=str(p.instance),
            why=p.missing(revision, newest),
        )
        for p in control.proxies.behind(revision, newest)
        if mesh in {None, p.instance.workload.mesh}
    ]
    total = control.proxies.count(mesh)
    return WaitAnswer(
        revision=revision,
        enforced=total - len(missing),
        total=total,
        missing=missing,
    )
