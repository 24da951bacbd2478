"""The decision point beside one proxy: `python -m limen.services.pdp.hosted SOCKET SOURCES`.

Its agent sends it sets of policies on standard input (`adapters/pdp_process` has the frames):
`{"set": [...]}` is answered with `{}` once it decides, or with `{"refused": why}`; `{"fresh":
age_s}` says when the server was heard of. It listens when it has its first whole set. Without its
agent it goes on with what it has. Files that attribute sources name are below SOURCES.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from limen.adapters.bounded_child import MAX_MEMORY_BYTES, bound_memory
from limen.core.plan.node import EPOCH_HEADER
from limen.core.policy.engine import AccessRequest, HttpRequest
from limen.core.policy.sources import AnswersNeeded
from limen.errors import InvalidInput
from limen.services.pdp.corpus import Corpus
from limen.services.pdp.door import DoorReply, DoorRequest
from limen.services.pdp.envoy import reply_of
from limen.services.pdp.judge import Judge
from limen.services.pdp.serving import Connection, bounded_decision

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from limen.services.pdp.corpus import Held

_MAX_FRAME = 64 * 1024 * 1024
_LENGTH = struct.Struct(">I")
_CALLER, _CLAIMS = "x-limen-caller", "x-limen-claims"
_ABSENT = ("", "-")
_PARTS = 4
"""`/XacmlPolicy/NAMESPACE/NAME/...`: the first three name the policy."""


def answer(corpus: Corpus, request: DoorRequest) -> DoorReply | Awaitable[DoorReply]:
    """The reply to Envoy, perhaps when sources have answered: 200 lets the request through."""
    parts = request.path.split("/", _PARTS)
    held = corpus.find("/".join(parts[:_PARTS]))
    if held is None:
        return _refusal("the policy that is to decide is not here")
    if corpus.is_stale(held):
        return _refusal("the policy is too old: its server was not heard of for too long")
    try:
        asked = _held_request(request, "/" + "".join(parts[_PARTS:]))
    except ValueError as error:
        return _refusal(str(error))
    if held.point is None:
        return _decided(held, Judge(held.engine), asked)
    asking = held.point.asking()
    judge = Judge(held.engine, asking)
    try:
        return _decided(held, judge, asked)
    except AnswersNeeded:
        return held.point.decide(asking, partial(_decided_later, held, judge, asked))


def _decided_later(held: Held, judge: Judge, asked: HttpRequest) -> DoorReply:
    with bounded_decision():
        return _decided(held, judge, asked)


def _decided(held: Held, judge: Judge, asked: HttpRequest) -> DoorReply:
    reply = reply_of(judge.verdict(AccessRequest(http=asked)), say)
    return DoorReply(reply.status, reply.body, {**reply.headers, EPOCH_HEADER: held.name})


def _held_request(request: DoorRequest, path: str) -> HttpRequest:
    """The request that the proxy holds back. Raises ValueError for claims that are no object."""
    own = {k: v for k, v in request.headers.items() if not k.startswith("x-limen-")}
    own.pop("x-forwarded-client-cert", None)
    caller, claims = request.headers.get(_CALLER, ""), request.headers.get(_CLAIMS, "")
    return HttpRequest(
        request.method,
        path,
        own,
        host=own.get("host", ""),
        source="" if caller in _ABSENT or "," in caller else caller,
        body=request.body or None,
        claims=None if claims in _ABSENT else _object(claims),
    )


def _object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text.encode("latin-1"))
    except RecursionError:
        raise ValueError("the claims nest too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("the claims are no object")  # noqa: TRY004 - a refusal, not a bug
    return found


def _refusal(reason: str) -> DoorReply:
    return DoorReply(403, f"{reason}\n".encode(), {"content-type": "text/plain"})


def say(line: str) -> None:
    """A line for the log that the agent keeps."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class Hosted:
    """The process: frames in, decisions out."""

    def __init__(self, socket: Path, sources: Path) -> None:
        self._socket = socket
        self._corpus = Corpus(sources)
        self._open: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._ending = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._ending.set)
        following = asyncio.create_task(self._follow())
        await self._ending.wait()
        following.cancel()
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            connection.close()
        await asyncio.sleep(0)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 20)
        protocol = asyncio.StreamReaderProtocol(reader)
        await loop.connect_read_pipe(lambda: protocol, sys.stdin.buffer)
        with contextlib.suppress(asyncio.IncompleteReadError, BrokenPipeError):
            while True:
                (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                if size > _MAX_FRAME:
                    raise SystemExit("a frame is too long")
                _reply(await self._handle(json.loads(await reader.readexactly(size))))
        if self._server is None:
            self._ending.set()  # nobody is left who could give it policies

    async def _handle(self, message: Mapping[str, Any]) -> dict[str, Any]:
        if "fresh" in message:
            self._corpus.fresh(float(message["fresh"]))
            return {}
        try:
            await self._corpus.take(message["set"])
        except InvalidInput as error:
            found = "; ".join(str(d) for d in error.diagnostics[:3])
            return {"refused": f"{error.message}{': ' if found else ''}{found}"}
        if self._server is None:
            self._server = await self._listen()
        return {}

    async def _listen(self) -> asyncio.Server:
        """Take the place of whoever listens there: a connection is to one or to the other."""
        new = self._socket.with_name(f".{self._socket.name}.{os.getpid()}")
        loop = asyncio.get_running_loop()

        def connect() -> Connection:
            return Connection(lambda request: answer(self._corpus, request), self._open)

        server = await loop.create_unix_server(connect, str(new))
        new.rename(self._socket)
        return server


def _reply(message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    sys.stdout.buffer.write(_LENGTH.pack(len(data)) + data)
    sys.stdout.buffer.flush()


def main() -> None:
    """Serve on the socket that the command line names."""
    os.umask(0o077)
    bound_memory(MAX_MEMORY_BYTES)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    uvloop.run(Hosted(Path(sys.argv[1]), Path(sys.argv[2])).run())


if __name__ == "__main__":
    main()
