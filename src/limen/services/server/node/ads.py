"""Envoy's aggregated discovery towards agents: one delta stream per instance, raw bytes."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from limen.core.xds.wire import parse_request
from limen.errors import Forbidden, InvalidInput, LimenError
from limen.services.server.joining_refusals import certificate_expired
from limen.services.server.node.peers import shown_certificate
from limen.services.server.node.rpc import Method
from limen.services.server.node.streams import ProxyStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from limen.services.server.control import Control
    from limen.services.server.joining import Node
    from limen.services.server.node.rpc import Context
    from limen.services.server.node.service import NodeService

PATH = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
FIRST_MESSAGE_S = 10.0
MAX_STREAM_S = 30 * 86400.0
"""No certificate of a node lives longer."""
_log = logging.getLogger("limen.ads")


class Discovery:
    """Serves the streams of one server's parts. Ownership is asked of `service`."""

    def __init__(self, control: Control, service: NodeService) -> None:
        self._control = control
        self._service = service

    def methods(self) -> tuple[Method, ...]:
        """The one method. State-of-the-world discovery is not served."""
        return (Method(PATH, stream=self.stream),)

    async def stream(
        self, node: Node, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        """One stream: the first message names the instance, which must be this node's.

        It ends with the certificate that it was opened with: whoever has a newer one comes back.
        """
        first = await self._first(requests)
        stream = self._open(node, first)
        reader = asyncio.create_task(_read(requests, stream))
        expiry = self._end_with_certificate(stream, context)
        try:
            stream.receive(first)
            while (message := await stream.next()) is not None:
                yield message
        finally:
            expiry.cancel()
            reader.cancel()
            self._close(stream)

    def _end_with_certificate(self, stream: ProxyStream, context: Context) -> asyncio.TimerHandle:
        end_s = shown_certificate(context).not_valid_after_utc.timestamp()
        left_s = max(0.0, end_s - self._control.clock.now_s())
        loop = asyncio.get_running_loop()
        return loop.call_later(min(left_s, MAX_STREAM_S), stream.end, certificate_expired())

    async def _first(self, requests: AsyncIterator[bytes]) -> bytes:
        try:
            return await asyncio.wait_for(anext(requests), FIRST_MESSAGE_S)
        except (TimeoutError, StopAsyncIteration):
            raise InvalidInput("the stream named no instance", code="xds-protocol") from None

    def _open(self, node: Node, first: bytes) -> ProxyStream:
        control = self._control
        dataplane = self._service.own_instance(node, parse_request(first).node.id)
        instance = dataplane.name
        if not control.accepting:
            raise Forbidden("the server is stopping", code="stopping")
        stream = ProxyStream(
            instance, control.proxies, control.metrics, control.loop.presence.confirmed
        )
        control.proxies.of(instance).opened(node.node_id, control.clock.now_s())
        control.loop.open(stream)
        fields = {"instance": str(instance), "mesh": node.mesh, "node": node.node_id}
        _log.info("stream open", extra={"fields": fields})
        return stream

    def _close(self, stream: ProxyStream) -> None:
        control = self._control
        stream.end()
        if control.loop.close(stream):
            stream.proxy.closed(control.loop.revision, control.clock.now_s())
            control.proxies.changed()
        _log.info("stream closed", extra={"fields": {"instance": str(stream.instance)}})


async def _read(requests: AsyncIterator[bytes], stream: ProxyStream) -> None:
    """Feed the stream until the client ends it or breaks the protocol."""
    try:
        async for data in requests:
            stream.receive(data)
    except LimenError as error:
        stream.end(error)
    finally:
        stream.end()
