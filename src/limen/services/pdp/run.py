"""Start the decision point: where it listens, how it is bounded, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from limen.adapters.bounded_child import bound_memory
from limen.errors import InvalidInput, Unavailable
from limen.services.pdp.doors import Doors
from limen.services.pdp.serving import bounded_decision, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from limen.adapters.attributes.point import InformationPoint
    from limen.adapters.server_link import ServerPlace
    from limen.core.policy.engine import PolicyEngine
    from limen.services.pdp.judge import Labels

MAX_MEMORY_BYTES = 4 * 1024**3
_UNIX = "unix:"


def run(
    engine: PolicyEngine,
    listen: str,
    say: Callable[[str], None],
    *,
    grpc: str = "",
    point: InformationPoint | None = None,
    labels: Labels | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. `listen`: `unix:PATH`, or `HOST:PORT` of loopback.

    `grpc`: such an address for Envoy's gRPC; empty: none. `point` finds attributes that requests
    lack, `labels` those of callers. Raises `InvalidInput` for another address, `Unavailable` if it
    cannot be listened on.
    """
    doors = Doors(engine, say, point, labels, bounded_decision)
    if grpc:
        _place(grpc)
        _remove_left_over(grpc.removeprefix(_UNIX)) if grpc.startswith(_UNIX) else None
    _run(listen, lambda path, place: _serve(doors, path, place, say, grpc))


def run_following(
    server: ServerPlace, sources: Path, listen: str, say: Callable[[str], None]
) -> None:
    """Serve what the server publishes, until SIGTERM or SIGINT. Errors as of `run`.

    Files that attribute sources name are below `sources`, a directory for each namespace.
    """
    from limen.services.pdp.remote import serve_remote  # noqa: PLC0415 - loads HTTP and dialects

    _run(listen, lambda path, place: serve_remote(server, sources, path, place, say))


def _run(listen: str, work: Callable[[str, tuple[str, int]], Coroutine[Any, Any, None]]) -> None:
    """Bound the process and do `work` at a socket's path or a place, until told to end."""
    place = _place(listen)
    bound_memory(MAX_MEMORY_BYTES)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    path = listen.removeprefix(_UNIX) if listen.startswith(_UNIX) else ""
    if path:
        _remove_left_over(path)
    previous = os.umask(0o077)
    try:
        uvloop.run(_until_told(work(path, place)))
    except OSError as error:
        raise Unavailable(f"{listen} cannot be listened on: {error.strerror}") from None
    finally:
        os.umask(previous)
        if path:
            Path(path).unlink(missing_ok=True)


async def _serve(
    doors: Doors, path: str, place: tuple[str, int], say: Callable[[str], None], grpc: str
) -> None:
    server = None
    if grpc:
        from limen.services.pdp.envoy_grpc import start  # noqa: PLC0415 - loads protobuf

        server = await start(doors, grpc)

    def ready(address: str) -> None:
        doors.address = address
        say(f"ready {address}")

    host, port = place
    try:
        await serve(doors.answer, socket_path=path, host=host, port=port, ready=ready)
    finally:
        if server is not None:
            await server.stop(None)


async def _until_told(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _place(listen: str) -> tuple[str, int]:
    """Host and port; nothing for a socket. Callers are not authenticated: loopback only."""
    if listen.startswith(_UNIX):
        return "", 0
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        local = ipaddress.ip_address(host).is_loopback
        number = int(port)
    except ValueError:
        local, number = False, 0
    if not local or not 0 <= number <= 65_535:
        raise InvalidInput(
            f"the decision point does not listen on {listen}",
            code="pdp-listen",
            hint="callers are not authenticated here: use unix:PATH, 127.0.0.1:PORT or [::1]:PORT",
        )
    return host, number


def _remove_left_over(path: str) -> None:
    """A socket that an ended process left there; anything else stays, and is an error."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(Path(path).lstat().st_mode):
            Path(path).unlink()
