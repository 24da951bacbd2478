"""What a valid policy says that its author hardly means. Findings are warnings; nothing is refused.

Looks at documents as written: no request, no evaluation.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, TypeVar

from limen.core.model.diagnostic import Diagnostic, Severity
from limen.core.policy.engine import BODY_DUTY, OBLIGATION, PROXY_DUTIES
from limen.core.policy.xacml import syntax as s
from limen.core.policy.xacml.access import CLAIM, HTTP
from limen.core.policy.xacml.context import Context
from limen.core.policy.xacml.decision import Effect
from limen.core.policy.xacml.errors import EvaluationError, PolicyFault
from limen.core.policy.xacml.expression import Compiled, compile_expression
from limen.core.policy.xacml.names import CURRENT_DATE, CURRENT_DATE_TIME, CURRENT_TIME
from limen.core.policy.xacml.references import references_in, within
from limen.core.policy.xacml.supply import ACTION_ID, RESOURCE_ID, SUBJECT_ID, TYPE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from limen.core.policy.xacml.references import Document

Part = TypeVar("Part")
_SUPPLIED = frozenset(
    {CURRENT_DATE, CURRENT_DATE_TIME, CURRENT_TIME, SUBJECT_ID, RESOURCE_ID, ACTION_ID, TYPE}
)
"""What every request has."""
_NOW = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_DEFAULTS = ("deny-unless-permit", "permit-unless-deny")
_SAME = {"deny-unless-permit": Effect.DENY, "permit-unless-deny": Effect.PERMIT}
"""Algorithms that have a default, and the effect that changes nothing there."""


def lint(
    documents: Iterable[Document], root_id: str, attributes: frozenset[str] | None = None
) -> list[Diagnostic]:
    """All warnings. `attributes`: identifiers that some source gives; None: not known."""
    documents = list(documents)
    known = {document.id: document for document in documents}
    found: list[Diagnostic] = []
    used = _used(root_id, documents)
    for document in documents:
        if document.id not in used:
            message = f"{document.id} is never reached: nothing refers to it"
            hint = "refer to it, or remove it"
            place = (document.file, document.line)
            found.append(_warning("unreachable", message, *place, hint))
    for document in documents:
        found += _children(document, document.file)
        if document.id == root_id and not _has_default(document, known):
            message = f"{document.id} may decide nothing: NotApplicable is refused without a reason"
            hint = "combine with deny-unless-permit, or end with a rule without target"
            found.append(_warning("no-default", message, document.file, document.line, hint))
        if attributes is not None:
            found += _unknown(document, attributes)
    return found


def about_bodies(documents: Iterable[Document]) -> list[Diagnostic]:
    """An error for each obligation about a body: what is enforced at a proxy must not have one."""
    return [
        Diagnostic(
            severity=Severity.ERROR,
            code="xacml-body-obligation",
            message=f"the obligation {part.id} is about a body, which no proxy has",
            file=document.file,
            line=part.line,
            hint="decide it inside the application (limen.sdk.pdp), or remove the obligation",
        )
        for document in documents
        for part in _parts(document, s.ObligationExpression)
        if not part.advice and part.id.removeprefix(OBLIGATION) == BODY_DUTY
    ]


def not_for_a_proxy(documents: Iterable[Document]) -> list[Diagnostic]:
    """A warning for each obligation that no proxy carries out: it would refuse every time."""
    found = []
    for document in documents:
        for part in _parts(document, s.ObligationExpression):
            if not part.advice and part.id.removeprefix(OBLIGATION) not in PROXY_DUTIES:
                message = f"no proxy carries out the obligation {part.id}: it will refuse"
                hint = f"known there: {', '.join(sorted(PROXY_DUTIES))}"
                place = (document.file, part.line)
                found.append(_warning("not-for-a-proxy", message, *place, hint))
    return found


def _used(root_id: str, documents: list[Document]) -> set[str]:
    """The identifiers of documents that evaluation may come to: the root's, and what it refers to.

    All versions of an identifier count.
    """
    found: set[str] = set()
    waiting = [d for d in documents if any(p.id == root_id for p in within(d))]
    while waiting:
        document = waiting.pop()
        if document.id in found:
            continue
        found.add(document.id)
        wanted = {reference.id for reference in references_in(document)}
        waiting += [d for d in documents if any(p.id in wanted for p in within(d))]
    return found


def _children(node: s.Policy | s.PolicySet, file: str) -> Iterator[Diagnostic]:
    algorithm = _algorithm(node)
    parts = node.rules if isinstance(node, s.Policy) else node.children
    certain: s.Rule | None = None
    for part in parts:
        if certain is not None and algorithm == "first-applicable":
            message = f"{part.id} is never reached: {certain.id} before it always applies"
            hint = "move it up, or remove it"
            yield _warning("unreachable", message, file, part.line, hint)
        if isinstance(part, s.Rule):
            yield from _rule(part, algorithm, file)
            if certain is None and _always(part):
                certain = part
        elif isinstance(part, s.Policy | s.PolicySet):
            yield from _children(part, file)


def _rule(rule: s.Rule, algorithm: str, file: str) -> Iterator[Diagnostic]:
    if _constant(rule.condition) is False:
        message = f"{rule.id} never applies: its condition is false"
        yield _warning("never-applies", message, file, rule.line, "mend or remove it")
    if _SAME.get(algorithm) is rule.effect and not rule.obligations:
        message = f"{rule.id} changes nothing: {algorithm} gives {rule.effect.value} anyway"
        yield _warning("without-effect", message, file, rule.line, "remove it")


def _algorithm(node: s.Policy | s.PolicySet) -> str:
    return node.algorithm.rpartition(":")[2]


def _constant(condition: s.Expression | None) -> bool | None:
    """The value of a condition that needs no request; None: it does, or it is not there."""
    if condition is None or not _is_closed(condition):
        return None
    try:
        compiled = compile_expression(condition, _no_variable)
        value = compiled.evaluate(Context((), _NOW))
    except (PolicyFault, EvaluationError):
        return None
    return value if isinstance(value, bool) else None


def _is_closed(expression: s.Expression) -> bool:
    """Whether it is made of literals only."""
    if isinstance(expression, s.Apply):
        return all(_is_closed(part) for part in expression.arguments)
    return isinstance(expression, s.Literal | s.FunctionReference)


def _no_variable(name: str, line: int) -> Compiled:
    raise PolicyFault("xacml-unknown-variable", name, line)


def _always(rule: s.Rule) -> bool:
    """Whether a rule applies to every request."""
    return not rule.target and (rule.condition is None or _constant(rule.condition) is True)


def _has_default(node: s.Policy | s.PolicySet | s.Reference, known: dict[str, Document]) -> bool:
    """Whether every request gets Permit or Deny, as far as it can be seen here."""
    if isinstance(node, s.Reference):
        return node.id in known and _has_default(known[node.id], known)
    if node.target:
        return False
    if _algorithm(node) in _DEFAULTS:
        return True
    if isinstance(node, s.Policy):
        return any(_always(rule) for rule in node.rules)
    return any(_has_default(child, known) for child in node.children)


def _unknown(document: Document, attributes: frozenset[str]) -> Iterator[Diagnostic]:
    told: set[str] = set()
    for designator in _parts(document, s.Designator):
        name = designator.attribute_id
        carried = name in _SUPPLIED or name.startswith((HTTP, CLAIM))
        if name not in attributes and not carried and name not in told:
            told.add(name)
            message = f"no source gives the attribute {name}"
            hint = "name its source, or correct its identifier"
            yield _warning("no-source", message, document.file, designator.line, hint)


def _parts(value: object, kind: type[Part]) -> Iterator[Part]:
    """Everything of one kind below a part of a document."""
    stack: list[object] = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, kind):
            yield part
        if isinstance(part, tuple):
            stack += reversed(part)
        elif type(part).__module__ == s.__name__:
            stack += [getattr(part, name) for name in reversed(type(part).__slots__)]  # type: ignore[attr-defined] # all of the module are slotted


def _warning(code: str, message: str, file: str, line: int, hint: str) -> Diagnostic:
    return Diagnostic(Severity.WARNING, f"xacml-{code}", message, file=file, line=line, hint=hint)
