"""`NodePlan` to the resources of one proxy. Equal plans give equal bytes."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from limen.core.envoy import names
from limen.core.envoy.cluster import application_cluster, callee_cluster, tunnel_cluster
from limen.core.envoy.encoded import Encoded, NodeResources, decode
from limen.core.envoy.jwt_authn import output_headers, token_resources
from limen.core.envoy.listener import (
    inbound_listener,
    local_listener,
    outbound_listener,
    outbound_socket_listener,
    probes_listener,
    tunnel_listener,
)
from limen.core.envoy.rbac import audit_rules, permission_resources, sees_server_name
from limen.core.envoy.route import outbound_routes
from limen.core.plan.node import JwtPlan
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import Always, Effect, Layer, LayerKind, Policy, Rule, RuleRef, Sni
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from limen.core.plan.node import InboundPlan, NodePlan

_REPORT = Rule(Effect.AUDIT, Always(), "any", RuleRef("", "", "", "", 0))
_ASKED_NAME = Rule(Effect.DENY, Sni(StringMatch(How.PRESENT)), "any", _REPORT.ref)


def node_resources(plan: NodePlan) -> NodeResources:
    """All resources of `plan`'s proxy, but for endpoints, the bundle and what its agent adds.

    The caller merges in `endpoints_resource` of each edge and `bundle_resource`; it does not change
    the result, parts of which are shared. Raises InvalidInput if two parts of the plan claim one
    name (two inbounds on one port).
    """
    bare = tuple(_shape(inbound) for inbound in plan.inbounds)
    return {
        **_without_permissions(replace(plan, inbounds=bare)),
        names.EXTENSION: _named(
            encoded
            for i in plan.inbounds
            for encoded in (
                *permission_resources(i.policy, i.port),
                *token_resources(i.tokens, i.port),
            )
        ),
    }


def _shape(inbound: InboundPlan) -> InboundPlan:
    """Of policy and tokens only what a listener has to know: which filters there are."""
    rules = [_REPORT] if audit_rules(inbound.policy) else []
    rules += [_ASKED_NAME] if sees_server_name(inbound.policy) else []
    layer = Layer(LayerKind.AUTHORIZATION, tuple(rules), allows=False)
    outputs = output_headers(inbound.tokens)
    token = JwtPlan("any", output_payload_to_header="any" if outputs else "")
    return replace(
        inbound,
        policy=Policy((layer,)),
        tokens=(token,) if inbound.tokens else (),
    )


@lru_cache(maxsize=4096)
def _without_permissions(plan: NodePlan) -> NodeResources:
    """What a changed permission does not touch. Most changes are changed permissions."""
    return {
        names.LISTENER: _named(_listeners(plan)),
        names.CLUSTER: _named(_clusters(plan)),
        names.ROUTES: _named(_routes(plan)),
    }


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


def _has_way_out(plan: NodePlan) -> bool:
    return bool(plan.local.outbound_port or plan.local.outbound_socket)


def _named(resources: Iterable[Encoded]) -> dict[str, Encoded]:
    result: dict[str, Encoded] = {}
    for resource in resources:
        if resource.name in result:
            raise InvalidInput(f"the plan names {resource.name} twice", code="duplicate-resource")
        result[resource.name] = resource
    return result
