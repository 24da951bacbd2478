"""The tree of a policy to nodes that decide. Everything that can be checked is checked here."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from limen.core.model.diagnostic import Diagnostic, Severity
from limen.core.policy.xacml import datatypes as t
from limen.core.policy.xacml import syntax as s
from limen.core.policy.xacml.combining import POLICY_ALGORITHMS, RULE_ALGORITHMS, Algorithm
from limen.core.policy.xacml.decision import Assignment, Effect, PolicyId
from limen.core.policy.xacml.errors import PolicyFault
from limen.core.policy.xacml.expression import Compiled, compile_expression, remembered
from limen.core.policy.xacml.index import choose
from limen.core.policy.xacml.limits import MAX_EXPANDED_POLICIES, MAX_POLICY_DEPTH
from limen.core.policy.xacml.matching import compile_target
from limen.core.policy.xacml.nodes import ObligationMaker, PolicyNode, RuleNode
from limen.core.policy.xacml.static import one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from limen.core.policy.xacml.combining import Node
    from limen.core.policy.xacml.context import Context
    from limen.core.policy.xacml.datatypes import DataType
    from limen.core.policy.xacml.references import Document, Shelf

_MAX_FINDINGS = 100


class Compiler:
    """Compiles documents whose references `shelf` resolves; `findings` collects what is wrong."""

    def __init__(self, shelf: Shelf, *, indexed: bool = True) -> None:
        self.findings: list[Diagnostic] = []
        self._shelf = shelf
        self._indexed = indexed
        self._done: dict[int, PolicyNode] = {}
        self._open: list[Document] = []

    def document(self, document: Document) -> PolicyNode | None:
        """The node of a policy or set, compiled once; None if something is wrong with it."""
        node = self._done.get(id(document))
        if node is not None:
            return node
        if any(document is other for other in self._open):
            names = " → ".join(p.id for p in (*self._open, document))
            raise PolicyFault("xacml-reference-cycle", f"references go in a circle: {names}")
        if len(self._open) > MAX_POLICY_DEPTH:
            message = f"policy sets are more than {MAX_POLICY_DEPTH} deep"
            raise PolicyFault("xacml-too-deep", message, document.line)
        self._open.append(document)
        try:
            with self._collected(document, f"{document.id}"):
                node = self._compiled(document)
                if node.size > MAX_EXPANDED_POLICIES:
                    message = f"it stands for more than {MAX_EXPANDED_POLICIES} rules and policies"
                    raise PolicyFault("xacml-too-large", message, document.line)
                self._done[id(document)] = node
        finally:
            self._open.pop()
        return node

    @contextmanager
    def _collected(self, document: Document, path: str) -> Iterator[None]:
        try:
            yield
        except PolicyFault as fault:
            if len(self.findings) < _MAX_FINDINGS:
                self.findings.append(
                    Diagnostic(
                        Severity.ERROR,
                        fault.code,
                        fault.message,
                        document.file,
                        fault.line or document.line,
                        path,
                        fault.hint,
                    )
                )

    def _compiled(self, document: Document) -> PolicyNode:
        nodes: list[Node]
        variable: Callable[[str, int], Compiled]
        if isinstance(document, s.PolicySet):
            variable = _no_variable
            algorithm = _algorithm(POLICY_ALGORITHMS, document)
            nodes, targets = self._children(document)
        else:
            variable = self._variables(document)
            algorithm = _algorithm(RULE_ALGORITHMS, document)
            nodes, targets = self._rules(document, variable)
        if algorithm.by_position and len(nodes) not in (2, 3):
            message = f"{algorithm.uri} combines two or three policies, not {len(nodes)}"
            raise PolicyFault("xacml-wrong-arity", message, document.line)
        due = _obligations(document.obligations, variable)
        select = None
        if self._indexed and not algorithm.by_position and len(nodes) == len(targets):
            select = choose(nodes, targets)
        kind = isinstance(document, s.PolicySet)
        policy_id = PolicyId(document.id, document.version, kind)
        return PolicyNode(
            policy_id, compile_target(document.target), algorithm, nodes, due=due, select=select
        )

    def _children(self, document: s.PolicySet) -> tuple[list[Node], list[s.Target]]:
        nodes: list[Node] = []
        targets: list[s.Target] = []
        for child in document.children:
            with self._collected(document, document.id):
                found = self._shelf.resolve(child) if isinstance(child, s.Reference) else child
                node = self.document(found)
                if node is not None:
                    nodes.append(node)
                    targets.append(found.target)
        return nodes, targets

    def _rules(
        self, policy: s.Policy, variable: Callable[[str, int], Compiled]
    ) -> tuple[list[Node], list[s.Target]]:
        nodes: list[Node] = []
        targets: list[s.Target] = []
        seen: set[str] = set()
        for rule in policy.rules:
            with self._collected(policy, f"{policy.id}/{rule.id}"):
                if rule.id in seen:
                    message = f"rule {rule.id} occurs twice in its policy"
                    raise PolicyFault("xacml-duplicate-rule", message, rule.line)
                seen.add(rule.id)
                nodes.append(_rule(rule, variable))
                targets.append(rule.target)
        return nodes, targets

    def _variables(self, policy: s.Policy) -> Callable[[str, int], Compiled]:
        """Look-up of the policy's variables; all are compiled, used or not."""
        defined: dict[str, s.Variable] = {}
        for definition in policy.variables:
            if definition.id in defined:
                message = f"variable {definition.id} is defined twice"
                raise PolicyFault("xacml-duplicate-variable", message, definition.line)
            defined[definition.id] = definition
        done: dict[str, Compiled] = {}
        open_: list[str] = []

        def variable(name: str, line: int) -> Compiled:
            if name in done:
                return done[name]
            if name not in defined:
                message = f"variable {name} is not defined in this policy"
                raise PolicyFault("xacml-unknown-variable", message, line)
            if name in open_ or len(open_) > MAX_POLICY_DEPTH:
                message = f"variable {name} depends on itself, or on too many others"
                raise PolicyFault("xacml-variable-cycle", message, line)
            open_.append(name)
            done[name] = remembered(compile_expression(defined[name].expression, variable))
            open_.pop()
            return done[name]

        for name, definition in defined.items():
            variable(name, definition.line)
        return variable


def _no_variable(name: str, line: int) -> Compiled:
    message = f"variable {name}: a policy set has no variables"
    raise PolicyFault("xacml-unknown-variable", message, line)


def _algorithm(known: dict[str, Algorithm], document: Document) -> Algorithm:
    found = known.get(document.algorithm)
    if found is None:
        message = f"combining algorithm {document.algorithm} is not known here"
        raise PolicyFault("xacml-unknown-algorithm", message, document.line)
    return found


def _rule(rule: s.Rule, variable: Callable[[str, int], Compiled]) -> RuleNode:
    condition = None
    if rule.condition is not None:
        compiled = compile_expression(rule.condition, variable)
        if compiled.type != one(t.BOOLEAN):
            message = f"the condition is {compiled.type}, not boolean"
            raise PolicyFault("xacml-wrong-type", message, rule.line)
        condition = compiled.evaluate
    due = _obligations(rule.obligations, variable).get(rule.effect, ())
    return RuleNode(rule.id, rule.effect, compile_target(rule.target), condition, due)


def _obligations(
    expressions: Sequence[s.ObligationExpression], variable: Callable[[str, int], Compiled]
) -> dict[Effect, tuple[ObligationMaker, ...]]:
    found: dict[Effect, tuple[ObligationMaker, ...]] = {}
    for expression in expressions:
        parts = [_assignment(assignment, variable) for assignment in expression.assignments]
        maker = ObligationMaker(expression.id, parts, advice=expression.advice)
        found[expression.effect] = (*found.get(expression.effect, ()), maker)
    return found


def _assignment(
    expression: s.AssignmentExpression, variable: Callable[[str, int], Compiled]
) -> Callable[[Context], list[Assignment]]:
    """A bag gives one assignment per value (core, 5.40)."""
    compiled = compile_expression(expression.expression, variable)
    datatype, evaluate = compiled.type.element, compiled.evaluate
    if isinstance(expression.expression, s.Literal):
        written = expression.expression.value
        text = written.text if datatype.keeps_space else written.text.strip()
        fixed = [_assigned(expression, datatype, text, written.xpath_category)]
        return lambda _: fixed

    def make(ctx: Context) -> list[Assignment]:
        found = evaluate(ctx)
        values = found if compiled.type.bag else (found,)
        return [_assigned(expression, datatype, *_text(datatype, value)) for value in values]

    return make


def _text(datatype: DataType, value: Any) -> tuple[str, str]:
    return datatype.text(value), value.category if datatype is t.XPATH_EXPRESSION else ""


def _assigned(
    expression: s.AssignmentExpression, datatype: DataType, text: str, xpath_category: str
) -> Assignment:
    return Assignment(
        expression.attribute_id,
        datatype.uri,
        text,
        expression.category,
        expression.issuer,
        xpath_category,
    )
