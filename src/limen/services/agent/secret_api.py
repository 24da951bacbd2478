"""SDS on the Workload API socket, for Envoys that people run themselves, named as SPIRE does.

`default` or the SPIFFE ID: certificate and key. `ROOTCA` or the trust domain's ID: the bundle.
Source: SPIRE agent configuration reference, "Envoy SDS support" (default_svid_name,
default_bundle_name). Other names are answered with nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2
from grpc import aio

from limen.core.envoy.encoded import decode
from limen.core.envoy.names import SECRET
from limen.core.envoy.secret import bundle_resource, svid_resource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from limen.core.envoy.encoded import Encoded
    from limen.services.agent.identity import Svid
    from limen.services.agent.workload_api import SvidFeed

    Context = aio.ServicerContext[Any, Any]

SERVICE = "envoy.service.secret.v3.SecretDiscoveryService"
DEFAULT_SVID = "default"
DEFAULT_BUNDLE = "ROOTCA"
_END = object()
_DENIED = "this process is not a workload of this agent"


def secret_named(svid: Svid, name: str) -> Encoded | None:
    """The secret that SPIRE's names stand for, None for any other name."""
    domain = svid.spiffe_id.removeprefix("spiffe://").partition("/")[0]
    if name in {DEFAULT_SVID, svid.spiffe_id}:
        return svid_resource(svid.certificate_pem.encode(), svid.key_pem.encode(), name)
    if name in {DEFAULT_BUNDLE, f"spiffe://{domain}"}:
        return bundle_resource(svid.bundle_pem.encode(), name)
    return None


class SecretApi:
    """The three methods of the secret discovery service over one workload's feed."""

    def __init__(self, feed: SvidFeed | None) -> None:
        self._feed = feed

    def handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        """To be added to a server."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "StreamSecrets": grpc.stream_stream_rpc_method_handler(
                    self._stream,
                    request_deserializer=discovery_pb2.DiscoveryRequest.FromString,
                    response_serializer=discovery_pb2.DiscoveryResponse.SerializeToString,
                ),
                "DeltaSecrets": grpc.stream_stream_rpc_method_handler(
                    self._delta,
                    request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString,
                    response_serializer=discovery_pb2.DeltaDiscoveryResponse.SerializeToString,
                ),
                "FetchSecrets": grpc.unary_unary_rpc_method_handler(
                    self._fetch,
                    request_deserializer=discovery_pb2.DiscoveryRequest.FromString,
                    response_serializer=discovery_pb2.DiscoveryResponse.SerializeToString,
                ),
            },
        )

    async def _fetch(
        self, request: discovery_pb2.DiscoveryRequest, context: Context
    ) -> discovery_pb2.DiscoveryResponse:
        svid = (await self._require_feed(context)).usable()
        if svid is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no valid certificate at the moment")
            raise AssertionError
        return _to_response(svid, request.resource_names, 0)

    async def _stream(
        self, requests: AsyncIterator[discovery_pb2.DiscoveryRequest], context: Context
    ) -> AsyncIterator[discovery_pb2.DiscoveryResponse]:
        """State of the world: everything asked for, again whenever it changes."""
        feed = await self._require_feed(context)
        wanted: tuple[str, ...] = ()
        sent = ""
        nonce = 0
        async with aclosing(_merge(requests, feed.follow())) as events:
            async for event in events:
                if isinstance(event, discovery_pb2.DiscoveryRequest):
                    if event.response_nonce and event.response_nonce != str(nonce):
                        continue
                    if tuple(event.resource_names) != wanted:
                        wanted, sent = tuple(event.resource_names), ""
                svid = feed.usable()
                if svid is None or not wanted:
                    continue
                response = _to_response(svid, wanted, nonce + 1)
                if response.version_info != sent:
                    sent, nonce = response.version_info, nonce + 1
                    yield response

    async def _delta(
        self, requests: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest], context: Context
    ) -> AsyncIterator[discovery_pb2.DeltaDiscoveryResponse]:
        """Incremental: a secret is sent when it is subscribed to and when it changes."""
        feed = await self._require_feed(context)
        wanted: set[str] = set()
        sent: dict[str, str] = {}
        nonce = 0
        async with aclosing(_merge(requests, feed.follow())) as events:
            async for event in events:
                if isinstance(event, discovery_pb2.DeltaDiscoveryRequest):
                    wanted |= set(event.resource_names_subscribe)
                    wanted -= set(event.resource_names_unsubscribe)
                    for name in event.resource_names_unsubscribe:
                        sent.pop(name, None)
                svid = feed.usable()
                found = [secret_named(svid, name) for name in sorted(wanted)] if svid else []
                new = [e for e in found if e is not None and sent.get(e.name) != e.version]
                if new:
                    nonce += 1
                    sent.update((e.name, e.version) for e in new)
                    yield discovery_pb2.DeltaDiscoveryResponse(
                        type_url=SECRET, nonce=str(nonce), resources=[decode(e) for e in new]
                    )

    async def _require_feed(self, context: Context) -> SvidFeed:
        if self._feed is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, _DENIED)
            raise AssertionError
        return self._feed


def _to_response(svid: Svid, wanted: Iterable[str], nonce: int) -> discovery_pb2.DiscoveryResponse:
    found = [encoded for name in wanted if (encoded := secret_named(svid, name)) is not None]
    version = hashlib.sha256(",".join(e.version for e in found).encode()).hexdigest()[:24]
    return discovery_pb2.DiscoveryResponse(
        version_info=version,
        type_url=SECRET,
        nonce=str(nonce),
        resources=[decode(encoded).resource for encoded in found],
    )


async def _merge(
    requests: AsyncIterator[Any], changes: AsyncIterator[Any]
) -> AsyncGenerator[Any, None]:
    """Requests and changes in the order in which they come; ends with the requests."""
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=16)

    async def pump(source: AsyncIterator[Any], *, last: bool) -> None:
        async for item in source:
            await queue.put(item)
        if last:
            await queue.put(_END)

    tasks = [
        asyncio.create_task(pump(requests, last=True)),
        asyncio.create_task(pump(changes, last=False)),
    ]
    try:
        while (item := await queue.get()) is not _END:
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
