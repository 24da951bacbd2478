"""The door of the engine: load policies once, then judge requests.

`load_policies` refuses everything that is wrong with the documents, all findings at once.
`Engine.evaluate` is total: whatever the request, the answer is a response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from limen.core.model.diagnostic import Diagnostic, Severity
from limen.core.policy.sources import AnswersNeeded, AttributeUnavailable
from limen.core.policy.xacml import syntax as s
from limen.core.policy.xacml.compile import Compiler
from limen.core.policy.xacml.context import Context, Shared
from limen.core.policy.xacml.decision import Decision, Extended, PolicyId, Status, status_of
from limen.core.policy.xacml.errors import (
    EvaluationError,
    MissingAttribute,
    PolicyFault,
    WorkExhausted,
)
from limen.core.policy.xacml.limits import MAX_POLICY_BYTES
from limen.core.policy.xacml.multiple import combine_results, individual_requests
from limen.core.policy.xacml.names import STATUS_MISSING_ATTRIBUTE, STATUS_PROCESSING_ERROR
from limen.core.policy.xacml.read_policy import read_policy_element
from limen.core.policy.xacml.references import Shelf, references_in, version_key, within
from limen.core.policy.xacml.request import Attributes, Result, XacmlRequest, XacmlResponse
from limen.core.policy.xacml.safexml import parse_xml
from limen.core.policy.xacml.supply import key_of_name
from limen.core.policy.xacml.trace import Trace
from limen.errors import InvalidInput

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from limen.core.policy.xacml.context import Finder
    from limen.core.policy.xacml.nodes import PolicyNode
    from limen.core.policy.xacml.references import Document
    from limen.core.policy.xacml.trace import TraceNode

_EXHAUSTED = Status(STATUS_PROCESSING_ERROR, "the request takes too many steps to decide")
_DECISIONS = {
    Extended.PERMIT: Decision.PERMIT,
    Extended.DENY: Decision.DENY,
    Extended.NOT_APPLICABLE: Decision.NOT_APPLICABLE,
}


class Moment(NamedTuple):
    """What all individual decisions of a request have in common."""

    now: dt.datetime
    finder: Finder | None
    shared: Shared
    trace: Trace | None


class Engine:
    """Compiled policies. Holds no state between requests; safe to share."""

    __slots__ = ("_root", "root_id")

    def __init__(self, root: PolicyNode) -> None:
        self._root = root
        self.root_id: PolicyId = root.id

    def evaluate(
        self, request: XacmlRequest, now: dt.datetime, finder: Finder | None = None
    ) -> XacmlResponse:
        """Judge `request` at `now` (its zone is the local one).

        `finder(category, attribute, datatype, issuer, context)` gives values that the request
        lacks. Raises `AnswersNeeded` if it did, after all individual requests were looked at.
        """
        results = self._results(request, now, finder, None)
        return XacmlResponse(results)

    def explain(
        self, request: XacmlRequest, now: dt.datetime, finder: Finder | None = None
    ) -> tuple[XacmlResponse, tuple[TraceNode, ...]]:
        """The response, and the trace of each individual decision (all children are looked at)."""
        trace = Trace()
        results = self._results(request, now, finder, trace)
        return XacmlResponse(results), tuple(trace.roots)

    def _results(
        self,
        request: XacmlRequest,
        now: dt.datetime,
        finder: Finder | None,
        trace: Trace | None,
    ) -> tuple[Result, ...]:
        try:
            individuals = individual_requests(request)
        except EvaluationError as error:
            return (Result(Decision.INDETERMINATE, status_of(error)),)
        policies = request.return_policy_ids
        at = Moment(now, finder, Shared(), trace)
        results = _all_decided(
            self._decide(entities, at, return_policies=policies) for entities in individuals
        )
        if request.combined_decision and len(results) > 1:
            return (combine_results(results, return_policies=policies),)
        return results

    def _permits(self, ctx: Context) -> bool:
        return self._root.evaluate(ctx).decision is Extended.PERMIT

    def _decide(
        self, entities: Sequence[Attributes], at: Moment, *, return_policies: bool
    ) -> Result | None:
        """The result; None: answers of sources are needed first."""
        returned = _included(entities)
        none = () if return_policies else None
        try:
            ctx = Context(entities, at.now, at.finder, at.shared)
            ctx.trace = at.trace
            ctx.judge = self._permits
            outcome = self._root.evaluate(ctx)
        except EvaluationError as error:
            return Result(Decision.INDETERMINATE, status_of(error), (), returned, none)
        except WorkExhausted:
            return Result(Decision.INDETERMINATE, _EXHAUSTED, (), returned, none)
        except AttributeUnavailable as error:
            return Result(Decision.INDETERMINATE, _unavailable(error), (), returned, none)
        except AnswersNeeded:
            return None
        decision = _DECISIONS.get(outcome.decision, Decision.INDETERMINATE)
        applied = tuple(dict.fromkeys(ctx.applied)) if return_policies else None
        return Result(decision, outcome.status, outcome.obligations, returned, applied)


def _all_decided(results: Iterable[Result | None]) -> tuple[Result, ...]:
    """Raises `AnswersNeeded` if one of them could not be made."""
    found = list(results)
    made = tuple(result for result in found if result is not None)
    if len(made) < len(found):
        raise AnswersNeeded
    return made


def _unavailable(error: AttributeUnavailable) -> Status:
    category, identifier, datatype = key_of_name(error.name)
    missing = MissingAttribute(category, identifier, datatype)
    return Status(STATUS_MISSING_ATTRIBUTE, error.reason, (missing,))


def _included(entities: Sequence[Attributes]) -> tuple[Attributes, ...]:
    """What the request wants to have back with the result."""
    found = []
    for entity in entities:
        wanted = tuple(a for a in entity.attributes if a.include_in_result)
        if wanted:
            found.append(Attributes(entity.category, wanted))
    return tuple(found)


def load_policies(
    documents: Sequence[bytes],
    root_id: str | None = None,
    *,
    files: Sequence[str] = (),
    indexed: bool = True,
) -> Engine:
    """Compile `documents` (XML, one policy or policy set each).

    The root is `root_id` (its newest version), or the only document that no other refers to.
    `files` names the documents in findings. Raises `InvalidInput` with all findings.
    """
    trees = read_documents(documents, files)
    return Engine(_compile(trees, root_id, indexed=indexed))


def read_documents(documents: Sequence[bytes], files: Sequence[str] = ()) -> list[Document]:
    """The documents as trees, not compiled. Raises `InvalidInput` with all findings."""
    names = [*files, *("" for _ in documents[len(files) :])]
    findings: list[Diagnostic] = []
    trees: list[Document] = []
    for document, name in zip(documents, names, strict=True):
        try:
            trees.append(_read(document, name))
        except InvalidInput as error:
            findings += error.diagnostics
        except PolicyFault as fault:
            findings.append(_finding(fault, name))
    _refuse(findings)
    return trees


def _read(document: bytes, name: str) -> Document:
    root = parse_xml(document, MAX_POLICY_BYTES, "policy", name)
    return read_policy_element(root, name)


def _compile(trees: Sequence[Document], root_id: str | None, *, indexed: bool) -> PolicyNode:
    try:
        shelf = Shelf(trees)
    except PolicyFault as fault:
        _refuse([_finding(fault, "")])
        raise
    compiler = Compiler(shelf, indexed=indexed)
    for tree in trees:
        try:
            compiler.document(tree)
        except PolicyFault as fault:
            compiler.findings.append(_finding(fault, tree.file))
    try:
        chosen = _root(trees, root_id)
    except PolicyFault as fault:
        compiler.findings.append(_finding(fault, ""))
        _refuse(compiler.findings)
        raise
    _refuse(compiler.findings)
    node = compiler.document(chosen)
    if node is None:
        raise InvalidInput("the root policy could not be compiled", code="xacml-invalid")
    return node


def _root(trees: Sequence[Document], root_id: str | None) -> Document:
    if root_id is not None:
        known = [tree for tree in trees if tree.id == root_id]
        known = known or [p for tree in trees for p in within(tree) if p.id == root_id]
        if not known:
            message = f"no document is the policy {root_id}"
            raise PolicyFault("xacml-no-root", message, hint="name one of the documents")
        return max(known, key=lambda p: version_key(p.version))
    if len(trees) == 1:
        return trees[0]
    referenced = {(r.policy_set, r.id) for tree in trees for r in references_in(tree)}
    free = [t for t in trees if (isinstance(t, s.PolicySet), t.id) not in referenced]
    if len(free) == 1:
        return free[0]
    names = ", ".join(sorted(t.id for t in free)) or "none"
    message = f"which policy is the root is not clear: not referred to: {names}"
    raise PolicyFault("xacml-no-root", message, hint="say which with --root")


def _finding(fault: PolicyFault, file: str) -> Diagnostic:
    return Diagnostic(
        Severity.ERROR, fault.code, fault.message, file=file, line=fault.line, hint=fault.hint
    )


def _refuse(findings: Sequence[Diagnostic]) -> None:
    if findings:
        first = findings[0]
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise InvalidInput(
            f"the policy cannot be loaded: {first.message}{more}",
            code="xacml-invalid",
            hint=first.hint,
            diagnostics=findings,
        )
