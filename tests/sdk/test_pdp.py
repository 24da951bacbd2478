"""The decision point inside an application: redaction, sources, and obligations of both."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from limen.core.policy.engine import Duty
from limen.core.policy.redaction import redacted
from limen.sdk.pdp import DecisionPoint, load

if TYPE_CHECKING:
    from pathlib import Path

POLICY = """package t
default p := {"allowed": false}
p := {"allowed": true, "obligations": [
  {"id": "redact", "attributes": {"field": ["/ssn", "/visits/*/notes"]}}]} if {
  "west" in input.sources.subject.ward
}
"""
SOURCES = """apiVersion: limen.dev/v1
kind: AttributeSource
metadata: {name: roster}
spec:
  file: {path: roster.csv, where: {doctor: user}}
  parameters: [{name: user, category: subject, attribute: id}]
  attributes: [{category: subject, attribute: ward, field: ward}]
"""
RECORD = {"name": "n", "ssn": "1", "visits": [{"notes": "x", "day": 1}, {"day": 2}]}


def point(folder: Path) -> DecisionPoint:
    (folder / "p.rego").write_text(POLICY)
    (folder / "s.yaml").write_text(SOURCES)
    (folder / "roster.csv").write_text("doctor,ward\nann,west\nbob,east\n")
    return load([folder / "p.rego"], root="t/p", sources=[folder / "s.yaml"])


def decide(found: DecisionPoint, user: str = "ann", **more: Any) -> Any:
    resource = {"type": "record", "id": "1"}
    return found.decide({"type": "user", "id": user}, {"name": "read"}, resource, **more)


def test_what_must_not_be_seen_is_taken_out_of_the_document(tmp_path: Path):
    found = decide(point(tmp_path), document=RECORD)
    assert found.permitted
    assert found.document == {"name": "n", "visits": [{"day": 1}, {"day": 2}]}
    assert RECORD["ssn"] == "1"


def test_without_a_document_an_obligation_to_redact_refuses(tmp_path: Path):
    found = decide(point(tmp_path))
    assert not found.permitted
    assert "needs the document" in found.reason


def test_a_refusal_gives_no_document(tmp_path: Path):
    found = decide(point(tmp_path), "bob", document=RECORD)
    assert (found.permitted, found.document) == (False, None)


def test_sources_that_fail_refuse(tmp_path: Path):
    found = point(tmp_path)
    (tmp_path / "roster.csv").unlink()
    answer = decide(found, document=RECORD)
    assert (answer.permitted, answer.answer) == (False, "Indeterminate")
    assert "source default/roster" in answer.reason


def test_sources_are_asked_from_several_threads(tmp_path: Path):
    text = tmp_path / "p.xml"
    text.write_text(
        POLICY_XML.replace("ROLE", "urn:oasis:names:tc:xacml:1.0:subject-category:access-subject")
    )
    point(tmp_path)
    found = load([text], sources=[tmp_path / "s.yaml"])
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda u=user: answers.append(decide(found, u).permitted))
        for user in ("ann", "bob") * 10
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answers) == [False] * 10 + [True] * 10


POLICY_XML = """<Policy xmlns="urn:oasis:names:tc:xacml:3.0:core:schema:wd-17" PolicyId="p"
 Version="1.0" RuleCombiningAlgId=
 "urn:oasis:names:tc:xacml:3.0:rule-combining-algorithm:deny-unless-permit"><Target/>
<Rule RuleId="r" Effect="Permit"><Target><AnyOf><AllOf>
<Match MatchId="urn:oasis:names:tc:xacml:1.0:function:string-equal">
<AttributeValue DataType="http://www.w3.org/2001/XMLSchema#string">west</AttributeValue>
<AttributeDesignator Category="ROLE" AttributeId="ward" MustBePresent="true"
 DataType="http://www.w3.org/2001/XMLSchema#string"/></Match></AllOf></AnyOf></Target></Rule>
</Policy>"""


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("/a", {"b": [{"c": 1}, 2], "d~/": 3}),
        ("/b/0/c", {"a": 0, "b": [{}, 2], "d~/": 3}),
        ("/b/1", {"a": 0, "b": [{"c": 1}], "d~/": 3}),
        ("/b/*", {"a": 0, "b": [], "d~/": 3}),
        ("/*", {}),
        ("/d~0~1", {"a": 0, "b": [{"c": 1}, 2]}),
        ("/none/at/all", {"a": 0, "b": [{"c": 1}, 2], "d~/": 3}),
        ("/b/7", {"a": 0, "b": [{"c": 1}, 2], "d~/": 3}),
    ],
)
def test_pointers_hide_what_they_find(field: str, expected: Any):
    document = {"a": 0, "b": [{"c": 1}, 2], "d~/": 3}
    assert redacted(document, [Duty("redact", {"field": field})]) == expected


@pytest.mark.parametrize("attributes", [{}, {"field": "a"}, {"field": []}, {"field": "/~2"},
                                        {"field": ""}, {"field": "/a", "mask": "x"}])  # fmt: skip
def test_a_redaction_that_is_not_understood_hides_nothing_and_is_refused(attributes: Any):
    with pytest.raises(ValueError, match="redact"):
        redacted({"a": 1}, [Duty("redact", attributes)])
