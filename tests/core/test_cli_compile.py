"""`limen compile`: Envoy's resources from files alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from limen.cli.compile import compile_
from limen.cli.main import main
from limen.core.envoy import names

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

DOCUMENTS = """\
apiVersion: kuma.io/v1alpha1
kind: TrafficPermission
mesh: default
metadata: {name: to-users}
spec:
  sources:
    - match: {kuma.io/service: invoices}
  destinations:
    - match: {kuma.io/service: users}
---
type: Dataplane
mesh: default
name: users-1
networking:
  address: 127.0.0.1
  inbound:
    - port: 9080
      servicePort: 8080
      tags: {kuma.io/service: users, kuma.io/protocol: http}
"""


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    file = tmp_path / "all.yaml"
    file.write_text(DOCUMENTS)
    return file


def run(*args: object) -> Result:
    return CliRunner().invoke(compile_, [str(a) for a in args], catch_exceptions=False)


def compiled(*args: object) -> dict:
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_declared_workload_is_compiled(documents):
    answer = compiled("-f", documents, "--workload", "default/users")
    assert answer["instance"] == "default/users/users-1"
    assert set(answer["resources"][names.LISTENER]) >= {"inbound:9080"}
    assert set(answer["resources"][names.EXTENSION]) == {
        "permission.deny:9080",
        "permission.allow:9080",
    }
    allow = json.dumps(answer["resources"][names.EXTENSION]["permission.allow:9080"])
    assert "spiffe://default.mesh.local/ns/default/sa/invoices" in allow
    assert answer["resources"][names.ENDPOINTS] == {}


GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: [a.example]}]
"""


def test_an_instance_of_an_undeclared_gateway_is_named(tmp_path):
    file = tmp_path / "edge.yaml"
    file.write_text(GATEWAY)
    answer = compiled("-f", file, "--workload", "istio-system/ingress/edge-7")
    assert answer["instance"] == "istio-system/ingress/edge-7"
    assert set(answer["resources"][names.LISTENER]) >= {"edge:8080"}


def test_an_undeclared_caller_is_assumed_and_told(documents):
    result = run("-f", documents, "--workload", "invoices")
    answer = json.loads(result.stdout)
    assert "default/invoices is not declared" in result.stderr
    assert set(answer["resources"][names.CLUSTER]) >= {"out:default/users"}
    load = answer["resources"][names.ENDPOINTS]["out:default/users"]
    assert "9080" in json.dumps(load)


def test_no_edge_without_a_permission(documents):
    answer = compiled("-f", documents, "--workload", "items")
    assert not [n for n in answer["resources"][names.CLUSTER] if n.startswith("out:")]


def test_secrets_are_placeholders(documents):
    answer = compiled("-f", documents, "--workload", "users")
    assert set(answer["placeholders"]) == {"bundle", "svid", "local-guard"}
    assert "PRIVATE" not in json.dumps(answer)


def test_a_table_names_the_resources(documents):
    lines = run("-f", documents, "--workload", "users", "-o", "table").stdout.splitlines()
    assert lines[0].split() == ["TYPE", "NAME"]
    assert ["Listener", "inbound:9080"] in [line.split() for line in lines]


def test_the_same_files_give_the_same_bytes(documents):
    args = ("-f", documents, "--workload", "invoices")
    assert run(*args).stdout == run(*args).stdout


def test_an_instance_is_chosen_by_name_or_not_found(documents, capsys):
    args = ["compile", "-f", str(documents), "--workload"]
    main_exit(0, [*args, "default/users/users-1"])
    capsys.readouterr()
    main_exit(4, [*args, "default/users/users-2"])
    main_exit(4, [*args, "users", "--mesh", "prod"])
    main_exit(2, [*args, "../users"])


def main_exit(code: int, args: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == code


def test_files_with_errors_are_not_compiled(documents):
    documents.write_text(DOCUMENTS.replace("mesh: default\nmetadata", "mesh: prod\nmetadata"))
    result = run("-f", documents, "--workload", "users")
    assert result.exit_code == 1
    assert not result.stdout
    assert "unknown-mesh" in result.stderr
