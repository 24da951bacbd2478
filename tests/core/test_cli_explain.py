"""`limen explain` in files: verdicts as data, exit codes, what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner

from limen.cli.explain import explain
from limen.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

PERMISSIONS = """\
apiVersion: kuma.io/v1alpha1
kind: TrafficPermission
mesh: default
metadata:
  name: to-users
spec:
  sources:
    - match: {kuma.io/service: invoices}
  destinations:
    - match: {kuma.io/service: users}
"""
CONTRADICTION = """\
---
apiVersion: kuma.io/v1alpha1
kind: MeshTrafficPermission
metadata:
  name: users
spec:
  targetRef: {kind: Dataplane, labels: {app: users}}
  rules:
    - default:
        allow:
          - spiffeID: {type: Exact, value: spiffe://default.mesh.local/ns/default/sa/items}
"""


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    file = tmp_path / "policies.yaml"
    file.write_text(PERMISSIONS)
    return file


def run(*args: object) -> Result:
    return CliRunner().invoke(explain, [str(a) for a in args], catch_exceptions=False)


def test_allowed_is_data_with_the_rule(policies):
    result = run("-f", policies, "--from", "invoices", "--to", "users", "-o", "json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["allowed"] is True
    assert answer["rule"]["name"] == "to-users"
    assert answer["rule"]["file"] == str(policies)
    assert answer["rule"]["line"] == 8
    assert len(answer["assumed"]) == 2


def test_denied_exits_0_too(policies):
    result = run("-f", policies, "--from", "items", "--to", "users", "-o", "yaml")
    assert result.exit_code == 0
    answer = yaml.safe_load(result.stdout)
    assert answer["allowed"] is False
    assert answer["rule"] is None
    assert answer["near_misses"][0]["field"] == "principal"


@pytest.mark.parametrize("scheme", ["spiffe://", ""])
def test_a_caller_may_be_written_as_in_istios_documents(policies, scheme):
    caller = f"{scheme}cluster.local/ns/default/sa/invoices"
    result = run("-f", policies, "--from", caller, "--to", "users", "-o", "json")
    assert json.loads(result.stdout)["allowed"] is True


def test_the_table_says_it_in_words(policies):
    result = run("-f", policies, "--to", "users")
    assert result.exit_code == 0
    assert result.stdout.startswith("denied: ")
    assert "a caller without identity" in result.stdout
    result = run("-f", policies, "--from", "items", "--to", "users")
    assert "near misses:" in result.stdout
    assert f"{policies}:8" in result.stdout


def test_findings_refuse_to_answer(policies):
    policies.write_text(PERMISSIONS + CONTRADICTION)
    result = run("-f", policies, "--from", "items", "--to", "users", "-o", "json")
    assert result.exit_code == 1
    assert not result.stdout
    assert "both-permission-kinds" in result.stderr
    policies.write_text("kind: Nonsense\n")
    assert run("-f", policies, "--to", "users").exit_code == 1


def test_an_unknown_mesh_is_not_found(policies, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "-f", str(policies), "--to", "users", "--mesh", "prod"])
    assert stopped.value.code == 4
    assert "unknown-mesh" in capsys.readouterr().err


GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [a.example]
    tls: {mode: SIMPLE, credentialName: cert}
"""


@pytest.mark.parametrize(("sni", "status"), [("a.example", 404), ("b.example", 0), ("", 404)])
def test_a_gateway_is_asked_for_a_server_name(tmp_path, sni, status):
    file = tmp_path / "edge.yaml"
    file.write_text(GATEWAY)
    result = run("-f", file, "--to", "istio-system/ingress", "--header", "host=a.example",
                 "--sni", sni, "-o", "json")  # fmt: skip
    answer = json.loads(result.stdout)
    assert (answer["allowed"], answer["status"]) == (False, status)


def test_headers_keep_their_order_and_need_a_name(policies):
    good = ("--header", "X-A=1", "--header", "x-a=2=3", "--header", "b=")
    assert run("-f", policies, "--to", "users", *good).exit_code == 0
    for bad in ("novalue", "=x"):
        assert run("-f", policies, "--to", "users", "--header", bad).exit_code == 2


@pytest.mark.parametrize("text", ["[]", '{"a": 1, "a": 2}', '{"a": NaN}', "{", "[" * 50_000])
def test_claims_are_read_strictly(policies, tmp_path, text, capsys):
    claims = tmp_path / "claims.json"
    claims.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "-f", str(policies), "--to", "users", "--claims", str(claims)])
    assert stopped.value.code == 2
    assert "bad-claims" in capsys.readouterr().err


def test_files_and_server_cannot_both_be_asked(policies):
    assert run("-f", policies, "--server", "https://x", "--to", "users").exit_code == 2


def test_another_server_than_the_client_files_is_refused(tmp_path, capsys):
    file = tmp_path / "client.json"
    file.write_text(json.dumps({"server": "https://a:1", "ca_pem": "x", "token": "t"}))
    file.chmod(0o600)
    with pytest.raises(SystemExit) as stopped:
        main(["explain", "--server", "https://b:1", "--to", "u", "--config", str(file)])
    assert stopped.value.code == 2
    assert "other-server" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--from", "shop"),
        ("--to", "items"),
        ("--method", "GET"),
        ("--path", "/x"),
        ("--header", "a=b"),
        ("--source-ip", "192.0.2.1"),
        ("--remote-ip", "192.0.2.1"),
        ("--claims", "claims.json"),
        ("--port", "80"),
        ("--provider-allows", "risk"),
    ],
)
def test_what_is_said_beside_a_past_request_is_refused_and_not_ignored(
    tmp_path: Path, option: str, value: str
) -> None:
    log = tmp_path / "access.jsonl"
    log.write_text("")
    for past in (("--log", str(log)), ("--request-id", "x")):
        found = run("-f", tmp_path, *past, option, value)
        assert found.exit_code == 2
        assert option in found.output
        assert "past request" in found.output
