"""`NodePlan` to the resources of one proxy. Equal plans give equal bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from limen.core.envoy import names
from limen.core.envoy.cluster import application_cluster, callee_cluster, tunnel_cluster
from limen.core.envoy.encoded import Encoded, NodeResources, decode
from limen.core.envoy.listener import (
    inbound_listener,
    local_listener,
    outbound_listener,
    outbound_socket_listener,
    probes_listener,
    tunnel_listener,
)
from limen.core.envoy.rbac import permission_resources
from limen.core.envoy.route import outbound_routes
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from limen.core.plan.node import NodePlan


def node_resources(
    plan: NodePlan, before: tuple[NodePlan, NodeResources] | None = None
) -> NodeResources:
    """All resources of `plan`'s proxy, but for endpoints, the bundle and what its agent adds.

    The caller merges in `endpoints_resource` of each edge and `bundle_resource`. `before`: an
    earlier plan and its resources; types that depend on nothing that differs are taken over as
    they are, so that a changed permission builds no listener. Raises InvalidInput if two parts of
    the plan claim one name (two inbounds on one port).
    """
    result: NodeResources = {}
    for url, (inputs, build) in _PARTS.items():
        if before is not None and url in before[1] and inputs(plan) == inputs(before[0]):
            result[url] = before[1][url]
        else:
            result[url] = _named(build(plan))
    return result


def to_json(encoded: Encoded) -> dict[str, Any]:
    """The resource as Envoy's own JSON, with `@type`, field names as in the protobufs."""
    return json_format.MessageToDict(decode(encoded).resource, preserving_proto_field_name=True)


def _listeners(plan: NodePlan) -> Iterator[Encoded]:
    workload = plan.instance.workload
    for inbound in plan.inbounds:
        yield inbound_listener(inbound, workload, plan.trusted_domains, plan.max_connection_age_s)
    if plan.local.outbound_port:
        yield outbound_listener(plan.spiffe_id, plan.local.outbound_port)
    if plan.local.outbound_socket:
        yield outbound_socket_listener(plan.spiffe_id, plan.local.outbound_socket)
    if _has_way_out(plan):
        yield tunnel_listener(plan.spiffe_id)
    reachable = {edge.callee for edge in plan.edges}
    for local in plan.local_ports:
        if local.callee in reachable:
            yield local_listener(plan.spiffe_id, local)
    if plan.probes is not None:
        yield probes_listener(plan.probes)


def _clusters(plan: NodePlan) -> Iterator[Encoded]:
    for inbound in plan.inbounds:
        yield application_cluster(inbound)
    for edge in plan.edges:
        yield callee_cluster(edge, plan.max_connection_age_s)
    if _has_way_out(plan):
        yield tunnel_cluster()


def _routes(plan: NodePlan) -> Iterator[Encoded]:
    if _has_way_out(plan):
        yield outbound_routes(plan.edges, plan.spiffe_id)


def _permissions(plan: NodePlan) -> Iterator[Encoded]:
    for inbound in plan.inbounds:
        yield from permission_resources(inbound.policy, inbound.port)


def _unguarded(plan: NodePlan) -> tuple[object, ...]:
    """The inbounds without their policies: nothing but permissions depends on those."""
    return tuple(
        (i.address, i.port, i.service_address, i.service_port, i.protocol, i.cutover, i.mtls)
        for i in plan.inbounds
    )


_PARTS: dict[str, tuple[Callable[[NodePlan], object], Callable[[NodePlan], Iterator[Encoded]]]] = {
    names.LISTENER: (
        lambda p: (
            p.instance.workload,
            p.spiffe_id,
            p.trusted_domains,
            p.max_connection_age_s,
            p.local,
            p.local_ports,
            {e.callee for e in p.edges} if p.local_ports else None,
            p.probes,
            _unguarded(p),
        ),
        _listeners,
    ),
    names.CLUSTER: (
        lambda p: (p.edges, p.max_connection_age_s, _has_way_out(p), _unguarded(p)),
        _clusters,
    ),
    names.ROUTES: (lambda p: (p.edges, p.spiffe_id, _has_way_out(p)), _routes),
    names.EXTENSION: (
        lambda p: tuple((i.policy, i.port) for i in p.inbounds),
        _permissions,
    ),
}
"""For each type: what its resources depend on, and how they are built."""


def _has_way_out(plan: NodePlan) -> bool:
    return bool(plan.local.outbound_port or plan.local.outbound_socket)


def _named(resources: Iterable[Encoded]) -> dict[str, Encoded]:
    result: dict[str, Encoded] = {}
    for resource in resources:
        if resource.name in result:
            raise InvalidInput(f"the plan names {resource.name} twice", code="duplicate-resource")
        result[resource.name] = resource
    return result
