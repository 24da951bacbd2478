"""The live addresses of a callee, the same bytes for every caller."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

from limen.core.envoy import names
from limen.core.envoy.address import socket_address
from limen.core.envoy.encoded import encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envoy.config.core.v3 import address_pb2

    from limen.core.envoy.encoded import Encoded
    from limen.core.plan.node import EndpointsPlan


@lru_cache(maxsize=4096)
def endpoints_resource(plan: EndpointsPlan) -> Encoded:
    """ClusterLoadAssignment of one callee. No address: requests to it get 503 at once."""
    name = names.callee_cluster(plan.callee)
    return encode(
        name, load_assignment(name, (socket_address(e.address, e.port) for e in plan.endpoints))
    )


def load_assignment(
    name: str, addresses: Iterable[address_pb2.Address]
) -> endpoint_pb2.ClusterLoadAssignment:
    """`addresses` in one locality, all of the same weight."""
    endpoints = [
        endpoint_components_pb2.LbEndpoint(
            endpoint=endpoint_components_pb2.Endpoint(address=address)
        )
        for address in addresses
    ]
    return endpoint_pb2.ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=endpoints)],
    )
