"""A workload instance as registered: identity and tags by the server, place by its agent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from limen.core.model.names import InstanceName, SpiffeId, WorkloadName

SERVICE_TAG = "kuma.io/service"
PROTOCOL_TAG = "kuma.io/protocol"


class Protocol(Enum):
    """What the application speaks on an inbound port. TCP is a later issue.

    `TLS`: the application ends TLS itself; gateways pass connections on to it (PASSTHROUGH).
    """

    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class Inbound:
    """One guarded port: mTLS on `address:port`, the application on `service_address:service_port`.

    `tags` include `kuma.io/service`; sorted pairs. `name` is the port's name, `""` if none.
    """

    port: int
    service_port: int
    protocol: Protocol
    tags: tuple[tuple[str, str], ...]
    address: str = ""
    service_address: str = "127.0.0.1"
    name: str = ""

    @property
    def service(self) -> str:
        """The service that this port serves."""
        return dict(self.tags)[SERVICE_TAG]


@dataclass(frozen=True, slots=True)
class Probe:
    """A health path that stays reachable without identity: GET `path` on `Dataplane.probe_port`."""

    path: str
    inbound_port: int
    inbound_path: str


@dataclass(frozen=True, slots=True)
class LocalPort:
    """A plain local port that leads to one service (`networking.outbound`)."""

    address: str
    port: int
    tags: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Dataplane:
    """`kuma.io/v1alpha1` Dataplane: one instance. `node` names the node that runs it, "" if any.

    `name.workload.name` equals the `kuma.io/service` tag of the first inbound. A `gateway` has no
    inbounds: its ports come from the Gateways that it serves; `tags` (sorted, `kuma.io/service`
    among them) are then its own, and empty otherwise.
    """

    name: InstanceName
    service_account: str
    address: str
    inbounds: tuple[Inbound, ...]
    outbounds: tuple[LocalPort, ...] = ()
    probe_port: int | None = None
    probes: tuple[Probe, ...] = ()
    node: str = ""
    gateway: bool = False
    tags: tuple[tuple[str, str], ...] = ()

    def spiffe_id(self, trust_domain: str) -> SpiffeId:
        """The identity that its certificate carries."""
        return SpiffeId(trust_domain, self.name.workload.namespace, self.service_account)

    def workload_of(self, inbound: Inbound) -> WorkloadName:
        """The workload that one of its ports serves (a Dataplane may serve several)."""
        own = self.name.workload
        return WorkloadName(own.mesh, own.namespace, inbound.service)


@dataclass(frozen=True, slots=True)
class Cutover:
    """Internal (`limen.dev/v1` Cutover): the revision at which a workload's policy last narrowed.

    Its change rotates the filter chain, which closes what a caller who lost a right still has open.
    Written in the same transaction as the change that narrows; key = the workload.
    """

    revision: int
