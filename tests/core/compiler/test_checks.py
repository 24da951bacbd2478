"""Each cross-document finding, and the silence where there is nothing to find."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.core.compiler import build as b

if TYPE_CHECKING:
    from limen.core.model.resource import Resource

from limen.core.compiler.checks import check
from limen.core.model.diagnostic import Severity
from limen.core.model.permission import PermissionRule
from limen.core.model.snapshot import Snapshot
from limen.core.model.workload import Inbound, Protocol


def findings(*resources: Resource, before: Snapshot | None = None) -> dict[str, list]:
    found: dict[str, list] = {}
    for diagnostic in check(Snapshot({r.key: r for r in resources}), before):
        found.setdefault(diagnostic.code, []).append(diagnostic)
    return found


def errors(found: dict[str, list]) -> set[str]:
    return {c for c, ds in found.items() if any(d.severity is Severity.ERROR for d in ds)}


ANYBODY = PermissionRule(allow=b.prefix(f"spiffe://{b.TD}"))


def test_a_sound_marketplace_has_no_finding():
    assert not findings(
        b.dataplane("users"),
        b.dataplane("invoices", address="127.0.0.2"),
        b.permission("p", [b.tags("invoices")], [b.tags("users")]),
    )


def test_nothing_at_all_has_no_finding():
    assert check(Snapshot()) == ()


@pytest.mark.parametrize(
    "resource",
    [
        b.permission("p", [b.tags("*")], [b.tags("a")], mesh="prod"),
        b.mesh_permission("p", ANYBODY, mesh="prod"),
        b.dataplane("a", mesh="prod"),
        b.settings("prod"),
    ],
)
def test_an_unknown_mesh_is_refused_until_it_is_declared(resource):
    found = findings(resource)
    assert errors(found) == {"unknown-mesh"}
    assert found["unknown-mesh"][0].file == resource.origin.file
    assert "prod" in found["unknown-mesh"][0].message
    assert "unknown-mesh" not in findings(resource, b.mesh("prod"))


def test_the_default_mesh_exists_unless_it_is_declared_and_then_too():
    assert "unknown-mesh" not in findings(b.settings("default"))


@pytest.mark.parametrize(
    "settings",
    [
        {"trust_domain": "default.mesh.local"},
        {"trust_domain_aliases": ("default.mesh.local",)},
    ],
)
def test_a_trust_domain_belongs_to_one_mesh(settings):
    found = findings(b.mesh("prod"), b.settings("prod", **settings))
    assert errors(found) == {"trust-domain-taken"}
    assert "default" in found["trust-domain-taken"][0].message
    assert found["trust-domain-taken"][0].file == "settings.yaml"


def test_the_first_mesh_is_blamed_where_only_it_has_settings():
    found = findings(b.mesh("prod"), b.settings("default", trust_domain="prod.mesh.local"))
    assert errors(found) == {"trust-domain-taken"}


@pytest.mark.parametrize("declared", [True, False])
def test_both_kinds_for_one_workload_are_refused_naming_both(declared):
    resources = [
        b.permission("old", [b.tags("a")], [b.tags("users")]),
        b.mesh_permission("new", ANYBODY, target=b.labelled(app="users")),
    ]
    if declared:
        resources.append(b.dataplane("users"))
    (finding,) = findings(*resources)["both-permission-kinds"]
    assert finding.severity is Severity.ERROR
    assert "old (permissions.yaml:1)" in finding.message
    assert "new" in finding.message
    assert finding.file == "mtp.yaml"
    assert finding.line == 5


def test_both_kinds_for_different_workloads_are_fine():
    found = findings(
        b.permission("old", [b.tags("a")], [b.tags("users")]),
        b.mesh_permission("new", ANYBODY, target=b.labelled(app="items")),
        b.dataplane("users"),
        b.dataplane("items", port=8088),
    )
    assert not errors(found)


def test_two_wildcards_of_both_kinds_meet_before_anybody_is_declared():
    found = findings(
        b.permission("t", [b.tags("*")], [b.tags("*")]), b.mesh_permission("m", ANYBODY)
    )
    assert errors(found) == {"both-permission-kinds"}


def test_a_source_that_splits_an_identity_is_refused():
    found = findings(
        b.dataplane("users"),
        b.dataplane("a", "a-1", port=1, version="v1"),
        b.dataplane("a", "a-2", port=2, version="v2"),
        b.permission("p", [b.tags("users"), b.tags("a", version="v1")], [b.tags("users")]),
    )
    assert errors(found) == {"split-identity"}
    (finding,) = found["split-identity"]
    assert finding.line == 8
    assert "sa/a" in finding.message


def test_two_accounts_of_one_service_are_not_a_split():
    found = findings(
        b.dataplane("users"),
        b.dataplane("a", "a-1", port=1, account="a1", version="v1"),
        b.dataplane("a", "a-2", port=2, account="a2", version="v2"),
        b.permission("p", [b.tags("a", version="v1")], [b.tags("users")]),
    )
    assert not found


def test_a_dataplane_cannot_take_anothers_instance_name():
    before = Snapshot({r.key: r for r in [b.dataplane("users", "web-1")]})
    found = findings(b.dataplane("items", "web-1"), before=before)
    assert errors(found) == {"instance-taken"}
    found = findings(b.dataplane("users", "web-1", account="admin"), before=before)
    assert errors(found) == {"instance-taken"}
    assert not findings(b.dataplane("users", "web-1", port=9999), before=before)


def test_two_instances_at_one_address_are_told():
    found = findings(
        b.dataplane("users", address="10.0.0.1"), b.dataplane("items", address="10.0.0.1")
    )
    assert not errors(found)
    assert "10.0.0.1:8080" in found["address-in-use"][0].message


def test_loopback_is_another_address_on_another_node():
    users, items = b.dataplane("users"), b.dataplane("items")
    assert "address-in-use" in findings(users, items)
    items = replace(items, spec=replace(items.spec, node="vm-2"))
    assert not findings(users, items)


def test_a_port_used_twice_by_one_instance_is_refused():
    ports = tuple(
        Inbound(8080, p, Protocol.HTTP, b.tags("users"), address=f"127.0.0.{p}") for p in (1, 2)
    )
    assert errors(findings(b.dataplane("users", inbounds=ports))) == {"duplicate-port"}
    own = b.dataplane("users")
    own = replace(own, spec=replace(own.spec, probe_port=8080))
    assert errors(findings(own)) == {"duplicate-port"}


def test_host_names_that_clash_are_refused():
    found = findings(b.dataplane("a.b", namespace="c"), b.dataplane("a", namespace="b.c", port=1))
    assert errors(found) == {"hostname-clash"}


def test_a_permission_for_nobody_is_told_once_somebody_is_declared():
    permission = b.permission("p", [b.tags("*")], [b.tags("itmes")])
    assert not findings(permission)
    found = findings(permission, b.dataplane("items"))
    assert not errors(found)
    assert found["matches-no-workload"][0].line == 20


def test_ties_and_permissions_without_effect_are_told():
    resources = [
        b.dataplane("users"),
        b.permission("a", [b.tags("x")], [b.tags("users")]),
        b.permission("c", [b.tags("y")], [b.tags("users")]),
    ]
    found = findings(*resources)
    assert not errors(found)
    assert found["equal-permissions"][0].message.startswith("TrafficPermission a")
    assert "shadowed-permission" in found


def test_a_wildcard_that_counts_somewhere_is_not_shadowed():
    found = findings(
        b.dataplane("users"),
        b.dataplane("items", port=1),
        b.permission("all", [b.tags("*")], [b.tags("*")]),
        b.permission("users", [b.tags("items")], [b.tags("users")]),
    )
    assert not found


def test_a_foreign_trust_domain_is_told():
    rules = PermissionRule(
        deny=b.exact("spiffe://other.mesh.local/ns/default/sa/a"),
        allow=b.prefix("spiffe://cluster.local", f"spiffe://{b.TD}/ns/x"),
    )
    found = findings(b.dataplane("users"), b.mesh_permission("p", rules))
    assert not errors(found)
    assert len(found["foreign-trust-domain"]) == 1
    assert found["foreign-trust-domain"][0].path == "/spec/rules/0/default/deny/0"


def test_an_allowance_of_what_is_denied_is_told():
    rules = PermissionRule(
        deny=b.exact(b.who("a")),
        allow=b.exact("spiffe://cluster.local/ns/default/sa/a", b.who("c")),
    )
    found = findings(b.dataplane("users"), b.mesh_permission("p", rules))
    assert len(found["never-applies"]) == 1


def test_mtls_off_is_loud():
    found = findings(b.mesh(mtls=False))
    assert "NO permission is enforced" in found["mtls-off"][0].message
    assert not errors(found)
    assert not findings(b.mesh())


def test_default_allow_is_told():
    assert "default-allow" in findings(b.settings(default_allow=True))


def test_meshes_do_not_disturb_each_other():
    found = findings(
        b.mesh("prod"),
        b.permission("old", [b.tags("a")], [b.tags("users")]),
        b.mesh_permission("new", ANYBODY, mesh="prod"),
        b.dataplane("users", mesh="prod"),
    )
    assert not errors(found)
