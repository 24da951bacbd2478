"""Ports, here or in another network namespace: is somebody listening, and which are free."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from limen.adapters import ports
from limen.adapters.netns import own_addresses, run_inside
from limen.errors import Conflict, InvalidInput, LimenError, Unavailable

LOOPBACK = "127.0.0.1"


async def is_listening(host: str, port: int, timeout_s: float = 1.0, netns: str = "") -> bool:
    """Whether a TCP connection to `host:port` is accepted, as seen from inside `netns`."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as closing:
        try:
            probe = closing.enter_context(run_inside(netns, lambda: _open(host)))
            probe.setblocking(False)
            async with asyncio.timeout(timeout_s):
                await loop.sock_connect(probe, (host, port))
        except (OSError, LimenError, TimeoutError):
            return False
    return True


async def wait_listening(host: str, port: int, deadline_s: float, netns: str = "") -> None:
    """Return when `host:port` accepts connections. Raises Unavailable after `deadline_s`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while not await is_listening(host, port, netns=netns):
        if loop.time() > end:
            raise Unavailable(f"nothing listens on {host}:{port} after {deadline_s:g} s")
        await asyncio.sleep(0.005)  # a listening port announces itself in no other way


def free_port(host: str = LOOPBACK, netns: str = "") -> int:
    """A port that is free on `host` now. Raises InvalidInput if `host` is not this host's."""
    return run_inside(netns, lambda: _free_port(host, netns))


def _free_port(host: str, netns: str) -> int:
    try:
        return ports.free_port(host)
    except OSError as error:
        raise _not_ours(host, netns, error) from error


def _not_ours(host: str, netns: str, error: OSError) -> InvalidInput:
    if netns and host == LOOPBACK:
        return InvalidInput(
            f"the network namespace {netns} has no loopback: {error.strerror}",
            code="netns-loopback-down",
            hint="`ip -n NAME link set lo up`",
        )
    where = f"the network namespace {netns}" if netns else "this host"
    return InvalidInput(
        f"{host} is not an address of {where}: {error.strerror}",
        code="invalid-address",
        hint=f"give an address of {where} with --address",
    )


def require_free(host: str, port: int, netns: str = "", option: str = "--listen") -> None:
    """Raises Conflict (`port-taken`) if something listens on `host:port` or on all addresses."""
    run_inside(netns, lambda: _require_free(host, port, option))


def _require_free(host: str, port: int, option: str) -> None:
    with _open(host) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise Conflict(
                f"port {port} on {host} cannot be used: {error.strerror}",
                code="port-taken",
                hint=f"choose another with {option}"
                + (", or none and the agent chooses" if option == "--listen" else ""),
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


def address_inside(netns: str) -> str:
    """The address by which the outside reaches a namespace: its first that is not loopback.

    Raises InvalidInput (`netns-unreachable`) if it has none.
    """
    found = [a for a in run_inside(netns, own_addresses) if not a.startswith("127.")]
    if not found:
        raise InvalidInput(
            f"the network namespace {netns} has no address by which others reach it",
            code="netns-unreachable",
            hint="give it one end of a veth pair with an address, or name one with --address",
        )
    return found[0]


def _open(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM)
