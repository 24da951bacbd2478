"""Listeners: guarded ports, the ways out, the end of CONNECT, health probes."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2

from limen.core.envoy import names
from limen.core.envoy.address import pipe_address, socket_address
from limen.core.envoy.encoded import encode, pack
from limen.core.envoy.hcm import (
    inbound_manager,
    local_manager,
    outbound_manager,
    probes_manager,
    tunnel_manager,
)
from limen.core.envoy.tls import inbound_socket
from limen.core.envoy.wrapped import seconds, uint32
from limen.core.plan.node import PortMode

if TYPE_CHECKING:
    from envoy.config.core.v3 import address_pb2
    from envoy.extensions.filters.network.http_connection_manager.v3 import (
        http_connection_manager_pb2 as hcm_pb2,
    )

    from limen.core.envoy.encoded import Encoded
    from limen.core.model.names import SpiffeId, WorkloadName
    from limen.core.plan.node import InboundPlan, LocalPortPlan, ProbePlan

LOOPBACK = "127.0.0.1"
_BUFFER_BYTES = 256 * 1024
_HANDSHAKE_S = 5
_ONLY_OWNER = 0o600


def inbound_listener(
    inbound: InboundPlan,
    callee: WorkloadName,
    trusted_domains: tuple[str, ...],
    max_age_s: int | None,
) -> Encoded:
    """A guarded port. The chain's name holds the cutover: another one closes what is open.

    PERMISSIVE is served as STRICT for now: plaintext is refused.
    """
    plaintext = inbound.mode is PortMode.DISABLE
    chain = listener_components_pb2.FilterChain(
        name=names.filter_chain(inbound.port, inbound.cutover),
        filters=[_http(inbound_manager(inbound, callee, max_age_s))],
        transport_socket=None if plaintext else inbound_socket(trusted_domains),
        transport_socket_connect_timeout=None if plaintext else seconds(_HANDSHAKE_S),
    )
    return _listener(
        names.inbound_listener(inbound.port), socket_address(inbound.address, inbound.port), chain
    )


@lru_cache(maxsize=1024)
def outbound_listener(caller: SpiffeId, port: int) -> Encoded:
    """The way out for programs that know `HTTP_PROXY`: loopback, with the workload's secret."""
    chain = _chain(outbound_manager(caller, guarded=True))
    return _listener(names.OUTBOUND, socket_address(LOOPBACK, port), chain)


@lru_cache(maxsize=1024)
def outbound_socket_listener(caller: SpiffeId, path: str) -> Encoded:
    """The way out through a Unix socket that only its owner opens."""
    chain = _chain(outbound_manager(caller, guarded=False))
    return _listener(names.OUTBOUND_SOCKET, pipe_address(path, _ONLY_OWNER), chain)


@lru_cache(maxsize=1024)
def tunnel_listener(caller: SpiffeId) -> Encoded:
    """Where CONNECT ends, inside this Envoy."""
    listener = listener_pb2.Listener(
        name=names.TUNNEL,
        internal_listener=listener_pb2.Listener.InternalListenerConfig(),
        filter_chains=[_chain(tunnel_manager(caller))],
    )
    return encode(names.TUNNEL, listener)


def local_listener(caller: SpiffeId, plan: LocalPortPlan) -> Encoded:
    """A plain local port that leads to one callee."""
    chain = _chain(local_manager(caller, plan.callee))
    name = names.local_listener(plan.port)
    return _listener(name, socket_address(plan.address, plan.port), chain)


def probes_listener(plan: ProbePlan) -> Encoded:
    """Health paths without identity, on a port of their own."""
    chain = _chain(probes_manager(plan))
    return _listener(names.PROBES, socket_address(plan.address, plan.port), chain)


def _chain(manager: hcm_pb2.HttpConnectionManager) -> listener_components_pb2.FilterChain:
    return listener_components_pb2.FilterChain(filters=[_http(manager)])


def _http(manager: hcm_pb2.HttpConnectionManager) -> listener_components_pb2.Filter:
    return listener_components_pb2.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=pack(manager)
    )


def _listener(
    name: str, address: address_pb2.Address, chain: listener_components_pb2.FilterChain
) -> Encoded:
    listener = listener_pb2.Listener(
        name=name,
        address=address,
        filter_chains=[chain],
        per_connection_buffer_limit_bytes=uint32(_BUFFER_BYTES),
        tcp_backlog_size=uint32(1024),
    )
    return encode(name, listener)
