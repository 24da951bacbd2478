"""A policy document (XML) to the tree of `syntax`. Every element is understood or refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from limen.core.policy.xacml import elements as e
from limen.core.policy.xacml import syntax as s
from limen.core.policy.xacml.decision import Effect
from limen.core.policy.xacml.limits import MAX_EXPRESSION_DEPTH, MAX_POLICY_DEPTH

if TYPE_CHECKING:
    from lxml.etree import _Element

    from limen.core.policy.xacml.errors import PolicyFault

VERSION = re.compile(r"\d{1,9}(?:\.\d{1,9}){0,9}", re.ASCII)
VERSION_PATTERN = re.compile(r"(?:(?:\d{1,9}|\*)\.){0,9}(?:\d{1,9}|\*|\+)", re.ASCII)

_PARAMETERS = frozenset(
    (
        "CombinerParameters",
        "RuleCombinerParameters",
        "PolicyCombinerParameters",
        "PolicySetCombinerParameters",
    )
)


def read_policy_element(root: _Element, file: str = "") -> s.Policy | s.PolicySet:
    """The policy or policy set at `root`. Raises `PolicyFault`."""
    match e.name_of(root):
        case "Policy":
            return _policy(root, "", file)
        case "PolicySet":
            return _policy_set(root, "", file, 0)
        case other:
            raise e.fault(root, "not-a-policy", f"{other} is neither Policy nor PolicySet")


def _policy_set(element: _Element, xpath: str, file: str, depth: int) -> s.PolicySet:
    if depth > MAX_POLICY_DEPTH:
        message = f"policy sets are nested more than {MAX_POLICY_DEPTH} deep"
        raise e.fault(element, "too-deep", message)
    required = ("PolicySetId", "Version", "PolicyCombiningAlgId")
    head = e.attributes_of(element, required, ("MaxDelegationDepth",))
    target: s.Target | None = None
    description, obligations = "", []
    children: list[s.Policy | s.PolicySet | s.Reference] = []
    for name, child in e.children_of(element):
        match name:
            case "Description":
                description = e.text_of(child)
            case "PolicySetDefaults":
                xpath = _xpath_version(child)
            case "Target" if target is None:
                target = _target(child, xpath)
            case "PolicySet":
                children.append(_policy_set(child, xpath, file, depth + 1))
            case "Policy":
                children.append(_policy(child, xpath, file))
            case "PolicyIdReference" | "PolicySetIdReference":
                children.append(_reference(child, policy_set=name == "PolicySetIdReference"))
            case "ObligationExpressions" | "AdviceExpressions":
                obligations += _obligations(child, xpath)
            case _ if name in _PARAMETERS:
                _parameters(child)
            case _:
                raise _refused(element, child, name)
    return s.PolicySet(
        head["PolicySetId"].strip(),
        _version(element, head["Version"]),
        head["PolicyCombiningAlgId"].strip(),
        _needed_target(element, target),
        tuple(children),
        tuple(obligations),
        description,
        file,
        e.line_of(element),
    )


def _policy(element: _Element, xpath: str, file: str) -> s.Policy:
    required = ("PolicyId", "Version", "RuleCombiningAlgId")
    head = e.attributes_of(element, required, ("MaxDelegationDepth",))
    target: s.Target | None = None
    description, obligations = "", []
    variables: list[s.Variable] = []
    rules: list[s.Rule] = []
    for name, child in e.children_of(element):
        match name:
            case "Description":
                description = e.text_of(child)
            case "PolicyDefaults":
                xpath = _xpath_version(child)
            case "Target" if target is None:
                target = _target(child, xpath)
            case "VariableDefinition":
                variables.append(_variable(child, xpath))
            case "Rule":
                rules.append(_rule(child, xpath))
            case "ObligationExpressions" | "AdviceExpressions":
                obligations += _obligations(child, xpath)
            case _ if name in _PARAMETERS:
                _parameters(child)
            case _:
                raise _refused(element, child, name)
    return s.Policy(
        head["PolicyId"].strip(),
        _version(element, head["Version"]),
        head["RuleCombiningAlgId"].strip(),
        _needed_target(element, target),
        tuple(variables),
        tuple(rules),
        tuple(obligations),
        description,
        file,
        e.line_of(element),
    )


def _refused(element: _Element, child: _Element, name: str) -> PolicyFault:
    if name == "PolicyIssuer":
        hint = "policies with an issuer need the administration profile, which is not supported"
        return e.fault(child, "policy-issuer", "the policy has an issuer", hint)
    return e.refuse_child(element, child)


def _needed_target(element: _Element, target: s.Target | None) -> s.Target:
    if target is None:
        raise e.fault(element, "missing-target", f"{e.name_of(element)} needs a Target")
    return target


def _version(element: _Element, text: str) -> str:
    if not VERSION.fullmatch(text.strip()):
        raise e.fault(element, "bad-version", f"{text} is not a version like 1.0")
    return text.strip()


def _xpath_version(element: _Element) -> str:
    version = ""
    for name, child in e.children_of(element):
        if name != "XPathVersion":
            raise e.refuse_child(element, child)
        version = e.text_of(child).strip()
    return version


def _parameters(element: _Element) -> None:
    """Combiner parameters: no standard algorithm has any; read for their form, not used."""
    optional = ("RuleIdRef", "PolicyIdRef", "PolicySetIdRef")
    e.attributes_of(element, (), optional)
    for name, child in e.children_of(element):
        if name != "CombinerParameter":
            raise e.refuse_child(element, child)
        e.attributes_of(child, ("ParameterName",))
        for inner, value in e.children_of(child):
            if inner != "AttributeValue":
                raise e.refuse_child(child, value)
            e.attribute_value_of(value)


def _reference(element: _Element, *, policy_set: bool) -> s.Reference:
    patterns = ("Version", "EarliestVersion", "LatestVersion")
    found = e.attributes_of(element, (), patterns)
    for name, pattern in found.items():
        if not VERSION_PATTERN.fullmatch(pattern.strip()):
            raise e.fault(element, "bad-version", f"{name} {pattern} is not a version pattern")
    version, earliest, latest = (found.get(name, "").strip() for name in patterns)
    text = e.text_of(element).strip()
    return s.Reference(text, policy_set, version, earliest, latest, e.line_of(element))


def _rule(element: _Element, xpath: str) -> s.Rule:
    head = e.attributes_of(element, ("RuleId", "Effect"))
    target: s.Target | None = None
    condition: s.Expression | None = None
    description, obligations = "", []
    for name, child in e.children_of(element):
        match name:
            case "Description":
                description = e.text_of(child)
            case "Target" if target is None:
                target = _target(child, xpath)
            case "Condition" if condition is None:
                e.attributes_of(child, ())
                condition = _only_expression(child, xpath)
            case "ObligationExpressions" | "AdviceExpressions":
                obligations += _obligations(child, xpath)
            case _:
                raise e.refuse_child(element, child)
    effect = _effect(element, head["Effect"])
    return s.Rule(
        head["RuleId"].strip(),
        effect,
        target or (),
        condition,
        tuple(obligations),
        description,
        e.line_of(element),
    )


def _effect(element: _Element, text: str) -> Effect:
    try:
        return Effect(text.strip())
    except ValueError:
        raise e.fault(element, "bad-effect", f"{text} is neither Permit nor Deny") from None


def _variable(element: _Element, xpath: str) -> s.Variable:
    head = e.attributes_of(element, ("VariableId",))
    return s.Variable(head["VariableId"], _only_expression(element, xpath), e.line_of(element))


def _only_expression(element: _Element, xpath: str) -> s.Expression:
    found = [_expression(child, xpath, 0) for _, child in e.children_of(element)]
    if len(found) != 1:
        message = f"{e.name_of(element)} holds {len(found)} expressions, not one"
        raise e.fault(element, "not-one-expression", message)
    return found[0]


def _target(element: _Element, xpath: str) -> s.Target:
    e.attributes_of(element, ())
    target = []
    for name, child in e.children_of(element):
        if name != "AnyOf":
            raise e.refuse_child(element, child)
        target.append(_any_of(child, xpath))
    return tuple(target)


def _any_of(element: _Element, xpath: str) -> s.AnyOf:
    e.attributes_of(element, ())
    found = []
    for name, child in e.children_of(element):
        if name != "AllOf":
            raise e.refuse_child(element, child)
        e.attributes_of(child, ())
        matches = []
        for inner, match in e.children_of(child):
            if inner != "Match":
                raise e.refuse_child(child, match)
            matches.append(_match(match, xpath))
        if not matches:
            raise e.fault(child, "empty-all-of", "AllOf needs a Match")
        found.append(tuple(matches))
    if not found:
        raise e.fault(element, "empty-any-of", "AnyOf needs an AllOf")
    return tuple(found)


def _match(element: _Element, xpath: str) -> s.Match:
    head = e.attributes_of(element, ("MatchId",))
    parts = [_expression(child, xpath, 0) for _, child in e.children_of(element)]
    match parts:
        case [s.Literal() as literal, (s.Designator() | s.Selector()) as attribute]:
            return s.Match(head["MatchId"].strip(), literal, attribute, e.line_of(element))
    message = "Match needs an AttributeValue, then an AttributeDesignator or AttributeSelector"
    raise e.fault(element, "bad-match", message)


def _obligations(element: _Element, xpath: str) -> list[s.ObligationExpression]:
    advice = e.name_of(element) == "AdviceExpressions"
    wanted = "AdviceExpression" if advice else "ObligationExpression"
    names = ("AdviceId", "AppliesTo") if advice else ("ObligationId", "FulfillOn")
    found = []
    for name, child in e.children_of(element):
        if name != wanted:
            raise e.refuse_child(element, child)
        head = e.attributes_of(child, names)
        assignments = []
        for inner, assignment in e.children_of(child):
            if inner != "AttributeAssignmentExpression":
                raise e.refuse_child(child, assignment)
            assignments.append(_assignment(assignment, xpath))
        effect = _effect(child, head[names[1]])
        expression = s.ObligationExpression(
            head[names[0]].strip(), effect, tuple(assignments), advice, e.line_of(child)
        )
        found.append(expression)
    return found


def _assignment(element: _Element, xpath: str) -> s.AssignmentExpression:
    head = e.attributes_of(element, ("AttributeId",), ("Category", "Issuer"))
    return s.AssignmentExpression(
        head["AttributeId"].strip(),
        _only_expression(element, xpath),
        head.get("Category", "").strip(),
        head.get("Issuer", ""),
        e.line_of(element),
    )


def _expression(element: _Element, xpath: str, depth: int) -> s.Expression:
    if depth > MAX_EXPRESSION_DEPTH:
        message = f"expressions are nested more than {MAX_EXPRESSION_DEPTH} deep"
        raise e.fault(element, "too-deep", message)
    line = e.line_of(element)
    match e.name_of(element):
        case "AttributeValue":
            return s.Literal(e.attribute_value_of(element), line)
        case "AttributeDesignator":
            return _designator(element)
        case "AttributeSelector":
            return _selector(element, xpath)
        case "VariableReference":
            return s.VariableReference(
                e.attributes_of(element, ("VariableId",))["VariableId"], line
            )
        case "Function":
            found = e.attributes_of(element, ("FunctionId",))["FunctionId"]
            return s.FunctionReference(found.strip(), line)
        case "Apply":
            head = e.attributes_of(element, ("FunctionId",))
            arguments = tuple(
                _expression(child, xpath, depth + 1)
                for name, child in e.children_of(element)
                if name != "Description"
            )
            return s.Apply(head["FunctionId"].strip(), arguments, line)
        case other:
            raise e.fault(element, "not-an-expression", f"{other} is not an expression")


def _designator(element: _Element) -> s.Designator:
    required = ("Category", "AttributeId", "DataType", "MustBePresent")
    found = e.attributes_of(element, required, ("Issuer",))
    return s.Designator(
        found["Category"].strip(),
        found["AttributeId"].strip(),
        found["DataType"].strip(),
        e.boolean_of(element, "MustBePresent", found["MustBePresent"]),
        found.get("Issuer"),
        e.line_of(element),
    )


def _selector(element: _Element, xpath: str) -> s.Selector:
    required = ("Category", "Path", "DataType", "MustBePresent")
    found = e.attributes_of(element, required, ("ContextSelectorId",))
    return s.Selector(
        found["Category"].strip(),
        found["Path"],
        found["DataType"].strip(),
        e.boolean_of(element, "MustBePresent", found["MustBePresent"]),
        e.namespaces_of(element),
        found.get("ContextSelectorId"),
        xpath,
        e.line_of(element),
    )
