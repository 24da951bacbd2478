"""One service of the demo: a plain HTTP program that uses `limen.sdk` for the user.

`/` answers who the user is, through whom the request came, who called, and what the next service
said. `/last` and `/send` are for the tour, on the program's own loopback port: which token came in
last, and a request with any token, as a program would send it that was broken into.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route

from limen.sdk.asgi import UserContextMiddleware
from limen.sdk.context import current, require
from limen.sdk.httpx import ContextAuth

if TYPE_CHECKING:
    from starlette.requests import Request

SERVICE = os.environ.get("LIMEN_SERVICE", "unknown")
NEXT = os.environ.get("DEMO_NEXT", "")
SCOPE = os.environ.get("DEMO_SCOPE", "")
_last = {"token": ""}


@require(scope=SCOPE)
async def index(request: Request) -> JSONResponse:
    """What this service knows, and what the next one does."""
    user = current()
    _last["token"] = request.headers.get("authorization", "").removeprefix("Bearer ")
    below = None
    if NEXT:
        answer = await _client().get(f"http://{NEXT}.mesh/", auth=ContextAuth())
        said = {"service": NEXT, "status": answer.status_code, "body": answer.text[:300]}
        below = answer.json() if answer.is_success else said
    return JSONResponse(
        {
            "service": SERVICE,
            "status": 200,
            "caller": _caller(request),
            "issuer": user.issuer if user else "",
            "subject": user.subject if user else "",
            "audiences": user.audiences if user else (),
            "chain": user.chain if user else (),
            "headers": sorted(request.headers.keys()),
            "next": below,
        }
    )


@cache
def _client() -> httpx.AsyncClient:
    """By `HTTP_PROXY`, which is this workload's proxy."""
    return httpx.AsyncClient(timeout=20)


def _caller(request: Request) -> str:
    """The SPIFFE ID that the proxy vouches for."""
    found = re.search(r"URI=([^;,]+)", request.headers.get("x-forwarded-client-cert", ""))
    return found[1] if found else ""


async def health(request: Request) -> JSONResponse:
    """Whether it listens."""
    del request
    return JSONResponse({"service": SERVICE})


async def last(request: Request) -> JSONResponse:
    """The token that came in last."""
    del request
    return JSONResponse(_last)


async def send(request: Request) -> JSONResponse:
    """Send a token of the tour's choice to a neighbour, by this workload's proxy."""
    asked = await request.json()
    headers = {"authorization": f"Bearer {asked['token']}"} if asked["token"] else {}
    answer = await _client().get(f"http://{asked['to']}.mesh/", headers=headers)
    return JSONResponse({"status": answer.status_code, "body": answer.text[:500]})


app = Starlette(
    routes=[
        Route("/", index),
        Route("/healthz", health),
        Route("/last", last),
        Route("/send", send, methods=["POST"]),
    ],
    middleware=[Middleware(UserContextMiddleware)],
)


def main() -> None:
    """Serve on loopback until told to stop."""
    port = int(os.environ["MARKETPLACE_PORT"])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
