"""SPIFFE Workload API (X.509 profile) for one workload, on a private socket.

Callers reach it only through the relay, which has attested them; so everyone here is the workload.
A second server with the same methods answers everyone else: permission denied.
Source: SPIFFE Workload API, sections 4 and 5 (metadata, streaming, error codes).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from limen.adapters import spiffe_workload_pb2 as pb
from limen.adapters.runtime_dir import require_short
from limen.services.agent.identity import key_to_der, pem_to_der
from limen.services.agent.secret_api import SecretApi

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from limen.services.agent.identity import Svid

    Context = aio.ServicerContext[Any, Any]

SERVICE = "SpiffeWorkloadAPI"
SECURITY_HEADER = ("workload.spiffe.io", "true")
_OPTIONS = (("grpc.max_receive_message_length", 1 << 20), ("grpc.so_reuseport", 0))


class SvidFeed:
    """The workload's current certificate; readers wait for the next one."""

    def __init__(self) -> None:
        self.current: Svid | None = None
        self._changed = asyncio.Event()

    def publish(self, svid: Svid | None) -> None:
        """Make `svid` the current one and wake the readers."""
        self.current = svid
        self._changed.set()
        self._changed = asyncio.Event()

    def usable(self) -> Svid | None:
        """The current certificate unless it has expired."""
        svid = self.current
        return None if svid is None or svid.expired(time.time()) else svid

    async def follow(self) -> AsyncIterator[Svid | None]:
        """The usable certificate now, then each new one."""
        while True:
            changed = self._changed
            yield self.usable()
            await changed.wait()


class WorkloadApi:
    """The gRPC server of one workload (or, with `feed` None, of those who are none)."""

    def __init__(self, path: Path, feed: SvidFeed | None) -> None:
        self._path = require_short(path)
        self._feed = feed
        self._server: aio.Server | None = None

    async def start(self) -> None:
        """Open the private socket."""
        self._path.unlink(missing_ok=True)
        server = aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((_spiffe_handlers(self._feed),))
        server.add_generic_rpc_handlers((SecretApi(self._feed).handlers(),))
        server.add_insecure_port(f"unix:{self._path}")
        await server.start()
        self._path.chmod(0o600)
        self._server = server

    async def close(self) -> None:
        """End every stream."""
        if self._server is not None:
            await self._server.stop(None)
        self._path.unlink(missing_ok=True)


def _spiffe_handlers(feed: SvidFeed | None) -> grpc.GenericRpcHandler[Any, Any]:
    async def fetch_svid(
        _: pb.X509SVIDRequest, context: Context
    ) -> AsyncIterator[pb.X509SVIDResponse]:
        known = await _require_caller(feed, context)
        async for svid in known.follow():
            yield _to_svid_response(await _require_svid(svid, context))

    async def fetch_bundles(
        _: pb.X509BundlesRequest, context: Context
    ) -> AsyncIterator[pb.X509BundlesResponse]:
        known = await _require_caller(feed, context)
        async for svid in known.follow():
            yield _to_bundles_response(await _require_svid(svid, context))

    async def refuse_unary(_: bytes, context: Context) -> bytes:
        await _refuse_jwt(feed, context)
        return b""

    async def refuse_stream(_: bytes, context: Context) -> AsyncIterator[bytes]:
        await _refuse_jwt(feed, context)
        yield b""

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "FetchX509SVID": _stream(fetch_svid, pb.X509SVIDRequest.FromString),
            "FetchX509Bundles": _stream(fetch_bundles, pb.X509BundlesRequest.FromString),
            "FetchJWTSVID": grpc.unary_unary_rpc_method_handler(refuse_unary),
            "FetchJWTBundles": grpc.unary_stream_rpc_method_handler(refuse_stream),
            "ValidateJWTSVID": grpc.unary_unary_rpc_method_handler(refuse_unary),
        },
    )


def _stream(
    handler: Callable[[Any, Context], AsyncIterator[Any]], parse: Callable[[bytes], Any]
) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_stream_rpc_method_handler(
        handler,
        request_deserializer=parse,
        response_serializer=lambda message: message.SerializeToString(),
    )


async def _require_caller(feed: SvidFeed | None, context: Context) -> SvidFeed:
    """The feed, if the security header is there and the caller is a workload; else abort."""
    metadata = tuple(context.invocation_metadata() or ())
    if SECURITY_HEADER not in {(key, value) for key, value in metadata}:
        await context.abort(
            grpc.StatusCode.INVALID_ARGUMENT, "metadata workload.spiffe.io: true is missing"
        )
    if feed is None:
        await context.abort(
            grpc.StatusCode.PERMISSION_DENIED,
            "this process is not a workload of this agent: start it with `limen run`",
        )
        raise AssertionError
    return feed


async def _require_svid(svid: Svid | None, context: Context) -> Svid:
    if svid is None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "no valid certificate at the moment")
        raise AssertionError
    return svid


async def _refuse_jwt(feed: SvidFeed | None, context: Context) -> None:
    await _require_caller(feed, context)
    await context.abort(
        grpc.StatusCode.UNIMPLEMENTED, "JWT-SVIDs are a later version's: use the X.509-SVID"
    )


def _to_svid_response(svid: Svid) -> pb.X509SVIDResponse:
    return pb.X509SVIDResponse(
        svids=[
            pb.X509SVID(
                spiffe_id=svid.spiffe_id,
                x509_svid=pem_to_der(svid.certificate_pem),
                x509_svid_key=key_to_der(svid.key_pem),
                bundle=pem_to_der(svid.bundle_pem),
            )
        ]
    )


def _to_bundles_response(svid: Svid) -> pb.X509BundlesResponse:
    domain = svid.spiffe_id.removeprefix("spiffe://").partition("/")[0]
    return pb.X509BundlesResponse(bundles={f"spiffe://{domain}": pem_to_der(svid.bundle_pem)})
