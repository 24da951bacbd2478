"""A token service over real mutual TLS that says what a test tells it to. Not a real one."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs

import h11

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.envoy_harness import Authority

Answer = tuple[int, bytes]


class FakeTokenService:
    """`answer` is asked with each form; `asked` holds them with the client's SPIFFE ID."""

    def __init__(self, answer: Callable[[dict[str, list[str]]], Answer]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.hold: asyncio.Event | None = None
        self.arrived = asyncio.Event()
        self.url = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self, own: Authority, clients: Authority) -> Self:
        """`own` vouches for the service, `clients` for who asks it."""
        made = own.issue("spiffe://x/tokens", dns=["localhost"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients.pem.decode())
        with tempfile.NamedTemporaryFile() as file:
            file.write(made.chain_pem + made.key_pem)
            file.flush()
            context.load_cert_chain(file.name)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"https://localhost:{port}"
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        shown = writer.get_extra_info("peercert")["subjectAltName"]
        connection = h11.Connection(h11.SERVER)
        body = b""
        try:
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(65536))
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    form = parse_qs(body.decode())
                    self.asked.append((dict(shown)["URI"], form))
                    self.arrived.set()
                    if self.hold is not None:
                        await self.hold.wait()
                    status, answer = self.answer(form)
                    length = [("content-length", str(len(answer))), ("location", "/elsewhere")]
                    for out in (
                        h11.Response(status_code=status, headers=length),
                        h11.Data(answer),
                        h11.EndOfMessage(),
                    ):
                        writer.write(connection.send(out) or b"")
                    await writer.drain()
                    body = b""
                    connection.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed):
                    return
        except (OSError, h11.ProtocolError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
