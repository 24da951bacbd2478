"""TrafficPermission and MeshTrafficPermission."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.core.dialects.documents import (
    MESH_TRAFFIC_PERMISSION,
    TRAFFIC_PERMISSION,
    codes,
    findings,
    one,
    read,
)

from limen.core.model.permission import (
    MatchType,
    PermissionRule,
    SpiffeIdMatch,
    TargetRef,
    TrafficPermission,
)

if TYPE_CHECKING:
    from limen.core.model.permission import MeshTrafficPermission

ID = "spiffe://default.mesh.local/ns/default/sa/invoices"


def permission(text: str) -> MeshTrafficPermission:
    spec: Any = one(text).spec
    return spec


def test_traffic_permission_is_read() -> None:
    assert one(TRAFFIC_PERMISSION).spec == TrafficPermission(
        sources=((("kuma.io/service", "invoices"),),),
        destinations=((("kuma.io/service", "items"),),),
    )


def test_flat_traffic_permission_with_several_tags_and_wildcards() -> None:
    spec = one("""\
        type: TrafficPermission
        mesh: blue
        name: a
        creationTime: 2024-05-01T12:00:00+02:00
        sources:
        - match: {kuma.io/service: '*'}
        - match: {version: v1, kuma.io/service: web}
        destinations:
        - match: {kuma.io/service: backend, cloud: '*'}
        """).spec
    assert spec == TrafficPermission(
        sources=(
            (("kuma.io/service", "*"),),
            (("kuma.io/service", "web"), ("version", "v1")),
        ),
        destinations=((("cloud", "*"), ("kuma.io/service", "backend")),),
        created="2024-05-01T10:00:00.000000Z",
    )


def test_creation_times_sort_as_texts() -> None:
    texts = ["2024-05-01T10:00:00Z", "2024-05-01T10:00:00.5Z", "2024-05-01T08:00:01-02:00"]
    created = []
    for text in texts:
        document = TRAFFIC_PERMISSION.replace("name: i", f"creationTimestamp: '{text}'\n  name: i")
        spec: Any = one(document).spec
        created.append(spec.created)
    assert created == sorted(created)
    assert all(len(text) == 27 for text in created)


@pytest.mark.parametrize("time", ["yesterday", "2024-13-01T00:00:00Z", "2024-01-01", "1", "''"])
def test_a_bad_creation_time_is_refused(time: str) -> None:
    text = TRAFFIC_PERMISSION.replace("name: i", f"creationTimestamp: {time}\n  name: i")
    assert codes(text)[0] in {"bad-value", "wrong-type"}


@pytest.mark.parametrize(
    ("old", "new", "code", "path"),
    [
        ("invoices}", "'é'}", "bad-value", "/spec/sources/0/match/kuma.io~1service"),
        ("invoices}", "In_voices}", "invalid-name", "/spec/sources/0/match/kuma.io~1service"),
        ("invoices}", "'in*'}", "bad-value", "/spec/sources/0/match/kuma.io~1service"),
        ("invoices}", "on}", "wrong-type", "/spec/sources/0/match/kuma.io~1service"),
        ("{kuma.io/service: invoices}", "{}", "empty-value", "/spec/sources/0/match"),
        ("match: {kuma.io/service: invoices}", "match:", "null-value", "/spec/sources/0/match"),
        ("match: {kuma.io/service: invoices}", "{}", "missing-field", "/spec/sources/0"),
        ("match: {kuma.io/service: inv", "mtach: {kuma.io/service: inv", "unknown-field",
         "/spec/sources/0/mtach"),
        ("sources:\n  - match: {kuma.io/service: invoices}", "sources: []", "empty-value",
         "/spec/sources"),
        ("  sources:\n  - match: {kuma.io/service: invoices}\n", "", "missing-field", "/spec"),
    ],
)  # fmt: skip
def test_bad_selectors_are_refused(old: str, new: str, code: str, path: str) -> None:
    text = TRAFFIC_PERMISSION.replace(old, new, 1)
    assert (path, code) in [(p, c) for _, p, c in findings(text)]
    assert not read(text)[0]


def test_mesh_traffic_permission_is_read() -> None:
    assert permission(MESH_TRAFFIC_PERMISSION).target == TargetRef(
        whole_mesh=False, labels=(("app", "items"),)
    )
    assert permission(MESH_TRAFFIC_PERMISSION).rules == (
        PermissionRule(allow=(SpiffeIdMatch(MatchType.EXACT, ID),)),
    )


def test_all_three_lists_and_several_rules_are_read() -> None:
    spec = permission(f"""\
        type: MeshTrafficPermission
        name: a
        mesh: default
        spec:
          rules:
          - default:
              deny:
              - spiffeID: {{type: Prefix, value: spiffe://default.mesh.local/ns/legacy/}}
              allowWithShadowDeny:
              - spiffeID: {{type: Exact, value: {ID}}}
          - default:
              allow:
              - spiffeID: {{type: Prefix, value: spiffe://default.mesh.local}}
        """)
    assert spec.target == TargetRef()
    first, second = spec.rules
    assert first.deny == (SpiffeIdMatch(MatchType.PREFIX, "spiffe://default.mesh.local/ns/legacy"),)
    assert first.allow_with_shadow_deny == (SpiffeIdMatch(MatchType.EXACT, ID),)
    assert second.allow == (SpiffeIdMatch(MatchType.PREFIX, "spiffe://default.mesh.local"),)


TARGET = "kind: Dataplane\n    labels: {app: items}"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("kind: Mesh", TargetRef()),
        ("kind: Dataplane", TargetRef()),
        ("{kind: Dataplane, name: items-1}", TargetRef(whole_mesh=False, name="items-1")),
        ("{kind: Dataplane, name: a, namespace: b}",
         TargetRef(whole_mesh=False, name="a", namespace="b")),
        ("{kind: Dataplane, labels: {b: x, a: z}, sectionName: admin}",
         TargetRef(whole_mesh=False, labels=(("a", "z"), ("b", "x")), section="admin")),
        ("{kind: Dataplane, sectionName: '8080'}", TargetRef(section="8080")),
    ],
)  # fmt: skip
def test_targets(target: str, expected: TargetRef) -> None:
    text = MESH_TRAFFIC_PERMISSION.replace("\n    " + TARGET, f"\n    {target}")
    assert permission(text).target == expected


@pytest.mark.parametrize(
    ("namespace", "expected"),
    [
        ("namespace: shop", "shop"),
        ("namespace: kuma-system", ""),
        ("labels: {k8s.kuma.io/namespace: shop}", "shop"),
    ],
)
def test_a_policy_of_a_namespace_stays_in_it(namespace: str, expected: str) -> None:
    text = MESH_TRAFFIC_PERMISSION.replace("labels: {kuma.io/mesh: default}", namespace)
    assert permission(text).target.namespace == expected


@pytest.mark.parametrize(
    ("target", "code", "path"),
    [
        ("{kind: MeshService, name: items}", "refused-value", "kind"),
        ("{kind: MeshSubset, tags: {a: b}}", "refused-value", "kind"),
        ("{kind: MeshSubset, tags: {a: b}}", "refused-field", "tags"),
        ("{kind: MeshHTTPRoute}", "refused-value", "kind"),
        ("{kind: Meshes}", "unknown-value", "kind"),
        ("{labels: {a: b}}", "missing-field", ""),
        ("{kind: Mesh, labels: {a: b}}", "bad-value", "labels"),
        ("{kind: Mesh, sectionName: a}", "bad-value", "sectionName"),
        ("{kind: Mesh, proxyTypes: [Sidecar]}", "refused-field", "proxyTypes"),
        ("{kind: Dataplane, labels: {a: b}, name: c}", "bad-value", "labels"),
        ("{kind: Dataplane, namespace: c}", "missing-field", ""),
        ("{kind: Dataplane, labels: {}}", "empty-value", "labels"),
        ("{kind: Dataplane, sectionName: 8080}", "wrong-type", "sectionName"),
        ("{kind: Dataplane, sectionName: on}", "wrong-type", "sectionName"),
        ("{kind: Dataplane, mesh: other}", "refused-field", "mesh"),
    ],
)
def test_bad_targets_are_refused(target: str, code: str, path: str) -> None:
    text = MESH_TRAFFIC_PERMISSION.replace("\n    " + TARGET, f"\n    {target}")
    place = "/spec/targetRef" + (f"/{path}" if path else "")
    assert (place, code) in [(p, c) for _, p, c in findings(text)]
    assert not read(text)[0]


def test_a_refused_target_says_what_to_write() -> None:
    text = MESH_TRAFFIC_PERMISSION.replace("\n    " + TARGET, "\n    {kind: MeshService, name: x}")
    assert "kind: Dataplane with labels" in read(text)[1][0].hint


RULE = "spiffeID: {type: Exact, value: " + ID + "}"


@pytest.mark.parametrize(
    ("match", "code"),
    [
        ("spiffeId: {type: Exact, value: a}", "unknown-field"),
        ("sni: {type: Exact, value: a}", "refused-field"),
        ("spiffeID: {type: Regex, value: a}", "unknown-value"),
        ("spiffeID: {type: Exact}", "missing-field"),
        ("spiffeID: {value: a}", "missing-field"),
        ("spiffeID: {type: Exact, value: invoices}", "invalid-spiffe-id"),
        ("spiffeID: {type: Exact, value: 'spiffe://default/invoices'}", "invalid-spiffe-id"),
        ("spiffeID: {type: Exact, value: 'spiffe://td/ns/a/sa/b/'}", "invalid-spiffe-id"),
        ("spiffeID: {type: Exact, value: 'spiffe://td/ns/a/sa/*'}", "invalid-spiffe-id"),
        ("spiffeID: {type: Exact, value: 'spiffe://td/ns/../sa/b'}", "invalid-spiffe-id"),
        ("spiffeID: {type: Exact, value: 'SPIFFE://td/ns/a/sa/b'}", "invalid-spiffe-id"),
        ("spiffeID: {type: Prefix, value: 'spiffe://'}", "invalid-spiffe-prefix"),
        ("spiffeID: {type: Prefix, value: 'spiffe:'}", "invalid-spiffe-prefix"),
        ("spiffeID: {type: Prefix, value: 'spiffe://td/n'}", "invalid-spiffe-prefix"),
        ("spiffeID: {type: Prefix, value: 'spiffe://td/ns/team-'}", "invalid-spiffe-prefix"),
        ("spiffeID: {type: Prefix, value: 'spiffe://td/ns/a/s'}", "invalid-spiffe-prefix"),
        ("spiffeID: {type: Prefix, value: 'spiffe://td/ns//sa'}", "invalid-spiffe-prefix"),
        ("spiffeID: {type: Prefix, value: 'spiffe://td.'}", "invalid-spiffe-prefix"),
        ("spiffeID: {type: Prefix, value: 'spiffe://td/ns/a*'}", "invalid-spiffe-prefix"),
        ("spiffeID: {type: Prefix, value: ''}", "bad-value"),
        ("spiffeID: {type: Prefix, value: 1}", "wrong-type"),
        ("{}", "missing-field"),
    ],
)
def test_a_matcher_that_matches_nothing_or_too_much_is_refused(match: str, code: str) -> None:
    text = MESH_TRAFFIC_PERMISSION.replace(RULE, match)
    assert code in codes(text)
    assert not read(text)[0]


def test_a_prefix_that_is_a_whole_identity_is_a_warning() -> None:
    text = MESH_TRAFFIC_PERMISSION.replace("type: Exact", "type: Prefix")
    resources, [finding] = read(text)
    assert finding.code == "prefix-is-exact"
    assert len(resources) == 1


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("targetRef: {kind: Mesh}", "missing-field"),
        ("rules: []", "empty-value"),
        ("rules: ", "null-value"),
        ("rules: [{}]", "missing-field"),
        ("rules: [{default: {}}]", "missing-field"),
        ("rules: [{default: {allow: []}}]", "empty-value"),
        ("rules: [{default: {deny: [], allow: [{" + RULE + "}]}}]", "empty-value"),
        ("rules: [{default: {action: Allow}}]", "unknown-field"),
        ("rules: [{default: {allow: {" + RULE + "}}}]", "wrong-type"),
        ("from: [{targetRef: {kind: Mesh}, default: {action: Allow}}]", "from-not-supported"),
    ],
)
def test_a_policy_that_says_nothing_clear_is_refused(spec: str, code: str) -> None:
    text = f"{{type: MeshTrafficPermission, name: a, mesh: default, spec: {{{spec}}}}}"
    assert code in codes(text)
    assert not read(text)[0]
