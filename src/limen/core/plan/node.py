"""`NodePlan`: everything that one proxy must do, complete and comparable.

Made by `core/compiler`, turned into Envoy resources by `core/envoy`. Equal plans give equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limen.core.model.mesh import Isolation
    from limen.core.model.names import InstanceName, SpiffeId, WorkloadName
    from limen.core.model.workload import Probe, Protocol
    from limen.core.policy.rule import Policy


@dataclass(frozen=True, slots=True)
class LocalSide:
    """What only the agent knows: how the program leaves through its proxy.

    `outbound_port` is a loopback port guarded by a per-workload secret; `outbound_socket` a Unix
    socket that only the workload's uid opens; 0 and "" mean not offered. The secret itself never
    reaches the server: the agent supplies the extension config `names.LOCAL_GUARD`.
    """

    outbound_port: int = 0
    outbound_socket: str = ""
    isolation: Isolation | None = None


@dataclass(frozen=True, slots=True)
class InboundPlan:
    """One guarded port. `cutover` changes when a right was withdrawn (see model `Cutover`)."""

    address: str
    port: int
    service_address: str
    service_port: int
    protocol: Protocol
    policy: Policy
    cutover: int = 0
    mtls: bool = True


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """Health paths reachable without identity, GET and HEAD only, on a port of their own."""

    address: str
    port: int
    probes: tuple[Probe, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """A callee that this workload may reach.

    `hostnames` are matched against the authority, any port. `principals` are the identities that
    may answer: a peer with another certificate is refused by the caller.
    """

    callee: WorkloadName
    hostnames: tuple[str, ...]
    principals: tuple[SpiffeId, ...]
    mtls: bool = True


@dataclass(frozen=True, slots=True)
class LocalPortPlan:
    """A plain local port that leads to one callee."""

    address: str
    port: int
    callee: WorkloadName


@dataclass(frozen=True, slots=True)
class NodePlan:
    """The proxy of one instance. Edges sorted by callee."""

    instance: InstanceName
    spiffe_id: SpiffeId
    trusted_domains: tuple[str, ...]
    inbounds: tuple[InboundPlan, ...]
    edges: tuple[Edge, ...]
    local: LocalSide
    local_ports: tuple[LocalPortPlan, ...] = ()
    probes: ProbePlan | None = None
    max_connection_age_s: int | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a callee: where its guarded port is reached."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class EndpointsPlan:
    """All live addresses of one callee, shared by every proxy that may reach it. Sorted."""

    callee: WorkloadName
    endpoints: tuple[Endpoint, ...]
