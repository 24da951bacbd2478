"""Selectors, XPath functions, and requests that stand for several."""

from __future__ import annotations

import pytest
from tests.core.xacml.builders import (
    NOW,
    apply,
    bag,
    designator,
    judge,
    literal,
    load,
    match,
    obligation,
    policy,
    rule,
    selector,
    target,
    truth,
)

from limen.core.policy.xacml.decision import Decision
from limen.core.policy.xacml.names import (
    ACCESS_SUBJECT,
    ACTION,
    CONTENT_SELECTOR,
    MULTIPLE_CONTENT_SELECTOR,
    RESOURCE,
    V1,
    XPATH_EXPRESSION,
)
from limen.core.policy.xacml.request import Attribute, Attributes, AttributeValue, XacmlRequest
from limen.core.policy.xacml.xpath import check_foreign_path
from limen.errors import InvalidInput

RECORD = b"""<m:records xmlns:m="urn:m"><m:record id="1"><m:owner>ann</m:owner><m:age>5</m:age>
</m:record><m:record id="2"><m:owner>bob<!-- x --></m:owner><m:age>x</m:age></m:record>
</m:records>"""
NAMES = {"m": "urn:m"}


def with_content(content: bytes = RECORD, *attributes: Attribute) -> XacmlRequest:
    return XacmlRequest((Attributes(RESOURCE, attributes, content),))


def xpath(name: str, path: str, **more: bool) -> Attribute:
    value = AttributeValue(path, XPATH_EXPRESSION, RESOURCE, NAMES)
    return Attribute(name, (value,), **more)


def selected(path: str, *expected: str, kind: str = "string", context: str = "") -> str:
    found = selector(path, kind, context=context).replace(
        "<AttributeSelector", '<AttributeSelector xmlns:m="urn:m"'
    )
    return apply(f"{kind}-set-equals", found, bag(kind, *expected))


SELECTED = [
    ("m:records/m:record/m:owner/text()", ("ann", "bob")),
    ("/m:records/m:record/@id", ("1", "2")),
    ("//m:owner/text()", ("ann", "bob")),
    ("//m:record[@id='2']/m:owner/text()", ("bob",)),
    ("//m:owner/comment()", (" x ",)),
    ("//m:nothing", ()),
    ("m:records/m:record[1]/m:owner/text() | //m:record[2]/@id", ("ann", "2")),
]


@pytest.mark.parametrize(("path", "expected"), SELECTED)
def test_selector_takes_text_attributes_and_comments(path: str, expected: tuple[str, ...]):
    assert truth(selected(path, *expected), with_content()) is True


def test_selector_reads_values_of_its_datatype():
    assert (
        truth(selected("//m:record[1]/m:age/text()", "5", kind="integer"), with_content()) is True
    )
    assert truth(selected("//m:age/text()", "5", kind="integer"), with_content()) == "syntax-error"


@pytest.mark.parametrize("path", ["//m:owner", "count(//m:owner)", "string(//m:owner)"])
def test_selecting_elements_or_no_nodes_is_a_syntax_error(path: str):
    assert truth(selected(path), with_content()) == "syntax-error"


def test_selector_without_content_is_an_empty_bag_or_missing():
    empty = XacmlRequest((Attributes(RESOURCE),))
    size = apply(
        "integer-equal", apply("string-bag-size", selector("//a")), literal("integer", "0")
    )
    assert truth(size, empty) is True
    must = apply(
        "integer-equal",
        apply("string-bag-size", selector("//a", must=True)),
        literal("integer", "0"),
    )
    assert truth(must, empty) == "missing-attribute"
    assert truth(must, with_content(b"<b/>")) == "missing-attribute"


def test_context_selector_names_the_node_to_begin_with():
    expression = selected("m:owner/text()", "bob", context="here")
    request = with_content(RECORD, xpath("here", "//m:record[2]"))
    assert truth(expression, request) is True
    several = with_content(RECORD, xpath("here", "//m:record"))
    assert truth(selected("m:owner/text()", context="here"), several) is True
    assert truth(selected("m:owner/text()", context="here"), with_content()) is True


@pytest.mark.parametrize("path", ["///", "m:a[", "x:a", "", "a" * 5000])
def test_bad_path_of_a_selector_is_refused_at_load(path: str):
    with pytest.raises(InvalidInput):
        truth(selected(path))


def test_unknown_xpath_version_is_refused_where_xpath_is_used():
    head = "<PolicyDefaults><XPathVersion>http://www.w3.org/TR/2007/REC-xpath20-20070123</XPathVersion></PolicyDefaults><Target/>"
    condition = (
        f"<Condition>{apply('string-is-in', literal('string', 'a'), selector('//a'))}</Condition>"
    )
    with pytest.raises(InvalidInput, match="XPath version"):
        load(policy("p", rule("r", "Permit", condition), head=head))
    load(policy("p", rule("r"), head=head))


@pytest.mark.parametrize(
    "content",
    [
        b"<a",
        b"<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>",
        b'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/"><a/>',
        b"<a>" + b"<b/>" * 30_000 + b"</a>",
    ],
)
def test_hostile_content_is_a_syntax_error(content: bytes):
    assert truth(selected("//a"), with_content(content)) == "syntax-error"


def path_value(path: str) -> str:
    return (
        f'<AttributeValue xmlns:m="urn:m" DataType="{XPATH_EXPRESSION}" XPathCategory="{RESOURCE}">'
        f"{path}</AttributeValue>"
    )


FUNCTIONS = [
    (
        apply(
            "integer-equal",
            apply("xpath-node-count", path_value("//m:record")),
            literal("integer", "2"),
        ),
        True,
    ),
    (apply("xpath-node-equal", path_value("//m:record"), path_value("//m:record[2]")), True),
    (apply("xpath-node-equal", path_value("//m:record[1]"), path_value("//m:record[2]")), False),
    (apply("xpath-node-equal", path_value("//@id"), path_value("//m:record[2]/@id")), True),
    (
        apply("xpath-node-equal", path_value("//m:record[1]/@id"), path_value("//m:record[2]/@id")),
        False,
    ),
    (apply("xpath-node-match", path_value("/m:records"), path_value("//m:owner")), True),
    (apply("xpath-node-match", path_value("//m:record[1]"), path_value("//m:record[1]/@id")), True),
    (
        apply(
            "xpath-node-match",
            path_value("//m:record[1]"),
            path_value("//m:record[2]/m:owner/text()"),
        ),
        False,
    ),
    (apply("xpath-node-match", path_value("//m:owner"), path_value("/m:records")), False),
]


@pytest.mark.parametrize(("expression", "expected"), FUNCTIONS)
def test_xpath_functions(expression: str, *, expected: bool):
    assert truth(expression, with_content()) is expected


def test_xpath_functions_without_content_count_and_match_nothing():
    none = apply(
        "integer-equal", apply("xpath-node-count", path_value("//a")), literal("integer", "0")
    )
    assert truth(none) is True
    assert truth(apply("xpath-node-equal", path_value("//a"), path_value("//a"))) is False


def test_xpath_of_a_request_works_in_functions():
    only = apply("xpathExpression-one-and-only", designator("here", "xpathExpression", RESOURCE))
    count = apply("integer-equal", apply("xpath-node-count", only), literal("integer", "2"))
    assert truth(count, with_content(RECORD, xpath("here", "//m:record"))) is True
    assert truth(count, with_content(RECORD, xpath("here", "//x:record"))) == "syntax-error"


@pytest.mark.parametrize(
    "path",
    [
        "//a//b",
        "//a[//b]",
        "//a[b[c]]",
        "//a[count(b)>1]",
        "a/following::b/preceding::c//d",
        "string(//a)",
        "a" * 600,
        "//a[.//b]",
        "id('x')",
    ],
)
def test_costly_xpath_of_a_request_is_refused(path: str):
    with pytest.raises(ValueError, match="XPath"):
        check_foreign_path(path)


@pytest.mark.parametrize(
    "path", ["/a/b[2]", "//m:a/m:b[@id='//x[y]']/text()", "//a[position()=last()]/@b"]
)
def test_plain_xpath_of_a_request_is_accepted(path: str):
    check_foreign_path(path)


def owner_policy() -> str:
    """Permits records whose owner is the subject; tells which, as an obligation."""
    owner = selector("m:owner/text()", context=CONTENT_SELECTOR).replace(
        "<AttributeSelector", '<AttributeSelector xmlns:m="urn:m"'
    )
    condition = apply("string-at-least-one-member-of", owner, designator("name"))
    return policy("p", rule("r", "Permit", f"<Condition>{condition}</Condition>"))


def test_content_selector_makes_one_request_for_each_node():
    request = XacmlRequest(
        (
            Attributes(ACCESS_SUBJECT, (Attribute("name", (AttributeValue("bob"),)),)),
            Attributes(
                RESOURCE,
                (xpath(MULTIPLE_CONTENT_SELECTOR, "//m:record", include_in_result=True),),
                RECORD,
            ),
        )
    )
    results = load(owner_policy()).evaluate(request, NOW).results
    assert [r.decision for r in results] == [Decision.NOT_APPLICABLE, Decision.PERMIT]
    paths = [r.attributes[0].attributes[0].values[0].text for r in results]
    assert paths == ["/m:records/m:record[1]", "/m:records/m:record[2]"]


def entity(category: str, name: str, value: str, xml_id: str = "") -> Attributes:
    found = Attribute(name, (AttributeValue(value),), include_in_result=True)
    return Attributes(category, (found,), xml_id=xml_id)


def reader_policy(tail: str = "") -> str:
    may = target(
        match("string-equal", literal("string", "read"), designator("do", category=ACTION)),
        match("string-equal", literal("string", "one"), designator("id", category=RESOURCE)),
    )
    return policy("p", rule("r", "Permit", may), rule("s", "Deny"), tail=tail)


def test_repeated_categories_make_every_combination():
    request = XacmlRequest(
        (
            entity(RESOURCE, "id", "one"),
            entity(RESOURCE, "id", "two"),
            entity(ACTION, "do", "read"),
            entity(ACTION, "do", "write"),
        )
    )
    results = load(reader_policy()).evaluate(request, NOW).results
    seen = {
        tuple(a.attributes[0].values[0].text for a in r.attributes): r.decision for r in results
    }
    assert len(results) == 4
    assert seen.pop(("one", "read")) is Decision.PERMIT
    assert set(seen.values()) == {Decision.DENY}


def test_multi_requests_choose_their_attributes():
    request = XacmlRequest(
        (
            entity(RESOURCE, "id", "one", "r1"),
            entity(RESOURCE, "id", "two", "r2"),
            entity(ACTION, "do", "read", "a1"),
        ),
        multi_requests=(("r1", "a1"), ("r2", "a1")),
    )
    decisions = [r.decision for r in load(reader_policy()).evaluate(request, NOW).results]
    assert decisions == [Decision.PERMIT, Decision.DENY]


def test_reference_to_nothing_is_a_syntax_error():
    request = XacmlRequest((entity(RESOURCE, "id", "one", "r1"),), multi_requests=(("r9",),))
    result = judge(load(reader_policy()), request)
    assert result.status.code == f"{V1}status:syntax-error"


def combined(*ids: str, tail: str = "") -> Decision:
    request = XacmlRequest(
        (*(entity(RESOURCE, "id", i) for i in ids), entity(ACTION, "do", "read")),
        combined_decision=True,
    )
    return judge(load(reader_policy(tail)), request).decision


def test_combined_decision():
    assert combined("one") is Decision.PERMIT
    assert combined("two", "three") is Decision.DENY
    assert combined("one", "two") is Decision.INDETERMINATE
    due = obligation("o", "Deny")
    assert combined("two", "three", tail=due) is Decision.INDETERMINATE
    assert combined("two", tail=due) is Decision.DENY


def test_request_that_stands_for_too_many_is_refused():
    request = XacmlRequest(
        tuple(entity(c, "x", str(n)) for c in ("a", "b", "c", "d", "e", "f") for n in range(20))
    )
    result = judge(load(reader_policy()), request)
    assert result.decision is Decision.INDETERMINATE
    assert result.status.code == f"{V1}status:processing-error"


def test_content_that_nests_widely_and_deeply_is_a_syntax_error():
    deep = b"<a>" + b"<b>" * 100 + b"<c/>" * 2_000 + b"</b>" * 100 + b"</a>"
    assert truth(selected("//a//b"), with_content(deep)) == "syntax-error"


def test_individual_decisions_share_one_budget():
    costly = apply(
        "string-regexp-match",
        literal("string", "(a|b|c){0,100}z"),
        apply("string-one-and-only", designator("t")),
    )
    engine = load(policy("p", rule("r", "Permit", f"<Condition>{costly}</Condition>")))
    text = "".join("abc"[(i * i + i // 7) % 3] for i in range(1_000))
    subject = Attributes(ACCESS_SUBJECT, (Attribute("t", (AttributeValue(text),)),))
    many = XacmlRequest((subject, *(entity(RESOURCE, "id", str(n)) for n in range(300))))
    assert judge(engine, XacmlRequest((subject,))).decision is Decision.NOT_APPLICABLE
    results = engine.evaluate(many, NOW).results
    assert len(results) == 300
    assert results[-1].decision is Decision.INDETERMINATE
