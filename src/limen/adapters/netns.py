"""Network namespaces: named, compared, entered by a thread that does one thing in there and ends.

A thread has its own network namespace (setns(2)), and what it makes, a socket or a child process,
stays in that namespace. So a call is run in a fresh thread that enters, works and is never used
again; the rest of the process stays where it is. Entering needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from limen.errors import InvalidInput, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

NAMED = Path("/run/netns")
"""Where `ip netns add` puts them (ip-netns(8))."""

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS = 0x8913
_SIOCGIFADDR = 0x8915
_IFF_UP = 0x1
_IFREQ_BYTES = 40


def find_namespace(text: str) -> str:
    """The absolute path of a namespace given by name or path. Raises NotFound, InvalidInput."""
    path = Path(text) if text.startswith("/") else NAMED / text
    if "/" in text and not text.startswith("/"):
        raise InvalidInput(
            f"{text[:80]!a} is neither the name nor the absolute path of a network namespace",
            code="invalid-netns",
            hint="give a name as in `ip netns list`, or a path such as /proc/PID/ns/net",
        )
    open_namespace(str(path), must_enter=False)
    return str(path)


def open_namespace(path: str, *, must_enter: bool = True) -> int:
    """A descriptor of the namespace at `path`, to be closed by the caller, -1 unless `must_enter`.

    Raises NotFound (`netns-not-found`) or InvalidInput (`invalid-netns`).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(
            f"there is no network namespace at {path}: {error.strerror}",
            code="netns-not-found",
            hint="`ip netns list` shows those that have names; `ip netns add NAME` makes one",
        ) from error
    if not _is_namespace(descriptor):
        os.close(descriptor)
        raise InvalidInput(f"{path} is not a network namespace", code="invalid-netns")
    if must_enter:
        return descriptor
    os.close(descriptor)
    return -1


def is_other_namespace(path: str) -> bool:
    """Whether `path` is another network namespace than this process's. False if it is none."""
    try:
        there, here = Path(path).stat(), Path("/proc/self/ns/net").stat()
    except OSError:
        return False
    return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)


def run_inside(path: str, work: Callable[[], T]) -> T:
    """What `work` returns or raises, run inside the namespace; "" means right here.

    Blocking. Raises NotFound, InvalidInput, and Unavailable (`netns-not-permitted`).
    """
    if not path:
        return work()
    descriptor = open_namespace(path)
    done: list[T] = []
    failed: list[BaseException] = []

    def inside() -> None:
        try:
            enter(descriptor, path)
            done.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread as it is
            failed.append(error)

    thread = threading.Thread(target=inside, name="netns", daemon=True)
    try:
        thread.start()
        thread.join()
    finally:
        os.close(descriptor)
    if failed:
        raise failed[0]
    return done[0]


def enter(descriptor: int, path: str) -> None:
    """Move the calling thread into a namespace for good. Raises Unavailable."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EPERM:
        raise Unavailable(
            f"the network namespace {path} may not be entered",
            code="netns-not-permitted",
            hint="that needs CAP_SYS_ADMIN: run the agent, and `limen run --netns`, as root",
        )
    raise Unavailable(f"the network namespace {path} was not entered: {os.strerror(number)}")


def own_addresses() -> tuple[str, ...]:
    """IPv4 addresses of the interfaces that are up, loopback ones last. Run it inside."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        for _, name in socket.if_nameindex():
            try:
                flags = struct.unpack_from("H", _ask(probe, _SIOCGIFFLAGS, name), 16)[0]
                address = socket.inet_ntoa(_ask(probe, _SIOCGIFADDR, name)[20:24])
            except OSError:  # no IPv4 address, or the interface has just gone
                continue
            if flags & _IFF_UP:
                found.append(address)
    return tuple(sorted(found, key=lambda a: (a.startswith("127."), a)))


def _ask(probe: socket.socket, request: int, name: str) -> bytes:
    return fcntl.ioctl(probe, request, name.encode().ljust(_IFREQ_BYTES, b"\0"))


def _is_namespace(descriptor: int) -> bool:
    """By its kind: ioctl_ns(2), NS_GET_NSTYPE."""
    ns_get_nstype = 0xB703
    try:
        return fcntl.ioctl(descriptor, ns_get_nstype) == _CLONE_NEWNET
    except OSError:
        return False
