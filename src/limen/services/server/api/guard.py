"""What stands before every handler: who calls, how much, how long.

Pure ASGI, outside the router, so that an unknown path or a route that somebody adds without
thinking is as closed as the others. Only the paths in `OPEN` are answered without a bearer token.
Where the call comes from (loopback, Host, Origin) makes no difference. There is no CORS.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

from limen.errors import InvalidInput, LimenError
from limen.services.server.api.errors import error_to_json, status_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from limen.services.server.credentials import Credentials
    from limen.services.server.metrics import Metrics

OPEN = frozenset(
    {("GET", "/healthz"), ("HEAD", "/healthz"), ("GET", "/readyz"), ("POST", "/v1/join")}
)
"""The whole list of what anybody may call."""
JOIN_CAP_BYTES = 16 * 1024
_DRAINED = 8
"""How many times the cap is read and thrown away, so that the caller gets to read the answer."""

_log = logging.getLogger("limen.api")


class Guard:
    """ASGI middleware: authentication, body cap, time to send the body."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        credentials: Credentials,
        metrics: Metrics,
        body_cap_bytes: int,
        body_timeout_s: float,
    ) -> None:
        self._app = app
        self._credentials = credentials
        self._metrics = metrics
        self._cap = body_cap_bytes
        self._timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one call."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            is_open = (scope["method"], scope["path"]) in OPEN
            if not is_open:
                scope.setdefault("state", {})["who"] = self._credentials.verify(
                    _single_header(scope, b"authorization")
                )
            cap = JOIN_CAP_BYTES if is_open else self._cap
            body = await asyncio.wait_for(_read_body(receive, cap), self._timeout_s)
        except TimeoutError:
            await self._refuse(
                scope, send, InvalidInput("the body came too slowly", code="timeout")
            )
        except LimenError as error:
            await self._refuse(scope, send, error)
        else:
            await self._app(scope, _replayed(body, receive), send)

    async def _refuse(self, scope: Scope, send: Send, error: LimenError) -> None:
        self._metrics.denials.labels(code=error.code).inc()
        _log.warning(
            "api call refused",
            extra={"fields": {"code": error.code, "path": scope["path"][:200]}},
        )
        body = json.dumps(error_to_json(error)).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        if status_of(error) == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": status_of(error), "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _single_header(scope: Scope, name: bytes) -> str | None:
    """The header's value, None unless it is there exactly once."""
    values = [value for key, value in scope["headers"] if key == name]
    return str(values[0].decode("latin-1")) if len(values) == 1 else None


async def _read_body(receive: Receive, cap: int) -> bytes:
    """The whole body. Raises InvalidInput (`too-large`)."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidInput("the caller went away", code="disconnected")
        part = message.get("body", b"")
        size += len(part)
        if size <= cap:
            parts.append(part)
        if message.get("more_body", False) and size <= cap * _DRAINED:
            continue
        if size > cap:
            raise InvalidInput(
                f"the body is larger than {cap} bytes",
                code="too-large",
                hint="apply fewer files at a time",
            )
        return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A receive function that yields `body` once, then what really comes."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
