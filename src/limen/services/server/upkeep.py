"""What a server does by itself from time to time: renew its certificate, forget what is over."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from limen.errors import LimenError
from limen.services.server.node.auditing import prune_positions
from limen.services.server.role_calls import prune

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from limen.services.server.control import Control
    from limen.services.server.tls import ServerIdentity

HOUR_S = 3600.0
_log = logging.getLogger("limen.upkeep")


@asynccontextmanager
async def upkeep(control: Control, identity: ServerIdentity) -> AsyncIterator[None]:
    """Runs beside the server while the context lasts."""
    task = asyncio.create_task(_run(control, identity))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _run(control: Control, identity: ServerIdentity) -> None:
    while True:
        await asyncio.sleep(HOUR_S)
        if control.clock.now_s() >= identity.issued.renew_at_s:
            await _try("renew the server's certificate", identity.renew)
        await _try("forget old certificates", control.authority.prune_certificates)
        await _try("forget old tokens", control.joining.prune_tokens)
        await _try("forget old positions of audit reports", lambda: prune_positions(control))
        await _try("forget old revocations", partial(prune, control))


async def _try(what: str, action: Callable[[], Awaitable[object]]) -> None:
    """A failure is logged, and tried again in an hour."""
    try:
        await action()
    except LimenError as error:
        _log.warning("upkeep failed", extra={"fields": {"what": what, "error": str(error)}})
