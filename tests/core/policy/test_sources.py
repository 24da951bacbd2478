"""What answers of sources mean to an evaluation: values, absence, lies, and what to ask."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from tests.core.xacml.builders import (
    DENY_UNLESS_PERMIT,
    apply,
    designator,
    literal,
    policy,
    rule,
)

from limen.core.model.attribute_source import (
    AttributeName,
    AttributeSource,
    ClaimsOrigin,
    FileOrigin,
    GivenAttribute,
    LabelsOrigin,
    SourceParameter,
)
from limen.core.policy.engine import AccessRequest, Answer, HttpRequest, Verdict
from limen.core.policy.rego.engine import load_rego
from limen.core.policy.rego.source import RegoModule
from limen.core.policy.sources import Answer as Said
from limen.core.policy.sources import AnswersNeeded, Asking, Borne, Question, SourceBook
from limen.core.policy.xacml.access import XacmlPolicyEngine
from limen.core.policy.xacml.decision import Decision
from limen.core.policy.xacml.engine import load_policies
from limen.core.policy.xacml.names import ACCESS_SUBJECT, STATUS_MISSING_ATTRIBUTE
from limen.core.policy.xacml.request import Attribute, Attributes, AttributeValue, XacmlRequest
from limen.core.policy.xacml.supply import SUBJECT_ID
from limen.errors import InvalidInput


def when(expression: str) -> str:
    return f"<Condition>{expression}</Condition>"


NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
USER = SourceParameter("user", AttributeName("subject", "id"))
WARD = AttributeName("subject", "ward")
ROSTER = FileOrigin("a.csv", "csv", (("doctor", "user"),))


def source(
    name: str = "roster",
    gives: tuple[AttributeName, ...] = (WARD,),
    parameters: tuple[SourceParameter, ...] = (USER,),
    origin: Any = ROSTER,
    **more: Any,
) -> AttributeSource:
    given = tuple(GivenAttribute(a, a.id, **more) for a in gives)
    return AttributeSource("n", name, origin, parameters, given)


def asking(answers: dict[Question, Said], *sources: AttributeSource) -> Asking:
    return Asking(SourceBook(sources), answers.get)


WANTS_WEST = policy(
    "p",
    rule(
        "r",
        "Permit",
        when(apply("string-is-in", literal("string", "west"), designator("ward", must=True))),
    ),
    algorithm=DENY_UNLESS_PERMIT,
)
REGO = 'package t\ndefault p := false\np if "west" in input.sources.subject.ward\n'
ANN = AccessRequest({"type": "user", "id": "ann"}, {"name": "read"}, {"type": "r", "id": "1"})


def judge(language: str, ask: Asking, request: AccessRequest = ANN) -> Verdict:
    engine: Any
    if language == "xacml":
        engine = XacmlPolicyEngine(load_policies([WANTS_WEST.encode()]), ask.book)
    else:
        engine = load_rego([RegoModule("t", REGO)], (), "t/p")
    return engine.judge(request, NOW, ask)


BOTH = pytest.mark.parametrize("language", ["xacml", "rego"])


@BOTH
def test_an_evaluation_says_what_it_needs_and_goes_on_when_it_has_it(language: str):
    one = source()
    first = asking({}, one)
    with pytest.raises(AnswersNeeded):
        judge(language, first)
    assert first.needed == [Question(one, ("ann",))]
    first.answers[first.needed[0]] = Said(({"ward": ["east", "west"]},))
    assert judge(language, first).answer is Answer.PERMIT


@BOTH
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Said(failure="it hangs"), "source n/roster: it hangs"),
        (Said(({"ward": {"a": 1}},)), "ward is no string"),
        (Said(({"ward": 7},)), "ward is no string"),
        (Said(({"ward": ["w"] * 1001},)), "more than 1000 values"),
        (Said(({"ward": "x" * 70_000},)), "too long"),
    ],
)
def test_a_source_that_fails_or_lies_makes_the_whole_decision_indeterminate(
    language: str, said: Said, reason: str
):
    one = source()
    found = judge(language, asking({Question(one, ("ann",)): said}, one))
    assert found.answer is Answer.INDETERMINATE
    assert reason in found.reason
    assert "missing: ward" in found.reason


def test_no_algorithm_passes_over_a_source_that_failed():
    text = policy(
        "p",
        rule("a", "Deny", when(apply("string-is-in", literal("string", "x"), designator("ward")))),
        rule("b", "Permit"),
        algorithm="urn:oasis:names:tc:xacml:3.0:rule-combining-algorithm:permit-unless-deny",
    )
    one = source()
    ask = asking({Question(one, ("ann",)): Said(failure="it hangs")}, one)
    engine = XacmlPolicyEngine(load_policies([text.encode()]), ask.book)
    assert engine.judge(ANN, NOW, ask).answer is Answer.INDETERMINATE


@BOTH
def test_a_source_that_knows_nothing_leaves_the_attribute_missing(language: str):
    one = source()
    found = judge(language, asking({Question(one, ("ann",)): Said()}, one))
    expected = Answer.INDETERMINATE if language == "rego" else Answer.DENY
    assert found.answer is expected  # deny-unless-permit; see below for the status


def test_the_status_of_a_missing_attribute_has_its_detail():
    text = WANTS_WEST.replace("deny-unless-permit", "deny-overrides")
    one = source()
    ask = asking({Question(one, ("ann",)): Said()}, one)
    engine = XacmlPolicyEngine(load_policies([text.encode()]), ask.book)
    subject = Attributes(ACCESS_SUBJECT, (Attribute(SUBJECT_ID, (AttributeValue("ann"),)),))
    for said in (Said(), Said(failure="it hangs")):
        ask = asking({Question(one, ("ann",)): said}, one)
        found = engine.engine.evaluate(XacmlRequest((subject,)), NOW, engine.finder(ask))
        (result,) = found.results
        assert result.decision is Decision.INDETERMINATE
        assert result.status.code == STATUS_MISSING_ATTRIBUTE
        assert [m.attribute_id for m in result.status.missing] == ["ward"]


def test_rego_may_call_an_attribute_optional():
    one = source(optional=True)
    found = judge("rego", asking({Question(one, ("ann",)): Said()}, one))
    assert found.answer is Answer.DENY


@BOTH
def test_what_the_request_has_is_not_asked_of_a_source_by_xacml(language: str):
    one = source()
    ask = asking({}, one)
    given = replace(ANN, subject={**ANN.subject, "properties": {"ward": "west"}})
    if language == "xacml":
        assert judge(language, ask, given).answer is Answer.PERMIT
        assert not ask.needed
    else:
        with pytest.raises(AnswersNeeded):
            judge(language, ask, given)


@BOTH
def test_without_the_value_of_its_parameter_nothing_is_asked(language: str):
    ask = asking({}, source())
    found = judge(language, ask, AccessRequest(http=HttpRequest("GET", "/", {})))
    assert found.answer is not Answer.PERMIT
    assert not ask.needed


@BOTH
def test_a_parameter_with_several_values_is_an_error(language: str):
    ask = asking({}, source(parameters=(SourceParameter("g", AttributeName("subject", "group")),)))
    request = replace(ANN, subject={**ANN.subject, "properties": {"group": ["a", "b"]}})
    assert "has several values" in judge(language, ask, request).reason


@BOTH
def test_one_source_may_be_asked_with_what_another_gives(language: str):
    badge = AttributeName("subject", "badge", "integer")
    first = source("badges", (badge,))
    second = source("wards", parameters=(SourceParameter("badge", badge),))
    ask = asking({}, first, second)
    with pytest.raises(AnswersNeeded):
        judge(language, ask)
    assert ask.needed == [Question(first, ("ann",))]
    ask.answers[ask.needed.pop()] = Said(({"badge": 7},))
    with pytest.raises(AnswersNeeded):
        judge(language, ask)
    assert ask.needed == [Question(second, (7,))]
    ask.answers[ask.needed.pop()] = Said(({"ward": "west"},))
    assert judge(language, ask).answer is Answer.PERMIT


def test_sources_that_need_one_another_or_give_the_same_are_refused():
    a, b = AttributeName("subject", "a"), AttributeName("subject", "b")
    circle = (
        source("one", (a,), (SourceParameter("b", b),)),
        source("two", (b,), (SourceParameter("a", a),)),
    )
    for sources, code in ((circle, "source-circle"), ((source(), source("x")), "source-overlap")):
        with pytest.raises(InvalidInput) as error:
            SourceBook(sources)
        assert error.value.code == code


@BOTH
def test_verified_claims_and_registered_labels_come_with_the_request(language: str):
    for origin, borne in (
        (ClaimsOrigin(), Borne(claims={"ward": ["west"]})),
        (LabelsOrigin(), Borne(labels={"ward": "west"})),
    ):
        ask = asking({}, source(parameters=(), origin=origin))
        ask.borne = borne
        assert judge(language, ask).answer is Answer.PERMIT
        ask.borne = Borne()
        assert judge(language, ask).answer is not Answer.PERMIT


def test_all_individual_decisions_are_looked_at_before_answers_are_fetched():
    one = source()
    ask = asking({}, one)
    engine = XacmlPolicyEngine(load_policies([WANTS_WEST.encode()]), ask.book)
    people = [
        Attributes(ACCESS_SUBJECT, (Attribute(SUBJECT_ID, (AttributeValue(who),)),))
        for who in ("ann", "bob")
    ]
    with pytest.raises(AnswersNeeded):
        engine.engine.evaluate(XacmlRequest(tuple(people)), NOW, engine.finder(ask))
    assert [question.values for question in ask.needed] == [("ann",), ("bob",)]


def test_a_value_that_xacml_cannot_read_is_a_lie_of_the_source():
    day = AttributeName("subject", "since", "date")
    one = source(gives=(day,))
    text = policy(
        "p",
        rule(
            "r",
            "Permit",
            when(apply("date-is-in", literal("date", "2026-01-01"), designator("since", "date"))),
        ),
    )
    ask = asking({Question(one, ("ann",)): Said(({"since": "yesterday"},))}, one)
    engine = XacmlPolicyEngine(load_policies([text.encode()]), ask.book)
    found = engine.judge(ANN, NOW, ask)
    assert found.answer is Answer.INDETERMINATE
    assert "no date" in found.reason


@BOTH
@pytest.mark.parametrize(
    ("field", "row"),
    [
        ("/a/b", {"a": {"b": "west"}}),
        ("/a~1b/~0", {"a/b": {"~": "west"}}),
        ("a/b", {"a/b": "west"}),
    ],
)
def test_a_field_is_a_name_or_a_pointer_into_what_the_source_said(
    language: str, field: str, row: dict[str, Any]
):
    one = replace(source(), gives=(GivenAttribute(WARD, field),))
    said = Said(({"a": "west"}, row, {"a": {"b": None}}))
    found = judge(language, asking({Question(one, ("ann",)): said}, one))
    assert found.answer is Answer.PERMIT


@BOTH
def test_as_many_values_as_are_allowed_are_all_there(language: str):
    one = source()
    said = Said(({"ward": ["west"] * 1000},))
    found = judge(language, asking({Question(one, ("ann",)): said}, one))
    assert found.answer is Answer.PERMIT
