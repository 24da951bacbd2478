"""HTTP/1.1 over TLS, as thin as thousands of tokens a second want it.

httptools reads; one request of a connection is answered at a time, the next waits unread. A client
certificate is asked for and not demanded: clients with assertions have none. What a caller may send
is bounded, and how long it may take.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import httptools

from limen.errors import Untrusted
from limen.services.tokens.replies import Asked, OAuthError, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from limen.services.tokens.clients import Peer

    Answer = Callable[[Asked, Peer], Awaitable[Reply]]
    ReadPeer = Callable[[list[bytes], str], Peer]

MAX_BODY_BYTES = 64 * 1024
MAX_HEAD_BYTES = 16 * 1024
MAX_RAW_BYTES = 512 * 1024
"""Of one request as it comes, framing included: the parser holds a header until it ends."""
IDLE_S = 60.0
REQUEST_S = 15.0
_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_ONCE = frozenset((b"content-type", b"host", b"content-length", b"transfer-encoding"))
_TOO_LARGE = OAuthError("request_too_large", f"at most {MAX_BODY_BYTES} bytes").reply()
_MALFORMED = OAuthError("invalid_request", "this is no HTTP request", "http-malformed").reply()
_FAULT = OAuthError("server_error", "the service made a mistake; its log says which").reply()
_log = logging.getLogger("limen.tokens")


class Connection(asyncio.Protocol):
    """One caller. `open_` holds all connections of the service."""

    def __init__(
        self, answer: Answer, read_peer: ReadPeer, open_: set[Connection], maximum: int
    ) -> None:
        self._answer = answer
        self._read_peer = read_peer
        self._open = open_
        self._maximum = maximum
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._peer: Peer | None = None
        self._busy: asyncio.Task[None] | None = None
        self._waiting: list[tuple[Asked, bool]] = []
        self._refused: Reply | None = None
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._content_type = ""
        self._seen: set[bytes] = set()
        self._head = 0
        self._body: list[bytes] = []
        self._size = 0
        self._raw = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Know who it is, unless there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        if len(self._open) >= self._maximum:
            self._transport.abort()
            return
        address = self._transport.get_extra_info("peername") or ("",)
        try:
            self._peer = self._read_peer(_chain(self._transport), str(address[0]))
        except Untrusted as error:
            fields = {"code": error.code, "why": error.message[:200]}
            _log.warning("a client's certificate is refused", extra={"fields": fields})
            self._transport.abort()
            return
        self._open.add(self)
        self._wait(IDLE_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it. What it asked for goes on: the event is on disk, the answer is not sent."""
        del exc
        self._open.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """End it after what was written."""
        if self._transport is not None:
            self._transport.close()

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.close)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._refused is not None:
            return
        self._raw += len(data)
        try:
            self._parser.feed_data(data)
            if self._raw > MAX_RAW_BYTES:
                self._refuse(_TOO_LARGE)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse(self._refused or _MALFORMED)

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        self._url += url
        self._bound(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; those that frame or type the body may stand once."""
        self._bound(len(name) + len(value) + 4)
        lower = name.lower()
        if lower in _ONCE:
            if lower in self._seen:
                self._fail(_MALFORMED)
            self._seen.add(lower)
        if lower == b"content-type":
            self._content_type = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        self._size += len(body)
        if self._size > MAX_BODY_BYTES:
            self._fail(_TOO_LARGE)
        self._body.append(body)

    def on_message_complete(self) -> None:
        """A whole request: answer it, or let it wait for its turn."""
        request = Asked(
            self._parser.get_method().decode("ascii"),
            self._url.decode("latin-1"),
            self._content_type,
            b"".join(self._body),
        )
        keep = self._parser.should_keep_alive()
        self._reset()
        self._waiting.append((request, keep))
        if self._busy is None:
            self._busy = asyncio.get_running_loop().create_task(self._work())
        elif self._transport is not None:
            self._transport.pause_reading()

    async def _work(self) -> None:
        try:
            while self._waiting:
                asked, keep = self._waiting.pop(0)
                self._wait(REQUEST_S)
                self._write(await self._reply(asked), asked.method, keep=keep)
            self._wait(IDLE_S)
        finally:
            self._busy = None
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    async def _reply(self, asked: Asked) -> Reply:
        if self._peer is None:
            return _FAULT
        try:
            return await self._answer(asked, self._peer)
        except Exception as error:  # noqa: BLE001 - logged whole, told in short
            _log.error("fault", exc_info=error, extra={"fields": {"path": asked.path[:100]}})
            return _FAULT

    def _bound(self, size: int) -> None:
        self._head += size
        if self._head > MAX_HEAD_BYTES:
            self._fail(_TOO_LARGE)

    def _fail(self, reply: Reply) -> None:
        """Stop the parser: what it is in the middle of is refused."""
        self._refused = reply
        raise ValueError(reply.status)

    def _refuse(self, reply: Reply) -> None:
        self._refused = reply
        self._write(reply, "POST", keep=False)

    def _write(self, reply: Reply, method: str, *, keep: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        head = (
            f"content-type: {reply.content_type}\r\ncache-control: no-store\r\n"
            f"content-length: {len(reply.body)}\r\n"
        )
        if reply.status == HTTPStatus.UNAUTHORIZED:
            head += "www-authenticate: Bearer\r\n"
        end = b"\r\n" if keep else b"connection: close\r\n\r\n"
        body = b"" if method == "HEAD" else reply.body
        line = _LINES.get(reply.status, b"HTTP/1.1 500 Error\r\n")
        self._transport.write(line + head.encode("ascii") + end + body)
        if not keep:
            self._transport.close()


def _chain(transport: asyncio.Transport) -> list[bytes]:
    """The client's certificates, DER, leaf first; none if it showed none."""
    tls: Any = transport.get_extra_info("ssl_object")
    if tls is None:
        return []
    found = tls._sslobj.get_unverified_chain()  # noqa: SLF001 - public only since Python 3.13
    return [bytes(one.public_bytes(_DER)) for one in found or () if one is not None]


_DER = cast("Any", ssl)._ssl.ENCODING_DER  # noqa: SLF001 - as above


async def listen(
    answer: Answer,
    read_peer: ReadPeer,
    context: ssl.SSLContext,
    host: str,
    port: int,
    *,
    maximum: int,
) -> tuple[asyncio.Server, set[Connection]]:
    """Open the port. Raises OSError."""
    open_: set[Connection] = set()

    def connect() -> Connection:
        return Connection(answer, read_peer, open_, maximum)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(connect, host, port, ssl=context, ssl_handshake_timeout=10)
    return server, open_
