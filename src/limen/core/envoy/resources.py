"""`NodePlan` to the resources of one proxy. Equal plans give equal bytes."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from limen.core.envoy import names
from limen.core.envoy.cluster import (
    application_cluster,
    callee_cluster,
    part_cluster,
    tunnel_cluster,
)
from limen.core.envoy.edge_listener import edge_listener
from limen.core.envoy.edge_route import edge_routes
from limen.core.envoy.encoded import Encoded, NodeResources, decode
from limen.core.envoy.endpoints import named_endpoints
from limen.core.envoy.ext_authz import provider_cluster, provider_resources
from limen.core.envoy.jwt_authn import output_headers, token_resources
from limen.core.envoy.listener import (
    inbound_listener,
    local_listener,
    outbound_listener,
    outbound_socket_listener,
    probes_listener,
    tunnel_listener,
)
from limen.core.envoy.policies import policy_set
from limen.core.envoy.rbac import (
    audit_rules,
    headers_of,
    permission_resources,
    sees_server_name,
)
from limen.core.envoy.route import outbound_routes
from limen.core.envoy.secret import given_resource
from limen.core.envoy.user_context import (
    context_resource,
    exchange_resource,
    hop_resource,
    token_service_resource,
)
from limen.core.model.user_context import USER_HEADER, HopStyle
from limen.core.plan.edge import HttpChain
from limen.core.plan.node import ExchangePlan, HopPlan, InboundPlan, JwtPlan, read_at
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    Always,
    Effect,
    Header,
    Layer,
    LayerKind,
    Policy,
    Rule,
    RuleRef,
    Sni,
)
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from limen.core.plan.edge import EdgeListener, EdgePlan
    from limen.core.plan.node import NodePlan

_REPORT = Rule(Effect.AUDIT, Always(), "any", RuleRef("", "", "", "", 0))
_ANY_EXCHANGE = ExchangePlan(())
_ANY_HOP = HopPlan(HopStyle.EXCHANGED, "")
_ASKED_NAME = Rule(Effect.DENY, Sni(StringMatch(How.PRESENT)), "any", _REPORT.ref)


def node_resources(plan: NodePlan) -> NodeResources:
    """All resources of `plan`'s proxy, but for endpoints, the bundle and what its agent adds.

    The caller merges in `endpoints_resource` of each edge and `bundle_resource`; it does not change
    the result, parts of which are shared. Raises InvalidInput if two parts of the plan claim one
    name (two inbounds on one port).
    """
    return {**shape_resources(shape_of(plan)), **live_resources(plan)}


def live_resources(plan: NodePlan) -> NodeResources:
    """All of `plan` that its shape does not hold.

    Filter configurations; what its decision point holds; of a gateway given secrets and the
    addresses of parts of services.
    """
    found: NodeResources = {names.EXTENSION: extension_resources(plan)}
    found[names.POLICIES] = _named([policy_set(plan.decisions)] if plan.decisions else [])
    if plan.edge is not None:
        found[names.SECRET] = _named(given_resource(secret) for secret in plan.edge.secrets)
        found[names.ENDPOINTS] = _named(
            named_endpoints(names.part_cluster(part.edge.callee, part.name), part.endpoints)
            for part in plan.edge.parts
        )
    return found


def extension_resources(plan: NodePlan) -> dict[str, Encoded]:
    """The filter configurations: permissions and tokens."""
    return _named(
        encoded
        for i in _guarded(plan)
        for encoded in (
            *permission_resources(i.policy, i.port, named=_is_named(i)),
            *token_resources(i.tokens, i.port, i.context_header),
            *provider_resources(i.policy, i.providers, i.port, inside=isinstance(i, InboundPlan)),
            *_user_resources(i, plan),
        )
    ) | _named(_on_the_way(plan))


def _is_named(guarded: InboundPlan | EdgeListener) -> bool:
    """Whether somebody reads which rule allowed a request: a log of all, a header, a gateway's."""
    return not isinstance(guarded, InboundPlan) or guarded.log_all or bool(guarded.rule_header)


def _user_resources(guarded: InboundPlan | EdgeListener, plan: NodePlan) -> Iterator[Encoded]:
    """What becomes of a token on its way in, and what the application passes on."""
    if guarded.exchange is not None:
        yield exchange_resource(guarded.exchange, _generation(plan), guarded.port)
    if guarded.context_header:
        taken = (p for p in guarded.tokens if p.output_payload_to_header == USER_HEADER)
        places = next((p.from_headers for p in taken), ())
        yield context_resource(guarded.context_header, places[:1], guarded.port)


def _generation(plan: NodePlan) -> str:
    return plan.token_service.generation if plan.token_service else ""


def _on_the_way(plan: NodePlan) -> Iterator[Encoded]:
    """How the user goes on, and whom the agent asks."""
    if plan.hop is not None:
        yield hop_resource(plan.hop, _generation(plan))
    if plan.token_service is not None:
        yield token_service_resource(plan.token_service)


def _guarded(plan: NodePlan) -> Iterator[InboundPlan | EdgeListener]:
    """Everything that has a policy; listeners of a gateway that share a port share it too.

    Not where connections are only passed on: no filter there would ask for it.
    """
    yield from plan.inbounds
    if plan.edge is not None:
        asking = (
            listener
            for listener in plan.edge.listeners
            if any(isinstance(chain, HttpChain) for chain in listener.chains)
        )
        yield from {listener.port: listener for listener in asking}.values()


def shape_of(plan: NodePlan) -> NodePlan:
    """`plan` without what only filter configurations say: most changes leave it as it is."""
    return replace(
        plan,
        inbounds=tuple(_shape(inbound) for inbound in plan.inbounds),
        edge=None if plan.edge is None else _edge_shape(plan.edge),
        hop=_ANY_HOP if plan.hop else None,
        token_service=None,
        decisions=(),
    )


def without_cutover(shape: NodePlan) -> NodePlan:
    """The shape, whatever was withdrawn and when."""
    edge = shape.edge
    if edge is not None:
        listeners = tuple(replace(listener, cutover=0) for listener in edge.listeners)
        edge = replace(edge, listeners=listeners)
    inbounds = tuple(replace(i, cutover=0) for i in shape.inbounds)
    return replace(shape, inbounds=inbounds, edge=edge)


@lru_cache(maxsize=4096)
def shape_resources(shape: NodePlan) -> NodeResources:
    """Listeners, clusters and routes of all plans of this shape."""
    listeners = _named(_listeners(shape))
    return {names.LISTENER: listeners, **_steady_resources(without_cutover(shape))}


@lru_cache(maxsize=4096)
def _steady_resources(shape: NodePlan) -> NodeResources:
    return {names.CLUSTER: _named(_clusters(shape)), names.ROUTES: _named(_routes(shape))}


def _shape(inbound: InboundPlan) -> InboundPlan:
    """Of policy and tokens only what a listener has to know: which filters there are."""
    policy = _policy_shape(inbound.policy, _token_headers(inbound.tokens))
    return replace(
        inbound,
        policy=policy,
        tokens=_token_shape(inbound.tokens),
        exchange=_ANY_EXCHANGE if inbound.exchange else None,
        context_header="any" if inbound.context_header else "",
    )


def _edge_shape(edge: EdgePlan) -> EdgePlan:
    """Without secrets, which no cache keeps, and without addresses."""
    listeners = tuple(
        replace(
            i,
            policy=_policy_shape(i.policy, _token_headers(i.tokens)),
            tokens=_token_shape(i.tokens),
            exchange=_ANY_EXCHANGE if i.exchange else None,
            context_header="any" if i.context_header else "",
        )
        for i in edge.listeners
    )
    parts = tuple(replace(part, endpoints=()) for part in edge.parts)
    return replace(edge, listeners=listeners, secrets=(), parts=parts)


def _token_shape(tokens: tuple[JwtPlan, ...]) -> tuple[JwtPlan, ...]:
    outputs = output_headers(tokens)
    token = JwtPlan("any", output_payload_to_header="any" if outputs else "")
    return tuple(dict.fromkeys(read_at(token, plan) for plan in tokens))


def _token_headers(tokens: tuple[JwtPlan, ...]) -> frozenset[str]:
    """Headers that carry tokens: they are never logged, whatever looks at them."""
    return frozenset(name for plan in tokens for name, _ in plan.in_headers)


@lru_cache(maxsize=4096)
def _policy_shape(policy: Policy, unlogged: frozenset[str]) -> Policy:
    rules = [_REPORT] if audit_rules(policy) else []
    rules += [_ASKED_NAME] if sees_server_name(policy) else []
    rules += [
        Rule(Effect.DENY, Header(name, StringMatch(How.PRESENT)), "any", _REPORT.ref)
        for name in headers_of(policy)
        if name not in unlogged
    ]
    return Policy((Layer(LayerKind.AUTHORIZATION, tuple(rules), allows=False),))


def to_json(encoded: Encoded) -> dict[str, Any]:
    """The resource as Envoy's own JSON, with `@type`, field names as in the protobufs."""
    return json_format.MessageToDict(decode(encoded).resource, preserving_proto_field_name=True)


def _listeners(plan: NodePlan) -> Iterator[Encoded]:
    workload = plan.instance.workload
    for inbound in plan.inbounds:
        yield inbound_listener(inbound, workload, plan.trusted_domains, plan.max_connection_age_s)
    hop = plan.hop is not None
    if plan.local.outbound_port:
        yield outbound_listener(plan.spiffe_id, workload.mesh, plan.local.outbound_port, hop=hop)
    if plan.local.outbound_socket:
        yield outbound_socket_listener(
            plan.spiffe_id, workload.mesh, plan.local.outbound_socket, hop=hop
        )
    if _has_way_out(plan):
        yield tunnel_listener(plan.spiffe_id, workload.mesh, hop=hop)
    reachable = {edge.callee: edge for edge in plan.edges}
    for local in plan.local_ports:
        if local.callee in reachable:
            yield local_listener(plan.spiffe_id, local, reachable[local.callee], hop=hop)
    if plan.probes is not None:
        yield probes_listener(plan.probes)
    if plan.edge is not None:
        for listener in plan.edge.listeners:
            yield edge_listener(plan, listener, plan.edge.trusted_hops)


def _clusters(plan: NodePlan) -> Iterator[Encoded]:
    for inbound in plan.inbounds:
        yield application_cluster(inbound)
    local = {p.name: p for i in _guarded(plan) for p in i.providers if p.is_local}
    for provider in local.values():
        yield provider_cluster(provider)
    for edge in plan.edges:
        yield callee_cluster(edge, plan.max_connection_age_s)
    if _has_way_out(plan):
        yield tunnel_cluster()
    if plan.edge is not None:
        for part in plan.edge.parts:
            yield part_cluster(part.edge, part.name, plan.max_connection_age_s)


def _routes(plan: NodePlan) -> Iterator[Encoded]:
    if _has_way_out(plan):
        yield outbound_routes(plan.edges, plan.spiffe_id, hop=plan.hop is not None)
    if plan.edge is not None:
        for listener in plan.edge.listeners:
            for chain in listener.chains:
                if isinstance(chain, HttpChain):
                    yield edge_routes(listener, chain)


def _has_way_out(plan: NodePlan) -> bool:
    return bool(plan.local.outbound_port or plan.local.outbound_socket)


def _named(resources: Iterable[Encoded]) -> dict[str, Encoded]:
    result: dict[str, Encoded] = {}
    for resource in resources:
        if resource.name in result:
            raise InvalidInput(f"the plan names {resource.name} twice", code="duplicate-resource")
        result[resource.name] = resource
    return result
