"""`limen policy lint`: what can be loaded and is hardly meant."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.core.xacml.builders import apply, is_equal, literal, obligation, policy, rule, target

from limen.cli.main import main
from limen.core.policy.xacml.supply import SUBJECT_ID

if TYPE_CHECKING:
    from pathlib import Path

V1 = "urn:oasis:names:tc:xacml:1.0:rule-combining-algorithm:"
V3 = "urn:oasis:names:tc:xacml:3.0:rule-combining-algorithm:"
FALSE = (
    '<Condition><AttributeValue DataType="http://www.w3.org/2001/XMLSchema#boolean">false'
    "</AttributeValue></Condition>"
)
A_IS_1 = target(is_equal("a", "1"))


def lint(
    tmp_path: Path, capsys, text: str, *more: str, suffix: str = "xml"
) -> tuple[int, list[str]]:
    (tmp_path / f"p.{suffix}").write_text(text)
    with pytest.raises(SystemExit) as caught:
        main(["policy", "lint", "--policy", str(tmp_path), *more])
    found = re.findall(r": ((?:xacml|rego)-[a-z-]+): (\S+)", capsys.readouterr().out)
    return int(caught.value.code or 0), [f"{code} {name}" for code, name in found]


@pytest.mark.parametrize(
    ("rules", "algorithm", "expected"),
    [
        (rule("a", "Permit") + rule("b", "Deny"), f"{V1}first-applicable", ["xacml-unreachable b"]),
        (rule("a", "Permit", A_IS_1) + rule("b", "Deny"), f"{V1}first-applicable", []),
        (rule("a", "Permit") + rule("b", "Deny"), f"{V3}deny-overrides", []),
        (rule("a", "Permit", A_IS_1), f"{V3}deny-overrides", ["xacml-no-default p"]),
        (rule("a", "Permit", A_IS_1), f"{V3}deny-unless-permit", []),
        (rule("a", "Deny", A_IS_1), f"{V3}deny-unless-permit", ["xacml-without-effect a"]),
        (rule("a", "Permit", FALSE), f"{V3}deny-unless-permit", ["xacml-never-applies a"]),
    ],
)
def test_what_an_xacml_policy_hardly_means_is_reported(
    tmp_path: Path, capsys, rules: str, algorithm: str, expected: list[str]
):
    code, found = lint(tmp_path, capsys, policy("p", rules, algorithm=algorithm))
    assert found == expected
    assert code == (1 if expected else 0)


def test_attribute_that_no_source_gives_is_reported_if_sources_are_named(tmp_path: Path, capsys):
    text = policy("p", rule("r", "Permit", A_IS_1), algorithm=f"{V3}deny-unless-permit")
    assert lint(tmp_path, capsys, text, "--attribute", "b") == (1, ["xacml-no-source no"])
    assert lint(tmp_path, capsys, text, "--attribute", "a") == (0, [])


def test_what_a_rego_policy_hardly_means_is_reported(tmp_path: Path, capsys):
    text = "package t\np if f(1)\nf(x) if x == 1\nlost := 1\n"
    found = lint(tmp_path, capsys, text, "--root", "t/p", suffix="rego")
    assert found == (1, ["rego-no-default data.t.p", "rego-unreachable the"])
    text = "package t\ndefault p := false\np if f(1)\nf(x) if x == 1\n"
    assert lint(tmp_path, capsys, text, "--root", "t/p", suffix="rego") == (0, [])


def test_policy_that_cannot_be_loaded_exits_with_2(tmp_path: Path, capsys):
    assert lint(tmp_path, capsys, "<Policy/>")[0] == 2


def boolean(name: str, *arguments: str) -> str:
    return f"<Condition>{apply(name, *arguments)}</Condition>"


@pytest.mark.parametrize(
    "condition",
    [
        boolean("string-equal", literal("string", "a"), literal("string", "b")),
        boolean("and", literal("boolean", "true"), apply("or")),
        boolean(
            "not", apply("integer-less-than", literal("integer", "1"), literal("integer", "2"))
        ),
    ],
)
def test_a_condition_of_literals_is_computed(tmp_path: Path, capsys, condition: str):
    text = policy("p", rule("a", "Permit", condition), algorithm=f"{V3}deny-unless-permit")
    assert lint(tmp_path, capsys, text) == (1, ["xacml-never-applies a"])


def test_a_document_that_nothing_refers_to_is_never_reached(tmp_path: Path, capsys):
    (tmp_path / "other.xml").write_text(policy("other", rule("a")))
    text = policy("p", rule("a", "Permit", A_IS_1), algorithm=f"{V3}deny-unless-permit")
    assert lint(tmp_path, capsys, text, "--root", "p") == (1, ["xacml-unreachable other"])


SOURCE = """apiVersion: limen.dev/v1
kind: AttributeSource
metadata: {name: s}
spec:
  labels: {}
  attributes: [{category: subject, attribute: a, field: a}]
"""


def test_attributes_of_sources_and_of_every_request_are_given(tmp_path: Path, capsys):
    source = tmp_path / "s.yaml"
    source.write_text(SOURCE)
    algorithm = f"{V3}deny-unless-permit"
    known = target(is_equal("a", "1"), is_equal(SUBJECT_ID, "x"))
    text = policy("p", rule("r", "Permit", known), algorithm=algorithm)
    assert lint(tmp_path, capsys, text, "--source", str(source)) == (0, [])
    text = policy("p", rule("r", "Permit", target(is_equal("b", "1"))), algorithm=algorithm)
    assert lint(tmp_path, capsys, text, "--source", str(source)) == (1, ["xacml-no-source no"])


def test_rego_attributes_that_no_source_gives_are_reported(tmp_path: Path, capsys):
    source = tmp_path / "s.yaml"
    source.write_text(SOURCE)
    text = """package t
import input.sources.subject as who
default p := false
p if "x" in input.sources.subject.a
p if "x" in input.sources.subject["b"]
p if "x" in who.c
"""
    found = lint(tmp_path, capsys, text, "--root", "t/p", "--source", str(source), suffix="rego")
    assert found == (1, ["rego-no-source no"] * 2)


@pytest.mark.parametrize(
    "body",
    ["false", "1 == 2; input.x", 'input.x == "a"; input.x == "b"', '"a" == "b"', "1 == true"],
)
def test_rego_definitions_that_never_hold_are_reported(tmp_path: Path, capsys, body: str):
    text = f"package t\ndefault p := false\np if input.y\np if {{ {body} }}\n"
    found = lint(tmp_path, capsys, text, "--root", "t/p", suffix="rego")
    assert found == (1, ["rego-never-applies data.t.p"])


@pytest.mark.parametrize(
    "body", ["1 == 1", 'input.x == "a"; input.y == "b"', "input.x != 1", "true"]
)
def test_rego_definitions_that_may_hold_are_not(tmp_path: Path, capsys, body: str):
    text = f"package t\ndefault p := false\np if {{ {body} }}\n"
    assert lint(tmp_path, capsys, text, "--root", "t/p", suffix="rego") == (0, [])


def test_obligations_that_no_proxy_carries_out_are_reported_for_one(tmp_path: Path, capsys):
    text = policy(
        "p",
        rule("a", "Permit", A_IS_1 + obligation("redact", "Permit")),
        algorithm=f"{V3}deny-unless-permit",
    )
    assert lint(tmp_path, capsys, text) == (0, [])
    assert lint(tmp_path, capsys, text, "--proxy") == (1, ["xacml-not-for-a-proxy no"])
