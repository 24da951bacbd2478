"""The server's API as a role in a process of its own asks it: calls, and the watch of its mesh."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import httpx

from limen.errors import LimenError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

TIMEOUT_S = 10.0
SILENCE_S = 8.0
"""A watch that says nothing for that long is broken: the server speaks every 2 s."""
_REASON_CHARS = 300


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """Where the server is, which authority vouches for it, and the role's credential."""

    url: str
    ca_pem: str = field(repr=False)
    token: str = field(repr=False)


class ServerLink:
    """Calls of one role. What fails is Unavailable, or what the server refuses with."""

    def __init__(self, place: ServerPlace) -> None:
        context = ssl.create_default_context(cadata=place.ca_pem)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._http = httpx.AsyncClient(
            base_url=place.url,
            verify=context,
            headers={"authorization": f"Bearer {place.token}"},
            trust_env=False,
            timeout=TIMEOUT_S,
        )

    async def close(self) -> None:
        """End all connections."""
        await self._http.aclose()

    async def watch(
        self, kinds: Sequence[str], after: int, epoch: str
    ) -> AsyncIterator[dict[str, Any]]:
        """Lines of the watch until it ends."""
        params = httpx.QueryParams({"kind": [*kinds], "after": after, "epoch": epoch})
        timeout = httpx.Timeout(TIMEOUT_S, read=SILENCE_S)
        try:
            async with self._http.stream(
                "GET", "/v1/roles/watch", params=params, timeout=timeout
            ) as response:
                if response.status_code != 200:
                    raise _refused(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    yield cast("dict[str, Any]", json.loads(line))
        except (httpx.HTTPError, ValueError) as error:
            raise _down(error) from None

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The parsed answer."""
        try:
            response = await self._http.request(method, path, json=body)
            if response.status_code != 200:
                raise _refused(response.status_code, response.content)
            return cast("dict[str, Any]", response.json())
        except (httpx.HTTPError, ValueError) as error:
            raise _down(error) from None


def _down(error: Exception) -> Unavailable:
    return Unavailable(
        f"the server does not answer ({type(error).__name__})",
        code="server-unavailable",
        hint="look whether `limen server run` is up and reachable from here",
    )


def _refused(status: int, body: bytes) -> LimenError:
    try:
        said = json.loads(body)
        code, message = str(said["code"]), str(said["message"])[:_REASON_CHARS]
    except (ValueError, KeyError, TypeError):
        code, message = f"http-{status}", "no reason was given"
    return LimenError(f"the server refuses: {message}", code=code)
