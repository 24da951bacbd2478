"""`access-permitted`: the same policies asked about other attributes, within bounds."""

from __future__ import annotations

from tests.core.xacml.builders import (
    apply,
    designator,
    judge,
    literal,
    load,
    match,
    policy,
    rule,
    target,
)

from limen.core.policy.xacml.decision import Decision
from limen.core.policy.xacml.names import RESOURCE, STRING, V1
from limen.core.policy.xacml.request import Attribute, Attributes, AttributeValue, XacmlRequest


def inside(value: str) -> str:
    return (
        f'<Attribute AttributeId="id" IncludeInResult="false"><AttributeValue DataType="{STRING}">'
        f"{value}</AttributeValue></Attribute>"
    )


def may(value: str) -> str:
    return apply("access-permitted", literal("anyURI", RESOURCE), literal("string", inside(value)))


def is_id(value: str) -> str:
    return target(
        match("string-equal", literal("string", value), designator("id", category=RESOURCE))
    )


def asking(value: str) -> XacmlRequest:
    found = Attribute("id", (AttributeValue(value),))
    return XacmlRequest((Attributes(RESOURCE, (found,)),))


def follows(value: str, other: str) -> str:
    """`value` is permitted if `other` is."""
    return rule(value, "Permit", is_id(value) + f"<Condition>{may(other)}</Condition>")


def test_decision_about_another_resource():
    document = policy(
        "p", rule("open", "Permit", is_id("open")), follows("a", "open"), follows("b", "shut")
    )
    engine = load(document)
    assert judge(engine, asking("a")).decision is Decision.PERMIT
    assert judge(engine, asking("b")).decision is Decision.NOT_APPLICABLE


def test_chain_is_followed_and_a_loop_ends_as_indeterminate():
    document = policy(
        "p",
        rule("open", "Permit", is_id("open")),
        follows("one", "two"),
        follows("two", "open"),
        follows("loop", "loop"),
    )
    assert judge(load(document), asking("one")).decision is Decision.PERMIT
    result = judge(load(document), asking("loop"))
    assert result.decision is Decision.INDETERMINATE
    assert result.status.code == f"{V1}status:processing-error"


def test_many_evaluations_end_as_indeterminate():
    body = apply("or", *(may("none") for _ in range(200)))
    document = policy("p", rule("r", "Permit", is_id("a") + f"<Condition>{body}</Condition>"))
    assert judge(load(document), asking("a")).decision is Decision.INDETERMINATE


def test_text_that_holds_no_attributes_is_a_syntax_error():
    for text in ("<", "<Rogue/>", "</Attributes>", "<!DOCTYPE a><a/>", "\x00"):
        call = apply(
            "access-permitted",
            literal("anyURI", RESOURCE),
            apply("string-one-and-only", designator("text", category=RESOURCE)),
        )
        found = Attribute("text", (AttributeValue(text),))
        request = XacmlRequest((Attributes(RESOURCE, (found,)),))
        document = policy("p", rule("r", "Permit", f"<Condition>{call}</Condition>"))
        assert judge(load(document), request).status.code == f"{V1}status:syntax-error", text
