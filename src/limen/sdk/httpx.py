"""The user context in what `httpx` sends, by `Client` and by `AsyncClient`.

httpx.AsyncClient(auth=ContextAuth())
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx

from limen.sdk.requests import ContextAuth as AttachingAuth

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from limen.sdk.exchange import Exchanger

__all__ = ["ContextAuth"]


class ContextAuth(httpx.Auth):
    """As `limen.sdk.requests.ContextAuth`. An exchange does not block the event loop."""

    def __init__(
        self, exchanger: Exchanger | None = None, audience: str = "", scope: str = ""
    ) -> None:
        self._attach = AttachingAuth(exchanger, audience, scope)

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """One request of a `Client`."""
        yield self._attach(request)

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """One request of an `AsyncClient`."""
        yield await asyncio.to_thread(self._attach, request)
