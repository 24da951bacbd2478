"""One discovery stream of one instance: the state machine, what waits to be sent, its record."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from limen.core.xds.delta import DeltaStream
from limen.core.xds.events import Confirmed, Rejected
from limen.core.xds.view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from limen.core.envoy.encoded import NodeResources
    from limen.core.model.names import InstanceName
    from limen.core.xds.events import Output
    from limen.errors import LimenError
    from limen.services.server.metrics import Metrics
    from limen.services.server.proxies import Proxies, Proxy


class ProxyStream:
    """Fulfils `open_proxy.Stream`. At most one response per type waits: memory is bounded."""

    def __init__(
        self,
        instance: InstanceName,
        proxies: Proxies,
        metrics: Metrics,
        confirmed: Callable[[InstanceName], None],
    ) -> None:
        self.instance = instance
        self._delta = DeltaStream()
        self._proxies = proxies
        self._metrics = metrics
        self._confirmed = confirmed
        self._outbox: deque[bytes] = deque()
        self._ready = asyncio.Event()
        self._error: LimenError | None = None
        self._ended = False

    @property
    def proxy(self) -> Proxy:
        """The record of the instance."""
        return self._proxies.of(self.instance)

    def put(self, resources: NodeResources, revision: int, previous: int) -> None:
        """See `open_proxy.Stream.put`."""
        self.proxy.put(revision, previous)
        self._take(self._delta.on_view(View(str(revision), resources)))

    def receive(self, data: bytes) -> None:
        """A message of the client. Raises InvalidInput (`xds-protocol`)."""
        self._take(self._delta.on_request(data))

    def end(self, error: LimenError | None = None) -> None:
        """Nothing more is sent; `next` raises `error` or returns None."""
        self._ended, self._error = True, self._error or error
        self._ready.set()

    async def next(self) -> bytes | None:
        """The next message for the client; None at the end. Raises what `end` was given."""
        while not self._outbox and not self._ended:
            self._ready.clear()
            await self._ready.wait()
        if self._ended:
            if self._error is not None:
                raise self._error
            return None
        return self._outbox.popleft()

    def _take(self, output: Output) -> None:
        if output.responses:
            self._outbox.extend(output.responses)
            self._ready.set()
        for event in output.events:
            match event:
                case Confirmed():
                    self.proxy.answered(())
                    self._confirmed(self.instance)
                case Rejected(_, rejections):
                    self._metrics.nacks.inc(len(rejections))
                    self.proxy.answered(rejections)
            self._proxies.changed()
