"""Rego policies that would take the process with them, loaded and asked in one of their own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from limen.adapters.rego_process import RegoSet, ask, try_load
from limen.cli.main import main
from limen.core.policy.rego.source import RegoModule
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path


def policies(text: str, *data: str) -> RegoSet:
    return RegoSet((RegoModule("t.rego", f"package t\n{text}"),), data, "t/p")


def test_value_of_the_decision_comes_back():
    assert ask(policies("p := data.a + input.b\n", '{"a": 1}'), {"b": 2}).value == 3
    assert ask(policies("p contains x if { some x in [2, 1] }"), {}).value == [1, 2]


def test_error_of_a_decision_is_told_in_a_line():
    assert ask(policies("p := 1 / input.b"), {"b": 0}).error == "divide by zero"


def test_policy_that_takes_too_long_to_read_is_refused():
    text = "p := 1\n" + "".join(f"q{i} := {'1 + ' * 140}1\n" for i in range(1_500))
    with pytest.raises(InvalidInput, match="too much time or memory to read"):
        try_load(policies(text), deadline_s=0.5)


@pytest.mark.parametrize(
    "text",
    [
        "p if { some i in numbers.range(1, 3000); some j in numbers.range(1, 3000); i + j == 0 }",
        "p := count(numbers.range(1, 100000000))",
    ],
)
def test_decision_that_takes_too_much_is_an_error_in_bounded_time(text: str):
    assert "too much time or memory" in ask(policies(text), {}, deadline_s=1.5).error


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    text = 'package a\ndefault allow := false\nallow if "admin" in data.roles[input.user]\n'
    (tmp_path / "policies/a.rego").write_text(text)
    (tmp_path / "policies/a_test.rego").write_text("package a_test\nthis is not read")
    (tmp_path / "roles.json").write_text('{"roles": {"ann": ["admin"]}}')
    (tmp_path / "ask.json").write_text('{"user": "ann"}')
    return tmp_path


def evaluate(files: Path, *more: str, root: str = "a/allow", request: str = "ask.json") -> int:
    data = ("--data", str(files / "roles.json"))
    place = ("--policy", str(files / "policies"), "--root", root)
    with pytest.raises(SystemExit) as caught:
        main(["pdp", "evaluate", *place, *data, "--request", str(files / request), *more])
    return int(caught.value.code or 0)


def test_evaluate_prints_the_decision_of_a_rego_policy(files: Path, capsys):
    assert evaluate(files) == 0
    assert json.loads(capsys.readouterr().out) == {"decision": "Permit", "value": True}
    (files / "ask.json").write_text('{"user": "bob"}')
    assert evaluate(files, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["decision"] == "Deny"


def test_evaluate_refuses_a_rego_policy_by_file_and_line(files: Path, capsys):
    (files / "policies/b.rego").write_text("package b\nx := http.send({})\n")
    assert evaluate(files) == 2
    assert "policies/b.rego:2: /: rego-unknown-function: http.send" in capsys.readouterr().err


def test_evaluate_refuses_wrong_use(files: Path, capsys):
    assert evaluate(files, "--format", "xml") == 2
    assert evaluate(files, root="a/other") == 2
    (files / "bad.json").write_text("{")
    assert evaluate(files, request="bad.json") == 2
    (files / "policies/c.xml").write_text("<Policy/>")
    assert evaluate(files) == 2
    assert "cannot be evaluated together" in capsys.readouterr().err


def run_policy_tests(files: Path) -> int:
    data = ("--data", str(files / "roles.json"))
    with pytest.raises(SystemExit) as caught:
        main(["policy", "test", "--policy", str(files / "policies"), *data])
    return int(caught.value.code or 0)


def test_tests_of_a_policy_are_run_and_what_they_miss_is_named(files: Path, capsys):
    (files / "policies/b.rego").write_text("package b\nx := 1\n\ny if {\n\tinput.a\n}\n")
    (files / "policies/a_test.rego").write_text(
        "package a_test\n"
        'test_admin if data.a.allow with input as {"user": "ann"}\n'
        'test_other if { not data.a.allow with input as {"user": "bob"} }\n'
        "test_x if data.b.x == 1\n"
    )
    assert run_policy_tests(files) == 0
    out = capsys.readouterr().out
    assert out.startswith("no test reaches data.b.y  ")
    assert out.endswith("policies/b.rego:4\n3 passed, 0 failed\n")
    with (files / "policies/a_test.rego").open("a") as file:
        file.write("test_wrong if data.b.x == 2\ntest_broken if data.b.x / 0 == 1\n")
    assert run_policy_tests(files) == 1
    out = capsys.readouterr().out
    assert "FAIL data.a_test.test_wrong" in out
    assert "divide by zero" in out
    assert out.endswith("3 passed, 2 failed\n")


def test_policy_without_tests_fails_its_tests(files: Path, capsys):
    (files / "policies/a_test.rego").unlink()
    assert run_policy_tests(files) == 1
    assert "0 passed, 0 failed" in capsys.readouterr().out
