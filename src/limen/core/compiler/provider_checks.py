"""Findings about the providers of CUSTOM policies: whether they exist, when and by whom asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.assume import assumed_dataplane
from limen.core.compiler.decisions import asked_policy, why_not
from limen.core.compiler.findings import error_at, warning_at
from limen.core.compiler.registry import dataplane_of
from limen.core.model.names import WorkloadName
from limen.core.model.provider import Stage
from limen.core.model.resource import XACML_POLICY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.compiler.graph import MeshGraph
    from limen.core.model.authorization import AuthorizationPolicy
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.resource import Resource

_PATH = "/spec/provider/name"


def check_provider(
    graph: MeshGraph, resource: Resource, policy: AuthorizationPolicy, reading: set[int]
) -> Iterator[Diagnostic]:
    """What is wrong with the provider of a CUSTOM policy; `reading`: rules that look at a token."""
    provider = graph.environment.provider(policy.provider)
    if provider is None:
        known = ", ".join(p.name for p in graph.environment.providers) or "none"
        yield error_at(
            resource,
            "unknown-provider",
            f"mesh {graph.mesh} has no provider {policy.provider} (known: {known})",
            _PATH,
            "declare it in extensionProviders of MeshSettings",
        )
        return
    if provider.stage is Stage.BEFORE_TOKENS:
        for index in sorted(reading):
            yield error_at(
                resource,
                "provider-before-tokens",
                f"rule {index} looks at a token, and {provider.name} is asked before tokens are "
                "verified",
                f"/spec/rules/{index}",
                "write stage: AfterTokens at the provider, or take the token out of the rule",
            )


def check_reach(
    graph: MeshGraph, resource: Resource, provider_name: str, guarded: list[Resource]
) -> Iterator[Diagnostic]:
    """Whether the workloads that a CUSTOM policy guards may call its provider."""
    provider = graph.environment.provider(provider_name)
    if provider is None or provider.service is None:
        return
    callee = WorkloadName(graph.mesh, *provider.service)
    domain = graph.environment.trust_domain
    for dataplane in guarded:
        caller = dataplane_of(dataplane)
        if caller.name.workload == callee:
            problem = "is guarded by it itself: each question would raise another"
        elif callee in graph.view.callees(caller.spiffe_id(domain)):
            continue
        else:
            problem = (
                f"may not be called by {caller.name.workload}: whatever it is asked is refused"
            )
        yield warning_at(
            resource,
            "provider-out-of-reach",
            f"the provider {provider_name} ({callee}) {problem}",
            _PATH,
            f"register {callee}, allow its callers there, and guard it by other policies",
        )
        return


def check_decides(
    graph: MeshGraph, resource: Resource, provider_name: str, guarded: list[Resource]
) -> Iterator[Diagnostic]:
    """Whether the policy of a decision point is there for the workloads that ask it."""
    env = graph.environment
    provider = env.provider(provider_name)
    if provider is None or provider.policy is None:
        return
    if not guarded and resource.key.namespace != env.root_namespace:
        nobody = WorkloadName(graph.mesh, resource.key.namespace, "any")
        guarded = [assumed_dataplane(nobody, 80)]
    for dataplane in guarded:
        own = dataplane_of(dataplane)
        key = asked_policy(env, own, provider)
        if key is None:
            continue
        policy = graph.find(key)
        if policy is not None and not why_not(env, own, policy):
            continue
        kind = "XacmlPolicy" if key.kind == XACML_POLICY else "RegoPolicy"
        named = f"the {kind} {key.namespace}/{key.name} that {provider_name} means"
        if policy is None:
            yield error_at(
                resource,
                "unknown-policy",
                f"{named} is not there: {own.name.workload} would refuse whatever is asked",
                _PATH,
                f"apply the {kind} first, or in the same files",
            )
        else:
            yield error_at(
                resource,
                "policy-elsewhere",
                f"{named} cannot decide at {own.name.workload}: {why_not(env, own, policy)}",
                _PATH,
                "put the policy into the workload's namespace or the root namespace, and say "
                "enforcedAt: Gateway for gateways alone",
            )
        return
