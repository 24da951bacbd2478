"""Listeners: guarded ports, the ways out, the end of CONNECT, health probes."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from envoy.config.core.v3 import base_pb2, substitution_format_string_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2 as state_value_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from google.protobuf import json_format
from xds.type.v3 import typed_struct_pb2

from limen.core.envoy import names
from limen.core.envoy.access_log import plaintext_log
from limen.core.envoy.address import pipe_address, socket_address
from limen.core.envoy.encoded import encode, pack
from limen.core.envoy.hcm import (
    inbound_manager,
    local_manager,
    outbound_manager,
    probes_manager,
    tunnel_manager,
)
from limen.core.envoy.rbac import sees_server_name
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
    from limen.core.plan.node import Edge, InboundPlan, LocalPortPlan, ProbePlan

LOOPBACK = "127.0.0.1"
BUFFER_BYTES = 256 * 1024
BACKLOG = 1024
HANDSHAKE_S = 5
_PLAINTEXT_AGE_S = 300
"""So that a caller that still sends plaintext is seen in the log within that time."""
_ONLY_OWNER = 0o600
_FACTS_TYPE = "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config"
"""Our classes of it are older than what it does after a handshake (since Envoy 1.37)."""


def inbound_listener(
    inbound: InboundPlan,
    callee: WorkloadName,
    trusted_domains: tuple[str, ...],
    max_age_s: int | None,
) -> Encoded:
    """A guarded port. The chains' names hold the cutover: another one closes what is open.

    PERMISSIVE has two chains, told apart by the first bytes: what is TLS has to be the mesh's.
    """
    mutual = inbound.mode is not PortMode.DISABLE
    plain = inbound.mode is not PortMode.STRICT
    both = mutual and plain
    inspected = both or (mutual and sees_server_name(inbound.policy))
    listener = listener_pb2.Listener(
        name=names.inbound_listener(inbound.port),
        address=socket_address(inbound.address, inbound.port),
        listener_filters=[tls_inspector()] if inspected else [],
        listener_filters_timeout=seconds(HANDSHAKE_S) if inspected else None,
        filter_chains=[
            *([_mutual_chain(inbound, callee, trusted_domains, max_age_s)] if mutual else []),
            *([_plaintext_chain(inbound, callee, max_age_s)] if plain else []),
        ],
        per_connection_buffer_limit_bytes=uint32(BUFFER_BYTES),
        tcp_backlog_size=uint32(BACKLOG),
        access_log=[plaintext_log(callee)] if both else [],
    )
    return encode(listener.name, listener)


def _mutual_chain(
    inbound: InboundPlan,
    callee: WorkloadName,
    trusted_domains: tuple[str, ...],
    max_age_s: int | None,
) -> listener_components_pb2.FilterChain:
    match = listener_components_pb2.FilterChainMatch(transport_protocol="tls")
    return listener_components_pb2.FilterChain(
        name=names.filter_chain(inbound.port, inbound.cutover),
        filter_chain_match=match if inbound.mode is PortMode.PERMISSIVE else None,
        filters=[connection_facts(), _guard(inbound, callee, max_age_s)],
        transport_socket=inbound_socket(trusted_domains),
        transport_socket_connect_timeout=seconds(HANDSHAKE_S),
    )


def _plaintext_chain(
    inbound: InboundPlan, callee: WorkloadName, max_age_s: int | None
) -> listener_components_pb2.FilterChain:
    """Callers without identity, by HTTP/1.1 or HTTP/2 with prior knowledge."""
    match = listener_components_pb2.FilterChainMatch(transport_protocol="raw_buffer")
    permissive = inbound.mode is PortMode.PERMISSIVE
    age_s = min(max_age_s or _PLAINTEXT_AGE_S, _PLAINTEXT_AGE_S) if permissive else max_age_s
    guard = _guard(inbound, callee, age_s, plaintext=True)
    return listener_components_pb2.FilterChain(
        name=names.plaintext_chain(inbound.port, inbound.cutover),
        filter_chain_match=match if permissive else None,
        filters=[connection_facts(), guard],
    )


def _guard(
    inbound: InboundPlan, callee: WorkloadName, max_age_s: int | None, *, plaintext: bool = False
) -> listener_components_pb2.Filter:
    """What guards a port, wherever it is: the same for all instances, whatever was withdrawn."""
    anywhere = replace(inbound, address="", service_address="", service_port=0, cutover=0)
    return _guard_anywhere(anywhere, callee, max_age_s, plaintext)


@lru_cache(maxsize=1024)
def _guard_anywhere(
    inbound: InboundPlan,
    callee: WorkloadName,
    max_age_s: int | None,
    plaintext: bool,  # noqa: FBT001 - private
) -> listener_components_pb2.Filter:
    return http_filter(inbound_manager(inbound, callee, max_age_s, plaintext=plaintext))


@lru_cache(maxsize=1)
def connection_facts() -> listener_components_pb2.Filter:
    """Once a connection: what rules look at and only the connection knows.

    The server name is known before the handshake only where the TLS inspector has read it.
    """
    server_name = _fact(names.SERVER_NAME, "envoy.string", "%REQUESTED_SERVER_NAME%")
    address = "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%"
    reached = _fact(names.REACHED_ADDRESS, "envoy.network.ip", address)
    caller = _fact(names.CALLER, "envoy.string", "%DOWNSTREAM_PEER_URI_SAN%")
    facts = json_format.MessageToDict(
        set_filter_state_pb2.Config(on_new_connection=[server_name, reached]),
        preserving_proto_field_name=True,
    )
    facts["on_downstream_tls_handshake"] = [
        json_format.MessageToDict(caller, preserving_proto_field_name=True)
    ]
    config = typed_struct_pb2.TypedStruct(type_url=_FACTS_TYPE)
    config.value.update(facts)
    return listener_components_pb2.Filter(
        name="envoy.filters.network.set_filter_state", typed_config=pack(config)
    )


def _fact(key: str, factory: str, text: str) -> state_value_pb2.FilterStateValue:
    """No text: no fact."""
    return state_value_pb2.FilterStateValue(
        object_key=key,
        factory_key=factory,
        format_string=substitution_format_string_pb2.SubstitutionFormatString(
            text_format_source=base_pb2.DataSource(inline_string=text), omit_empty_values=True
        ),
        read_only=True,
        skip_if_empty=True,
    )


def tls_inspector() -> listener_components_pb2.ListenerFilter:
    """Reads the server name that a client asks for."""
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.tls_inspector",
        typed_config=pack(tls_inspector_pb2.TlsInspector()),
    )


@lru_cache(maxsize=1024)
def outbound_listener(caller: SpiffeId, mesh: str, port: int, *, hop: bool) -> Encoded:
    """The way out for programs that know `HTTP_PROXY`: loopback, with the workload's secret."""
    chain = _chain(outbound_manager(caller, mesh, guarded=True, hop=hop))
    return _listener(names.OUTBOUND, socket_address(LOOPBACK, port), chain)


@lru_cache(maxsize=1024)
def outbound_socket_listener(caller: SpiffeId, mesh: str, path: str, *, hop: bool) -> Encoded:
    """The way out through a Unix socket that only its owner opens."""
    chain = _chain(outbound_manager(caller, mesh, guarded=False, hop=hop))
    return _listener(names.OUTBOUND_SOCKET, pipe_address(path, _ONLY_OWNER), chain)


@lru_cache(maxsize=1024)
def tunnel_listener(caller: SpiffeId, mesh: str, *, hop: bool) -> Encoded:
    """Where CONNECT ends, inside this Envoy."""
    listener = listener_pb2.Listener(
        name=names.TUNNEL,
        internal_listener=listener_pb2.Listener.InternalListenerConfig(),
        filter_chains=[_chain(tunnel_manager(caller, mesh, hop=hop))],
    )
    return encode(names.TUNNEL, listener)


def local_listener(caller: SpiffeId, plan: LocalPortPlan, edge: Edge, *, hop: bool) -> Encoded:
    """A plain local port that leads to one callee."""
    chain = _chain(local_manager(caller, edge, hop=hop))
    name = names.local_listener(plan.port)
    return _listener(name, socket_address(plan.address, plan.port), chain)


def probes_listener(plan: ProbePlan) -> Encoded:
    """Health paths without identity, on a port of their own."""
    chain = _chain(probes_manager(plan))
    return _listener(names.PROBES, socket_address(plan.address, plan.port), chain)


def _chain(manager: hcm_pb2.HttpConnectionManager) -> listener_components_pb2.FilterChain:
    return listener_components_pb2.FilterChain(filters=[http_filter(manager)])


def http_filter(manager: hcm_pb2.HttpConnectionManager) -> listener_components_pb2.Filter:
    """A connection manager as the filter of a chain."""
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
        per_connection_buffer_limit_bytes=uint32(BUFFER_BYTES),
        tcp_backlog_size=uint32(BACKLOG),
    )
    return encode(name, listener)
