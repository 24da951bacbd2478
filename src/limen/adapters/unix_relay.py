"""Accept on a Unix socket, ask who calls, and pass the bytes on to a private socket.

Python's gRPC tells a handler nothing about the peer of a Unix socket. So the public socket is
accepted here, the peer is read from the kernel, and the connection is spliced to the socket of the
one workload that the caller is. Knows no protocol; keeps no bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING

from limen.adapters.peercred import Caller, identify_caller
from limen.adapters.runtime_dir import require_short

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Route = Callable[[Caller | None], Path]

_CHUNK = 65536
_BACKLOG = 128
_MAX_CONNECTIONS = 512


def listen_unix(path: Path, mode: int) -> socket.socket:
    """A listening, non-blocking Unix socket at `path` with `mode`; replaces a dead one's file."""
    require_short(path)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.bind(os.fspath(path))
    path.chmod(mode)
    listener.listen(_BACKLOG)
    return listener


class UnixRelay:
    """One public socket. `route` says for each caller which private socket it gets."""

    def __init__(self, path: Path, mode: int, route: Route) -> None:
        self._path = path
        self._mode = mode
        self._route = route
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Open the socket and accept in the background. Needs a running loop."""
        self._listener = listen_unix(self._path, self._mode)
        self._accepting = asyncio.create_task(self._accept(self._listener))

    async def close(self) -> None:
        """Stop accepting, end every connection, remove the socket."""
        tasks = [t for t in (self._accepting, *self._tasks) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            if len(self._tasks) >= _MAX_CONNECTIONS:
                client.close()
                continue
            task = asyncio.create_task(self._serve(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as inner:
            client.setblocking(False)
            inner.setblocking(False)
            try:
                target = self._route(identify_caller(client))
                await loop.sock_connect(inner, os.fspath(target))
            except OSError:  # the peer or the workload has just gone
                return
            await _splice(client, inner)


async def _splice(left: socket.socket, right: socket.socket) -> None:
    """Copy both ways until both directions have ended."""
    copies = (
        asyncio.create_task(_copy(left, right)),
        asyncio.create_task(_copy(right, left)),
    )
    try:
        await asyncio.gather(*copies)
    finally:
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)


async def _copy(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while data := await loop.sock_recv(source, _CHUNK):
            await loop.sock_sendall(target, data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
