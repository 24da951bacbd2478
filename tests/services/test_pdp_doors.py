"""The doors of the decision point: what each standard asks for and gets, and what is refused."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from tests.core.xacml.builders import is_equal, policy, rule, target

from limen.core.policy.engine import AccessRequest, Answer, Duty, Verdict
from limen.core.policy.rego.engine import load_rego
from limen.core.policy.rego.source import RegoModule
from limen.core.policy.xacml.access import XacmlPolicyEngine
from limen.core.policy.xacml.engine import load_policies
from limen.core.policy.xacml.names import ACCESS_SUBJECT, RESOURCE, V1
from limen.services.pdp.door import DoorReply, DoorRequest
from limen.services.pdp.doors import Doors
from limen.services.pdp.envoy import caller_of, reply_of

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
JSON = {"content-type": "application/json"}
XACML_TEXT = policy("p", rule("r", "Permit", target(is_equal("role", "doctor"))))
REGO_TEXT = """package t
default p := false
p if input.subject.properties.role == "doctor"
p if input.attributes.source.principal == "spiffe://m/a"
"""


def doors(language: str, log: list[str] | None = None) -> Doors:
    engine: Any = XacmlPolicyEngine(load_policies([XACML_TEXT.encode()]))
    if language == "rego":
        engine = load_rego([RegoModule("t", REGO_TEXT)], (), "t/p")
    found = Doors(engine, (log if log is not None else []).append)
    found.address = "http://pdp"
    return found


def ask(language: str, path: str, body: Any, **more: str) -> DoorReply:
    document = body if isinstance(body, bytes) else json.dumps(body).encode()
    return doors(language).answer(DoorRequest("POST", path, {**JSON, **more}, document))


def question(role: str = "doctor") -> dict[str, Any]:
    return {
        "subject": {"type": "user", "id": "ann", "properties": {"role": role}},
        "action": {"name": "read"},
        "resource": {"type": "record", "id": "1"},
    }


@pytest.mark.parametrize("language", ["xacml", "rego"])
def test_evaluation_says_true_only_for_permit(language: str):
    for role, expected in (("doctor", True), ("nurse", False)):
        reply = ask(language, "/access/v1/evaluation", question(role))
        assert reply.status == 200
        assert json.loads(reply.body)["decision"] is expected


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"subject": 1, "subject": 1}',
        {},
        {**question(), "subject": {"id": "ann"}},
        {**question(), "action": {}},
        {**question(), "resource": {"type": "record", "id": 7}},
        {**question(), "context": []},
        {**question(), "evaluations": 5},
        {**question(), "evaluations": [5]},
        {**question(), "evaluations": [{}], "options": {"evaluations_semantic": "any"}},
        {**question(), "evaluations": [{}] * 1001},
    ],
)
def test_what_is_no_request_of_the_api_is_refused(body: Any):
    path = "/access/v1/evaluations" if b"evaluations" in json.dumps(str(body)).encode() else ""
    assert ask("xacml", path or "/access/v1/evaluation", body).status == 400


def test_body_of_another_type_is_refused():
    reply = ask("xacml", "/access/v1/evaluation", question(), **{"content-type": "text/plain"})
    assert reply.status == 400


def test_request_identifier_comes_back():
    reply = ask("xacml", "/access/v1/evaluation", question(), **{"x-request-id": "7"})
    assert reply.headers["x-request-id"] == "7"


@pytest.mark.parametrize(
    ("semantic", "expected"),
    [
        ("execute_all", [True, False, True]),
        ("deny_on_first_deny", [True, False]),
        ("permit_on_first_permit", [True]),
    ],
)
def test_evaluations_share_parts_and_stop_where_they_are_told(semantic: str, expected: list[bool]):
    items = [{}, {"subject": question("nurse")["subject"]}, {}]
    body = {**question(), "evaluations": items, "options": {"evaluations_semantic": semantic}}
    reply = ask("rego", "/access/v1/evaluations", body)
    assert [e["decision"] for e in json.loads(reply.body)["evaluations"]] == expected
    single = ask("rego", "/access/v1/evaluations", question())
    assert json.loads(single.body) == {"decision": True}


def test_metadata_names_the_endpoints():
    found = json.loads(
        doors("rego").answer(DoorRequest("GET", "/.well-known/authzen-configuration", {}, b"")).body
    )
    assert found["access_evaluation_endpoint"] == "http://pdp/access/v1/evaluation"


def test_nested_property_is_indeterminate_in_xacml_and_says_why():
    body = {**question(), "context": {"a": {"b": 1}}}
    found = json.loads(ask("xacml", "/access/v1/evaluation", body).body)
    assert found["decision"] is False
    assert found["context"]["limen_answer"] == "Indeterminate"
    assert found["context"]["reason"].startswith("a is neither")


def test_xacml_rest_answers_in_the_form_that_is_accepted():
    body = {"Request": {"AccessSubject": {"Attribute": {"AttributeId": "role", "Value": "doctor"}}}}
    kind = {"content-type": "application/xacml+json"}
    reply = ask("xacml", "/pdp", body, **kind)
    assert json.loads(reply.body)["Response"][0]["Decision"] == "Permit"
    reply = ask("xacml", "/pdp", body, **kind, accept="application/xacml+xml;q=1")
    assert b"<Decision>Permit</Decision>" in reply.body
    assert ask("xacml", "/pdp", body, **kind, accept="text/html").status == 406
    assert ask("xacml", "/pdp", body, **{"content-type": "text/html"}).status == 415
    assert ask("xacml", "/pdp", b"{", **kind).status == 400
    assert ask("rego", "/pdp", body, **kind).status == 404
    assert b"/pdp" in doors("xacml").answer(DoorRequest("GET", "/", {}, b"")).body


def test_unknown_path_is_not_found():
    assert ask("xacml", "/other", {}).status == 404


def test_caller_is_the_one_uri_that_the_proxy_wrote():
    assert caller_of("By=spiffe://m/b;Hash=1;URI=spiffe://m/a") == "spiffe://m/a"
    assert caller_of('By=x;URI="spiffe://m/a";DNS=d') == "spiffe://m/a"
    assert caller_of("URI=spiffe://m/a;URI=spiffe://m/b") == ""
    assert caller_of("URI=spiffe://m/a,By=x;URI=spiffe://m/b") == ""
    assert caller_of("") == ""


def test_held_request_is_judged_by_the_identity_of_its_caller():
    for uri, status in (("spiffe://m/a", 200), ("spiffe://m/b", 403)):
        headers = {"x-forwarded-client-cert": f"URI={uri}", "host": "items"}
        reply = doors("rego").answer(DoorRequest("GET", "/envoy/a?x=1", headers, b""))
        assert reply.status == status
    assert doors("rego").answer(DoorRequest("GET", "/envoy", {}, b"")).status == 403


@pytest.mark.parametrize("path", ["/open", "//open", "//x/open", "/open?a=/b"])
def test_resource_of_a_held_request_is_its_whole_path(path: str):
    reads = is_equal(f"{V1}resource:resource-id", "/open").replace(ACCESS_SUBJECT, RESOURCE)
    text = policy("p", rule("r", "Permit", target(reads)))
    found = Doors(XacmlPolicyEngine(load_policies([text.encode()])), [].append)
    reply = found.answer(DoorRequest("GET", f"/envoy{path}", {}, b""))
    assert (reply.status == 200) is (path.partition("?")[0] == "/open")


def duty(name: str, **attributes: Any) -> Duty:
    return Duty(f"urn:limen:obligation:{name}", attributes)


def test_obligations_are_carried_out_before_a_request_goes_on():
    log: list[str] = []
    duties = (duty("log", reason="x"), duty("set-header", **{"X-Reason": "y"}))
    reply = reply_of(Verdict(Answer.PERMIT, duties=duties), log.append)
    assert (reply.status, reply.headers) == (200, {"x-reason": "y"})
    assert json.loads(log[0]) == {"obligation": "log", "attributes": {"reason": "x"}}


@pytest.mark.parametrize(
    "duty_",
    [
        Duty("redact", {"field": "name"}),
        duty("redact", field="/name"),
        duty("unheard-of"),
        Duty("urn:example:mask", {}),
        duty("step-up", max_age="soon"),
        duty("step-up", acr_values='a"b'),
        duty("set-header", host="x"),
        duty("set-header", **{"x-forwarded-client-cert": "x"}),
        duty("set-header", x="a\r\nb: c"),
        duty("set-header", x=["a", "b"]),
        duty("set-header", **{"a b": "x"}),
    ],
)
def test_obligation_that_cannot_be_carried_out_refuses_the_request(duty_: Duty):
    assert reply_of(Verdict(Answer.PERMIT, duties=(duty_,)), [].append).status == 403


def test_headers_are_taken_off_a_request_unless_they_are_the_proxys():
    reply = reply_of(Verdict(Answer.PERMIT, removed=("x-a", "x-b")), [].append)
    assert reply.headers == {"x-envoy-auth-headers-to-remove": "x-a,x-b"}
    for name in ("host", "X-Forwarded-Client-Cert", "a,b"):
        assert reply_of(Verdict(Answer.PERMIT, removed=(name,)), [].append).status == 403


def test_step_up_of_a_refusal_challenges():
    reply = reply_of(
        Verdict(Answer.DENY, duties=(duty("step-up", challenge="Bearer acr=2"),)), [].append
    )
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer acr=2")


@pytest.mark.parametrize("answer", [Answer.PERMIT, Answer.DENY])
@pytest.mark.parametrize("name", ["step-up", "urn:limen:obligation:step-up"])
def test_whoever_must_step_up_is_told_how_and_goes_no_further(answer: Answer, name: str):
    attributes = {"acr_values": ["phr", "phrh"], "max_age": "300"}
    reply = reply_of(Verdict(answer, duties=(Duty(name, attributes),)), [].append)
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == (
        'Bearer error="insufficient_user_authentication", acr_values="phr phrh", max_age="300"'
    )


def test_a_refused_decision_does_none_of_its_obligations():
    log: list[str] = []
    for last in (duty("unheard-of"), duty("set-header", host="x")):
        duties = (duty("log", reason="x"), last)
        assert reply_of(Verdict(Answer.PERMIT, duties=duties), log.append).status == 403
    assert not log


def test_obligations_of_rego_are_those_of_xacml():
    text = """package t
p := {"allowed": true, "obligations": [
  {"id": "log", "attributes": {"reason": "x", "n": 7, "many": ["a", true]}}],
  "advice": [{"id": "hint"}]}
"""
    log: list[str] = []
    engine = load_rego([RegoModule("t", text)], (), "t/p")
    reply = Doors(engine, log.append).answer(DoorRequest("GET", "/envoy/a", {}, b""))
    assert (reply.status, reply.headers) == (200, {"x-limen-advice": "hint"})
    wanted = {"reason": "x", "n": "7", "many": ["a", "true"]}
    assert json.loads(log[0]) == {"obligation": "log", "attributes": wanted}


@pytest.mark.parametrize(
    "bad",
    ['"log"', '["log"]', '[{"id": 7}]', '[{"id": "log", "more": 1}]',
     '[{"id": "log", "attributes": []}]', '[{"id": "log", "attributes": {"a": {}}}]'],
)  # fmt: skip
def test_obligations_of_rego_that_cannot_be_read_refuse(bad: str):
    text = f'package t\np := {{"allowed": true, "obligations": {bad}}}\n'
    engine = load_rego([RegoModule("t", text)], (), "t/p")
    assert engine.judge(AccessRequest(), NOW).answer is Answer.INDETERMINATE


def test_advice_is_passed_on_and_binds_nothing():
    verdict = Verdict(Answer.PERMIT, duties=(Duty("hint", {}, advice=True),))
    assert reply_of(verdict, [].append).headers == {"x-limen-advice": "hint"}


@pytest.mark.parametrize("answer", [a for a in Answer if a is not Answer.PERMIT])
def test_everything_but_permit_refuses(answer: Answer):
    assert reply_of(Verdict(answer, "why\r\nx: y", status=200), [].append).status == 400
    reply = reply_of(Verdict(answer, "why\r\nx: y"), [].append)
    assert reply.status == 403
    assert reply.body == f"{answer.value}: why  x: y\n".encode()


def test_engines_answer_the_same_question_alike():
    request = AccessRequest({"id": "a", "properties": {"role": ["x", "doctor"]}})
    xacml = XacmlPolicyEngine(load_policies([XACML_TEXT.encode()]))
    assert xacml.judge(request, NOW).answer is Answer.PERMIT
