"""Plain per-service local ports: allowed only where no other workload and no other user gets in.

They carry no secret. In a network namespace of its own, loopback is the workload's alone. Under a
user of its own, a kernel rule keeps every other user out. With the agent's user nothing does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from typing import TYPE_CHECKING

from limen.adapters.nft import guard_ports, remove_guard, require_nft
from limen.core.model.mesh import Isolation
from limen.errors import Conflict, InvalidInput, LimenError, Unavailable
from limen.services.agent.probing import LOOPBACK, require_free

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from limen.services.agent.spec import WorkloadSpec

_CONNECT_S = 2.0


def require_allowed(
    spec: WorkloadSpec, isolation: Isolation, others: Iterable[WorkloadSpec]
) -> None:
    """Check that local ports of `spec`, and of `others` beside it, stay its own.

    Raises InvalidInput (`isolation-too-weak`, `nft-not-found`), Conflict (`uid-shared`).
    """
    if isolation is Isolation.NETWORK_NAMESPACE:
        return
    _require_own_uid(spec, others)
    if not spec.local_ports:
        return
    if isolation is Isolation.NONE:
        raise InvalidInput(
            f"{spec.workload} may not have plain local ports: its isolation is none",
            code="isolation-too-weak",
            hint="any process of this user could borrow its identity there; run it as another "
            "uid or in a network namespace, or use HTTP_PROXY or the Unix socket",
        )
    if os.geteuid() != 0:
        raise InvalidInput(
            f"{spec.workload} may not have plain local ports: the agent is not root",
            code="isolation-too-weak",
            hint="only root can make the kernel rule that keeps other users out",
        )
    require_nft()


def _require_own_uid(spec: WorkloadSpec, others: Iterable[WorkloadSpec]) -> None:
    """A user's ports are open to all of its processes: they must all be one workload."""
    for other in others:
        plain = spec.local_ports or other.local_ports
        if plain and not other.netns and other.uid == spec.uid and other.workload != spec.workload:
            raise Conflict(
                f"{spec.workload} and {other.workload} are both of user {spec.uid}, and one of "
                "them has plain local ports",
                code="uid-shared",
                hint="run each as a user of its own, or without --local-port",
            )


def table_name(root: Path) -> str:
    """The nft table of the instance whose files are in `root`: another one for every agent."""
    return f"limen_{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}"


def close_to_others(spec: WorkloadSpec, isolation: Isolation, root: Path) -> None:
    """Make the kernel rule where one is needed, and see that it bites, before anything listens.

    Blocking. Raises Conflict (`port-taken`), Unavailable (`nft-failed`), InvalidInput.
    """
    if not spec.local_ports or isolation is Isolation.NETWORK_NAMESPACE:
        return
    guard_ports(table_name(root), spec.uid, (port for port, _ in spec.local_ports))


def prove_closed(spec: WorkloadSpec, isolation: Isolation) -> None:
    """Listen on each port for a moment and fail to reach it: the agent is another user.

    Raises like `close_to_others`.
    """
    for port, _ in spec.local_ports:
        require_free(LOOPBACK, port, spec.netns, "--local-port")
        if isolation is not Isolation.NETWORK_NAMESPACE and _reaches(port):
            raise Unavailable(
                f"the kernel rule for local port {port} does not keep this user out",
                code="nft-failed",
                hint="see `nft list ruleset`, or use --netns",
            )


def open_again(spec: WorkloadSpec, isolation: Isolation, root: Path) -> None:
    """Take the kernel rule away, once nothing listens any more. Raises Unavailable."""
    if spec.local_ports and isolation is not Isolation.NETWORK_NAMESPACE:
        remove_guard(table_name(root))


def forget_ports(root: Path) -> None:
    """Take away a rule that may be there."""
    if os.geteuid() == 0:
        with contextlib.suppress(LimenError):
            remove_guard(table_name(root))


def _reaches(port: int) -> bool:
    with socket.create_server((LOOPBACK, port)):
        try:
            socket.create_connection((LOOPBACK, port), _CONNECT_S).close()
        except OSError:
            return False
    return True
