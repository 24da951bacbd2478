"""Rules, policies and policy sets ready to decide (core, 7.11 to 7.14)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.policy.xacml.decision import (
    DENY,
    NOT_APPLICABLE,
    PERMIT,
    Assignment,
    Effect,
    Extended,
    Obligation,
    Outcome,
    PolicyId,
    status_of,
)
from limen.core.policy.xacml.errors import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limen.core.policy.xacml.combining import Algorithm, Node
    from limen.core.policy.xacml.context import Context
    from limen.core.policy.xacml.trace import Trace

    Matches = Callable[[Context], bool]
    Due = Callable[[Context], Obligation]

_INDETERMINATE = {
    Extended.PERMIT: Extended.INDETERMINATE_P,
    Extended.DENY: Extended.INDETERMINATE_D,
}
_PLAIN = {Effect.PERMIT: PERMIT, Effect.DENY: DENY}


class ObligationMaker:
    """An obligation expression: `make(ctx)` gives the obligation. Raises `EvaluationError`."""

    __slots__ = ("_advice", "_id", "_parts")

    def __init__(
        self,
        obligation_id: str,
        parts: Sequence[Callable[[Context], list[Assignment]]],
        *,
        advice: bool,
    ) -> None:
        self._id = obligation_id
        self._parts = tuple(parts)
        self._advice = advice

    def make(self, ctx: Context) -> Obligation:
        """Evaluate every assignment."""
        found = tuple(assignment for part in self._parts for assignment in part(ctx))
        return Obligation(self._id, found, self._advice)


class RuleNode:
    """A rule (core, 7.11): effect, if target and condition hold."""

    __slots__ = ("_condition", "_error", "_obligations", "_plain", "_target", "effect", "id")

    def __init__(
        self,
        rule_id: str,
        effect: Effect,
        target: Matches | None,
        condition: Matches | None,
        obligations: Sequence[ObligationMaker],
    ) -> None:
        self.id = rule_id
        self.effect: Effect | None = effect
        self._target = target
        self._condition = condition
        self._obligations = tuple(obligations)
        self._plain = _PLAIN[effect]
        self._error = _INDETERMINATE[self._plain.decision]

    def applies(self, ctx: Context) -> bool:
        """Whether the target matches. Raises `EvaluationError`."""
        return self._target is None or self._target(ctx)

    def evaluate(self, ctx: Context) -> Outcome:
        """The rule's decision."""
        if ctx.trace is not None:
            return self._evaluate_traced(ctx)
        try:
            if self._target is not None and not self._target(ctx):
                return NOT_APPLICABLE
            return self._decide(ctx)
        except EvaluationError as error:
            return Outcome(self._error, status_of(error))

    def evaluate_matched(self, ctx: Context) -> Outcome:
        """The rule's decision, its target being known to match."""
        try:
            return self._decide(ctx)
        except EvaluationError as error:
            return Outcome(self._error, status_of(error))

    def _decide(self, ctx: Context) -> Outcome:
        if self._condition is not None and not self._condition(ctx):
            return NOT_APPLICABLE
        if not self._obligations:
            return self._plain
        due = tuple(maker.make(ctx) for maker in self._obligations)
        return Outcome(self._plain.decision, obligations=due)

    def _evaluate_traced(self, ctx: Context) -> Outcome:
        trace = ctx.trace
        assert trace is not None  # noqa: S101 - the caller looked
        trace.enter("Rule", self.id)
        try:
            if self._target is not None:
                matched = self._target(ctx)
                trace.target("match" if matched else "no match")
                if not matched:
                    return trace.leave(NOT_APPLICABLE)
            if self._condition is not None:
                trace.condition("true" if self._condition(ctx) else "false")
            return trace.leave(self._decide(ctx))
        except EvaluationError as error:
            return trace.leave(Outcome(self._error, status_of(error)))


class PolicyNode:
    """A policy or policy set (core, 7.12, 7.13): its algorithm over its children."""

    __slots__ = (
        "_algorithm",
        "_nodes",
        "_on_deny",
        "_on_permit",
        "_select",
        "_target",
        "children",
        "effect",
        "id",
        "size",
    )

    def __init__(
        self,
        policy_id: PolicyId,
        target: Matches | None,
        algorithm: Algorithm,
        nodes: Sequence[Node],
        *,
        due: dict[Effect, tuple[ObligationMaker, ...]],
        select: Callable[[Context], Sequence[Node]] | None,
    ) -> None:
        self.id = policy_id
        self.effect: Effect | None = None
        self.size = 1 + sum(getattr(node, "size", 1) for node in nodes)
        self._target = target
        self._algorithm = algorithm.combine
        self._nodes = tuple(nodes)
        self._on_permit = due.get(Effect.PERMIT, ())
        self._on_deny = due.get(Effect.DENY, ())
        self._select = select

    def applies(self, ctx: Context) -> bool:
        """Whether the target matches. Raises `EvaluationError`."""
        return self._target is None or self._target(ctx)

    def evaluate(self, ctx: Context) -> Outcome:
        """The decision (core, table 7)."""
        if ctx.trace is not None:
            return self._evaluate_traced(ctx)
        if self._target is None:
            return self._matched(ctx)
        try:
            if not self._target(ctx):
                return NOT_APPLICABLE
        except EvaluationError as error:
            return self._indeterminate_target(ctx, error)
        return self._matched(ctx)

    def evaluate_matched(self, ctx: Context) -> Outcome:
        """The decision, the target being known to match."""
        if ctx.trace is None:
            return self._matched(ctx)
        self._enter(ctx.trace)
        ctx.trace.target("match")
        return ctx.trace.leave(self._matched(ctx))

    def _enter(self, trace: Trace) -> None:
        kind = "PolicySet" if self.id.policy_set else "Policy"
        trace.enter(kind, f"{self.id.id} v{self.id.version}")

    def _matched(self, ctx: Context) -> Outcome:
        before = len(ctx.applied)
        outcome = self._combine(ctx)
        decision = outcome.decision
        if decision is Extended.NOT_APPLICABLE:
            del ctx.applied[before:]
            return outcome
        ctx.applied.append(self.id)
        makers = self._on_permit if decision is Extended.PERMIT else ()
        makers = self._on_deny if decision is Extended.DENY else makers
        if not makers:
            return outcome
        try:
            due = tuple(maker.make(ctx) for maker in makers)
        except EvaluationError as error:
            return Outcome(_INDETERMINATE[decision], status_of(error))
        return Outcome(decision, obligations=outcome.obligations + due)

    def _combine(self, ctx: Context) -> Outcome:
        nodes: Sequence[Node] = self._nodes
        if self._select is not None and ctx.trace is None:
            nodes = self._select(ctx)
        ctx.spend(len(nodes))
        return self._algorithm(nodes, ctx)

    def _indeterminate_target(self, ctx: Context, error: EvaluationError) -> Outcome:
        before = len(ctx.applied)
        decision = self._combine(ctx).decision
        if decision is Extended.NOT_APPLICABLE:
            del ctx.applied[before:]
            return NOT_APPLICABLE
        ctx.applied.append(self.id)
        return Outcome(_INDETERMINATE.get(decision, decision), status_of(error))

    def _evaluate_traced(self, ctx: Context) -> Outcome:
        trace = ctx.trace
        assert trace is not None  # noqa: S101 - the caller looked
        self._enter(trace)
        if self._target is not None:
            try:
                matched = self._target(ctx)
            except EvaluationError as error:
                trace.target(f"error: {error.message}")
                return trace.leave(self._indeterminate_target(ctx, error))
            trace.target("match" if matched else "no match")
            if not matched:
                return trace.leave(NOT_APPLICABLE)
        return trace.leave(self._matched(ctx))
