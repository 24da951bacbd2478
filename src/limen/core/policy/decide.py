"""`decide()`, the second reader of a policy, and `may_allow()`, its answer over all requests.

Order, as the enforced reader has it: any CUSTOM whose provider refuses; any DENY of any layer; then
every layer that `allows` needs a matching ALLOW; then at least one explicit ALLOW somewhere, or the
mesh's `default_allow`. AUDIT and rules on trial (`dry_run`) decide nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from limen.core.policy.bounds import identities_of
from limen.core.policy.decision import Decision, NearMiss, Request
from limen.core.policy.evaluate import fails_by_caller, failure_of, holds, test_of
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
    from limen.core.policy.evaluate import Diagnose, Test
    from limen.core.policy.rule import Layer, Rule

__all__ = ["Decider", "decide", "holds", "may_allow"]


def decide(policy: Policy, request: Request) -> Decision:
    """Judge `request` under `policy`. Total and deterministic; never raises.

    `near_misses` of a refusal are the rules that could have allowed it and did not match.
    """
    return Decider(policy).decide(request)


class Decider:
    """`decide` for many requests under one policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        rules = [rule for layer in policy.layers for rule in layer.rules]
        self._denying = _ready(rules, Effect.DENY)
        self._audited = _ready(rules, Effect.AUDIT)
        self._asked = _ready(rules, Effect.CUSTOM)
        self._trial = _ready(r for layer in policy.layers for r in layer.dry_run)
        self._why: dict[tuple[int, str | None], _Missed] = {}
        self._allowing = [
            (layer, _ByCaller(_ready(layer.rules, Effect.ALLOW)))
            for layer in policy.layers
            if layer.allows
        ]

    def decide(self, request: Request) -> Decision:
        """As `decide`."""
        facts = Facts(request)
        allowed, reason, rule, misses = self._verdict(facts)
        asked = _matching(self._asked, facts)
        silent = next((r for r in asked if r.provider not in request.consents), None)
        undecided = allowed and silent is not None
        if undecided and silent is not None:
            allowed, rule = False, silent
            reason = (
                f"asks the provider {silent.provider} because of {silent.ref}, and is refused "
                "unless that consents"
            )
        return Decision(
            allowed,
            reason,
            rule,
            misses,
            dry_run=_matching(self._trial, facts),
            audited=_matching(self._audited, facts),
            asked=asked,
            undecided=undecided,
        )

    def _verdict(self, facts: Facts) -> tuple[bool, str, Rule | None, tuple[NearMiss, ...]]:
        denying = _first(self._denying, facts)
        if denying is not None:
            return False, f"denied by {denying.ref}", denying, ()
        allowing: Rule | None = None
        for layer, rules in self._allowing:
            rule = _first(rules.of(facts.principal), facts)
            if rule is None:
                reason = f"no {layer.kind.value} rule allows this caller and request"
                return False, reason, None, self._misses(layer, facts)
            allowing = allowing or rule
        if allowing is not None:
            return True, f"allowed by {allowing.ref}", allowing, ()
        if self.policy.default_allow:
            reason = "no policy that allows concerns it; the mesh allows by default"
            return True, reason, None, ()
        return False, "no document allows anything here: refused by default", None, ()

    def _misses(self, layer: Layer, facts: Facts) -> tuple[NearMiss, ...]:
        """Why each rule that could have allowed did not: none did."""
        of = (id(layer), facts.principal)
        known = self._why.get(of)
        if known is None:
            if len(self._why) >= _KNOWN_MISSES:
                self._why.clear()
            known = self._why[of] = _Missed(layer.rules, facts)
        return known.of(facts)


_Ready = list[tuple["Rule", "Test"]]
_KNOWN_CALLERS = 4096
_KNOWN_MISSES = 64


class _Missed:
    """Why rules do not hold of one caller; where the caller alone decides, it is known."""

    def __init__(self, rules: Iterable[Rule], facts: Facts) -> None:
        self._each: list[tuple[NearMiss | None, Rule, Diagnose]] = []
        for rule in rules:
            if rule.effect is not Effect.ALLOW:
                continue
            why = failure_of(rule.condition)
            fixed = fails_by_caller(rule.condition, facts)
            self._each.append((NearMiss(rule, *why(facts)) if fixed else None, rule, why))
        misses = tuple([miss for miss, _, _ in self._each if miss is not None])
        self._whole = misses if len(misses) == len(self._each) else None

    def of(self, facts: Facts) -> tuple[NearMiss, ...]:
        """Those of a request of that caller, of which no rule holds."""
        if self._whole is not None:
            return self._whole
        return tuple([miss or NearMiss(rule, *why(facts)) for miss, rule, why in self._each])


class _ByCaller:
    """Rules in their order, without those that name others than the caller."""

    def __init__(self, rules: _Ready) -> None:
        self._rules = [(identities_of(rule.condition), (rule, test)) for rule, test in rules]
        self._known: dict[str | None, _Ready] = {}

    def of(self, caller: str | None) -> _Ready:
        """Those that could hold of `caller`; remembered."""
        known = self._known.get(caller)
        if known is None:
            if len(self._known) >= _KNOWN_CALLERS:
                self._known.clear()
            known = self._known[caller] = [
                ready for named, ready in self._rules if named is None or caller in named
            ]
        return known


def _ready(rules: Iterable[Rule], effect: Effect | None = None) -> _Ready:
    """Rules with their tests, of one effect or of all."""
    return [(r, test_of(r.condition)) for r in rules if effect in (None, r.effect)]


def _first(rules: _Ready, facts: Facts) -> Rule | None:
    for rule, test in rules:
        if test(facts):
            return rule
    return None


def _matching(rules: _Ready, facts: Facts) -> tuple[Rule, ...]:
    return tuple(rule for rule, test in rules if test(facts))


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
