"""How well a workload is separated from other processes of this host: measured, never claimed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from limen.adapters.netns import is_other_namespace
from limen.core.model.mesh import Isolation

if TYPE_CHECKING:
    from limen.adapters.peercred import ProcessId
    from limen.services.agent.spec import WorkloadSpec


def namespace_of(spec: WorkloadSpec) -> str:
    """The path of the network namespace that `spec` lives in, "" if it is the agent's own.

    As asked for, else that of its process: its proxy belongs where its program is.
    """
    if spec.netns:
        return spec.netns if is_other_namespace(spec.netns) else ""
    return _namespace_of_process(spec.process)


def _namespace_of_process(process: ProcessId | None) -> str:
    path = "" if process is None else f"/proc/{process.pid}/ns/net"
    return path if path and is_other_namespace(path) else ""


def measure_isolation(spec: WorkloadSpec) -> Isolation:
    """By the namespace that its proxy runs in, else by uid, else none (one uid with the agent)."""
    if spec.netns and is_other_namespace(spec.netns):
        return Isolation.NETWORK_NAMESPACE
    return Isolation.NONE if spec.uid == os.geteuid() else Isolation.UID
