"""Findings about the providers of CUSTOM policies: whether they exist, when and by whom asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.findings import error_at, warning_at
from limen.core.compiler.registry import dataplane_of
from limen.core.model.names import WorkloadName
from limen.core.model.provider import Stage

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
