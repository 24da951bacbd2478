"""The relay's two streams: a Unix socket for Envoy, and the stream to the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from limen.adapters.runtime_dir import require_short
from limen.errors import Unavailable
from limen.services.agent.node_link import to_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from limen.services.agent.node_link import NodeLink
    from limen.services.agent.relay import Relay

ADS_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_OPTIONS = (("grpc.max_receive_message_length", 16 << 20), ("grpc.so_reuseport", 0))
_FIRST_MESSAGE_S = 10.0
_log = logging.getLogger("limen.agent")


class EnvoyEndpoint:
    """Serves delta ADS to one Envoy on a socket that only the agent's uid opens."""

    def __init__(self, path: Path, relay: Relay) -> None:
        self._path = require_short(path)
        self._relay = relay
        self._server: aio.Server | None = None
        self._stream = 0

    async def start(self) -> None:
        """Open the socket."""
        self._path.unlink(missing_ok=True)
        server = aio.server(options=_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve,
            request_deserializer=bytes,
            response_serializer=bytes,
        )
        methods = {"DeltaAggregatedResources": handler}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(ADS_SERVICE, methods),)
        )
        server.add_insecure_port(f"unix:{self._path}")
        await server.start()
        self._path.chmod(0o600)
        self._server = server

    async def close(self) -> None:
        """End the stream and remove the socket."""
        if self._server is not None:
            await self._server.stop(None)
        self._path.unlink(missing_ok=True)

    async def _serve(
        self,
        requests: AsyncIterator[bytes],
        context: aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[bytes]:
        del context
        self._stream += 1
        stream = self._stream
        out: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._relay.open_envoy(out.put_nowait)
        reading = asyncio.create_task(self._read(requests, stream, out))
        try:
            while (response := await out.get()) is not None:
                yield response
        finally:
            reading.cancel()
            if stream == self._stream:
                self._relay.close_envoy()

    async def _read(
        self,
        requests: AsyncIterator[bytes],
        stream: int,
        out: asyncio.Queue[bytes | None],
    ) -> None:
        try:
            async for request in requests:
                if stream != self._stream:
                    break
                self._relay.on_envoy(request)
        finally:
            out.put_nowait(None)


TakePolicies = Callable[[bytes], Awaitable[str]]
"""Loads a set of policies; why it was refused, "" if it decides now."""


async def follow_server(
    link: NodeLink, relay: Relay, connected: asyncio.Event, take: TakePolicies | None = None
) -> None:
    """Relay one upstream stream until it ends; then raises the LimenError that ended it.

    `take` None: the server has no policies for a decision point.
    """
    call = link.open_stream()
    out: asyncio.Queue[bytes] = asyncio.Queue()
    relay.open_server(out.put_nowait, call.cancel, policies=take is not None)
    writing = asyncio.create_task(_write(call, out))
    try:
        await _read_server(call, relay, connected, take)
    except aio.AioRpcError as error:
        raise to_error(error, "ADS") from None
    except asyncio.CancelledError:
        if _is_cancelled():
            raise
        _log.info("the stream was closed here")  # gRPC says so by the same exception
    finally:
        relay.close_server()
        writing.cancel()
        call.cancel()


async def _read_server(
    call: aio.StreamStreamCall[bytes, bytes],
    relay: Relay,
    connected: asyncio.Event,
    take: TakePolicies | None,
) -> None:
    """The first message must come soon: a server that is well greets at once.

    Nothing that comes after a set of policies is looked at before the set decides.
    """
    messages = aiter(call)
    try:
        async with asyncio.timeout(_FIRST_MESSAGE_S):
            first = await anext(messages)
    except (TimeoutError, StopAsyncIteration):
        raise Unavailable(
            "the server does not answer on ADS",
            code="server-unreachable",
            hint="the agent tries again by itself",
        ) from None
    connected.set()
    await _receive(first, relay, take)
    async for raw in messages:
        await _receive(raw, relay, take)
    _log.info("the server ended the stream: %s", await call.code())


async def _receive(raw: bytes, relay: Relay, take: TakePolicies | None) -> None:
    relay.on_server(raw)
    if take is not None and relay.policies_pending:
        relay.settle_policies(await take(relay.policies))


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _write(
    call: aio.StreamStreamCall[bytes, bytes],
    out: asyncio.Queue[bytes],
) -> None:
    while True:
        request = await out.get()
        try:
            await call.write(request)
        except (aio.AioRpcError, asyncio.InvalidStateError):  # the reader reports how it ended
            return
