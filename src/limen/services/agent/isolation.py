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

    Where isolation allows them, they are the operator's to declare (`networking.outbound` of the
    Dataplane), since a node may not say whom a workload calls. Raises InvalidInput.
    """
    if not spec.local_ports:
        return
    if isolation is Isolation.NONE:
        raise InvalidInput(
            f"{spec.workload} may not have plain local ports: its isolation is none",
            code="isolation-too-weak",
            hint="any process of this user could borrow its identity there; run it as another "
            "uid or in a network namespace, or use HTTP_PROXY or the Unix socket",
        )
    raise InvalidInput(
        f"plain local ports of {spec.workload} cannot be asked for by its node",
        code="local-ports-by-document",
        hint="declare them in its Dataplane document (networking.outbound), or use HTTP_PROXY",
    )


def _other_network(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    except OSError:
        return False
