"""Policies of the decision point: which of them a proxy holds, and how its filters ask for them.

A proxy holds what the CUSTOM rules of its own ports ask for, and nothing else. What it may not hold
is not there for it: the rule that asks refuses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from limen.core.compiler.providers import asked_providers
from limen.core.model.attribute_source import AttributeSource
from limen.core.model.decision import DecisionPolicy, EnforcedAt
from limen.core.model.provider import HeaderPatterns, ProviderProtocol
from limen.core.model.resource import Resource, ResourceKey
from limen.core.plan.node import EPOCH_HEADER, HeldPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limen.core.compiler.doors import Door
    from limen.core.compiler.environment import Environment
    from limen.core.model.provider import ExtensionProvider
    from limen.core.model.workload import Dataplane
    from limen.core.plan.edge import EdgeListener
    from limen.core.plan.node import InboundPlan, NodePlan

_ALL, _SHOWN = HeaderPatterns(("*",)), HeaderPatterns((EPOCH_HEADER,))
Policies = dict[ResourceKey, Resource]
G = TypeVar("G", "InboundPlan", "EdgeListener")


def asked_policy(
    env: Environment, dataplane: Dataplane, provider: ExtensionProvider
) -> ResourceKey | None:
    """The policy that `provider` means at a workload; None: it is no decision point."""
    ref = provider.policy
    if ref is None:
        return None
    namespace = ref.namespace or dataplane.name.workload.namespace
    return ResourceKey(ref.kind, env.mesh, namespace, ref.name)


def why_not(env: Environment, dataplane: Dataplane, resource: Resource) -> str:
    """Why a workload may not hold a policy; "" if it may."""
    policy, own = resource.spec, dataplane.name.workload.namespace
    if not isinstance(policy, DecisionPolicy):
        return "it is no policy of a decision point"
    if resource.key.namespace not in (own, env.root_namespace):
        return f"it belongs to namespace {resource.key.namespace}, the workload to {own}"
    wanted = EnforcedAt.GATEWAY if dataplane.gateway else EnforcedAt.SERVICE
    if policy.enforced_at is not wanted:
        what = "a gateway" if dataplane.gateway else "a service"
        return f"it is enforced at {policy.enforced_at.value}, and this is {what}"
    return ""


def held_policies(
    env: Environment,
    policies: Mapping[ResourceKey, Resource],
    dataplane: Dataplane,
    doors: Iterable[Door],
) -> tuple[HeldPolicy, ...]:
    """What the decision point beside a workload holds, sorted."""
    asked = {
        key
        for door in doors
        for provider in asked_providers(env, door.policy)
        if (key := asked_policy(env, dataplane, provider)) is not None
    }
    found = (policies[key] for key in sorted(asked) if key in policies)
    return tuple(
        HeldPolicy(
            r.key.kind,
            r.key.namespace,
            r.key.name,
            r.spec,
            stale_after_s=env.max_staleness_s,
        )
        for r in found
        if isinstance(r.spec, DecisionPolicy) and not why_not(env, dataplane, r)
    )


def with_sources(
    held: tuple[HeldPolicy, ...], sources: Mapping[ResourceKey, Resource]
) -> tuple[HeldPolicy, ...]:
    """Each policy with the sources of its namespace, sorted: those of others are not for it."""
    if not sources:
        return held
    by_namespace: dict[str, list[AttributeSource]] = {}
    for key in sorted(sources):
        spec = sources[key].spec
        if isinstance(spec, AttributeSource):
            by_namespace.setdefault(key.namespace, []).append(spec)
    return tuple(replace(one, sources=tuple(by_namespace.get(one.namespace, ()))) for one in held)


def with_decisions(
    plan: NodePlan, env: Environment, dataplane: Dataplane, held: tuple[HeldPolicy, ...]
) -> NodePlan:
    """`plan` with its decision point, and every provider that is one resolved or left out."""
    paths = {ResourceKey(h.kind, env.mesh, h.namespace, h.name): h.path for h in held}
    socket = plan.local.pdp_socket

    def resolved(guarded: G) -> G:
        if not guarded.providers:
            return guarded
        found = []
        for provider in guarded.providers:
            key = asked_policy(env, dataplane, provider)
            if key is None:
                found.append(provider)
            elif key in paths and socket:
                found.append(
                    replace(
                        provider,
                        protocol=ProviderProtocol.HTTP,
                        address=socket,
                        path_prefix=paths[key],
                        request_headers=provider.request_headers
                        if provider.request_headers.names
                        else _ALL,
                        on_allow=_SHOWN,
                    )
                )
        return replace(guarded, providers=tuple(found))

    edge = plan.edge
    if edge is None and not held and not any(i.providers for i in plan.inbounds):
        return plan
    if edge is not None:
        edge = replace(edge, listeners=tuple(map(resolved, edge.listeners)))
    return replace(
        plan,
        inbounds=tuple(map(resolved, plan.inbounds)),
        edge=edge,
        decisions=held if socket else (),
    )
