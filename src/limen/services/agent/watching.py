"""What an agent watches of a program: whether it lives, and whether it listens."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from limen.adapters.peercred import is_alive
from limen.services.agent.probing import LOOPBACK, is_listening

if TYPE_CHECKING:
    from collections.abc import Callable

    from limen.adapters.peercred import ProcessId

_PROBE_FAST_S = 0.2
_PROBE_S = 2.0


async def wait_exit(process: ProcessId) -> None:
    """Return when that very process has ended."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(process.pid)
        try:
            if is_alive(process):
                loop.add_reader(pidfd, gone.set)
                await gone.wait()
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)


async def probe_forever(port: int, netns: str, report: Callable[[bool], None]) -> None:
    """Say now and after each change whether the program listens on its port."""
    known: bool | None = None
    while True:
        ready = await is_listening(LOOPBACK, port, netns=netns)
        if ready is not known:
            known = ready
            report(ready)
        await asyncio.sleep(_PROBE_S if ready else _PROBE_FAST_S)
