"""`limen pdp`: responses, exit codes, batches of cases."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.core.xacml.builders import (
    is_equal,
    literal,
    obligation,
    policy,
    policy_set,
    rule,
    target,
)

from limen.cli.main import main
from limen.core.policy.xacml.names import ACCESS_SUBJECT, NAMESPACE, STRING

if TYPE_CHECKING:
    from pathlib import Path

REQUEST = (
    f'<Request xmlns="{NAMESPACE}" ReturnPolicyIdList="false" CombinedDecision="false">'
    f'<Attributes Category="{ACCESS_SUBJECT}"><Attribute AttributeId="a" IncludeInResult="false">'
    f'<AttributeValue DataType="{STRING}">1</AttributeValue></Attribute></Attributes></Request>'
)
DOCUMENT = policy("p", rule("r", "Permit", target(is_equal("a", "1")) + obligation("o", "Permit")))
RESPONSE = (
    f'<Response xmlns="{NAMESPACE}"><Result><Decision>{{}}</Decision><Status><StatusCode '
    'Value="urn:oasis:names:tc:xacml:1.0:status:ok"/></Status>{}</Result></Response>'
)
OBLIGATIONS = '<Obligations><Obligation ObligationId="o"/></Obligations>'


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["pdp", *(str(a) for a in arguments)])
    return int(caught.value.code or 0)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "policy.xml").write_text(DOCUMENT)
    (tmp_path / "request.xml").write_text(REQUEST)
    asked = {"Request": {"AccessSubject": {"Attribute": {"AttributeId": "a", "Value": "1"}}}}
    (tmp_path / "request.json").write_text(json.dumps(asked))
    return tmp_path


def test_response_is_printed_in_the_form_of_the_request(files: Path, capsys):
    code = run("evaluate", "--policy", files / "policy.xml", "--request", files / "request.xml")
    assert code == 0
    assert "<Decision>Permit</Decision>" in capsys.readouterr().out
    code = run("evaluate", "--policy", files / "policy.xml", "--request", files / "request.json")
    assert code == 0
    assert json.loads(capsys.readouterr().out)["Response"][0]["Decision"] == "Permit"


@pytest.mark.parametrize(("form", "begins"), [("xml", "<?xml"), ("json", "{")])
def test_form_of_the_response_can_be_chosen(files: Path, capsys, form: str, begins: str):
    where = ("--policy", files / "policy.xml", "--request", files / "request.json")
    assert run("evaluate", *where, "--format", form) == 0
    assert capsys.readouterr().out.startswith(begins)


def test_deny_and_indeterminate_exit_with_0_too(files: Path, capsys):
    (files / "policy.xml").write_text(policy("p", rule("r", "Deny")))
    assert (
        run("evaluate", "--policy", files / "policy.xml", "--request", files / "request.xml") == 0
    )
    assert "Deny" in capsys.readouterr().out


def test_policy_that_cannot_be_loaded_exits_with_2_and_the_reason(files: Path, capsys):
    broken = policy("p", rule("r", "Permit", f"<Condition>{literal('string', 'x')}</Condition>"))
    (files / "policy.xml").write_text(broken)
    assert (
        run("evaluate", "--policy", files / "policy.xml", "--request", files / "request.xml") == 2
    )
    told = capsys.readouterr()
    assert told.out == ""
    assert f"{files}/policy.xml:1" in told.err
    assert "not boolean" in told.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--policy", "none.xml", "--request", "request.xml"),
        ("--policy", "policy.xml", "--request", "none.xml"),
        ("--policy", "policy.xml", "--request", "policy.xml"),
        ("--policy", "policy.xml"),
        ("--batch", "empty", "--root", "p"),
        ("--batch", "empty"),
        ("--batch", "none"),
        ("--policy", "empty", "--request", "request.xml"),
        ("--policy", "policy.xml", "--root", "q", "--request", "request.xml"),
    ],
)
def test_wrong_use_exits_with_2(files: Path, monkeypatch, capsys, arguments: tuple[str, ...]):
    monkeypatch.chdir(files)
    (files / "empty").mkdir()
    assert run("evaluate", *arguments) == 2
    assert capsys.readouterr().err


def test_directory_of_policies_with_a_named_root(files: Path, capsys):
    folder = files / "policies"
    folder.mkdir()
    (folder / "a.xml").write_text(DOCUMENT)
    inner = "<PolicyIdReference>p</PolicyIdReference>"
    (folder / "b.xml").write_text(policy_set("s", inner))
    (folder / "notes.txt").write_text("not a policy")
    assert (
        run("evaluate", "--policy", folder, "--root", "s", "--request", files / "request.xml") == 0
    )
    assert "Permit" in capsys.readouterr().out


def case(folder: Path, name: str, document: str, request: str | None, response: str | None) -> None:
    path = folder / name
    path.mkdir(parents=True)
    (path / "Policy.xml").write_text(document)
    (path / ("Request.xml" if request else "Request.xml.ignore")).write_text(request or REQUEST)
    (path / ("Response.xml" if response else "Response.xml.ignore")).write_text(response or "<x/>")


def test_batch_names_what_differs_and_how(tmp_path: Path, capsys):
    right = RESPONSE.format("Permit", OBLIGATIONS)
    broken = policy("p", rule("r", "Maybe"))
    case(tmp_path, "good", DOCUMENT, REQUEST, right)
    case(tmp_path, "deep/good", DOCUMENT, REQUEST, right)
    case(tmp_path, "decision", DOCUMENT, REQUEST, RESPONSE.format("Deny", OBLIGATIONS))
    case(tmp_path, "obligation", DOCUMENT, REQUEST, RESPONSE.format("Permit", ""))
    case(tmp_path, "refused", broken, None, None)
    case(tmp_path, "not-refused", DOCUMENT, None, None)
    case(tmp_path, "wrongly-refused", broken, REQUEST, right)
    case(tmp_path, "bad-request", DOCUMENT, "<x/>", None)
    case(tmp_path, "good-request", DOCUMENT, REQUEST, None)
    assert run("evaluate", "--batch", tmp_path) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "4 passed, 5 failed"
    told = dict(line.split(": ", 1) for line in lines)
    assert set(told) == {"decision", "obligation", "not-refused", "wrongly-refused", "good-request"}
    assert told["decision"] == "decision: Deny expected, Permit"
    assert "too many" in told["obligation"]


def test_batch_that_passes_exits_with_0_and_reads_references(tmp_path: Path, capsys):
    path = tmp_path / "refs"
    (path / "Policies").mkdir(parents=True)
    (path / "Policies" / "Policy.xml").write_text(
        policy_set("s", "<PolicyIdReference>p</PolicyIdReference>")
    )
    (path / "Policies" / "Other.xml").write_text(DOCUMENT)
    (path / "Request.xml").write_text(REQUEST)
    (path / "Response.xml").write_text(RESPONSE.format("Permit", OBLIGATIONS))
    assert run("evaluate", "--batch", tmp_path) == 0
    assert capsys.readouterr().out == "1 passed, 0 failed\n"


def test_batch_supplies_the_attributes_of_a_provider(tmp_path: Path, capsys):
    case(
        tmp_path,
        "c",
        DOCUMENT,
        REQUEST.replace('"a"', '"other"'),
        RESPONSE.format("Permit", OBLIGATIONS),
    )
    provider = REQUEST.replace("Request", "Provider").replace("ReturnPolicyIdList", "x")
    (tmp_path / "c" / "AttributeProvider.xml").write_text(provider)
    assert run("evaluate", "--batch", tmp_path) == 0
    capsys.readouterr()


def test_explain_prints_the_tree(files: Path, capsys):
    where = ("--policy", files / "policy.xml", "--request", files / "request.xml")
    assert run("explain", *where) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "Permit"
    assert second.split()[:2] == ["Permit", "Policy"]
    assert "target: match" in third
    assert run("explain", *where, "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["decisions"] == ["Permit"]
