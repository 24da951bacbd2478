"""What `explain` says of decision points: which policy decides, where, and in which epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.decisions import asked_policy, why_not
from limen.core.compiler.registry import dataplane_of
from limen.core.model.decision import DecisionPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.compiler.graph import MeshGraph
    from limen.core.model.resource import Resource
    from limen.core.policy.decision import Decision


def decision_notes(graph: MeshGraph, dataplane: Resource, decision: Decision) -> Iterator[str]:
    """A sentence about each decision point that is asked."""
    env, own = graph.environment, dataplane_of(dataplane)
    for name in sorted({rule.provider for rule in decision.asked}):
        provider = env.provider(name)
        key = None if provider is None else asked_policy(env, own, provider)
        if key is None:
            continue
        found = graph.find(key)
        kind = key.kind.rpartition("/")[2]
        policy = f"{kind} {key.namespace}/{key.name}"
        if found is None or not isinstance(found.spec, DecisionPolicy):
            yield f"{name} refuses: {policy} is not there"
        elif why := why_not(env, own, found):
            yield f"{name} refuses: {policy} may not decide there: {why}"
        else:
            epoch = f" in epoch {found.spec.epoch}" if found.spec.epoch else ""
            yield (
                f"{name} is the decision point beside the proxy: {policy} decides there{epoch}; "
                "all else is decided by Envoy"
            )
