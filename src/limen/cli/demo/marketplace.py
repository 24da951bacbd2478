"""One service of the demo's marketplace: a plain HTTP program that knows nothing of certificates.

It runs under `limen run`, listens where `MARKETPLACE_PORT` says, and calls its neighbours as
`http://NAME.mesh/` through the `HTTP_PROXY` that it finds in its environment. Only `/direct/*`
breaks out on purpose: it takes the workload's own certificate from the SPIFFE Workload API and
calls a neighbour's mTLS port itself, as a program would that wants to get around its own proxy.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from limen.cli.demo import direct

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

SERVICE = os.environ.get("LIMEN_SERVICE", "unknown")
TICK_S = 0.05
RESET_STATUS = 0
"""Stands for a call that ended without a whole answer."""


async def index(request: Request) -> Response:
    """Who answered, and which identity its proxy vouches for."""
    return JSONResponse(
        {"service": SERVICE, "caller": request.headers.get("x-forwarded-client-cert", "")}
    )


async def ticks(request: Request) -> Response:
    """A stream that ends only when somebody cuts it."""
    del request

    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"tick\n"
            await asyncio.sleep(TICK_S)

    return StreamingResponse(body(), media_type="text/plain")


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        timeout=httpx.Timeout(10, read=30), limits=httpx.Limits(max_connections=64)
    )


async def _status(call: Awaitable[int]) -> int:
    """The status of one call; `RESET_STATUS` where the connection broke."""
    try:
        return await call
    except direct.BROKEN:
        return RESET_STATUS


async def call(request: Request) -> Response:
    """Call a neighbour once through the proxy."""
    async with _client() as client:
        try:
            answer = await client.get(f"http://{request.query_params['to']}.mesh/")
        except direct.BROKEN as error:
            return JSONResponse({"status": RESET_STATUS, "body": type(error).__name__})
        return JSONResponse({"status": answer.status_code, "body": answer.text[:500]})


async def call_directly(request: Request) -> Response:
    """Call a neighbour's mTLS port with this workload's own certificate."""
    host, _, port = request.query_params["address"].rpartition(":")
    identity = await direct.own_identity()
    answer = await direct.get(identity, host, int(port), "/")
    return JSONResponse({"status": answer.status, "body": answer.body[:500], "error": answer.error})


async def export_identity(request: Request) -> Response:
    """Say which SPIFFE ID and serial number the Workload API gives; never the key."""
    del request
    identity = await direct.own_identity()
    return JSONResponse({"spiffe_id": identity.spiffe_id, "serial": identity.serial})


async def watch(request: Request) -> Response:
    """Call a neighbour over and over on one connection; a JSON line for each change of status."""
    query = request.query_params
    until = time.monotonic() + float(query["seconds"])

    async def lines(once: Callable[[], Awaitable[int]]) -> AsyncIterator[bytes]:
        before: int | None = None
        while time.monotonic() < until:
            status = await _status(once())
            if status != before:
                yield json.dumps({"at": time.monotonic(), "status": status}).encode() + b"\n"
                before = status
            await asyncio.sleep(0.001)

    if "address" in query:
        host, _, port = query["address"].rpartition(":")
        connection = direct.Connection(await direct.own_identity(), host, int(port))
        return StreamingResponse(lines(lambda: connection.status("/")))
    client = _client()

    async def through_proxy() -> int:
        return (await client.get(f"http://{query['to']}.mesh/")).status_code

    return StreamingResponse(lines(through_proxy))


async def hold(request: Request) -> Response:
    """Open a neighbour's endless stream, say when it began and when it was cut."""
    query = request.query_params

    async def lines() -> AsyncIterator[bytes]:
        async for event in _held(query.get("to"), query.get("address")):
            yield json.dumps({"at": time.monotonic(), "event": event}).encode() + b"\n"

    return StreamingResponse(lines())


async def _held(to: str | None, address: str | None) -> AsyncIterator[str]:
    if address is not None:
        host, _, port = address.rpartition(":")
        async for event in direct.hold(await direct.own_identity(), host, int(port), "/ticks"):
            yield event
        return
    try:
        async with _client() as client, client.stream("GET", f"http://{to}.mesh/ticks") as answer:
            yield f"open {answer.status_code}"
            async for _ in answer.aiter_bytes():
                pass
    except direct.BROKEN:
        pass
    yield "closed"


async def load(request: Request) -> Response:
    """Call a neighbour from several tasks for a while; how many calls got which status."""
    query = request.query_params
    until = time.monotonic() + float(query["seconds"])
    counts: dict[int, int] = {}
    longest_s = 0.0

    async def worker(client: httpx.AsyncClient) -> None:
        nonlocal longest_s

        async def once() -> int:
            return (await client.get(f"http://{query['to']}.mesh/")).status_code

        while (start := time.monotonic()) < until:
            status = await _status(once())
            counts[status] = counts.get(status, 0) + 1
            longest_s = max(longest_s, time.monotonic() - start)
            await asyncio.sleep(0.002)

    async with _client() as client:
        await asyncio.gather(*(worker(client) for _ in range(int(query.get("workers", "4")))))
    return JSONResponse({"counts": {str(k): v for k, v in counts.items()}, "longest_s": longest_s})


app = Starlette(
    routes=[
        Route("/", index),
        Route("/healthz", index),
        Route("/ticks", ticks),
        Route("/call", call),
        Route("/direct", call_directly),
        Route("/identity", export_identity),
        Route("/watch", watch),
        Route("/hold", hold),
        Route("/load", load),
    ]
)


def main() -> None:
    """Serve on loopback until told to stop."""
    port = int(os.environ["MARKETPLACE_PORT"])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
