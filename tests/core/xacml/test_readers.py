"""Readers and writers: documents to values and back, and what hostile documents meet."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from tests.core.xacml.builders import policy, rule

from limen.core.policy.xacml.decision import (
    Assignment,
    Decision,
    Obligation,
    PolicyId,
    Status,
)
from limen.core.policy.xacml.differences import differences
from limen.core.policy.xacml.engine import load_policies
from limen.core.policy.xacml.errors import MissingAttribute
from limen.core.policy.xacml.json_request import read_json_request
from limen.core.policy.xacml.json_response import response_data, write_json_response
from limen.core.policy.xacml.names import (
    ACCESS_SUBJECT,
    NAMESPACE,
    RESOURCE,
    STRING,
    XPATH_EXPRESSION,
    XSD,
)
from limen.core.policy.xacml.request import (
    Attribute,
    Attributes,
    AttributeValue,
    Result,
    XacmlResponse,
)
from limen.core.policy.xacml.xml_request import read_xml_request
from limen.core.policy.xacml.xml_response import read_xml_response, write_xml_response
from limen.errors import InvalidInput


def request_xml(
    inside: str, head: str = 'ReturnPolicyIdList="false" CombinedDecision="false"'
) -> bytes:
    return f'<Request xmlns="{NAMESPACE}" {head}>{inside}</Request>'.encode()


def attributes(inside: str, category: str = ACCESS_SUBJECT) -> str:
    return f'<Attributes Category="{category}">{inside}</Attributes>'


def attribute(name: str, value: str, more: str = 'IncludeInResult="false"') -> str:
    return (
        f'<Attribute AttributeId="{name}" {more}>'
        f'<AttributeValue DataType="{STRING}">{value}</AttributeValue></Attribute>'
    )


def test_request_in_xml():
    found = read_xml_request(
        request_xml(
            '<Attributes Category="c" xml:id="one"><Content><r xmlns="u"><a/></r></Content>'
            + attribute("a", " x ", 'IncludeInResult="true" Issuer="i"')
            + "</Attributes>"
            + '<MultiRequests><RequestReference><AttributesReference ReferenceId="one"/>'
            "</RequestReference></MultiRequests>",
            'ReturnPolicyIdList="true" CombinedDecision="1"',
        )
    )
    (entity,) = found.attributes
    assert (entity.category, entity.xml_id) == ("c", "one")
    assert entity.content == b'<r xmlns="u"><a/></r>'
    assert entity.attributes == (
        Attribute("a", (AttributeValue(" x "),), issuer="i", include_in_result=True),
    )
    assert found.multi_requests == (("one",),)
    assert found.return_policy_ids
    assert found.combined_decision


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"not xml",
        b"<a/>",
        f'<Request xmlns="{NAMESPACE}"/>'.encode(),
        request_xml(""),
        request_xml(attributes(""), 'ReturnPolicyIdList="false"'),
        request_xml(attributes(""), 'ReturnPolicyIdList="maybe" CombinedDecision="false"'),
        request_xml(attributes(attribute("a", "b", ""))),
        request_xml(attributes('<Attribute AttributeId="a" IncludeInResult="false"/>')),
        request_xml(attributes(attribute("a", "<b/>"))),
        request_xml(attributes("<Content/>")),
        request_xml(attributes("<Content><a/><b/></Content>")),
        request_xml("<Attributes/>"),
        request_xml(attributes("") + "<Rogue/>"),
        request_xml(attributes("text")),
        request_xml(attributes("") + "<MultiRequests/>"),
        request_xml(
            "<RequestDefaults><XPathVersion>http://www.w3.org/TR/2007/REC-xpath20-20070123"
            "</XPathVersion></RequestDefaults>" + attributes("")
        ),
        policy("p", rule("r")).encode(),
    ],
)
def test_what_is_no_request_is_refused(document: bytes):
    with pytest.raises(InvalidInput):
        read_xml_request(document)


BOMB = (
    "<!DOCTYPE r [<!ENTITY a 'ha'>"
    + "".join(f"<!ENTITY {chr(98 + i)} '{f'&{chr(97 + i)};' * 10}'>" for i in range(9))
    + "]>"
)
HOSTILE = {
    "billion laughs": BOMB + "<r>&j;</r>",
    "external entity": '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><r>&x;</r>',
    "external subset": '<!DOCTYPE r SYSTEM "http://127.0.0.1:9/x.dtd"><r/>',
    "parameter entity": '<!DOCTYPE r [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]><r/>',
    "undefined entity": f'<Request xmlns="{NAMESPACE}">&nope;</Request>',
    "deep": "<a>" * 100_000 + "</a>" * 100_000,
    "other encoding": '<?xml version="1.0" encoding="UTF-7"?><r/>',
    "ebcdic": '<?xml version="1.0" encoding="cp037"?><r/>',
}


@pytest.mark.parametrize("name", list(HOSTILE))
@pytest.mark.parametrize(
    "read", [read_xml_request, read_xml_response, lambda d: load_policies([d])]
)
def test_hostile_xml_is_refused(name: str, read):
    with pytest.raises(InvalidInput):
        read(HOSTILE[name].encode())


def test_utf_16_that_hides_a_document_type_is_refused():
    for document in (BOMB + "<r>&j;</r>", f'<Request xmlns="{NAMESPACE}"/>'):
        for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
            with pytest.raises(InvalidInput):
                read_xml_request(document.encode(encoding))


def test_ten_megabytes_are_refused():
    padding = f"<!--{'x' * 10_000_000}-->".encode()
    with pytest.raises(InvalidInput, match="bytes"):
        load_policies([padding + policy("p", rule("r")).encode()])
    with pytest.raises(InvalidInput, match="bytes"):
        read_xml_request(padding + request_xml(attributes("")))
    with pytest.raises(InvalidInput, match="bytes"):
        read_json_request(b" " * 2_000_000 + b"{}")


def test_entity_in_content_is_refused():
    document = request_xml(attributes("<Content><a>&x;</a></Content>"))
    with pytest.raises(InvalidInput):
        read_xml_request(document)


RESPONSE = XacmlResponse(
    (
        Result(
            Decision.INDETERMINATE,
            Status(
                "urn:s",
                "why <&>",
                (MissingAttribute("c", "a", STRING), MissingAttribute("c", "b", STRING, "i")),
            ),
            policies=(PolicyId("p", "1.0"), PolicyId("s", "2.0", policy_set=True)),
        ),
        Result(
            Decision.PERMIT,
            obligations=(
                Obligation(
                    "o",
                    (
                        Assignment("a", STRING, " v ", "c", "i"),
                        Assignment("n", f"{XSD}integer", "5"),
                    ),
                ),
                Obligation("d", (), advice=True),
            ),
            attributes=(
                Attributes(
                    RESOURCE,
                    (
                        Attribute(
                            "x",
                            (AttributeValue("//m:a", XPATH_EXPRESSION, RESOURCE, {"m": "urn:m"}),),
                            "i",
                            include_in_result=True,
                        ),
                    ),
                ),
            ),
        ),
    )
)


def test_response_in_xml_and_back():
    assert read_xml_response(write_xml_response(RESPONSE)) == RESPONSE


def test_response_in_json():
    first, second = response_data(RESPONSE)["Response"]
    assert first["Decision"] == "Indeterminate"
    assert first["Status"]["StatusDetail"][0]["AttributeId"] == "a"
    assert first["PolicyIdentifierList"]["PolicySetIdReference"] == [{"Id": "s", "Version": "2.0"}]
    (due,) = second["Obligations"]
    assert [a["Value"] for a in due["AttributeAssignment"]] == [" v ", 5]
    assert second["AssociatedAdvice"] == [{"Id": "d"}]
    (shown,) = second["Category"][0]["Attribute"]
    assert shown["Value"]["Namespaces"] == [{"Prefix": "m", "Namespace": "urn:m"}]
    assert json.loads(write_json_response(RESPONSE)) == response_data(RESPONSE)


def test_values_that_xml_cannot_hold_do_not_break_the_response():
    odd = Obligation("o", (Assignment("a", STRING, "\x00\x1f\ud800￾ok"),))
    written = write_xml_response(XacmlResponse((Result(Decision.PERMIT, obligations=(odd,)),)))
    assert etree.fromstring(written) is not None


def test_request_in_json():
    found = read_json_request(
        json.dumps(
            {
                "Request": {
                    "ReturnPolicyIdList": True,
                    "CombinedDecision": True,
                    "XPathVersion": "http://www.w3.org/TR/1999/REC-xpath-19991116",
                    "AccessSubject": {
                        "Attribute": [
                            {"AttributeId": "s", "Value": "text", "Issuer": "i"},
                            {"AttributeId": "i", "Value": [1, 2], "IncludeInResult": True},
                            {"AttributeId": "d", "Value": [1, 2.5]},
                            {"AttributeId": "b", "Value": True},
                            {"AttributeId": "t", "Value": "08:00:00", "DataType": "time"},
                            {"AttributeId": "n", "Value": "5", "DataType": f"{XSD}integer"},
                            {
                                "AttributeId": "x",
                                "DataType": "xpathExpression",
                                "Value": {
                                    "XPathCategory": "Resource",
                                    "XPath": "m:a",
                                    "Namespaces": [{"Prefix": "m", "Namespace": "urn:m"}],
                                },
                            },
                        ]
                    },
                    "Resource": [{"Id": "r1", "Content": "<a/>"}, {"Content": "PGEvPg=="}],
                    "Category": [
                        {"CategoryId": "urn:c", "Attribute": {"AttributeId": "a", "Value": "v"}}
                    ],
                    "MultiRequests": {"RequestReference": [{"ReferenceId": ["r1"]}]},
                }
            }
        ).encode()
    )
    subject, first, second, other = found.attributes
    kinds = {a.id: (a.values[0].datatype, [v.text for v in a.values]) for a in subject.attributes}
    assert kinds["s"] == (STRING, ["text"])
    assert kinds["i"] == (f"{XSD}integer", ["1", "2"])
    assert kinds["d"] == (f"{XSD}double", ["1", "2.5"])
    assert kinds["b"] == (f"{XSD}boolean", ["true"])
    assert kinds["t"][0] == f"{XSD}time"
    assert kinds["n"] == (f"{XSD}integer", ["5"])
    assert subject.attributes[6].values[0].xpath_category == RESOURCE
    assert subject.attributes[6].values[0].namespaces == {"m": "urn:m"}
    assert (first.xml_id, first.content, second.content) == ("r1", b"<a/>", b"<a/>")
    assert other.category == "urn:c"
    assert found.multi_requests == (("r1",),)
    assert found.return_policy_ids
    assert found.combined_decision


def j(**members: object) -> str:
    return json.dumps({"Request": {"Category": [{"CategoryId": "c", "Attribute": [members]}]}})


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"Request": []}',
        '{"Request": {}}',
        '{"Request": {"Rogue": 1}}',
        '{"Request": {"Category": []}}',
        '{"Request": {"Category": [{}]}}',
        '{"Request": {"Category": [1]}}',
        '{"Request": {"Category": {"CategoryId": 1}}}',
        '{"Request": {"AccessSubject": {"CategoryId": "urn:other"}}}',
        '{"Request": {"AccessSubject": {}, "AccessSubject": {}}}',
        '{"Request": {"AccessSubject": {"Content": "%"}}}',
        '{"Request": {"AccessSubject": {}, "CombinedDecision": "yes"}}',
        '{"Request": {"AccessSubject": {}, "XPathVersion": "2"}}',
        '{"Request": {"AccessSubject": {}, "MultiRequests": {}}}',
        '{"Request": {"AccessSubject": {}, "MultiRequests": {"RequestReference": [{}]}}}',
        j(Value="a"),
        j(AttributeId="a"),
        j(AttributeId="a", Value=[]),
        j(AttributeId="a", Value=None),
        j(AttributeId="a", Value=[1, "a"]),
        j(AttributeId="a", Value=[True, 1]),
        j(AttributeId="a", Value={"a": 1}),
        j(AttributeId="a", Value=[["a"]]),
        j(AttributeId="a", Value=1, DataType="string"),
        j(AttributeId="a", Value=True, DataType="integer"),
        j(AttributeId="a", Value="x", IncludeInResult="true"),
        j(AttributeId="a", Value="x", Rogue=1),
        '{"Request": {"AccessSubject": {"Attribute": {"AttributeId": "a", "Value": NaN}}}}',
        '{"Request": {"AccessSubject": {"Attribute": {"AttributeId": "a", "Value": %s}}}}'
        % ("9" * 5000),
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
)
def test_what_is_no_json_request_is_refused(document: str):
    with pytest.raises(InvalidInput):
        read_json_request(document.encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "Request",
                    "Category",
                    "CategoryId",
                    "Attribute",
                    "AttributeId",
                    "Value",
                    "DataType",
                    "Content",
                    "AccessSubject",
                    "MultiRequests",
                    "RequestReference",
                    "ReferenceId",
                    "Id",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


@given(JSON)
def test_any_json_is_a_request_or_invalid_input(value: object):
    with contextlib.suppress(InvalidInput):
        read_json_request(json.dumps({"Request": value}).encode())


@given(st.binary(max_size=80))
def test_any_bytes_are_invalid_input(document: bytes):
    for read in (
        read_json_request,
        read_xml_request,
        read_xml_response,
        lambda d: load_policies([d]),
    ):
        with pytest.raises(InvalidInput):
            read(document)


SEED = request_xml(
    "<RequestDefaults/>"
    + attributes("<Content><a/></Content>" + attribute("a", "b"))
    + "<MultiRequests/>"
).decode()
POLICY_SEED = policy("p", rule("r", "Permit", "<Target><AnyOf><AllOf/></AnyOf></Target>"))


@settings(max_examples=300)
@given(st.data())
def test_damaged_documents_are_read_or_invalid_input(data: st.DataObject):
    for seed, read in ((SEED, read_xml_request), (POLICY_SEED, lambda d: load_policies([d]))):
        start = data.draw(st.integers(0, len(seed)))
        end = data.draw(st.integers(start, min(len(seed), start + 40)))
        text = (
            seed[:start]
            + data.draw(st.sampled_from(["", "<a/>", "x", ">", '"', "<Rule/>"]))
            + seed[end:]
        )
        with contextlib.suppress(InvalidInput):
            read(text.encode())


def test_differences_are_found_in_every_part():
    def shown(**changes: object) -> list[str]:
        base = {
            "decision": Decision.PERMIT,
            "obligations": (Obligation("o", (Assignment("a", f"{XSD}integer", "5"),)),),
            "attributes": (Attributes("c", (Attribute("a", (AttributeValue("x"),), "", True),)),),
            "policies": (PolicyId("p", "1.0"),),
        }
        wanted = XacmlResponse((Result(**base),))
        return differences(wanted, XacmlResponse((Result(**{**base, **changes}),)))

    assert shown() == []
    same = (Obligation("o", (Assignment("a", f"{XSD}integer", "+05"),)),)
    assert shown(obligations=same) == []
    assert "decision" in shown(decision=Decision.DENY)[0]
    assert "status code" in shown(status=Status("urn:other"))[0]
    other = (Obligation("o", (Assignment("a", f"{XSD}integer", "6"),)),)
    assert "obligations" in shown(obligations=other)[0]
    advice = (*same, Obligation("d", (), advice=True))
    assert "advice" in shown(obligations=advice)[0]
    assert "attributes" in shown(attributes=())[0]
    assert "policy identifiers" in shown(policies=(PolicyId("p", "1.1"),))[0]
    assert "policy identifiers" in shown(policies=())[0]
    pair = XacmlResponse((Result(Decision.PERMIT), Result(Decision.DENY)))
    turned = XacmlResponse((Result(Decision.DENY), Result(Decision.PERMIT)))
    assert differences(pair, turned) == []
    assert differences(pair, XacmlResponse((Result(Decision.PERMIT),) * 2)) != []
    assert differences(pair, XacmlResponse((Result(Decision.PERMIT),))) != []
