"""What all workloads of an agent share, and what it says of them to the server."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.adapters.log_files import Retention
from limen.core.pki.join_token import fingerprint_of, parse_join_token
from limen.core.pki.pem import parse_certificates
from limen.errors import LimenError, Untrusted
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
    present roots. `keep`: how long logs are kept.
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
    keep: Retention = field(default_factory=Retention)


def new_secret() -> str:
    """128 random bits for the way out."""
    return secrets.token_hex(16)


async def register(host: Host, spec: WorkloadSpec, outbound_port: int) -> Registration:
    """Tell the server of an instance. Raises what the server says, or Unavailable."""
    paths = host.paths.workload(spec.key)
    isolation = measure_isolation(spec)
    payload = register_payload(
        spec, isolation, outbound_port, str(paths.outbound_socket), str(paths.pdp_socket)
    )
    registration = parse_registration(await host.link.call("Register", payload))
    host.check_epoch(registration.epoch)
    await host.take_bundle(registration.control_bundle_pem)
    return registration


async def entitle(host: Host, token_text: str) -> None:
    """Redeem one more join token for this node.

    Raises InvalidInput (no such token), Untrusted (`pin-mismatch`: of another installation), what
    the server says, or Unavailable.
    """
    token = parse_join_token(token_text)
    roots = parse_certificates(host.link.node.control_bundle_pem)
    if token.fingerprint not in map(fingerprint_of, roots):
        raise Untrusted(
            "the join token is of another server than the one that this agent has joined",
            code="pin-mismatch",
            hint="make the token at this agent's server, or run one more agent with --runtime and "
            "--state of its own",
        )
    await host.link.call("Entitle", {"token": token_text.strip()})


async def deregister(host: Host, key: str) -> None:
    """Withdraw an instance's address; failing is no reason not to stop."""
    with contextlib.suppress(LimenError):
        await host.link.call("Deregister", {"instance": key}, _GOODBYE_S)
