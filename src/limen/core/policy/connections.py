"""A policy at a port where connections are passed on and no request is ever seen.

What looks at requests must neither open nor vanish there: an ALLOW that does never applies, and a
refusal that does applies whatever the request would say (Istio does the same on TCP ports).
"""

from __future__ import annotations

from dataclasses import replace

from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Claim,
    Condition,
    Effect,
    HasToken,
    Header,
    Host,
    Method,
    Not,
    Path,
    PathTemplate,
    Policy,
    RequestPrincipal,
    Rule,
    parts_of,
)

_OF_REQUESTS = (Method, Path, PathTemplate, Host, Header, HasToken, RequestPrincipal, Claim)


def for_connections(policy: Policy) -> Policy:
    """`policy` as far as it can be held without seeing requests: never wider than it was."""
    return replace(
        policy,
        layers=tuple(
            replace(layer, rules=_kept(layer.rules), dry_run=_kept(layer.dry_run))
            for layer in policy.layers
        ),
    )


def _kept(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    kept: list[Rule] = []
    for rule in rules:
        if not reads_request(rule.condition):
            kept.append(rule)
        elif rule.effect is not Effect.ALLOW:
            kept.append(replace(rule, condition=_wider(rule.condition)))
    return tuple(kept)


def reads_request(condition: Condition) -> bool:
    """Whether a condition looks at anything that only a request has."""
    return any(isinstance(part, _OF_REQUESTS) for part in parts_of(condition))


def _wider(condition: Condition) -> Condition:
    """`condition`, true whatever the request says."""
    match condition:
        case AllOf(parts):
            return AllOf(tuple(_wider(part) for part in parts))
        case AnyOf(parts):
            return AnyOf(tuple(_wider(part) for part in parts))
        case Not(part):
            return Always() if reads_request(part) else condition
        case _:
            return Always() if isinstance(condition, _OF_REQUESTS) else condition
