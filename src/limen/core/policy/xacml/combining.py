"""The combining algorithms of core, appendix C, and of the additional algorithms profile.

One function for rules and policies alike: `combine(nodes, ctx)`. Evaluation stops where the
answer is certain. Obligations of the children that decided as the whole does are kept, in order.
An algorithm that meets Indeterminate keeps the first error as its reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from limen.core.policy.xacml.decision import (
    DENY,
    NOT_APPLICABLE,
    OK,
    PERMIT,
    Effect,
    Extended,
    Outcome,
    Status,
    status_of,
)
from limen.core.policy.xacml.errors import EvaluationError
from limen.core.policy.xacml.names import STATUS_PROCESSING_ERROR, V1, V3, V11

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limen.core.policy.xacml.context import Context
    from limen.core.policy.xacml.decision import Obligation


class Node(Protocol):
    """A rule, policy or policy set.

    `effect` is a rule's effect, None for policies. `applies` tells whether the target matches
    (raises `EvaluationError`); `evaluate` decides; `evaluate_matched` decides without the target.
    """

    effect: Effect | None

    def applies(self, ctx: Context) -> bool: ...  # noqa: D102 - told above

    def evaluate(self, ctx: Context) -> Outcome: ...  # noqa: D102 - told above

    def evaluate_matched(self, ctx: Context) -> Outcome: ...  # noqa: D102 - told above


_P, _D = Extended.PERMIT, Extended.DENY
_IP, _ID, _IDP = (
    Extended.INDETERMINATE_P,
    Extended.INDETERMINATE_D,
    Extended.INDETERMINATE_DP,
)


def _plain(decision: Extended, obligations: tuple[Obligation, ...]) -> Outcome:
    if obligations:
        return Outcome(decision, OK, obligations)
    return PERMIT if decision is _P else DENY


def _overrides(
    strong: Extended, weak: Extended, strong_error: Extended, weak_error: Extended
) -> Callable[[Sequence[Node], Context], Outcome]:
    """deny-overrides and permit-overrides (C.2, C.4)."""

    def combine(nodes: Sequence[Node], ctx: Context) -> Outcome:
        weak_seen = False
        obligations: tuple[Obligation, ...] = ()
        errors: dict[Extended, Status] = {}
        for node in nodes:
            outcome = node.evaluate(ctx)
            decision = outcome.decision
            if decision is strong:
                return outcome
            if decision is weak:
                weak_seen = True
                obligations += outcome.obligations
            elif decision is not Extended.NOT_APPLICABLE:
                errors.setdefault(decision, outcome.status)
        if not errors:
            return _plain(weak, obligations) if weak_seen else NOT_APPLICABLE
        if _IDP in errors:
            return Outcome(_IDP, errors[_IDP])
        if strong_error in errors:
            both = weak_seen or weak_error in errors
            return Outcome(_IDP if both else strong_error, errors[strong_error])
        if weak_seen:
            return _plain(weak, obligations)
        return Outcome(weak_error, errors[weak_error])

    return combine


deny_overrides = _overrides(_D, _P, _ID, _IP)
permit_overrides = _overrides(_P, _D, _IP, _ID)


def _unless(strong: Extended, weak: Extended) -> Callable[[Sequence[Node], Context], Outcome]:
    """deny-unless-permit and permit-unless-deny (C.6, C.7): never Indeterminate."""

    def combine(nodes: Sequence[Node], ctx: Context) -> Outcome:
        obligations: tuple[Obligation, ...] = ()
        for node in nodes:
            outcome = node.evaluate(ctx)
            if outcome.decision is strong:
                return outcome
            if outcome.decision is weak:
                obligations += outcome.obligations
        return _plain(weak, obligations)

    return combine


deny_unless_permit = _unless(_P, _D)
permit_unless_deny = _unless(_D, _P)


def first_applicable(nodes: Sequence[Node], ctx: Context) -> Outcome:
    """C.8: the first child that is not NotApplicable."""
    for node in nodes:
        outcome = node.evaluate(ctx)
        if outcome.decision is not Extended.NOT_APPLICABLE:
            return outcome
    return NOT_APPLICABLE


def only_one_applicable(nodes: Sequence[Node], ctx: Context) -> Outcome:
    """C.9: more than one policy whose target matches is an error."""
    chosen: Node | None = None
    for node in nodes:
        try:
            if not node.applies(ctx):
                continue
        except EvaluationError as error:
            return Outcome(_IDP, status_of(error))
        if chosen is not None:
            message = "more than one policy applies, only one may"
            return Outcome(_IDP, Status(STATUS_PROCESSING_ERROR, message))
        chosen = node
    return NOT_APPLICABLE if chosen is None else chosen.evaluate_matched(ctx)


def on_permit_apply_second(nodes: Sequence[Node], ctx: Context) -> Outcome:
    """Additional algorithms profile: if the first permits, the second decides, else the third."""
    first = nodes[0].evaluate(ctx)
    if first.decision in (_IP, _IDP):
        return first
    if first.decision is not _P:
        return _joined(first, nodes[2].evaluate(ctx)) if len(nodes) > 2 else NOT_APPLICABLE
    return _joined(first, nodes[1].evaluate(ctx))


def _joined(first: Outcome, last: Outcome) -> Outcome:
    """`last`, with the obligations of `first` if it decided the same."""
    if first.decision is not last.decision or not first.obligations:
        return last
    return Outcome(last.decision, last.status, first.obligations + last.obligations)


def _legacy_rules(
    strong: Extended, weak: Extended, effect: Effect
) -> Callable[[Sequence[Node], Context], Outcome]:
    """Legacy deny-overrides and permit-overrides of rules (C.10, C.12)."""
    strong_error = _ID if strong is _D else _IP
    weak_error = _IP if strong is _D else _ID

    def combine(nodes: Sequence[Node], ctx: Context) -> Outcome:
        failure: Status | None = None
        strong_possible = weak_seen = False
        obligations: tuple[Obligation, ...] = ()
        for node in nodes:
            outcome = node.evaluate(ctx)
            if outcome.decision is strong:
                return outcome
            if outcome.decision is weak:
                weak_seen = True
                obligations += outcome.obligations
            elif outcome.decision is not Extended.NOT_APPLICABLE:
                failure = failure or outcome.status
                strong_possible = strong_possible or node.effect is effect
        if failure is not None and strong_possible:
            return Outcome(_IDP if weak_seen else strong_error, failure)
        if weak_seen:
            return _plain(weak, obligations)
        return NOT_APPLICABLE if failure is None else Outcome(weak_error, failure)

    return combine


legacy_rule_deny_overrides = _legacy_rules(_D, _P, Effect.DENY)
legacy_rule_permit_overrides = _legacy_rules(_P, _D, Effect.PERMIT)


def legacy_policy_deny_overrides(nodes: Sequence[Node], ctx: Context) -> Outcome:
    """C.11: an Indeterminate policy denies."""
    obligations: tuple[Obligation, ...] = ()
    permitted = False
    for node in nodes:
        outcome = node.evaluate(ctx)
        if outcome.decision is _D:
            return outcome
        if outcome.decision is _P:
            permitted = True
            obligations += outcome.obligations
        elif outcome.decision is not Extended.NOT_APPLICABLE:
            return DENY
    return _plain(_P, obligations) if permitted else NOT_APPLICABLE


def legacy_policy_permit_overrides(nodes: Sequence[Node], ctx: Context) -> Outcome:
    """C.13: Permit, then Deny, then Indeterminate."""
    obligations: tuple[Obligation, ...] = ()
    denied = False
    failure: Status | None = None
    for node in nodes:
        outcome = node.evaluate(ctx)
        if outcome.decision is _P:
            return outcome
        if outcome.decision is _D:
            denied = True
            obligations += outcome.obligations
        elif outcome.decision is not Extended.NOT_APPLICABLE:
            failure = failure or outcome.status
    if denied:
        return _plain(_D, obligations)
    return NOT_APPLICABLE if failure is None else Outcome(_IDP, failure)


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A combining algorithm. `by_position`: a child's place has a meaning, none may be skipped."""

    uri: str
    combine: Callable[[Sequence[Node], Context], Outcome]
    by_position: bool = False
    deprecated: bool = False


def _both(kind: str) -> tuple[Algorithm, ...]:
    """The algorithms that rules and policies share; `kind` is `rule` or `policy`."""
    new = f"{V3}{kind}-combining-algorithm:"
    first = f"{V1}{kind}-combining-algorithm:first-applicable"
    return (
        Algorithm(f"{new}deny-overrides", deny_overrides),
        Algorithm(f"{new}permit-overrides", permit_overrides),
        Algorithm(f"{new}ordered-deny-overrides", deny_overrides),
        Algorithm(f"{new}ordered-permit-overrides", permit_overrides),
        Algorithm(f"{new}deny-unless-permit", deny_unless_permit),
        Algorithm(f"{new}permit-unless-deny", permit_unless_deny),
        Algorithm(first, first_applicable),
    )


def _legacy(
    kind: str,
    deny: Callable[[Sequence[Node], Context], Outcome],
    permit: Callable[[Sequence[Node], Context], Outcome],
) -> tuple[Algorithm, ...]:
    old, newer = f"{V1}{kind}-combining-algorithm:", f"{V11}{kind}-combining-algorithm:"
    return (
        Algorithm(f"{old}deny-overrides", deny, deprecated=True),
        Algorithm(f"{old}permit-overrides", permit, deprecated=True),
        Algorithm(f"{newer}ordered-deny-overrides", deny, deprecated=True),
        Algorithm(f"{newer}ordered-permit-overrides", permit, deprecated=True),
    )


RULE_ALGORITHMS: dict[str, Algorithm] = {
    a.uri: a
    for a in (
        *_both("rule"),
        *_legacy("rule", legacy_rule_deny_overrides, legacy_rule_permit_overrides),
    )
}

POLICY_ALGORITHMS: dict[str, Algorithm] = {
    a.uri: a
    for a in (
        *_both("policy"),
        Algorithm(f"{V1}policy-combining-algorithm:only-one-applicable", only_one_applicable),
        Algorithm(
            f"{V3}policy-combining-algorithm:on-permit-apply-second",
            on_permit_apply_second,
            by_position=True,
        ),
        *_legacy("policy", legacy_policy_deny_overrides, legacy_policy_permit_overrides),
    )
}
