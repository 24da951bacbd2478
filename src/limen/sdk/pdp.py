"""The decision point inside an application: the engine of the sidecar, in process.

    pdp = load(["policies/"], root="records", obligations={"log": write_log})
    verdict = pdp.decide(subject, action, resource, context)
    if not verdict.permitted: refuse(verdict.reason)

Each part is AuthZEN's object (`{"type": ..., "id": ..., "properties": {...}}`). An obligation is
given to its handler before the answer is; one without a handler, or whose handler fails, refuses.
Rego is not bounded here: a policy of others belongs into `limen pdp serve`.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limen.adapters.policy_files import language_of, read_bounded, read_policies, read_rego
from limen.core.policy.engine import AccessRequest, Answer, Duty
from limen.core.policy.rego.source import DEFAULT_ENTRY, MAX_DATA_BYTES
from limen.core.policy.xacml.access import XacmlPolicyEngine
from limen.core.policy.xacml.engine import load_policies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from limen.core.policy.engine import PolicyEngine

__all__ = ["Decided", "DecisionPoint", "Duty", "load"]


@dataclass(frozen=True, slots=True)
class Decided:
    """The answer, all obligations done. `answer` is XACML's word for it."""

    permitted: bool
    answer: str
    reason: str = ""
    advice: tuple[Duty, ...] = ()


class DecisionPoint:
    """Loaded policies and the handlers of their obligations, by identifier."""

    def __init__(
        self, engine: PolicyEngine, obligations: Mapping[str, Callable[[Duty], None]]
    ) -> None:
        self._engine = engine
        self._handlers = dict(obligations)

    def decide(
        self,
        subject: Mapping[str, Any],
        action: Mapping[str, Any],
        resource: Mapping[str, Any],
        context: Mapping[str, Any] | None = None,
        *,
        now: dt.datetime | None = None,
    ) -> Decided:
        """Judge, carry out the obligations, answer. What a handler raises is raised."""
        asked = AccessRequest(subject, action, resource, context or {})
        verdict = self._engine.judge(asked, now or dt.datetime.now(dt.UTC))
        missing = [d.id for d in verdict.obligations if d.id not in self._handlers]
        if missing:
            reason = f"nothing here carries out the obligation {missing[0]}"
            return Decided(permitted=False, answer=verdict.answer.value, reason=reason)
        for duty in verdict.obligations:
            self._handlers[duty.id](duty)
        permitted = verdict.answer is Answer.PERMIT
        advice = tuple(duty for duty in verdict.duties if duty.advice)
        return Decided(permitted, verdict.answer.value, verdict.reason, advice)


def load(
    policies: Sequence[str | Path],
    *,
    root: str | None = None,
    data: Sequence[str | Path] = (),
    obligations: Mapping[str, Callable[[Duty], None]] | None = None,
) -> DecisionPoint:
    """Load XACML (`.xml`) or Rego (`.rego`, with JSON documents `data`) from files or directories.

    `root`: the policy to begin with; in Rego the decision, as PACKAGE/RULE. Raises
    `limen.errors.InvalidInput` with every finding.
    """
    return DecisionPoint(_engine([Path(p) for p in policies], root, data), obligations or {})


def _engine(paths: Sequence[Path], root: str | None, data: Sequence[str | Path]) -> PolicyEngine:
    if language_of(paths) == "xacml":
        files = read_policies(paths)
        names = [f.path for f in files]
        return XacmlPolicyEngine(load_policies([f.document for f in files], root, files=names))
    from limen.core.policy.rego.engine import load_rego  # noqa: PLC0415 - XACML needs no Rego

    documents = [read_bounded(Path(path), MAX_DATA_BYTES) for path in data]
    return load_rego(read_rego(paths), documents, root or DEFAULT_ENTRY)
