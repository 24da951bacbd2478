"""Choosing a port for somebody else to bind a moment later.

A port that the system hands out (`bind` to 0) comes from the range from which it also serves every
outgoing connection, so that in between another may get it. Those chosen here lie below that range.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

_LOWEST = 15_000
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES = 200


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free on `host` now and that the system gives to nobody unasked.

    Raises OSError (as `bind` does) if `host` is not this host's.
    """
    end = _ephemeral_start()
    for _ in range(_TRIES if end > _LOWEST else 0):
        port = random.randrange(_LOWEST, end)  # noqa: S311 - no secret: spreads the choice
        if _can_bind(host, port):
            return port
    with _open(host) as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])


def _ephemeral_start() -> int:
    try:
        return int(_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def _can_bind(host: str, port: int) -> bool:
    with _open(host) as listener:
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True


def _open(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
