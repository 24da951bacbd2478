"""Clusters: the application behind a guarded port, the callees, the end of CONNECT."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf import struct_pb2

from limen.core.envoy import names
from limen.core.envoy.address import ads_source, internal_address, socket_address
from limen.core.envoy.encoded import encode, pack
from limen.core.envoy.endpoints import PLAINTEXT, load_assignment
from limen.core.envoy.http_options import to_application, to_callee
from limen.core.envoy.tls import outbound_socket
from limen.core.envoy.wrapped import seconds, uint32

if TYPE_CHECKING:
    from limen.core.envoy.encoded import Encoded
    from limen.core.plan.node import Edge, InboundPlan

_BUFFER_BYTES = 256 * 1024
_MANY = 100_000


@lru_cache(maxsize=4096)
def callee_cluster(edge: Edge, max_age_s: int | None) -> Encoded:
    """The way to one callee: its live addresses by EDS, HTTP/2, and only its own identities."""
    return _way_to(names.callee_cluster(edge.callee), edge, max_age_s)


@lru_cache(maxsize=1024)
def part_cluster(edge: Edge, part: str, max_age_s: int | None) -> Encoded:
    """The way to a part of a callee: as `callee_cluster`, with other addresses."""
    return _way_to(names.part_cluster(edge.callee, part), edge, max_age_s)


def _way_to(name: str, edge: Edge, max_age_s: int | None) -> Encoded:
    cluster = cluster_pb2.Cluster(
        name=name,
        type="EDS",
        eds_cluster_config=cluster_pb2.Cluster.EdsClusterConfig(eds_config=ads_source()),
        connect_timeout=seconds(2),
        per_connection_buffer_limit_bytes=uint32(_BUFFER_BYTES),
        lb_policy="LEAST_REQUEST",
        common_lb_config=cluster_pb2.Cluster.CommonLbConfig(
            healthy_panic_threshold=percent_pb2.Percent(value=1)
        ),
        circuit_breakers=_limits(),
        outlier_detection=_dead_instances(),
        typed_extension_protocol_options=to_callee(max_age_s),
        transport_socket=outbound_socket(edge.principals, edge.callee.dns_san)
        if edge.mtls
        else None,
        transport_socket_matches=[_plaintext_addresses()] if edge.mtls and edge.mixed else [],
    )
    return encode(name, cluster)


def application_cluster(inbound: InboundPlan) -> Encoded:
    """The application behind a guarded port, on this host, in plain text."""
    name = names.application_cluster(inbound.port)
    address = socket_address(inbound.service_address, inbound.service_port)
    cluster = cluster_pb2.Cluster(
        name=name,
        type="STATIC",
        connect_timeout=seconds(1),
        per_connection_buffer_limit_bytes=uint32(_BUFFER_BYTES),
        load_assignment=load_assignment(name, [address]),
        circuit_breakers=_limits(),
        typed_extension_protocol_options=to_application(inbound.protocol),
    )
    return encode(name, cluster)


@lru_cache(maxsize=1)
def tunnel_cluster() -> Encoded:
    """Where CONNECT ends: a listener inside this Envoy."""
    cluster = cluster_pb2.Cluster(
        name=names.TUNNEL,
        type="STATIC",
        connect_timeout=seconds(1),
        load_assignment=load_assignment(names.TUNNEL, [internal_address(names.TUNNEL)]),
        circuit_breakers=_limits(),
    )
    return encode(names.TUNNEL, cluster)


def _plaintext_addresses() -> cluster_pb2.Cluster.TransportSocketMatch:
    """No TLS for addresses that say so; any other address needs the mutual TLS of the cluster."""
    raw = base_pb2.TransportSocket(
        name="envoy.transport_sockets.raw_buffer", typed_config=pack(raw_buffer_pb2.RawBuffer())
    )
    says_so = struct_pb2.Struct(fields={PLAINTEXT: struct_pb2.Value(bool_value=True)})
    return cluster_pb2.Cluster.TransportSocketMatch(
        name=PLAINTEXT, match=says_so, transport_socket=raw
    )


def _limits() -> circuit_breaker_pb2.CircuitBreakers:
    """Envoy's default of 1,024 requests and 3 retries at a time fails a busy service."""
    return circuit_breaker_pb2.CircuitBreakers(
        thresholds=[
            circuit_breaker_pb2.CircuitBreakers.Thresholds(
                max_connections=uint32(_MANY),
                max_pending_requests=uint32(_MANY),
                max_requests=uint32(_MANY),
                max_retries=uint32(1024),
            )
        ]
    )


def _dead_instances() -> outlier_detection_pb2.OutlierDetection:
    """An address that cannot be connected is left out for seconds.

    What an application answers never counts. If all are out, all are tried (panic below 1 %).
    """
    return outlier_detection_pb2.OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=uint32(2),
        enforcing_consecutive_local_origin_failure=uint32(100),
        enforcing_local_origin_success_rate=uint32(0),
        enforcing_consecutive_5xx=uint32(0),
        enforcing_consecutive_gateway_failure=uint32(0),
        enforcing_success_rate=uint32(0),
        interval=seconds(1),
        base_ejection_time=seconds(2),
        max_ejection_time=seconds(30),
        max_ejection_percent=uint32(100),
    )
