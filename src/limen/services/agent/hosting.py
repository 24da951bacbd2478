"""What all workloads of an agent share, and what it says of them to the server."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.errors import LimenError
from limen.services.agent.isolation import measure_isolation
from limen.services.agent.registration import parse_registration, register_payload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from limen.adapters.envoy_process import EnvoyBinary
    from limen.adapters.runtime_dir import AgentPaths
    from limen.services.agent.node_link import NodeLink
    from limen.services.agent.registration import Registration
    from limen.services.agent.spec import WorkloadSpec

_GOODBYE_S = 2.0


@dataclass(frozen=True, slots=True)
class Host:
    """`changed` is called when a record or state changed, `ended` when a program has ended.

    `check_epoch` refuses a server that was set back; `take_bundle` trusts the control authority's
    present roots.
    """

    mesh: str
    paths: AgentPaths
    envoy: EnvoyBinary
    link: NodeLink
    drain_s: float
    changed: Callable[[], None]
    ended: Callable[[str], None]
    check_epoch: Callable[[str], None]
    take_bundle: Callable[[str], Awaitable[None]]


def new_secret() -> str:
    """128 random bits for the way out."""
    return secrets.token_hex(16)


async def register(host: Host, spec: WorkloadSpec, outbound_port: int) -> Registration:
    """Tell the server of an instance. Raises what the server says, or Unavailable."""
    paths = host.paths.workload(spec.key)
    isolation = measure_isolation(spec)
    payload = register_payload(spec, isolation, outbound_port, str(paths.outbound_socket))
    registration = parse_registration(await host.link.call("Register", payload))
    host.check_epoch(registration.epoch)
    await host.take_bundle(registration.control_bundle_pem)
    return registration


async def deregister(host: Host, key: str) -> None:
    """Withdraw an instance's address; failing is no reason not to stop."""
    with contextlib.suppress(LimenError):
        await host.link.call("Deregister", {"instance": key}, _GOODBYE_S)
