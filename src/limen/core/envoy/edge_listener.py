"""Listeners of a gateway: one for each address and port, a filter chain for each server name.

A connection without a server name, or with one that no chain has, is closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.proxy_protocol.v3 import proxy_protocol_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from limen.core.envoy import names
from limen.core.envoy.access_log import tunnel_log
from limen.core.envoy.address import socket_address
from limen.core.envoy.edge_manager import edge_manager
from limen.core.envoy.edge_route import cluster_of
from limen.core.envoy.edge_tls import edge_socket
from limen.core.envoy.encoded import encode, pack
from limen.core.envoy.listener import (
    BACKLOG,
    BUFFER_BYTES,
    HANDSHAKE_S,
    connection_facts,
    http_filter,
    tls_inspector,
)
from limen.core.envoy.wrapped import seconds, uint32
from limen.core.plan.edge import HttpChain, TunnelChain

if TYPE_CHECKING:
    from limen.core.envoy.encoded import Encoded
    from limen.core.plan.edge import EdgeListener
    from limen.core.plan.node import NodePlan

EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - a gateway is there to be reached


def edge_listener(plan: NodePlan, listener: EdgeListener, hops: int) -> Encoded:
    """One listener of a gateway. `hops`: proxies in front whose word counts."""
    name = names.edge_listener(listener.port, listener.bind)
    inspected = listener.tls
    message = listener_pb2.Listener(
        name=name,
        address=socket_address(listener.bind or EVERY_ADDRESS, listener.port),
        listener_filters=[
            *([_proxy_protocol()] if listener.proxy_protocol else []),
            *([tls_inspector()] if inspected else []),
        ],
        listener_filters_timeout=seconds(HANDSHAKE_S),
        filter_chains=[_chain(plan, listener, chain, hops) for chain in listener.chains],
        per_connection_buffer_limit_bytes=uint32(BUFFER_BYTES),
        tcp_backlog_size=uint32(BACKLOG),
    )
    return encode(name, message)


def _chain(
    plan: NodePlan, listener: EdgeListener, chain: HttpChain | TunnelChain, hops: int
) -> listener_components_pb2.FilterChain:
    """The name holds the cutover: another one closes what is open."""
    if isinstance(chain, TunnelChain):
        return _tunnel(plan, listener, chain)
    tls = chain.tls
    match = listener_components_pb2.FilterChainMatch(
        server_names=chain.server_names, transport_protocol="tls" if tls is not None else ""
    )
    return listener_components_pb2.FilterChain(
        name=f"{chain.name}/{listener.cutover}",
        filter_chain_match=match if tls is not None else None,
        filters=[connection_facts(), http_filter(edge_manager(plan, listener, chain, hops))],
        transport_socket=edge_socket(tls, plan.trusted_domains) if tls is not None else None,
        transport_socket_connect_timeout=seconds(HANDSHAKE_S),
    )


def _tunnel(
    plan: NodePlan, listener: EdgeListener, chain: TunnelChain
) -> listener_components_pb2.FilterChain:
    """Bytes as they come, inside mutual TLS of the mesh, to the port behind the service's proxy."""
    proxy = tcp_proxy_pb2.TcpProxy
    shares = [share for share in chain.shares if share.weight]
    callee = shares[0].callee if shares else plan.instance.workload
    config = proxy(
        stat_prefix=f"edge_{listener.port}_tunnel",
        weighted_clusters=proxy.WeightedCluster(
            clusters=[
                proxy.WeightedCluster.ClusterWeight(name=cluster_of(share), weight=share.weight)
                for share in shares
            ]
            or [proxy.WeightedCluster.ClusterWeight(name=names.NOWHERE, weight=1)]
        ),
        tunneling_config=proxy.TunnelingConfig(hostname=f"{callee.dns_san}:443"),
        max_connect_attempts=uint32(3),
        access_log=[
            tunnel_log(plan.instance.workload, names.edge_listener(listener.port, listener.bind))
        ],
    )
    return listener_components_pb2.FilterChain(
        name=f"{chain.name}/{listener.cutover}",
        filter_chain_match=listener_components_pb2.FilterChainMatch(
            server_names=[] if "*" in chain.server_names else chain.server_names,
            transport_protocol="tls",
        ),
        filters=[
            listener_components_pb2.Filter(
                name="envoy.filters.network.tcp_proxy", typed_config=pack(config)
            )
        ],
    )


def _proxy_protocol() -> listener_components_pb2.ListenerFilter:
    """A connection without the header is closed."""
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.proxy_protocol",
        typed_config=pack(proxy_protocol_pb2.ProxyProtocol()),
    )
