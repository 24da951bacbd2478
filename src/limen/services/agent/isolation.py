"""How well a workload is separated from other processes of this host: measured, never claimed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from limen.core.model.mesh import Isolation
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from limen.adapters.peercred import ProcessId
    from limen.services.agent.spec import WorkloadSpec


def measure_isolation(uid: int, process: ProcessId | None) -> Isolation:
    """By network namespace, else by uid, else none (one uid for agent and workload)."""
    if process is not None and _other_network(process.pid):
        return Isolation.NETWORK_NAMESPACE
    return Isolation.NONE if uid == os.geteuid() else Isolation.UID


def require_local_ports_allowed(spec: WorkloadSpec, isolation: Isolation) -> None:
    """Plain per-service ports carry no secret: refuse them where any process could use them.

    Another uid of the host reaches a loopback port as well as the workload does, so only a
    network namespace of its own makes such a port the workload's. Raises InvalidInput.
    """
    if spec.local_ports and isolation is Isolation.NONE:
        raise InvalidInput(
            f"{spec.workload} may not have plain local ports: its isolation is none",
            code="isolation-too-weak",
            hint="any process of this user could borrow its identity there; run it as another "
            "uid or in a network namespace, or use HTTP_PROXY or the Unix socket",
        )


def _other_network(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    except OSError:
        return False
