"""A team's own cases: requests with the verdict that is expected, and the rules that none reaches.

The answers are those of `explain`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.compiler.explain import Explainer
from limen.core.model.authorization import AuthorizationPolicy
from limen.core.model.permission import MeshTrafficPermission, TrafficPermission
from limen.core.policy.rule import RuleRef
from limen.errors import LimenError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from limen.core.compiler.explanation import ExplainQuery, Explanation
    from limen.core.model.resource import Resource
    from limen.core.model.snapshot import Snapshot

Place = tuple[str, str, str, str, int]
"""Kind, mesh, namespace, name and index of a rule."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request and what is expected of it.

    `status` None: any that fits `allowed`. `rule`: `[[KIND ]NAMESPACE/]NAME[/INDEX]` of the rule
    that decides, "" if it does not matter, `none` if no rule may have decided.
    """

    name: str
    query: ExplainQuery
    allowed: bool
    status: int | None = None
    rule: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case. `problem` "": as expected. `answer` None: the question has no answer."""

    case: Case
    problem: str
    answer: Explanation | None


@dataclass(frozen=True, slots=True)
class Report:
    """All outcomes in order, all rules, and those of them that no case reached. Sorted."""

    outcomes: tuple[Outcome, ...]
    rules: tuple[RuleRef, ...]
    unreached: tuple[RuleRef, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Outcomes that were not expected."""
        return tuple(outcome for outcome in self.outcomes if outcome.problem)


def run_cases(snapshot: Snapshot, cases: Iterable[Case]) -> Report:
    """Ask every case. Workloads that no document declares are assumed, as `explain` does."""
    explainer = Explainer(snapshot)
    outcomes = tuple(_run(explainer, case) for case in cases)
    reached = {_place(ref) for outcome in outcomes for ref in _reached(outcome.answer)}
    rules = tuple(sorted(_rules(snapshot), key=lambda ref: (ref.file, ref.line, _place(ref))))
    return Report(outcomes, rules, tuple(r for r in rules if _place(r) not in reached))


def _run(explainer: Explainer, case: Case) -> Outcome:
    try:
        answer = explainer.explain(case.query)
    except LimenError as error:
        return Outcome(case, f"{error.code}: {error}", None)
    return Outcome(case, _problem(case, answer), answer)


def _problem(case: Case, answer: Explanation) -> str:
    if answer.allowed != case.allowed:
        wanted, seen = ("allowed", "denied") if case.allowed else ("denied", "allowed")
        return f"expected {wanted}, is {seen}: {answer.reason}"
    if case.status is not None and answer.status != case.status:
        return f"expected status {case.status}, is {answer.status}: {answer.reason}"
    if case.rule and not _names(case.rule, answer.rule):
        decided = "no rule" if answer.rule is None else str(answer.rule)
        return f"expected the rule {case.rule}, {decided} decided"
    return ""


def _names(wanted: str, ref: RuleRef | None) -> bool:
    """Whether `wanted` is one of the names of a rule."""
    if ref is None:
        return wanted == "none"
    short, full = ref.name, f"{ref.namespace}/{ref.name}"
    names = {short, full, f"{ref.kind} {short}", f"{ref.kind} {full}"}
    return wanted in names | {f"{name}/{ref.index}" for name in names}


def _reached(answer: Explanation | None) -> Iterator[RuleRef]:
    if answer is None:
        return
    if answer.rule is not None:
        yield answer.rule
    yield from (ref for _, ref in answer.dry_run)
    yield from answer.audited
    yield from (ref for _, ref in answer.asked)


def _place(ref: RuleRef) -> Place:
    return (ref.kind, ref.mesh, ref.namespace, ref.name, ref.index)


def _rules(snapshot: Snapshot) -> Iterator[RuleRef]:
    """Every rule of every policy, where it was written."""
    for resource in snapshot.resources.values():
        count, path = _entries(resource)
        for index in range(count):
            key, origin = resource.key, resource.origin
            kind = key.kind.rpartition("/")[2]
            line = origin.line(f"{path}/{index}")
            yield RuleRef(kind, key.mesh, key.namespace, key.name, index, origin.file, line)


def _entries(resource: Resource) -> tuple[int, str]:
    match resource.spec:
        case TrafficPermission(sources):
            return len(sources), "/spec/sources"
        case MeshTrafficPermission() | AuthorizationPolicy() as spec:
            return len(spec.rules), "/spec/rules"
        case _:
            return 0, ""
