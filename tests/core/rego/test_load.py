"""What a Rego policy may be: refused at load, by name and line, before a request meets it."""

from __future__ import annotations

import re

import pytest
import regorus
from hypothesis import given
from hypothesis import strategies as st

from limen.core.policy.rego import builtins, tokens
from limen.core.policy.rego.engine import load_rego
from limen.core.policy.rego.source import RegoModule, check_text
from limen.errors import InvalidInput


def findings(*texts: str, entry: str = "t/p", data: tuple[bytes, ...] = ()) -> list[str]:
    modules = [RegoModule(f"{number}.rego", text) for number, text in enumerate(texts)]
    try:
        load_rego(modules, data, entry)
    except InvalidInput as error:
        return [str(finding) for finding in error.diagnostics]
    return []


def test_table_of_functions_is_what_the_engine_has():
    engine = regorus.Engine()
    engine.add_policy("t", "package t\np := opa.runtime()")
    has = {n for n in engine.eval_rule("data.t.p")["builtins"] if not n.startswith("__")}
    assert has == (builtins.NATIVE - {"print"}) | set(builtins.WITHHELD)
    ours = {f"io.jwt.verify_{a.lower()}" for a in tokens.ALGORITHMS}
    assert builtins.ABSENT.isdisjoint(has | ours)


@pytest.mark.parametrize("name", sorted(builtins.ABSENT | set(builtins.WITHHELD)))
def test_function_of_opa_that_may_not_be_called_is_refused_by_name(name: str):
    (found,) = findings(f"package t\np if false\nq := {name}(1)")
    assert found.startswith("0.rego:3:")
    assert "rego-unknown-function" in found
    assert name in found


@pytest.mark.parametrize(
    "call",
    [
        "[x | x := nosuch(1)]",
        "{1: nosuch(1)}",
        "input.a[nosuch(1)]",
        "count([1 | nosuch(1)])",
        "1 + nosuch(1)",
    ],
)
def test_unknown_function_is_found_wherever_it_is_called(call: str):
    (found,) = findings(f"package t\np := {call}")
    assert "no function nosuch" in found


def test_function_of_another_package_is_known_by_path_and_by_import():
    lib = "package lib.a\nf(x) := x"
    assert findings(lib, "package t\nimport data.lib.a\np := a.f(1)") == []
    assert findings(lib, "package t\nimport data.lib.a.f as g\np := g(1)") == []
    assert findings(lib, 'package t\np := data.lib["a"].f(1)') == []
    (found,) = findings(lib, "package t\nimport data.lib.a\np := a.h(1)")
    assert "no function lib.a.h" in found


@pytest.mark.parametrize(
    "text",
    [
        "p := f(1)\nf(x) := f(x)",
        "p := f(1)\nf(x) := g(x)\ng(x) := f(x) + 1",
        "p := f(1)\nf(x) := y if { y := [z | z := f(x)] }",
        "p := f(1)\nf(x) := q + x\nq := f(2)",
        "p := q\nq := p",
        "p := data.t.q\nq := data.t.p",
        "p := data.t[input.a]",
    ],
)
def test_rules_that_need_themselves_are_refused(text: str):
    (found,) = findings(f"package t\n{text}")
    assert "rego-recursion" in found


@pytest.mark.parametrize(
    "text",
    [
        "p := f(1)\nf(user) := user + 1\nuser := f(input.a)",
        "p := g(1)\nuser := g(1)\ng(x) := user if { user := x }",
        "p := q.a\nq.a := 1\nq.b := q.a",
        'p := input.p.q\nq[k] := v if { some k, v in {"p": 1} }',
        "p := 1 if { false } else := 2 if { true }",
    ],
)
def test_names_that_only_look_alike_are_no_recursion(text: str):
    assert findings(f"package t\n{text}") == []


def test_long_chain_of_functions_is_refused():
    chain = "".join(f"f{i + 1}(x) := f{i}(x)\n" for i in range(300))
    (found,) = findings(f"package t\nf0(x) := x\n{chain}p := f300(1)")
    assert "rego-too-deep" in found


@pytest.mark.parametrize("sign", ["[]", "{}", "()"])
def test_deep_brackets_are_refused_before_the_engine_tries(sign: str):
    text = "package t\np := " + sign[0] * 40 + "1" + sign[1] * 40
    (found,) = findings(text)
    assert "rego-too-large" in found


def test_brackets_in_strings_and_comments_do_not_count():
    noise = "[" * 1000
    text = f'package t # {noise}\np := "{noise}\\"{noise}"\nq := `{noise}`'
    assert findings(text) == []


@pytest.mark.parametrize(
    "expression",
    [
        "1 +\n" * 3000 + "1",
        "1" + "\n+ 1" * 3000,
        "-\n" * 200 + "1",
        "input" + "[1\n]" * 200,
        "{1}" + "\n| {1}" * 200,
        "1 " + "in\n 1 " * 200,
        "1" + " + f(1, 1)" * 200,
    ],
)
def test_expression_of_many_parts_is_refused(expression: str):
    (found,) = findings(f"package t\np := {expression}")
    assert "rego-too-large" in found


def test_large_policy_of_small_parts_is_read():
    rules = "".join(f"r{i} if {{\n\tinput.a.b == {i}\n\tinput.c > 3\n}}\n" for i in range(500))
    table = "".join(f'\t"key-{i}": ["a.b.c", {i}],\n' for i in range(500))
    assert findings(f"package t\n{rules}p := {{\n{table}}}") == []


def test_all_findings_come_at_once_and_syntax_errors_name_the_line():
    found = findings("package t\np := ", "package t\nq := (1")
    assert [re.sub(r": /.*", "", f) for f in found] == ["0.rego:2", "1.rego:2"]


def test_entry_that_no_policy_defines_is_refused():
    (found,) = findings("package t\nq := 1")
    assert "rego-no-entry" in found
    assert "data.t.p" in found


@pytest.mark.parametrize("document", [b"[1]", b"{", b"\xff", b'{"t": {"p": ' + b"[" * 100_000])
def test_bad_data_is_refused(document: bytes):
    (found,) = findings("package t\np := 1", data=(document,))
    assert "rego-data" in found


def test_policy_written_for_an_older_opa_is_read():
    assert findings("package t\ndefault p = false\np { input.a == 1; q[_] }\nq[x] { x := 1 }") == []


@given(st.text())
def test_any_text_is_measured(text: str):
    assert check_text(text) is None or isinstance(check_text(text), str)


@given(st.text(alphabet='pq(){}[]:=|. \n1"`#', max_size=40))
def test_any_short_policy_is_loaded_or_refused(text: str):
    findings(f"package t\np := {text}")
