"""The agent's control socket: one JSON object a line each way, for the same uid or root.

Request `{"verb": ..., ...}`; answer `{"ok": true, ...}` or `{"ok": false, "code", "message",
"hint"}`. Verbs: `add {workload}`, `remove {instance}`, `list`, `status`, `rotate {instance}`,
`shutdown {keep_proxies}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from typing import TYPE_CHECKING, Any

from limen.adapters.peercred import read_peer_credentials
from limen.adapters.unix_relay import listen_unix
from limen.errors import Forbidden, InvalidInput, LimenError
from limen.services.agent.answers import to_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    Verb = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]

MAX_LINE = 256 * 1024
_log = logging.getLogger("limen.agent")


class ControlServer:
    """Listens on the control socket and dispatches verbs."""

    def __init__(self, path: Path, verbs: Mapping[str, Verb]) -> None:
        self._path = path
        self._verbs = verbs
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the socket, 0600."""
        listener = listen_unix(self._path, 0o600)
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_LINE)

    async def close(self) -> None:
        """Close the socket; answers under way are still written."""
        if self._server is None:
            return
        self._server.close()
        self._path.unlink(missing_ok=True)
        current = asyncio.current_task()
        for task in self._tasks - {current} if current else self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            peer = read_peer_credentials(writer.get_extra_info("socket"))
            if peer.uid not in {0, os.geteuid()}:
                await _reply(writer, to_answer(Forbidden("only the agent's own user or root")))
                return
            while line := await reader.readline():
                await _reply(writer, await self._answer(line))
        except (OSError, ValueError):  # the caller has gone, or its line is too long
            return
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise InvalidInput("a request is a JSON object")
            verb = self._verbs.get(str(request.pop("verb", "")))
            if verb is None:
                raise InvalidInput("unknown verb", hint=f"known: {', '.join(self._verbs)}")
            return {"ok": True} | await verb(request)
        except LimenError as error:
            return to_answer(error)
        except (ValueError, RecursionError):
            return to_answer(InvalidInput("the request is not JSON"))


async def _reply(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    with contextlib.suppress(ConnectionError):
        await writer.drain()
