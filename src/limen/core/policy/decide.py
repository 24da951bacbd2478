"""`decide()`, the second reader of a policy, and `may_allow()`, its answer over all requests.

Order, as the enforced reader has it: any CUSTOM whose provider refuses; any DENY of any layer; then
every layer that `allows` needs a matching ALLOW; then at least one explicit ALLOW somewhere, or the
mesh's `default_allow`. AUDIT and rules on trial (`dry_run`) decide nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from limen.core.policy.decision import Decision, NearMiss, Request
from limen.core.policy.evaluate import first_failure, holds, is_true
from limen.core.policy.facts import Facts
from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Authenticated,
    Claim,
    Condition,
    DestinationIp,
    Effect,
    HasToken,
    Header,
    Host,
    Method,
    Not,
    Path,
    PathTemplate,
    Policy,
    Port,
    Principal,
    PrincipalNamespace,
    RemoteIp,
    RequestPrincipal,
    Sni,
    SourceIp,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.model.names import SpiffeId
    from limen.core.policy.rule import Layer, Rule

__all__ = ["decide", "holds", "may_allow"]


def decide(policy: Policy, request: Request) -> Decision:
    """Judge `request` under `policy`. Total and deterministic; never raises.

    `near_misses` of a refusal are the rules that could have allowed it and did not match.
    """
    facts = Facts(request)
    rules = [rule for layer in policy.layers for rule in layer.rules]
    trial = _matching((r for layer in policy.layers for r in layer.dry_run), facts)
    audited = _matching((r for r in rules if r.effect is Effect.AUDIT), facts)
    asked = _matching((r for r in rules if r.effect is Effect.CUSTOM), facts)

    def decided(
        allowed: bool,  # noqa: FBT001 - private, and named where it is read
        reason: str,
        rule: Rule | None = None,
        near_misses: tuple[NearMiss, ...] = (),
    ) -> Decision:
        return Decision(allowed, reason, rule, near_misses, trial, audited, asked)

    denying = _first(rules, Effect.DENY, facts)
    if denying is not None:
        return decided(False, f"denied by {denying.ref}", denying)
    allowing: Rule | None = None
    for layer in policy.layers:
        if not layer.allows:
            continue
        rule = _first(layer.rules, Effect.ALLOW, facts)
        if rule is None:
            reason = f"no {layer.kind.value} rule allows this caller and request"
            return decided(False, reason, None, _misses(layer, facts))
        allowing = allowing or rule
    if allowing is not None:
        return decided(True, f"allowed by {allowing.ref}", allowing)
    if policy.default_allow:
        return decided(True, "no policy that allows concerns it; the mesh allows by default")
    return decided(False, "no document allows anything here: refused by default")


def _first(rules: Iterable[Rule], effect: Effect, facts: Facts) -> Rule | None:
    found = (r for r in rules if r.effect is effect and is_true(r.condition, facts))
    return next(found, None)


def _matching(rules: Iterable[Rule], facts: Facts) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules if is_true(rule.condition, facts))


def _misses(layer: Layer, facts: Facts) -> tuple[NearMiss, ...]:
    """Why each rule that could have allowed did not."""
    return tuple(
        NearMiss(rule, *failure)
        for rule in layer.rules
        if rule.effect is Effect.ALLOW and (failure := first_failure(rule.condition, facts))
    )


def may_allow(policy: Policy, principal: SpiffeId | None) -> bool:
    """Whether `principal` could make any request that `policy` allows.

    Decides who gets a route to whom (a proxy is sent only what its workload may reach): never False
    for an edge on which some request would be allowed.
    """
    needed = [layer for layer in policy.layers if layer.allows]
    rules = [rule for layer in policy.layers for rule in layer.rules]
    if any(r.effect is Effect.DENY and _surely(r.condition, principal) is True for r in rules):
        return False
    if not needed:
        return policy.default_allow
    return all(
        any(
            r.effect is Effect.ALLOW and _surely(r.condition, principal) is not False
            for r in layer.rules
        )
        for layer in needed
    )


def _surely(condition: Condition, principal: SpiffeId | None) -> bool | None:
    """Kleene's three values: True or False for every request of `principal`, None if it depends."""
    match condition:
        case Always():
            return True
        case Authenticated():
            return principal is not None
        case Principal(match):
            return principal is not None and match.matches(str(principal))
        case PrincipalNamespace(match):
            return principal is not None and match.matches(principal.namespace)
        case (
            Method() | Path() | PathTemplate() | Host() | Header() | Port() | Sni()
            | HasToken() | RequestPrincipal() | Claim()
            | SourceIp() | RemoteIp() | DestinationIp()
        ):  # fmt: skip
            return None
        case AllOf(parts):
            values = [_surely(p, principal) for p in parts]
            return False if False in values else (None if None in values else True)
        case AnyOf(parts):
            values = [_surely(p, principal) for p in parts]
            return True if True in values else (None if None in values else False)
        case Not(part):
            value = _surely(part, principal)
            return None if value is None else not value
    assert_never(condition)
