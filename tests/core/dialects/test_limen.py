"""`limen.dev/v1`."""

from __future__ import annotations

import pytest
from tests.core.dialects.documents import MESH_SETTINGS, codes, one, read

from limen.core.dialects import document_from_stored, to_resource
from limen.core.dialects.limen import cutover_body
from limen.core.model.mesh import Isolation, MeshSettings, WhenStale
from limen.core.model.resource import CUTOVER, ResourceKey
from limen.core.model.workload import Cutover

HEAD = MESH_SETTINGS.partition("spec:")[0]


def test_every_field_is_read() -> None:
    resource = one(f"""{HEAD}spec:
  trustDomain: example.org
  trustDomainAliases: [old.example.org, older.example.org]
  rootNamespace: system
  defaultAction: Allow
  maxStaleness: 1h
  whenStale: Refuse
  minOutageBudget: 6h
  minIsolation: NetworkNamespace
  maxConnectionAge: 90s
""")
    assert resource.key == ResourceKey("limen.dev/MeshSettings", "default", "default", "default")
    assert resource.spec == MeshSettings(
        trust_domain="example.org",
        trust_domain_aliases=("old.example.org", "older.example.org"),
        root_namespace="system",
        default_allow=True,
        max_staleness_s=3600,
        when_stale=WhenStale.REFUSE,
        min_outage_budget_s=6 * 3600,
        min_isolation=Isolation.NETWORK_NAMESPACE,
        max_connection_age_s=90,
    )


def test_absent_fields_are_safe() -> None:
    assert one(f"{HEAD}spec: {{}}").spec == MeshSettings()


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("trustDomain: Example.org", "invalid-name"),
        ("trustDomain: 'a/b'", "invalid-name"),
        ("trustDomainAliases: []", "empty-value"),
        ("trustDomainAliases: [a, a]", "duplicate-name"),
        ("{trustDomain: a, trustDomainAliases: [a]}", "duplicate-name"),
        ("defaultAction: allow", "unknown-value"),
        ("defaultAction: yes", "wrong-type"),
        ("maxStaleness: 3600", "wrong-type"),
        ("maxStaleness: 0s", "out-of-range"),
        ("whenStale: Refuse", "missing-field"),
        ("minIsolation: null", "null-value"),
        ("minIsolation: uid", "unknown-value"),
        ("rootNamespace: -x", "invalid-name"),
        ("trustDomian: a", "unknown-field"),
    ],
)
def test_bad_fields_are_refused(field: str, code: str) -> None:
    text = f"{HEAD}spec: {field if field.startswith('{') else '{' + field + '}'}\n"
    assert codes(text) == [code]
    assert not read(text)[0]


def test_settings_named_for_another_mesh_than_their_label_are_refused() -> None:
    text = MESH_SETTINGS.replace("name: default", "name: a\n  labels: {kuma.io/mesh: b}")
    assert codes(text) == ["conflicting-mesh"]


def test_a_cutover_body_is_read_back() -> None:
    key = ResourceKey(CUTOVER, "blue", "shop", "items")
    resource, diagnostics = to_resource(document_from_stored({"body": cutover_body(key, 42)}))
    assert not diagnostics
    assert resource is not None
    assert resource.key == key
    assert resource.spec == Cutover(42)


@pytest.mark.parametrize(
    "name", ["limen-rule", "x-Rule", "x-envoy-rule", "x-forwarded-for", "x-", "x-a b"]
)
def test_the_header_of_the_rule_is_a_name_of_ones_own(name: str) -> None:
    text = "apiVersion: limen.dev/v1\nkind: MeshSettings\nmetadata: {name: default}\n"
    assert codes(f"{text}spec: {{ruleHeader: '{name}'}}\n") == ["bad-value"]
    assert codes(f"{text}spec: {{ruleHeader: x-limen-rule}}\n") == []
