"""`decide()`, the second reader of a policy, and `may_allow()`, its answer over all requests.

Order, as the enforced reader has it: any DENY of any layer; then every layer that `allows` needs a
matching ALLOW; then at least one explicit ALLOW somewhere, or the mesh's `default_allow`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from limen.core.policy.decision import Decision, NearMiss, Request
from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Authenticated,
    Condition,
    Effect,
    Header,
    Method,
    Not,
    Path,
    Policy,
    Port,
    Principal,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.model.names import SpiffeId
    from limen.core.policy.rule import Layer, Rule

NO_IDENTITY = "(no identity)"
SHOWN_ALTERNATIVES = 8
"""Values that a near miss lists before it says how many more there are."""


def holds(condition: Condition, request: Request) -> bool:
    """Whether `condition` is true of `request`."""
    return _first_failure(condition, request) is None


def _failure(name: str, wanted: object, seen: object) -> tuple[str, str, str]:
    return (name, str(wanted), str(seen))


def _first_failure(  # noqa: C901, PLR0911, PLR0912 - one branch per condition, total by design
    condition: Condition, request: Request
) -> tuple[str, str, str] | None:
    """None if the condition holds; else (field, wanted, seen) of the first part that fails."""
    match condition:
        case Always():
            return None
        case Authenticated():
            if request.principal is not None:
                return None
            return _failure("principal", "any identity of the mesh", NO_IDENTITY)
        case Principal(match):
            seen = NO_IDENTITY if request.principal is None else str(request.principal)
            if request.principal is not None and match.matches(seen):
                return None
            return _failure("principal", match, seen)
        case Method(match):
            if match.matches(request.method):
                return None
            return _failure("method", match, request.method)
        case Path(match):
            return None if match.matches(request.path) else _failure("path", match, request.path)
        case Header(name, match):
            values = request.headers.get(name, ())
            if any(match.matches(v) for v in values):
                return None
            return _failure(f"header {name}", match, ", ".join(values) or "(absent)")
        case Port(port):
            return None if port == request.port else _failure("port", port, request.port)
        case AllOf(parts):
            return next((f for p in parts if (f := _first_failure(p, request))), None)
        case AnyOf(parts):
            failures = [_first_failure(p, request) for p in parts]
            if any(f is None for f in failures):
                return None
            return _merged(f for f in failures if f is not None)
        case Not(part):
            failure = _first_failure(part, request)
            return _failure("not", "no match", "match") if failure is None else None
    assert_never(condition)


def _merged(failures: Iterable[tuple[str, str, str]]) -> tuple[str, str, str]:
    """One line for alternatives that all failed: the wanted values of the first field joined."""
    known = list(failures)
    if not known:
        return _failure("rule", "(nothing can match)", "-")
    name, _, seen = known[0]
    wanted = list(dict.fromkeys(w for n, w, _ in known if n == name))
    if len(wanted) > SHOWN_ALTERNATIVES:
        more = f"{len(wanted) - SHOWN_ALTERNATIVES} more"
        wanted = [*wanted[:SHOWN_ALTERNATIVES], more]
    return _failure(name, " or ".join(wanted), seen)


@dataclass(frozen=True, slots=True)
class _Judged:
    """The rules of one layer, told apart by whether they matched."""

    layer: Layer
    matched: tuple[Rule, ...]
    misses: tuple[NearMiss, ...]

    def first(self, effect: Effect) -> Rule | None:
        return next((rule for rule in self.matched if rule.effect is effect), None)


def _judge(layer: Layer, request: Request) -> _Judged:
    matched: list[Rule] = []
    misses: list[NearMiss] = []
    for rule in layer.rules:
        failure = _first_failure(rule.condition, request)
        if failure is None:
            matched.append(rule)
        else:
            misses.append(NearMiss(rule, *failure))
    return _Judged(layer, tuple(matched), tuple(misses))


def decide(policy: Policy, request: Request) -> Decision:
    """Judge `request` under `policy`. Total and deterministic; never raises.

    `near_misses` of a refusal are the rules that could have allowed it and did not match.
    """
    judged = [_judge(layer, request) for layer in policy.layers]
    shadow = tuple(r for j in judged for r in j.matched if r.effect is Effect.SHADOW_DENY)
    for layer in judged:
        rule = layer.first(Effect.DENY)
        if rule is not None:
            return Decision(False, f"denied by {rule.ref}", rule, (), shadow)
    allowing: Rule | None = None
    for layer in judged:
        if not layer.layer.allows:
            continue
        rule = layer.first(Effect.ALLOW)
        if rule is None:
            missed = tuple(m for m in layer.misses if m.rule.effect is Effect.ALLOW)
            reason = f"no {layer.layer.kind.value} rule allows this caller and request"
            return Decision(False, reason, None, missed, shadow)
        allowing = allowing or rule
    if allowing is not None:
        return Decision(True, f"allowed by {allowing.ref}", allowing, (), shadow)
    if policy.default_allow:
        reason = "no policy concerns this workload; the mesh allows by default"
        return Decision(True, reason, None, (), shadow)
    reason = "no permission concerns this workload: refused by default"
    return Decision(False, reason, None, (), shadow)


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
        case Method() | Path() | Header() | Port():
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
