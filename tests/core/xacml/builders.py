"""Short ways to write policies, requests and expressions for the tests of the XACML engine."""

from __future__ import annotations

import datetime as dt
from xml.sax.saxutils import escape, quoteattr

from limen.core.policy.xacml.datatypes import BY_NAME
from limen.core.policy.xacml.decision import Decision
from limen.core.policy.xacml.engine import Engine, load_policies
from limen.core.policy.xacml.functions.library import FUNCTIONS, HIGHER_ORDER
from limen.core.policy.xacml.names import ACCESS_SUBJECT, NAMESPACE, RESOURCE, V1, V3
from limen.core.policy.xacml.request import (
    Attribute,
    Attributes,
    AttributeValue,
    Result,
    XacmlRequest,
)

NOW = dt.datetime(2026, 3, 4, 5, 6, 7, tzinfo=dt.UTC)
DENY_UNLESS_PERMIT = f"{V3}rule-combining-algorithm:deny-unless-permit"
FIRST = f"{V1}rule-combining-algorithm:first-applicable"
DENY_OVERRIDES = f"{V3}rule-combining-algorithm:deny-overrides"
POLICY_DENY_OVERRIDES = f"{V3}policy-combining-algorithm:deny-overrides"


def function_uri(name: str) -> str:
    """The present identifier of a function by its short name, or the name itself."""
    known = {**FUNCTIONS, **HIGHER_ORDER}
    fitting = [uri for uri, f in known.items() if uri.endswith(f":{name}") and not f.deprecated]
    return fitting[0] if fitting else name


def literal(kind: str, text: str) -> str:
    return f'<AttributeValue DataType="{BY_NAME[kind].uri}">{escape(text)}</AttributeValue>'


def bag(kind: str, *texts: str) -> str:
    return apply(f"{kind}-bag", *(literal(kind, text) for text in texts))


def function(name: str) -> str:
    return f'<Function FunctionId="{function_uri(name)}"/>'


def apply(name: str, *arguments: str) -> str:
    return f'<Apply FunctionId="{function_uri(name)}">{"".join(arguments)}</Apply>'


def designator(
    attribute: str,
    kind: str = "string",
    category: str = ACCESS_SUBJECT,
    *,
    must: bool = False,
    issuer: str | None = None,
) -> str:
    given = "" if issuer is None else f" Issuer={quoteattr(issuer)}"
    return (
        f'<AttributeDesignator Category="{category}" AttributeId="{attribute}" '
        f'DataType="{BY_NAME[kind].uri}" MustBePresent="{str(must).lower()}"{given}/>'
    )


def selector(path: str, kind: str = "string", *, must: bool = False, context: str = "") -> str:
    given = f' ContextSelectorId="{context}"' if context else ""
    return (
        f'<AttributeSelector Category="{RESOURCE}" Path={quoteattr(path)} '
        f'DataType="{BY_NAME[kind].uri}" MustBePresent="{str(must).lower()}"{given}/>'
    )


def match(name: str, value: str, attribute: str) -> str:
    return f'<Match MatchId="{function_uri(name)}">{value}{attribute}</Match>'


def target(*matches: str) -> str:
    """All of the matches."""
    if not matches:
        return "<Target/>"
    return f"<Target><AnyOf><AllOf>{''.join(matches)}</AllOf></AnyOf></Target>"


def is_equal(attribute: str, value: str, *, must: bool = False) -> str:
    return match("string-equal", literal("string", value), designator(attribute, must=must))


def variable(name: str, expression: str) -> str:
    return f'<VariableDefinition VariableId="{name}">{expression}</VariableDefinition>'


def value_of(name: str) -> str:
    """The value of a variable."""
    return f'<VariableReference VariableId="{name}"/>'


def rule(name: str, effect: str = "Permit", body: str = "") -> str:
    return f'<Rule RuleId="{name}" Effect="{effect}">{body}</Rule>'


def policy(
    name: str,
    *rules: str,
    algorithm: str = FIRST,
    head: str = "<Target/>",
    version: str = "1.0",
    tail: str = "",
) -> str:
    return (
        f'<Policy xmlns="{NAMESPACE}" PolicyId="{name}" Version="{version}" '
        f'RuleCombiningAlgId="{algorithm}">{head}{"".join(rules)}{tail}</Policy>'
    )


def policy_set(
    name: str,
    *children: str,
    algorithm: str = POLICY_DENY_OVERRIDES,
    head: str = "<Target/>",
    version: str = "1.0",
    tail: str = "",
) -> str:
    return (
        f'<PolicySet xmlns="{NAMESPACE}" PolicySetId="{name}" Version="{version}" '
        f'PolicyCombiningAlgId="{algorithm}">{head}{"".join(children)}{tail}</PolicySet>'
    )


def obligation(name: str, effect: str, expression: str = "", *, advice: bool = False) -> str:
    kind, when = ("Advice", "AppliesTo") if advice else ("Obligation", "FulfillOn")
    inside = (
        f'<AttributeAssignmentExpression AttributeId="{name}:a">{expression}'
        "</AttributeAssignmentExpression>"
        if expression
        else ""
    )
    return (
        f"<{kind}Expressions>"
        f"<{kind}Expression {kind}Id={quoteattr(name)} {when}={quoteattr(effect)}>"
        f"{inside}</{kind}Expression></{kind}Expressions>"
    )


def load(*documents: str, root: str | None = None, indexed: bool = True) -> Engine:
    return load_policies([d.encode() for d in documents], root, indexed=indexed)


def subject(**attributes: str | tuple[str, ...]) -> XacmlRequest:
    """A request whose subject has string attributes."""
    found = tuple(
        Attribute(
            name,
            tuple(AttributeValue(v) for v in ([values] if isinstance(values, str) else values)),
        )
        for name, values in attributes.items()
    )
    return XacmlRequest((Attributes(ACCESS_SUBJECT, found),))


EMPTY = XacmlRequest((Attributes(ACCESS_SUBJECT),))


def judge(engine: Engine, request: XacmlRequest = EMPTY) -> Result:
    (result,) = engine.evaluate(request, NOW).results
    return result


def truth(expression: str, request: XacmlRequest = EMPTY) -> bool | str:
    """Whether a boolean expression holds; if it is Indeterminate, the last word of its status."""
    body = f"<Condition>{expression}</Condition>"
    result = judge(load(policy("p", rule("r", "Permit", body))), request)
    if result.decision is Decision.INDETERMINATE:
        return result.status.code.rpartition(":")[2]
    return result.decision is Decision.PERMIT
