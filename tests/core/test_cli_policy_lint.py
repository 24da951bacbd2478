"""`limen policy lint`: what can be loaded and is hardly meant."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.core.xacml.builders import is_equal, policy, rule, target

from limen.cli.main import main

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
