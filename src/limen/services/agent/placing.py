"""Where a new workload goes: its namespace, address, ports and name, filled in and checked."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from limen.core.model.names import parse_instance_name
from limen.services.agent.isolation import measure_isolation, namespace_of
from limen.services.agent.local_ports import require_allowed
from limen.services.agent.probing import (
    LOOPBACK,
    address_inside,
    free_port,
    local_address_towards,
    require_free,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.services.agent.spec import WorkloadSpec

_ANY_PORT = 443


def place_workload(
    spec: WorkloadSpec, mesh: str, address: str, server: str, others: Iterable[WorkloadSpec]
) -> WorkloadSpec:
    """Fill in what was left to the agent, and check what was given against `others`. Blocking.

    `address`: of this host, "" for the one by which it reaches `server` (`HOST:PORT`). In a network
    namespace it is the namespace's own. Raises InvalidInput, Conflict, NotFound, Unavailable.
    """
    spec = replace(spec, netns=namespace_of(spec))
    require_allowed(spec, measure_isolation(spec), others)
    usual = address_inside(spec.netns) if spec.netns and not spec.address else address
    place = spec.address or usual or _towards(server)
    if spec.port:
        require_free(place, spec.port, spec.netns)
    port = 0 if spec.gateway else spec.port or free_port(place, spec.netns)
    if spec.probe_port is not None:
        require_free(place, spec.probe_port, spec.netns, "--probe-port")
    instance = spec.instance or f"i-{secrets.token_hex(4)}"
    made = replace(spec, address=place, port=port, instance=instance)
    parse_instance_name(made.key, mesh)
    return made


def _towards(server: str) -> str:
    host, _, port = server.rpartition(":")
    if not host:
        return LOOPBACK
    return local_address_towards(host.strip("[]"), int(port) if port.isdigit() else _ANY_PORT)
