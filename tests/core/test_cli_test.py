"""`limen test`: cases that pass, fail and cannot be read; coverage; JUnit."""

from __future__ import annotations

import json
from itertools import permutations
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from lxml import etree

from limen.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

POLICY = """
type: TrafficPermission
mesh: default
name: to-items
sources:
- match: {kuma.io/service: invoices}
- match: {kuma.io/service: nobody}
destinations:
- match: {kuma.io/service: items}
"""

GOOD = """
tests:
- {from: invoices, to: items, expect: allow, rule: default/to-items/0}
- {from: users, to: items, expect: deny, rule: none, status: 403}
- {to: items, expect: deny, status: 0, name: "nobody & <co>"}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "policy.yaml").write_text(POLICY)
    return tmp_path


def run(files: Path, cases: str, *options: str, capsys) -> tuple[int, str, str]:
    (files / "cases.yaml").write_text(dedent(cases))
    arguments = ["test", "-f", str(files / "policy.yaml"), str(files / "cases.yaml"), *options]
    code = 0
    try:
        main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_cases_that_are_as_expected(files: Path, capsys):
    code, out, _ = run(files, GOOD, capsys=capsys)
    assert code == 0, out
    assert "3 of 3 cases passed; 1 of 2 rules reached" in out
    assert "no case reaches TrafficPermission default/to-items rule 1" in out
    assert run(files, GOOD, "--require-coverage", capsys=capsys)[0] == 1


EDGE = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [a.example]
    tls: {mode: SIMPLE, credentialName: cert}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: items}
spec: {hosts: [a.example], gateways: [istio-system/edge], http: [{route: [{destination: {host: items}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: items}
spec:
  selector: {matchLabels: {app: items}}
  rules: [{from: [{source: {principals: [cluster.local/ns/istio-system/sa/ingress]}}]}]
"""  # noqa: E501 - a document


def test_no_answer_about_a_gateway_depends_on_the_order_of_cases(files: Path, capsys):
    (files / "policy.yaml").write_text(EDGE)
    cases = [
        "{from: istio-system/ingress, to: items, expect: allow, rule: items}",
        "{to: istio-system/ingress, headers: {host: a.example}, expect: allow}",
        "{to: istio-system/ingress, headers: {host: a.example}, sni: b.example, status: 0, expect: deny}",  # noqa: E501
        "{to: a.example, expect: allow}",
    ]  # fmt: skip
    for order in permutations(cases):
        text = "tests:\n" + "\n".join(f"- {case}" for case in order)
        code, out, _ = run(files, text, capsys=capsys)
        assert code == 0, out


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        ("{from: users, to: items, expect: allow}", "expected allowed, is denied"),
        ("{from: invoices, to: items, expect: deny}", "expected denied, is allowed"),
        ("{from: users, to: items, expect: deny, status: 401}", "expected status 401, is 403"),
        ("{from: invoices, to: items, expect: allow, rule: other}", "expected the rule other"),
        ("{from: invoices, to: items, expect: allow, rule: to-items/1}", "to-items/1"),
        ("{from: users, to: items, mesh: other, expect: deny}", "unknown-mesh"),
        ("{from: users, to: items, path: '/a/..%2f', status: 403, expect: deny}", "is 400"),
    ],
)
def test_a_case_that_is_not_as_expected_fails(files: Path, capsys, case: str, problem: str):
    code, out, _ = run(files, f"tests: [{case}]", capsys=capsys)
    assert code == 1
    assert out.startswith("FAILED")
    assert problem in out


@pytest.mark.parametrize(
    ("cases", "code", "line"),
    [
        ("tests: []", "no-cases", 0),
        ("- {to: items, expect: deny}", "bad-cases", 1),
        ("cases: []", "bad-cases", 1),
        ("tests:\n- {to: items, expects: deny}", "unknown-field", 2),
        ("tests:\n- {to: items, expect: maybe}", "unknown-value", 2),
        ("tests:\n- {expect: deny}", "missing-field", 2),
        ("tests:\n- {to: items}", "missing-field", 2),
        ("tests:\n- {to: 7, expect: deny}", "wrong-type", 2),
        ("tests:\n- {to: items, expect: deny, port: x}", "wrong-type", 2),
        ("tests:\n- {to: items, expect: deny, port: 65536}", "out-of-range", 2),
        ("tests:\n- {to: items, expect: deny, status: 4033}", "out-of-range", 2),
        ("tests:\n- {to: items, expect: deny, claims: []}", "wrong-type", 2),
        ("tests:\n- {to: items, expect: deny, headers: {a: {b: c}}}", "wrong-type", 2),
        ("tests:\n- deny", "wrong-type", 2),
        ("tests: [", "yaml-syntax", 0),
    ],
)
def test_cases_that_cannot_be_read(files: Path, capsys, cases: str, code: str, line: int):
    status, _, err = run(files, cases, capsys=capsys)
    assert status == 2
    assert "bad-cases" in err
    first = err.splitlines()[0]
    assert code in first
    assert line == 0 or f"cases.yaml:{line}:" in first


def test_a_file_that_is_not_there(files: Path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["test", "-f", str(files / "policy.yaml"), str(files / "none.yaml")])
    assert end.value.code == 2
    assert "unreadable" in capsys.readouterr().err


def test_json_and_junit(files: Path, capsys):
    junit = files / "out.xml"
    cases = GOOD + '- {from: users, to: items, expect: allow, name: "odd\\tname"}\n'
    code, out, _ = run(files, cases, "-o", "json", "--junit", str(junit), capsys=capsys)
    assert code == 1
    report = json.loads(out)
    assert (report["passed"], report["failed"], report["rules"]) == (3, 1, 2)
    assert [rule["index"] for rule in report["unreached"]] == [1]
    suite = etree.fromstring(junit.read_bytes())
    assert (suite.get("tests"), suite.get("failures")) == ("4", "1")
    names = [case.get("name") for case in suite]
    assert names[2] == "nobody & <co>"
    assert names[3] == "odd?name"
    assert suite[3][0].tag == "failure"


def test_a_report_that_cannot_be_written_is_said(files: Path, capsys):
    status, _, err = run(files, GOOD, "--junit", str(files / "none" / "out.xml"), capsys=capsys)
    assert status == 2
    assert "unwritable" in err


def test_policies_with_errors_are_not_tested(files: Path, capsys):
    (files / "policy.yaml").write_text("kind: Nonsense\n")
    assert run(files, GOOD, capsys=capsys)[0] == 1


def test_the_command_is_listed():
    from limen.cli.main import limen  # noqa: PLC0415 - only here

    assert "test" in CliRunner().invoke(limen, ["--help"]).output
