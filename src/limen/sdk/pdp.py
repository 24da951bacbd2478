"""The decision point inside an application: the engine of the sidecar, in process.

    pdp = load(["policies/"], root="records", obligations={"log": write_log})
    verdict = pdp.decide(subject, action, resource, context)
    if not verdict.permitted: refuse(verdict.reason)

Each part is AuthZEN's object (`{"type": ..., "id": ..., "properties": {...}}`). An obligation is
given to its handler before the answer is; one without a handler, or whose handler fails, refuses.
`redact` is carried out here: its `field`s are taken out of the `document` that the application is
about to give away. `sources` are asked for attributes that the request lacks; that may block for
their declared times. Rego is not bounded here: a policy of others belongs into `limen pdp serve`.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limen.adapters.attributes.blocking import BlockingPoint
from limen.adapters.policy_files import language_of, read_bounded, read_policies, read_rego
from limen.core.policy.engine import BODY_DUTY, OBLIGATION, AccessRequest, Answer, Duty
from limen.core.policy.redaction import redacted
from limen.core.policy.rego.source import DEFAULT_ENTRY, MAX_DATA_BYTES
from limen.core.policy.xacml.access import XacmlPolicyEngine
from limen.core.policy.xacml.engine import load_policies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from limen.adapters.attributes.point import InformationPoint
    from limen.core.policy.engine import PolicyEngine, Verdict
    from limen.core.policy.sources import SourceBook

__all__ = ["Decided", "DecisionPoint", "Duty", "load"]


@dataclass(frozen=True, slots=True)
class Decided:
    """The answer, all obligations done. `answer` is XACML's word for it."""

    permitted: bool
    answer: str
    reason: str = ""
    advice: tuple[Duty, ...] = ()
    document: Any = None
    """The document that was given to `decide`, without what must not be seen; None: refused."""


class DecisionPoint:
    """Loaded policies and the handlers of their obligations, by identifier."""

    def __init__(
        self,
        engine: PolicyEngine,
        obligations: Mapping[str, Callable[[Duty], None]],
        point: BlockingPoint | None = None,
    ) -> None:
        self._engine = engine
        self._handlers = dict(obligations)
        self._point = point

    def decide(
        self,
        subject: Mapping[str, Any],
        action: Mapping[str, Any],
        resource: Mapping[str, Any],
        context: Mapping[str, Any] | None = None,
        *,
        document: Any = None,
        now: dt.datetime | None = None,
    ) -> Decided:
        """Judge, carry out the obligations, answer. What a handler raises is raised.

        `document` (of JSON) is what the application gives away if it is permitted; a copy without
        redacted fields comes back. An obligation to redact refuses where there is none.
        """
        asked = AccessRequest(subject, action, resource, context or {})
        verdict = self._judged(asked, now or dt.datetime.now(dt.UTC))
        permitted = verdict.answer is Answer.PERMIT
        others: list[Duty] = []
        hidden: list[Duty] = []
        for duty in verdict.obligations:
            (hidden if self._is_redaction(duty) else others).append(duty)
        missing = [d.id for d in others if self._handler(d) is None]
        if missing:
            reason = f"nothing here carries out the obligation {missing[0]}"
            return Decided(permitted=False, answer=verdict.answer.value, reason=reason)
        try:
            shown = redacted(document, hidden) if permitted else None
        except ValueError as error:
            return Decided(permitted=False, answer=verdict.answer.value, reason=str(error))
        for duty in others:
            handler = self._handler(duty)
            assert handler is not None  # noqa: S101 - looked at above
            handler(duty)
        advice = tuple(duty for duty in verdict.duties if duty.advice)
        return Decided(permitted, verdict.answer.value, verdict.reason, advice, shown)

    def _judged(self, asked: AccessRequest, now: dt.datetime) -> Verdict:
        if self._point is None:
            return self._engine.judge(asked, now)
        return self._point.decide(lambda asking: self._engine.judge(asked, now, asking))

    def _handler(self, duty: Duty) -> Callable[[Duty], None] | None:
        """By the whole identifier, or without Limen's prefix."""
        return self._handlers.get(duty.id) or self._handlers.get(duty.id.removeprefix(OBLIGATION))

    def _is_redaction(self, duty: Duty) -> bool:
        return duty.id.removeprefix(OBLIGATION) == BODY_DUTY and self._handler(duty) is None


def load(
    policies: Sequence[str | Path],
    *,
    root: str | None = None,
    data: Sequence[str | Path] = (),
    obligations: Mapping[str, Callable[[Duty], None]] | None = None,
    sources: Sequence[str | Path] = (),
) -> DecisionPoint:
    """Load XACML (`.xml`) or Rego (`.rego`, with JSON documents `data`) from files or directories.

    `root`: the policy to begin with; in Rego the decision, as PACKAGE/RULE. `sources`: files of
    AttributeSources. Raises `limen.errors.InvalidInput` with every finding.
    """
    point = _point([Path(source) for source in sources])
    book = None if point is None else point.book
    engine = _engine([Path(p) for p in policies], root, data, book)
    blocking = None if point is None else BlockingPoint(point)
    return DecisionPoint(engine, obligations or {}, blocking)


def _point(sources: Sequence[Path]) -> InformationPoint | None:
    if not sources:
        return None
    from limen.adapters.attributes.reading import open_point  # noqa: PLC0415 - most need none

    return open_point(sources)


def _engine(
    paths: Sequence[Path],
    root: str | None,
    data: Sequence[str | Path],
    book: SourceBook | None,
) -> PolicyEngine:
    if language_of(paths) == "xacml":
        files = read_policies(paths)
        names = [f.path for f in files]
        compiled = load_policies([f.document for f in files], root, files=names)
        return XacmlPolicyEngine(compiled, book)
    from limen.core.policy.rego.engine import load_rego  # noqa: PLC0415 - XACML needs no Rego

    documents = [read_bounded(Path(path), MAX_DATA_BYTES) for path in data]
    return load_rego(read_rego(paths), documents, root or DEFAULT_ENTRY)
