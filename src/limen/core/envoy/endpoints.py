"""The live addresses of a callee, the same bytes for every caller."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from google.protobuf import struct_pb2

from limen.core.envoy import names
from limen.core.envoy.address import socket_address
from limen.core.envoy.encoded import encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envoy.config.core.v3 import address_pb2

    from limen.core.envoy.encoded import Encoded
    from limen.core.plan.node import Endpoint, EndpointsPlan

SOCKET_MATCH = "envoy.transport_socket_match"
PLAINTEXT = "plaintext"


@lru_cache(maxsize=4096)
def endpoints_resource(plan: EndpointsPlan) -> Encoded:
    """ClusterLoadAssignment of one callee. No address: requests to it get 503 at once."""
    return named_endpoints(names.callee_cluster(plan.callee), plan.endpoints)


def named_endpoints(cluster: str, endpoints: tuple[Endpoint, ...]) -> Encoded:
    """ClusterLoadAssignment of the cluster with that name."""
    return encode(cluster, _assignment(cluster, [_endpoint_of(e) for e in endpoints]))


def load_assignment(
    name: str, addresses: Iterable[address_pb2.Address]
) -> endpoint_pb2.ClusterLoadAssignment:
    """`addresses` in one locality, all of the same weight."""
    return _assignment(name, [_endpoint(address) for address in addresses])


def _assignment(
    name: str, endpoints: list[endpoint_components_pb2.LbEndpoint]
) -> endpoint_pb2.ClusterLoadAssignment:
    return endpoint_pb2.ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=endpoints)],
    )


def _endpoint(address: address_pb2.Address) -> endpoint_components_pb2.LbEndpoint:
    return endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(address=address)
    )


def _endpoint_of(plan: Endpoint) -> endpoint_components_pb2.LbEndpoint:
    """An address without mTLS says so; only a cluster of mixed ports looks at it."""
    endpoint = _endpoint(socket_address(plan.address, plan.port))
    if plan.mtls:
        return endpoint
    plaintext = struct_pb2.Struct(fields={PLAINTEXT: struct_pb2.Value(bool_value=True)})
    return endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint.endpoint,
        metadata=base_pb2.Metadata(filter_metadata={SOCKET_MATCH: plaintext}),
    )
