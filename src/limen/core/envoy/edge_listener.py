"""Listeners of a gateway: one for each address and port, a filter chain for each server name.

A connection without a server name, or with one that no chain has, is closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.proxy_protocol.v3 import proxy_protocol_pb2

from limen.core.envoy import names
from limen.core.envoy.address import socket_address
from limen.core.envoy.edge_manager import edge_manager
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
        filter_chains=[
            _chain(plan, listener, chain, hops)
            for chain in listener.chains
            if isinstance(chain, HttpChain)
        ],
        per_connection_buffer_limit_bytes=uint32(BUFFER_BYTES),
        tcp_backlog_size=uint32(BACKLOG),
    )
    return encode(name, message)


def _chain(
    plan: NodePlan, listener: EdgeListener, chain: HttpChain, hops: int
) -> listener_components_pb2.FilterChain:
    """The name holds the cutover: another one closes what is open."""
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


def _proxy_protocol() -> listener_components_pb2.ListenerFilter:
    """A connection without the header is closed."""
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.proxy_protocol",
        typed_config=pack(proxy_protocol_pb2.ProxyProtocol()),
    )


__all__ = ["TunnelChain", "edge_listener"]
