"""The user context in an ASGI application (Starlette, FastAPI, Django, Quart).

app = UserContextMiddleware(app)            # or app.add_middleware(UserContextMiddleware)
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from limen.sdk.context import AccessRefused, read_context, use

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

__all__ = ["UserContextMiddleware"]

_POLICY_VIOLATION = 1008
"""WebSocket close code (RFC 6455, section 7.4.1)."""


class UserContextMiddleware:
    """Sets the user for each request; answers 401 or 403 where `require` refuses."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One connection of ASGI."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        headers = ((n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"])
        try:
            with use(read_context(headers)):
                await self._app(scope, receive, sending)
        except AccessRefused as refused:
            if started:  # too late to say so: the server cuts the response off
                raise
            await _refuse(scope["type"], refused, send)


async def _refuse(kind: str, refused: AccessRefused, send: Send) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        return
    body = json.dumps({"error": "access_refused", "reason": refused.reason}).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
