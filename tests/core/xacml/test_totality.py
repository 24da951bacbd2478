"""Whatever is asked, a response comes back and can be written: no request breaks the engine."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from tests.core.xacml.builders import NOW, apply, designator, load, obligation, policy, rule

from limen.core.policy.xacml.datatypes import ALL, BY_NAME
from limen.core.policy.xacml.functions.library import FAMILIES
from limen.core.policy.xacml.json_request import read_json_request
from limen.core.policy.xacml.json_response import write_json_response
from limen.core.policy.xacml.names import ACCESS_SUBJECT, RESOURCE, XPATH_EXPRESSION
from limen.core.policy.xacml.request import Attribute, Attributes, AttributeValue, XacmlRequest
from limen.core.policy.xacml.xml_response import write_xml_response
from limen.errors import InvalidInput

NAMES = [t.name for t in ALL]
LIKELY = [
    "",
    " ",
    "1",
    "-1",
    "0",
    "true",
    "1.5",
    "NaN",
    "INF",
    "1e400",
    "9" * 3000,
    "a",
    "a@b.c",
    "cn=a",
    "2002-03-22",
    "08:00:00",
    "2002-03-22T08:00:00Z",
    "-0001-01-01",
    "999999999-12-31",
    "P1D",
    "-P1Y",
    "P999999999Y",
    "PT0.000000001S",
    "0bf7",
    "c3VyZS4=",
    "10.0.0.1",
    "[::1]:80",
    "a.b:1-",
    "//a",
    ".",
    "/",
    "//*[1]",
    "(",
    "^$",
    "\x00",
    "\ud800",
    "<a/>",
    "a" * 500,
]
TEXTS = st.sampled_from(LIKELY) | st.text(max_size=12)
VALUES = st.builds(
    AttributeValue,
    TEXTS,
    st.sampled_from([t.uri for t in ALL]) | st.just("urn:unknown"),
    st.sampled_from(["", RESOURCE]),
)
ATTRIBUTES = st.builds(
    Attribute,
    st.sampled_from([*NAMES, "urn:odd\x01"]),
    st.lists(VALUES, min_size=1, max_size=3).map(tuple),
    st.sampled_from(["", "i", "\x02"]),
    st.booleans(),
)
ENTITIES = st.builds(
    Attributes,
    st.sampled_from([ACCESS_SUBJECT, RESOURCE]),
    st.lists(ATTRIBUTES, max_size=3).map(tuple),
    st.sampled_from([None, b"<a><b/>x</a>", b"<a", b""]),
)
REQUESTS = st.builds(
    XacmlRequest,
    st.lists(ENTITIES, min_size=1, max_size=3).map(tuple),
    return_policy_ids=st.booleans(),
    combined_decision=st.booleans(),
)


def argument(kind: str, *, bag: bool) -> str:
    found = designator(kind, kind)
    return found if bag else apply(f"{kind}-one-and-only", found)


def every_function() -> str:
    """A policy whose obligations compute every function over attributes of the request."""
    rules = []
    functions = [f for _, family in FAMILIES for f in family if not f.deprecated]
    for number, found in enumerate(functions):
        parts = [argument(p.element.name, bag=p.bag) for p in found.params]
        due = obligation(f"o{number}", "Permit", apply(found.uri, *parts))
        rules.append(rule(f"r{number}", "Permit", due))
    algorithm = "urn:oasis:names:tc:xacml:3.0:rule-combining-algorithm:deny-overrides"
    return policy("p", *rules, algorithm=algorithm)


ENGINE = load(every_function())
EACH = [
    load(policy("p", rule("r", "Permit", obligation("o", "Permit", argument(n, bag=True)))))
    for n in NAMES
]


@settings(max_examples=200, deadline=None)
@given(REQUESTS)
def test_every_request_gets_a_response_that_can_be_written(request_: XacmlRequest):
    for engine in (ENGINE, *EACH):
        response = engine.evaluate(request_, NOW)
        assert response.results
        assert etree.fromstring(write_xml_response(response)) is not None
        assert json.loads(write_json_response(response))


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=2))
def test_every_function_over_values_that_fit_gives_a_value_or_a_status(texts: list[str]):
    """One attribute for each datatype; those that do not read are left out."""
    found = []
    for name in NAMES:
        values = []
        for text in texts:
            value = AttributeValue(text, BY_NAME[name].uri, RESOURCE)
            try:
                if BY_NAME[name].uri != XPATH_EXPRESSION:
                    BY_NAME[name].read(text)
            except ValueError:
                continue
            values.append(value)
        if values:
            found.append(Attribute(name, tuple(values[:1]), include_in_result=True))
    entity = Attributes(ACCESS_SUBJECT, tuple(found))
    response = ENGINE.evaluate(XacmlRequest((entity,)), NOW)
    assert etree.fromstring(write_xml_response(response)) is not None
    assert json.loads(write_json_response(response))


PREFIXES = st.sampled_from(["m", "1", "a b", "", "xml", "xmlns", "é", "a:b"])


@given(PREFIXES, st.sampled_from(["urn:m", "", "\x00", "a b"]), TEXTS)
def test_namespaces_of_a_json_request_never_break_the_response(prefix: str, uri: str, path: str):
    prefixes = [{"Prefix": prefix, "Namespace": uri}]
    xpath = {"XPathCategory": "Resource", "XPath": path, "Namespaces": prefixes}
    given_ = {
        "AttributeId": "xpathExpression",
        "DataType": "xpathExpression",
        "Value": xpath,
        "IncludeInResult": True,
    }
    asked = {"Request": {"AccessSubject": {"Attribute": given_}, "Resource": {"Content": "<a/>"}}}
    try:
        request = read_json_request(json.dumps(asked).encode())
    except InvalidInput:
        return
    for engine in (ENGINE, EACH[NAMES.index("xpathExpression")]):
        response = engine.evaluate(request, NOW)
        assert etree.fromstring(write_xml_response(response)) is not None
