"""`limen policy test --cases` and `limen pdp explain`, for both languages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.core.xacml.builders import (
    DENY_UNLESS_PERMIT,
    is_equal,
    obligation,
    policy,
    policy_set,
    rule,
    target,
)

from limen.cli.main import main
from limen.core.policy.cases import read_cases
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

DOCTOR, NURSE, NOBODY = (target(is_equal("role", role)) for role in ("doctor", "nurse", "x"))
XACML = policy_set(
    "s",
    policy(
        "p",
        rule("doctors", "Permit", DOCTOR + obligation("urn:limen:obligation:log", "Permit")),
        rule("nurses", "Permit", NURSE),
        algorithm=DENY_UNLESS_PERMIT,
    ),
    policy("q", rule("never", "Deny"), head=NOBODY),
)
REGO = """package t
default p := {"allowed": false}
p := {"allowed": true, "obligations": [{"id": "log"}]} if doctor
p := {"allowed": true} if nurse
doctor if input.subject.properties.role == "doctor"
nurse if input.subject.properties.role == "nurse"
f(x) := x
unused if f(1) == 1
"""
CASES = """
- name: a doctor
  request: {subject: {type: user, id: ann, properties: {role: doctor}}}
  expect: Permit
  obligations: [log]
- name: a stranger
  request: {subject: {type: user, id: eve}}
  expect: Deny
"""
WRONG = """
- name: a nurse
  request: {subject: {type: user, id: ann, properties: {role: nurse}}}
  expect: Deny
- name: another
  request: {subject: {type: user, id: ann, properties: {role: nurse}}}
  expect: Permit
  obligations: [log]
"""


def run(folder: Path, capsys, language: str, cases: str) -> tuple[int, str]:
    suffix, text = ("xml", XACML) if language == "xacml" else ("rego", REGO)
    (folder / f"p.{suffix}").write_text(text)
    (folder / "cases.yaml").write_text(cases)
    root = [] if language == "xacml" else ["--root", "t/p"]
    command = ["policy", "test", "--policy", str(folder / f"p.{suffix}"), *root]
    with pytest.raises(SystemExit) as caught:
        main([*command, "--cases", str(folder / "cases.yaml")])
    return int(caught.value.code or 0), capsys.readouterr().out


def test_xacml_cases_are_run_and_what_none_reaches_is_named(tmp_path: Path, capsys):
    code, out = run(tmp_path, capsys, "xacml", CASES)
    assert code == 0
    lines = [line.partition("  ")[0] for line in out.splitlines()]
    assert lines == ["no test reaches p/nurses", "no test reaches q", "2 passed, 0 failed"]


def test_rego_cases_are_run_and_what_none_reaches_is_named(tmp_path: Path, capsys):
    code, out = run(tmp_path, capsys, "rego", CASES)
    assert code == 0
    lines = [line.partition("  ")[0] for line in out.splitlines()]
    assert "no test reaches data.t.unused" in lines
    assert lines[-1] == "2 passed, 0 failed"
    assert not any("doctor" in line for line in lines)


@pytest.mark.parametrize("language", ["xacml", "rego"])
def test_a_case_that_does_not_hold_says_how(tmp_path: Path, capsys, language: str):
    code, out = run(tmp_path, capsys, language, WRONG)
    assert code == 1
    assert "FAIL a nurse  Deny expected, Permit" in out
    assert "FAIL another  obligations: log expected, none" in out
    assert out.endswith("0 passed, 2 failed\n")


@pytest.mark.parametrize(
    "bad",
    [
        {},
        [],
        [{"request": {}, "expect": "Permit"}],
        [{"name": "a", "expect": "Permit"}],
        [{"name": "a", "request": {}, "expect": "Yes"}],
        [{"name": "a", "request": {}, "input": {}, "expect": "Deny"}],
        [{"name": "a", "request": {"user": 1}, "expect": "Deny"}],
        [{"name": "a", "request": {"subject": 1}, "expect": "Deny"}],
        [{"name": "a", "request": {"http": {"path": 1}}, "expect": "Deny"}],
        [{"name": "a", "request": {}, "expect": "Deny", "obligations": "log"}],
        [{"name": "a", "request": {}, "expect": "Deny"}] * 2,
        [{"name": "a", "request": {}, "expect": "Deny", "more": 1}],
    ],
)
def test_cases_that_are_not_understood_are_refused(bad: object):
    with pytest.raises(InvalidInput):
        read_cases(bad)


def explain(folder: Path, capsys, text: str, document: object, *more: str) -> str:
    (folder / "p.rego").write_text(text)
    (folder / "i.json").write_text(json.dumps(document))
    command = ["pdp", "explain", "--policy", str(folder / "p.rego"), "--root", "t/p"]
    with pytest.raises(SystemExit) as caught:
        main([*command, "--request", str(folder / "i.json"), *more])
    assert not caught.value.code
    return capsys.readouterr().out


def test_a_decision_of_rego_is_explained_as_a_tree(tmp_path: Path, capsys):
    document = {"subject": {"properties": {"role": "nurse"}}}
    lines = explain(tmp_path, capsys, REGO, document).splitlines()
    assert lines[0].startswith('data.t.p = {"allowed": true}  [')
    assert [line.split("  [")[0] for line in lines[1:]] == [
        "  data.t.doctor = undefined",
        "  data.t.nurse = true",
    ]
    tree = json.loads(explain(tmp_path, capsys, REGO, document, "-o", "json"))
    assert [child["name"] for child in tree["children"]] == ["data.t.doctor", "data.t.nurse"]
    assert [one["default"] for one in tree["definitions"]] == [True, False, False]


def test_an_explanation_is_bounded(tmp_path: Path, capsys):
    rules = "".join(f"r{i} if input.x == {i}\n" for i in range(700))
    uses = "".join(f"p if r{i}\n" for i in range(700))
    text = f'package t\ndefault p := false\n{rules}{uses}long := concat("", ["x" | true])\n'
    lines = explain(tmp_path, capsys, text, {"x": -1}).splitlines()
    assert len(lines) == 701
    assert all(len(line) < 5_000 for line in lines[1:])
