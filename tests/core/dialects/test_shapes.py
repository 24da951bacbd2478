"""Envelopes: Kubernetes' shape, Kuma's flat shape, Lists, and what servers add."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.dialects.documents import (
    ALL,
    DATAPLANE,
    MESH,
    TRAFFIC_PERMISSION,
    codes,
    findings,
    one,
    read,
)

from limen.core.dialects import (
    document_from_stored,
    parse_documents,
    read_resources,
    stored_form,
    to_resource,
)
from limen.core.model.resource import CUTOVER, ResourceKey
from limen.errors import InvalidInput

FLAT_DATAPLANE = """\
type: Dataplane
mesh: default
name: items-1
creationTime: "2024-05-01T10:00:00Z"
modificationTime: "2024-05-02T10:00:00Z"
labels:
  app: items
networking:
  address: 10.0.0.1
  inbound:
  - port: 8443
    servicePort: 8080
    tags:
      kuma.io/service: items
      kuma.io/protocol: http
"""


def as_list(*documents: str) -> str:
    items = [yaml.safe_load(d) for d in documents]
    return yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": items}, sort_keys=False)


def test_flat_and_kubernetes_shape_give_equal_resources() -> None:
    flat = one(FLAT_DATAPLANE)
    nested = one(DATAPLANE)
    assert flat == nested
    assert (
        flat.key == nested.key == ResourceKey("kuma.io/Dataplane", "default", "default", "items-1")
    )
    assert dict(flat.labels) == {"app": "items"}


@pytest.mark.parametrize("document", ALL)
def test_json_and_yaml_give_equal_resources(document: str) -> None:
    assert one(json.dumps(yaml.safe_load(document), indent=1)) == one(document)


def test_findings_of_a_flat_document_name_the_place_in_the_file() -> None:
    text = FLAT_DATAPLANE.replace("port: 8443", "port: x").replace("name: items-1", "name: Items")
    text += "colour: red\n"
    assert findings(text) == [
        (3, "/name", "invalid-name"),
        (11, "/networking/inbound/0/port", "wrong-type"),
        (16, "/colour", "unknown-field"),
    ]


def test_findings_inside_a_list_name_the_item() -> None:
    text = as_list(MESH, DATAPLANE.replace("10.0.0.1", "nowhere"))
    [(line, path, code)] = findings(text)
    assert (path, code) == ("/items/1/spec/networking/address", "bad-address")
    assert "nowhere" in text.splitlines()[line - 1]


def test_a_list_is_unfolded_with_lines_of_its_own() -> None:
    text = as_list(*ALL)
    resources, diagnostics = read(text)
    assert not diagnostics
    assert [r.spec for r in resources] == [one(d).spec for d in ALL]
    line = resources[1].origin.line("/spec/networking/inbound/0/port")
    assert "8443" in text.splitlines()[line - 1]
    assert text.splitlines()[resources[1].origin.line() - 1].startswith("- ")


def test_what_kumactl_lists_is_unfolded() -> None:
    items = json.dumps([yaml.safe_load(FLAT_DATAPLANE)])
    resources, diagnostics = read(f'{{"total": 1, "items": {items}, "next": null}}')
    assert not diagnostics
    assert resources == (one(FLAT_DATAPLANE),)


def flattened(document: str) -> str:
    """The same document in Kuma's flat shape."""
    nested = yaml.safe_load(document)
    metadata = nested["metadata"]
    flat = {"type": nested["kind"], "name": metadata["name"]}
    labels = dict(metadata.get("labels", {}))
    if nested["kind"] != "Mesh":
        flat["mesh"] = labels.pop("kuma.io/mesh", "default")
    if labels:
        flat["labels"] = labels
    in_spec = nested["kind"] == "MeshTrafficPermission"
    flat.update({"spec": nested["spec"]} if in_spec else nested["spec"])
    return yaml.safe_dump(flat, sort_keys=False)


@pytest.mark.parametrize("document", ALL[:4])
def test_every_kind_of_kuma_may_be_flat(document: str) -> None:
    assert one(flattened(document)) == one(document)


_NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,6}[a-z0-9])?", fullmatch=True).filter(
    lambda name: ".." not in name and not re.fullmatch(r"[0-9.]+(e[0-9]+)?", name)
)
_TAG = st.sampled_from(["kuma.io/service", "v", "z"])
_MATCH = st.dictionaries(_TAG, _NAMES | st.just("*"), min_size=1)
_MATCHES = st.lists(st.fixed_dictionaries({"match": _MATCH}), min_size=1, max_size=3)


@settings(max_examples=100, deadline=None)
@given(_NAMES, _NAMES, _MATCHES, _MATCHES)
def test_flat_and_nested_permissions_are_equal(
    name: str, mesh: str, sources: Any, destinations: Any
) -> None:
    spec = {"sources": sources, "destinations": destinations}
    metadata = {"name": name, "labels": {"kuma.io/mesh": mesh}}
    head = {"apiVersion": "kuma.io/v1alpha1", "kind": "TrafficPermission"}
    nested = yaml.safe_dump({**head, "metadata": metadata, "spec": spec})
    assert one(nested) == one(flattened(nested))


def test_a_list_of_ten_thousand_items_is_read_in_one_pass() -> None:
    item = '{"apiVersion":"kuma.io/v1alpha1","kind":"Mesh","metadata":{"name":"m%d"}}'
    items = ",".join(item % i for i in range(10_000))
    text = f'{{"apiVersion":"v1","kind":"List","items":[{items}]}}'
    resources, diagnostics = read(text)
    assert not diagnostics
    assert len(resources) == 10_000


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("- a", "not-a-resource"),
        ("just text", "not-a-resource"),
        ("12", "not-a-resource"),
        ("{}", "missing-field"),
        ("kind: Mesh", "missing-field"),
        ("apiVersion: kuma.io/v1alpha1", "missing-field"),
        ("{apiVersion: 1, kind: Mesh}", "missing-field"),
        ("{apiVersion: kuma.io/v1alpha1, kind: [Mesh]}", "missing-field"),
        ("{apiVersion: kuma.io/v1alpha1, kind: Mseh}", "unknown-kind"),
        ("{apiVersion: kuma.io/v1, kind: Mesh}", "unknown-version"),
        ("{apiVersion: apps/v1, kind: Deployment}", "unknown-kind"),
        ("{apiVersion: v1, kind: Service}", "unknown-kind"),
        ("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy}", "later-kind"),
        ("{apiVersion: kuma.io/v1alpha1, kind: MeshRateLimit}", "refused-kind"),
        ("{apiVersion: limen.dev/v1, kind: Cutover, metadata: {name: a}}", "unknown-kind"),
        ("{type: Cutover, name: a}", "unknown-kind"),
        ("{type: MeshSettings, name: default}", "unknown-kind"),
        ("{type: TrafficRoute, name: a}", "refused-kind"),
        ("{type: [Mesh], name: a}", "unknown-kind"),
        ("{apiVersion: v1, kind: List}", "wrong-type"),
        ("{apiVersion: v1, kind: List, items: {}}", "wrong-type"),
        ("{apiVersion: v1, kind: List, items: [1]}", "not-a-resource"),
        ("{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: List}]}", "unknown-kind"),
        ("{apiVersion: v1, kind: List, items: [], extra: 1}", "unknown-field"),
    ],
)
def test_a_document_of_no_known_kind_is_refused(text: str, code: str) -> None:
    assert codes(text) == [code]


def test_a_misspelt_kind_gets_a_suggestion() -> None:
    _, [finding] = read("{apiVersion: kuma.io/v1alpha1, kind: TrafficPermision}")
    assert finding.hint == "did you mean TrafficPermission?"
    _, [finding] = read("{type: MeshTrafficPermisions, name: a}")
    assert finding.hint == "did you mean MeshTrafficPermission?"


KUBECTL = """\
apiVersion: v1
items:
- apiVersion: kuma.io/v1alpha1
  kind: MeshTrafficPermission
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"kuma.io/v1alpha1","kind":"MeshTrafficPermission","metadata":{"annotations":{}}}
      kuma.io/display-name: allow-invoices
    creationTimestamp: "2024-11-05T09:12:44Z"
    generation: 3
    labels:
      k8s.kuma.io/namespace: kuma-system
      kuma.io/display-name: allow-invoices
      kuma.io/env: kubernetes
      kuma.io/mesh: default
      kuma.io/origin: zone
      kuma.io/policy-role: system
      kuma.io/zone: default
    managedFields:
    - apiVersion: kuma.io/v1alpha1
      fieldsType: FieldsV1
      fieldsV1:
        f:metadata: {f:annotations: {.: {}}}
      manager: kubectl-client-side-apply
      operation: Update
      time: "2024-11-05T09:12:44Z"
    name: allow-invoices
    namespace: kuma-system
    ownerReferences:
    - {apiVersion: kuma.io/v1alpha1, kind: Mesh, name: default, uid: 0d3c}
    resourceVersion: "58422"
    uid: 6f5b0a8e-9a3c-4b7e-8ab0-2a4a8ac6a3c1
  spec:
    targetRef:
      kind: Mesh
    rules:
    - default:
        allow:
        - spiffeID:
            type: Prefix
            value: spiffe://default.mesh.local/ns/observability/
  status: {}
kind: List
metadata:
  resourceVersion: ""
"""


def test_what_kubectl_prints_is_accepted() -> None:
    resource = one(KUBECTL)
    assert resource.key.namespace == "kuma-system"
    spec: Any = resource.spec
    assert spec.target.whole_mesh
    assert spec.target.namespace == ""
    assert spec.rules[0].allow[0].value == "spiffe://default.mesh.local/ns/observability"


def test_what_a_server_made_is_not_kept() -> None:
    [document] = parse_documents(KUBECTL.encode())[0]
    metadata: Any = document.body["metadata"]
    assert set(metadata) == {"name", "namespace", "labels", "annotations", "creationTimestamp"}
    assert set(metadata["annotations"]) == {"kuma.io/display-name"}
    assert "status" not in document.body


def test_null_creation_time_is_as_good_as_none() -> None:
    assert one(MESH.replace("name: default", "name: default\n  creationTimestamp: null"))


@pytest.mark.parametrize("document", [*ALL, FLAT_DATAPLANE, KUBECTL])
def test_a_stored_document_means_the_same(document: str) -> None:
    resources, documents, _ = read_resources(document.encode(), "f.yaml")
    stored = json.loads(json.dumps(stored_form(documents[0])))
    again = document_from_stored(stored)
    assert again == documents[0]
    resource, diagnostics = to_resource(again)
    assert not diagnostics
    assert resource == resources[0]
    assert resource is not None
    assert resource.origin.lines == resources[0].origin.lines
    assert resource.origin.file == "f.yaml"


def test_an_internal_kind_comes_from_the_store_only() -> None:
    body = {
        "apiVersion": "limen.dev/v1",
        "kind": "Cutover",
        "metadata": {"name": "items", "labels": {"kuma.io/mesh": "m"}},
        "spec": {"revision": 7},
    }
    resource, _ = to_resource(document_from_stored({"body": body}))
    assert resource is not None
    assert resource.key == ResourceKey(CUTOVER, "m", "default", "items")
    assert codes(json.dumps(body)) == ["unknown-kind"]


@pytest.mark.parametrize(
    "body", [{}, {"kind": "Mesh"}, {"apiVersion": "kuma.io/v9", "kind": "Mesh"}, {"kind": [1]}]
)
def test_a_stored_body_of_no_known_kind_raises(body: Any) -> None:
    with pytest.raises(InvalidInput, match="not known"):
        document_from_stored({"body": body})


# mesh and namespace


@pytest.mark.parametrize(
    ("text", "mesh"),
    [
        (TRAFFIC_PERMISSION, "default"),
        (TRAFFIC_PERMISSION + "mesh: blue\n", "blue"),
        (TRAFFIC_PERMISSION.replace("name: i", "labels: {kuma.io/mesh: blue}\n  name: i"), "blue"),
    ],
)
def test_the_mesh_is_named_by_label_or_field(text: str, mesh: str) -> None:
    assert one(text).key.mesh == mesh


LABELLED = TRAFFIC_PERMISSION.replace("name: i", "labels: {kuma.io/mesh: blue}\n  name: i")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (LABELLED + "mesh: red\n", "conflicting-mesh"),
        ("{type: MeshTrafficPermission, name: a, mesh: null, spec: {rules: [1]}}", "wrong-type"),
        ("{type: Mesh, name: a, mesh: b}", "conflicting-mesh"),
        (MESH + "mesh: red\n", "conflicting-mesh"),
        (MESH.replace("name: default", "name: a\n  labels: {kuma.io/mesh: b}"), "conflicting-mesh"),
        (LABELLED.replace("labels:", "annotations: {kuma.io/mesh: red}\n  labels:"),
         "conflicting-mesh"),
        (TRAFFIC_PERMISSION + "mesh: 1\n", "wrong-type"),
        (TRAFFIC_PERMISSION + "mesh: null\n", "wrong-type"),
        (LABELLED.replace("mesh: blue", "mesh: Blue"), "invalid-name"),
        (LABELLED.replace("mesh: blue", "mesh: 1"), "wrong-type"),
        (LABELLED.replace("mesh: blue", "mesh: ''"), "bad-value"),
        (LABELLED.replace("mesh: blue", "mesh: no"), "wrong-type"),
        (DATAPLANE.replace("app: items", "k8s.kuma.io/namespace: a").replace(
            "name: items-1", "name: items-1\n  namespace: b"), "conflicting-names"),
        (DATAPLANE.replace(
            "app: items", "k8s.kuma.io/service-account: a, limen.dev/service-account: b"
        ), "conflicting-names"),
    ],
)  # fmt: skip
def test_contradictory_or_bad_meshes_are_refused(text: str, code: str) -> None:
    assert code in codes(text)
    assert not read(text)[0]


def test_a_top_level_mesh_is_unknown_where_kuma_would_ignore_it() -> None:
    text = ALL[3] + "mesh: blue\n"
    assert findings(text) == [(14, "/mesh", "unknown-field")]


def test_a_namespace_without_effect_is_a_warning() -> None:
    resources, [finding] = read(TRAFFIC_PERMISSION.replace("name: i", "namespace: a\n  name: i"))
    assert finding.code == "namespace-no-effect"
    assert len(resources) == 1


# labels and annotations


@pytest.mark.parametrize(
    ("field", "entry", "code"),
    [
        ("labels", "limen.dev/anything: x", "unknown-label"),
        ("labels", "kuma.io/nonsense: x", "unknown-label"),
        ("labels", "kuma.io/effect: shadow", "refused-label"),
        ("annotations", "limen.dev/anything: x", "unknown-annotation"),
        ("annotations", "k8s.kuma.io/anything: x", "unknown-annotation"),
        ("labels", "a b: x", "bad-value"),
        ("labels", "a: 'x y'", "bad-value"),
        ("labels", "a: é", "bad-value"),
        ("labels", "a: on", "wrong-type"),
        ("labels", "a: 1", "wrong-type"),
        ("labels", "a: null", "null-value"),
        ("annotations", "a: 1", "wrong-type"),
    ],
)
def test_a_label_that_could_mean_something_is_refused(field: str, entry: str, code: str) -> None:
    text = MESH.replace("name: default", f"name: default\n  {field}: {{{entry}}}")
    assert codes(text) == [code]


def test_foreign_labels_and_annotations_are_free() -> None:
    extra = "labels: {app.kubernetes.io/name: x}\n  annotations: {note: 'any text, été'}"
    assert one(MESH.replace("name: default", f"name: default\n  {extra}"))


def test_unknown_metadata_is_refused() -> None:
    text = MESH.replace("name: default", "name: default\n  lables: {a: b}\n  clusterName: x")
    assert codes(text) == ["unknown-field", "unknown-field"]
    assert read(text)[1][0].hint == "did you mean labels?"


@pytest.mark.parametrize("name", ["Items", "ïtems", "-a", "a..b", "a/b", "x" * 254, "a b", "''"])
def test_a_bad_name_is_refused(name: str) -> None:
    assert codes(MESH.replace("name: default", f"name: {name}"))[0] in {"invalid-name", "bad-value"}


@pytest.mark.parametrize(
    "metadata", ["", "[]", "Text", "{}", "{name: }", "{name: 1}", "{name: [a]}"]
)
def test_bad_metadata_is_refused(metadata: str) -> None:
    found = codes(f"apiVersion: kuma.io/v1alpha1\nkind: Mesh\nmetadata: {metadata}\n")
    assert found[0] in {"missing-field", "null-value", "wrong-type"}
    assert codes(f"type: Mesh\nname: {metadata}\n")[0] in {
        "null-value",
        "wrong-type",
        "invalid-name",
    }


# anything at all

WORDS = tuple(
    re.findall(
        r"\w+",
        """name type kind metadata labels spec mtls backends enabledBackend networking inbound
        tags sources destinations match rules default allow spiffeID value targetRef items mesh""",
    )
)

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70_000) | st.sampled_from(["a", "*", "http", "1h"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(WORDS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)
_HEADS = st.sampled_from(
    [
        {"apiVersion": "kuma.io/v1alpha1", "kind": kind}
        for kind in ("Mesh", "Dataplane", "TrafficPermission", "MeshTrafficPermission")
    ]
    + [{"type": "Mesh"}, {"type": "Dataplane"}, {"apiVersion": "v1", "kind": "List"}]
    + [{"apiVersion": "limen.dev/v1", "kind": "MeshSettings"}, {}]
)


@settings(max_examples=500, deadline=None)
@given(_HEADS, st.dictionaries(st.sampled_from(WORDS), _VALUES))
def test_any_values_are_answered(head: dict[str, Any], rest: dict[str, Any]) -> None:
    resources, _, diagnostics = read_resources(json.dumps({**rest, **head}).encode())
    assert resources or diagnostics or head.get("kind") == "List"


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([yaml.safe_load(d) for d in ALL]),
    st.data(),
)
def test_a_valid_document_with_one_value_replaced_is_answered(document: Any, data: Any) -> None:
    document = json.loads(json.dumps(document))
    holder, key = document, data.draw(st.sampled_from(sorted(document)))
    for _ in range(data.draw(st.integers(0, 8))):
        inner = holder[key]
        if not inner or not isinstance(inner, dict | list):
            break
        holder = inner
        key = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else [0]))
    holder[key] = data.draw(_VALUES | st.text(max_size=10))
    text = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
    resources, _, diagnostics = read_resources(text)
    assert len(resources) + len([d for d in diagnostics if d.severity.value == "error"]) >= 1


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ALL), st.data())
def test_a_valid_file_with_bytes_replaced_is_answered(document: str, data: Any) -> None:
    text = document.encode()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    broken = text[:start] + data.draw(st.binary(max_size=10)) + text[end:]
    resources, documents, diagnostics = read_resources(broken, "f")
    assert len(resources) == len(documents)
    assert all(str(d).isprintable() for d in diagnostics)
