"""Who is at the other end of a Unix socket, and which processes stand above it.

Reads the kernel only: `SO_PEERCRED`, `SO_PEERPIDFD` (Linux 6.5) and `/proc`. Decides nothing.
A pid alone names nobody, because pids are used again: a process is a pid with its start time.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

SO_PEERPIDFD = 77
"""From Linux 6.5 `asm-generic/socket.h`; Python's socket module has no name for it."""

_UCRED = struct.Struct("3i")
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True, order=True)
class ProcessId:
    """One process for all time: `start_ticks` is its start since boot in clock ticks."""

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """The process that called connect(), as the kernel noted it then."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Caller:
    """A connected peer: its uid, and its ancestry, the caller itself first."""

    uid: int
    ancestry: tuple[ProcessId, ...]


def read_peer_credentials(connection: socket.socket) -> PeerCredentials:
    """`SO_PEERCRED` of a connected Unix stream socket. Raises OSError on another kind."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return PeerCredentials(pid, uid, gid)


def read_process(pid: int) -> tuple[ProcessId, int] | None:
    """The process with that pid now and its parent's pid; None if there is none.

    Source: proc(5), `/proc/PID/stat`; the name in parentheses may hold spaces and parentheses.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rfind(")") + 2 :].split()
    if fields[0] in {"Z", "X"}:
        return None
    return ProcessId(pid, int(fields[19])), int(fields[1])


def this_process() -> ProcessId:
    """The calling process."""
    found = read_process(os.getpid())
    if found is None:
        raise OSError("/proc is not mounted: processes cannot be told apart")
    return found[0]


def is_alive(process: ProcessId) -> bool:
    """Whether that very process still runs (another one with its pid does not count)."""
    found = read_process(process.pid)
    return found is not None and found[0] == process


def read_ancestry(pid: int) -> tuple[ProcessId, ...]:
    """The process and its parents up to init; empty if it is gone.

    The chain ends early where a parent is younger than its child: that pid was used again.
    """
    chain: list[ProcessId] = []
    while pid > 0 and len(chain) < _MAX_DEPTH:
        found = read_process(pid)
        if found is None or (chain and found[0].start_ticks > chain[-1].start_ticks):
            break
        chain.append(found[0])
        pid = found[1]
    return tuple(chain)


def identify_caller(connection: socket.socket) -> Caller | None:
    """The peer of a connected Unix socket, safe against pids that are used again; None if gone.

    Where the kernel gives a pidfd, the ancestry counts only if the peer lived while it was read.
    """
    peer = read_peer_credentials(connection)
    if peer.pid <= 0:  # the peer lives in a pid namespace that this process cannot see
        return Caller(peer.uid, ())
    pidfd = _peer_pidfd(connection)
    try:
        ancestry = read_ancestry(peer.pid)
        if not ancestry or (pidfd is not None and not _pidfd_alive(pidfd)):
            return None
    finally:
        if pidfd is not None:
            os.close(pidfd)
    return Caller(peer.uid, ancestry)


def _peer_pidfd(connection: socket.socket) -> int | None:
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4)
    except OSError:
        return None
    return int(struct.unpack("i", raw)[0])


def _pidfd_alive(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
