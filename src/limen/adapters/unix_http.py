"""HTTP/1.1 on a Unix socket, for small questions of programs on this host; answers may take time.

What a caller may send is bounded, and how long it may take. A handler's fault is answered with 500
and reported to the loop; nothing of the request is in the report.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h11

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

MAX_BODY_BYTES = 64 * 1024
MAX_CONNECTIONS = 1024
_IDLE_S = 60.0
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """Header names are in lower case; of one that comes twice the values are joined by a comma."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A response with its whole body."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class UnixHttpServer:
    """Serves `answer` on a socket that only this process's user opens, unless chowned."""

    def __init__(self, path: Path, answer: Callable[[HttpRequest], Awaitable[HttpReply]]) -> None:
        self._path = path
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the socket."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, str(self._path))
        self._path.chmod(0o600)

    async def close(self) -> None:
        """End every connection and remove the socket."""
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._open) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._open.add(task)
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                await self._converse(reader, writer)
        finally:
            self._open.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests one after another until the caller has had enough, or breaks the protocol."""
        connection = h11.Connection(h11.SERVER)
        while True:
            try:
                async with asyncio.timeout(_IDLE_S):
                    request = await _read(connection, reader)
            except h11.RemoteProtocolError:
                _write(connection, writer, HttpReply(400))
                return
            if request is None:
                return
            _write(connection, writer, await self._answered(request))
            await writer.drain()
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _answered(self, request: HttpRequest) -> HttpReply:
        try:
            return await self._answer(request)
        except Exception as error:  # noqa: BLE001 - a fault of one answer must not end the server
            report = {"message": f"{self._path.name} failed at {request.path}", "exception": error}
            asyncio.get_running_loop().call_exception_handler(report)
            return HttpReply(500)


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> HttpRequest | None:
    """The next request; None at the end. Raises RemoteProtocolError, TimeoutError."""
    head: h11.Request | None = None
    body: list[bytes] = []
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body.append(bytes(event.data))
            if sum(map(len, body)) > MAX_BODY_BYTES:
                raise h11.RemoteProtocolError("the body is too large")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return HttpRequest(
                head.method.decode("ascii"),
                head.target.decode("latin-1"),
                _headers(head),
                b"".join(body),
            )
        else:
            return None


def _headers(head: h11.Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def _write(connection: h11.Connection, writer: asyncio.StreamWriter, reply: HttpReply) -> None:
    headers = [*reply.headers.items(), ("content-length", str(len(reply.body)))]
    events = [
        h11.Response(status_code=reply.status, headers=headers),
        h11.Data(reply.body),
        h11.EndOfMessage(),
    ]
    try:
        for event in events:
            writer.write(connection.send(event) or b"")
    except h11.LocalProtocolError:  # the connection is beyond an answer
        writer.close()
