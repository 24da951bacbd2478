"""A workload's stream to the server: kept open, opened again, and how long it has been away."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING

from limen.errors import LimenError
from limen.services.agent.ads import follow_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from limen.services.agent.ads import TakePolicies
    from limen.services.agent.node_link import NodeLink
    from limen.services.agent.registration import Registration
    from limen.services.agent.relay import Relay

_DELAY_FIRST_S = 0.5
_DELAY_AFTER_CONTACT_S = 0.1
_DELAY_MAX_S = 3.0
_SILENT_S = 40.0
"""A server that answered no call for this long is away, even if its stream is still open."""
_log = logging.getLogger("limen.agent")


class ServerFollower:
    """Follows the server for one workload. `register` is called before each stream but the first.

    The agent has registered a new workload already, and tries a restored one's stream first.
    """

    def __init__(  # noqa: PLR0917 - whom to follow, whom to tell
        self,
        link: NodeLink,
        relay: Relay,
        register: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
        last_contact_s: float,
        take_policies: Callable[[], TakePolicies | None],
    ) -> None:
        self._link = link
        self._relay = relay
        self._register = register
        self._changed = changed
        self._contact_s = last_contact_s
        self._take_policies = take_policies
        self._open = asyncio.Event()
        self._trouble = ""

    @property
    def connected(self) -> bool:
        """Whether the server talks on this workload's stream (trying to connect is not enough)."""
        return self._is_open and self._link.silent_s < _SILENT_S

    @property
    def _is_open(self) -> bool:
        return self._relay.server_connected and self._open.is_set()

    @property
    def last_contact_s(self) -> float:
        """When the server was last heard, seconds since the epoch."""
        return time.time() - self._link.silent_s if self._is_open else self._contact_s

    @property
    def trouble(self) -> str:
        """Why there is no stream; "" if there is one."""
        if self._is_open and not self.connected:
            return f"the server has not answered for {self._link.silent_s:.0f} s"
        return "" if self.connected else self._trouble

    async def run(self, name: str) -> None:
        """Follow until cancelled."""
        delay = _DELAY_FIRST_S
        registered = True
        while True:
            try:
                if not registered:
                    await self._register()
                take = self._take_policies()
                await follow_server(self._link, self._relay, self._open, take)
            except LimenError as error:
                self._trouble = str(error)
                _log.warning("%s: %s", name, error)
            registered = False
            if self._open.is_set():
                self._contact_s = time.time() - self._link.silent_s
                self._open.clear()
                self._changed()
                delay = _DELAY_AFTER_CONTACT_S
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            delay = min(delay * 2, _DELAY_MAX_S)

    def is_stale(self, registration: Registration) -> bool:
        """Whether it has been cut off for longer than a mesh that refuses then allows."""
        limit = registration.max_staleness_s
        if limit is None or not registration.refuse_when_stale:
            return False
        return not self.connected and time.time() - self.last_contact_s > limit
