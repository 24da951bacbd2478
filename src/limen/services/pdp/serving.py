"""HTTP/1.1 on a Unix socket or on loopback, as thin as an answer in microseconds wants it.

httptools reads; a request is answered whole, in order, on the event loop. What a caller may send is
bounded, and how long it may take. A decision that does not end ends the process: the kernel's timer
needs no help of the interpreter, and whoever runs the process starts it again.
"""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import httptools

from limen.services.pdp.door import DoorReply, DoorRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Answering = Callable[[DoorRequest], DoorReply | Awaitable[DoorReply]]

MAX_BODY_BYTES = 1024 * 1024
MAX_HEAD_BYTES = 64 * 1024
MAX_CONNECTIONS = 1_024
MAX_QUEUED = 64
"""Requests that one caller may send before it has its answers."""
IDLE_S = 60.0
DECISION_S = 5.0
_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class bounded_decision:  # noqa: N801 - reads as a statement; a class is half the price
    """Within it, the kernel ends the process after `DECISION_S`."""

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, DECISION_S)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Connection(asyncio.Protocol):
    """One caller. `open_` holds all connections of the server."""

    def __init__(self, answer: Answering, open_: set[Connection]) -> None:
        self._answer = answer
        self._open = open_
        self._waiting: asyncio.Task[None] | None = None
        self._queue: deque[tuple[DoorRequest, bool]] = deque()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._twice = False
        self._head = 0
        self._body: list[bytes] = []
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it, unless there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        if len(self._open) >= MAX_CONNECTIONS:
            self._transport.abort()
            return
        self._open.add(self)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        del exc
        self._open.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._waiting is not None:
            self._waiting.cancel()

    def close(self) -> None:
        """End it after what was written."""
        if self._transport is not None:
            self._transport.close()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(IDLE_S, self.close)

    def data_received(self, data: bytes) -> None:
        """Read on; every whole request is answered at once."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, ValueError):
                self._refuse(400)
                return
            self._refuse(500)
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "a door failed", "exception": cause or error})
        except (httptools.HttpParserUpgrade, httptools.HttpParserError):
            self._refuse(400)

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        self._url += url
        self._bound(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. One that occurs twice is joined, but for those that may not."""
        self._bound(len(name) + len(value) + 4)
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        if key in self._headers:
            self._twice = self._twice or key in ("host", "content-type", "x-forwarded-client-cert")
            text = f"{self._headers[key]},{text}"
        self._headers[key] = text

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        self._size += len(body)
        if self._size > MAX_BODY_BYTES:
            raise ValueError("too large")
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer."""
        if self._twice:
            raise ValueError("a header occurs twice")
        request = DoorRequest(
            self._parser.get_method().decode("ascii"),
            self._url.decode("latin-1"),
            self._headers,
            b"".join(self._body),
        )
        self._reset()
        keep = self._parser.should_keep_alive()
        if self._waiting is None:
            self._begin(request, keep=keep)
            return
        if len(self._queue) >= MAX_QUEUED:
            raise ValueError("too many requests at once")
        self._queue.append((request, keep))

    def _begin(self, request: DoorRequest, *, keep: bool) -> None:
        """Answer now; or, if sources have to be asked, later, and read nothing more until then."""
        with bounded_decision():
            reply = self._answer(request)
        if isinstance(reply, DoorReply):
            self._write(reply, keep=keep)
            self._wait()
            return
        if self._transport is not None:
            self._transport.pause_reading()
        self._waiting = asyncio.ensure_future(self._later(reply, keep=keep))
        self._waiting.add_done_callback(self._failed)

    def _failed(self, task: asyncio.Task[None]) -> None:
        """Of an answer that failed for a reason of ours, tell; it permits nothing."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._refuse(500)
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "a door failed", "exception": error})

    async def _later(self, reply: Awaitable[DoorReply], *, keep: bool) -> None:
        found = await reply
        self._waiting = None
        self._write(found, keep=keep)
        self._wait()
        while self._queue and self._waiting is None:
            request, following = self._queue.popleft()
            self._begin(request, keep=following)
        transport = self._transport
        if self._waiting is None and transport is not None and not transport.is_closing():
            transport.resume_reading()

    def _bound(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD_BYTES:
            raise ValueError("too large")

    def _refuse(self, status: int) -> None:
        self._write(DoorReply(status), keep=False)

    def _write(self, reply: DoorReply, *, keep: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        head = [_LINES.get(reply.status, f"HTTP/1.1 {reply.status} \r\n")]
        head += [f"{name}: {value}\r\n" for name, value in reply.headers.items()]
        head.append(f"content-length: {len(reply.body)}\r\n")
        head.append("\r\n" if keep else "connection: close\r\n\r\n")
        self._transport.write("".join(head).encode("latin-1", "replace") + reply.body)
        if not keep:
            self._transport.close()


async def serve(
    answer: Answering,
    *,
    socket_path: str = "",
    host: str = "",
    port: int = 0,
    ready: Callable[[str], None],
) -> None:
    """Answer until cancelled. `ready` is told the address when callers may come."""
    open_: set[Connection] = set()
    loop = asyncio.get_running_loop()

    def connect() -> Connection:
        return Connection(answer, open_)

    if socket_path:
        server = await loop.create_unix_server(connect, socket_path)
        ready(f"unix:{socket_path}")
    else:
        server = await loop.create_server(connect, host, port)
        name, bound = server.sockets[0].getsockname()[:2]
        ready(f"http://[{name}]:{bound}" if ":" in name else f"http://{name}:{bound}")
    try:
        await server.serve_forever()
    finally:
        for connection in list(open_):
            connection.close()
