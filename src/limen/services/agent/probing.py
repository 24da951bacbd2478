"""Ports: is somebody listening, and which are free."""

from __future__ import annotations

import asyncio
import socket

from limen.errors import Conflict, InvalidInput, Unavailable

LOOPBACK = "127.0.0.1"


async def is_listening(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether a TCP connection to `host:port` is accepted."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def wait_listening(host: str, port: int, deadline_s: float) -> None:
    """Return when `host:port` accepts connections. Raises Unavailable after `deadline_s`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while not await is_listening(host, port):
        if loop.time() > end:
            raise Unavailable(f"nothing listens on {host}:{port} after {deadline_s:g} s")
        await asyncio.sleep(0.005)  # a listening port announces itself in no other way


def free_port(host: str = LOOPBACK) -> int:
    """A port that is free on `host` now. Raises InvalidInput if `host` is not this host's."""
    with _open(host) as listener:
        try:
            listener.bind((host, 0))
        except OSError as error:
            raise InvalidInput(
                f"{host} is not an address of this host: {error.strerror}",
                code="invalid-address",
                hint="give an address of this host with --address",
            ) from error
        return int(listener.getsockname()[1])


def require_free(host: str, port: int) -> None:
    """Raises Conflict (`port-taken`) if something listens on `host:port` or on all addresses."""
    with _open(host) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise Conflict(
                f"port {port} on {host} cannot be used: {error.strerror}",
                code="port-taken",
                hint="choose another with --listen, or none and the agent chooses",
            ) from error


def local_address_towards(host: str, port: int) -> str:
    """The address from which this host reaches `host`; loopback when there is no route."""
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return LOOPBACK


def _open(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM)
