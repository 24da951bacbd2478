"""Policies of the decision point: who holds which, who asks for what is not there, who loses."""

from __future__ import annotations

import json

import pytest
from tests.core.compiler import build as b
from tests.core.compiler.istio import istio_is_on, policy

from limen.core.compiler.checks import check
from limen.core.compiler.explain import Explainer
from limen.core.compiler.explanation import ExplainQuery
from limen.core.compiler.graph import MeshGraph
from limen.core.dialects import read_resources
from limen.core.envoy import names
from limen.core.envoy.policies import content_of
from limen.core.envoy.resources import node_resources
from limen.core.model.names import InstanceName, WorkloadName
from limen.core.model.snapshot import Snapshot
from limen.core.model.source_json import source_from_json
from limen.core.plan.node import LocalSide

pytestmark = pytest.mark.usefixtures("istio_is_on")
__all__ = ["istio_is_on"]

LOCAL = LocalSide(pdp_socket="/run/pdp.sock")
ITEMS = InstanceName(WorkloadName("default", "default", "items"), "1")
CUSTOM = "{action: CUSTOM, provider: {name: pdp}, rules: [{}]}"

ITEMS_ONLY = CUSTOM.replace("{action", "{selector: {matchLabels: {app: items}}, action")


def read(text: str):
    resources, _, findings = read_resources(text.encode(), "p.yaml")
    assert not findings, findings
    return list(resources)


def settings(provider: str = "xacmlPolicy: records", more: str = ""):
    return read(
        "apiVersion: limen.dev/v1\nkind: MeshSettings\nmetadata: {name: default}\n"
        f"spec: {{{more}defaultAction: Allow, extensionProviders: "
        f"[{{name: pdp, limenPdp: {{{provider}}}}}]}}\n"
    )[0]


def decision(namespace: str = "default", text: str = "<a/>", more: str = ""):
    return read(
        "apiVersion: limen.dev/v1\nkind: XacmlPolicy\n"
        f"metadata: {{name: records, namespace: {namespace}}}\n"
        f"spec: {{policies: [{{name: a.xml, xml: '{text}'}}]{more}}}\n"
    )[0]


def findings(*resources) -> list[str]:
    snapshot = Snapshot({r.key: r for r in resources})
    return [d.code for d in check(snapshot) if d.severity.value == "error"]


def plan_of(*resources, local: LocalSide = LOCAL):
    return MeshGraph("default", resources).plan(ITEMS, local)


def test_a_proxy_holds_what_its_own_rules_ask_for() -> None:
    plan = plan_of(b.dataplane("items", "1"), settings(), decision(), policy(CUSTOM))
    (held,) = plan.decisions
    assert held.path == "/XacmlPolicy/default/records"
    (provider,) = plan.inbounds[0].providers
    assert (provider.address, provider.path_prefix) == ("/run/pdp.sock", held.path)
    (encoded,) = node_resources(plan)[names.POLICIES].values()
    (sent,) = json.loads(content_of(encoded.body))["policies"]
    assert (sent["path"], sent["texts"]) == (held.path, [{"name": "a.xml", "text": "<a/>"}])


def test_what_is_not_asked_for_is_held_by_nobody() -> None:
    plan = plan_of(b.dataplane("items", "1"), settings(), decision())
    assert plan.decisions == ()
    assert node_resources(plan)[names.POLICIES] == {}


def test_an_agent_without_a_decision_point_refuses_what_would_be_asked() -> None:
    plan = plan_of(
        b.dataplane("items", "1"), settings(), decision(), policy(CUSTOM), local=LocalSide()
    )
    assert plan.decisions == ()
    assert plan.inbounds[0].providers == ()


@pytest.mark.parametrize(
    ("provider", "documents", "code"),
    [
        ("xacmlPolicy: records", [], "unknown-policy"),
        ("regoPolicy: records", [decision()], "unknown-policy"),
        ("xacmlPolicy: bank/records", [decision("bank")], "policy-elsewhere"),
        ("xacmlPolicy: records", [decision(more=", enforcedAt: Gateway")], "policy-elsewhere"),
    ],
)
def test_a_policy_that_may_not_decide_there_is_refused_and_not_held(
    provider: str, documents: list, code: str
) -> None:
    all_ = [b.dataplane("items", "1"), settings(provider), policy(CUSTOM), *documents]
    assert findings(*all_) == [code]
    plan = plan_of(*all_)
    assert plan.decisions == ()
    assert plan.inbounds[0].providers == ()


def test_explain_says_what_decides_beside_the_proxy() -> None:
    def notes(*more) -> list[str]:
        all_ = [b.dataplane("items", "1"), settings(), policy(CUSTOM), *more]
        snapshot = Snapshot({r.key: r for r in all_})
        query = ExplainQuery("items", "items")
        return [n for n in Explainer(snapshot).explain(query).notes if n.startswith("pdp")]

    (note,) = notes(decision())
    assert "XacmlPolicy default/records decides there" in note
    assert notes() == ["pdp refuses: XacmlPolicy default/records is not there"]
    (note,) = notes(decision(more=", enforcedAt: Gateway"))
    assert "may not decide there: it is enforced at Gateway" in note


def test_the_set_says_when_it_is_stale() -> None:
    base = [b.dataplane("items", "1"), decision(), policy(CUSTOM)]
    (held,) = plan_of(*base, settings()).decisions
    assert held.stale_after_s is None
    (limited,) = plan_of(*base, settings(more="maxStaleness: 10m, ")).decisions
    assert limited.stale_after_s == 600


def test_a_policy_of_the_root_namespace_decides_everywhere() -> None:
    all_ = [
        b.dataplane("items", "1"), settings("xacmlPolicy: istio-system/records"),
        policy(CUSTOM), decision("istio-system"),
    ]  # fmt: skip
    assert findings(*all_) == []
    assert [held.namespace for held in plan_of(*all_).decisions] == ["istio-system"]


def test_a_policy_is_needed_before_its_workload_is_there() -> None:
    assert findings(settings(), policy(CUSTOM)) == ["unknown-policy"]
    assert findings(settings(), policy(CUSTOM), decision()) == []


def test_another_policy_concerns_its_workloads_and_may_take_rights() -> None:
    graph = MeshGraph(
        "default",
        [
            b.dataplane("items", "1"),
            b.dataplane("other", "2"),
            settings(),
            decision(),
            policy(ITEMS_ONLY),
        ],
    )
    same = graph.preview([decision()])
    assert (same.instances, same.narrowed) == (frozenset(), frozenset())
    changed = graph.preview([decision(text="<b/>")])
    assert changed.instances == {ITEMS}
    assert changed.narrowed == {ITEMS.workload}


@pytest.mark.parametrize(
    "provider",
    ["", "xacmlPolicy: a, regoPolicy: b", "xacmlPolicy: A", "xacmlPolicy: a, service: b"],
)
def test_a_decision_point_that_is_not_understood_is_refused(provider: str) -> None:
    text = (
        "apiVersion: limen.dev/v1\nkind: MeshSettings\nmetadata: {name: default}\n"
        f"spec: {{extensionProviders: [{{name: pdp, limenPdp: {{{provider}}}}}]}}\n"
    )
    assert any(f.severity.value == "error" for f in read_resources(text.encode())[2])


@pytest.mark.parametrize(
    "spec",
    [
        "{policies: []}",
        "{policies: [{name: a, xml: x}, {name: a, xml: y}]}",
        "{policies: [{name: a, xml: x}], enforcedAt: Everywhere}",
        "{policies: [{name: ../a, xml: x}]}",
        "{policies: [{name: a, xml: x}], data: []}",
    ],
)
def test_a_policy_document_that_is_not_understood_is_refused(spec: str) -> None:
    text = f"apiVersion: limen.dev/v1\nkind: XacmlPolicy\nmetadata: {{name: a}}\nspec: {spec}\n"
    resources, _, found = read_resources(text.encode())
    assert not resources
    assert found


def source(name: str = "roster", namespace: str = "default", origin: str = "", ward: str = "ward"):
    origin = origin or "file: {path: a.csv, where: {who: who}}"
    who = (
        "" if "labels" in origin else "parameters: [{name: who, category: subject, attribute: id}]"
    )
    return read(
        "apiVersion: limen.dev/v1\nkind: AttributeSource\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  {origin}\n  {who}\n"
        f"  attributes: [{{category: subject, attribute: {ward}, field: x}}]\n"
    )[0]


def test_a_policy_is_held_with_the_sources_of_its_namespace_alone() -> None:
    own, other = source(), source("other", "elsewhere")
    plan = plan_of(b.dataplane("items", "1"), settings(), decision(), policy(CUSTOM), own, other)
    (held,) = plan.decisions
    assert held.sources == (own.spec,)
    (encoded,) = node_resources(plan)[names.POLICIES].values()
    (sent,) = json.loads(content_of(encoded.body))["policies"]
    assert [source_from_json(one) for one in sent["sources"]] == [own.spec]


def test_another_source_concerns_the_workloads_of_its_policies_and_may_take_rights() -> None:
    documents = [b.dataplane("items", "1"), b.dataplane("other", "2"), settings(), decision()]
    graph = MeshGraph("default", [*documents, policy(ITEMS_ONLY), source()])
    assert graph.preview([source()]).instances == frozenset()
    assert graph.preview([source("a", "elsewhere")]).instances == frozenset()
    changed = graph.preview([source(ward="b")])
    assert (changed.instances, changed.narrowed) == ({ITEMS}, {ITEMS.workload})


@pytest.mark.parametrize(
    ("documents", "code"),
    [
        ([source(), source("two")], "source-overlap"),
        ([source(), source("two", "elsewhere")], ""),
        ([source(origin="labels: {}")], "source-not-here"),
    ],
)
def test_sources_of_a_namespace_fit_together(documents, code: str) -> None:
    assert findings(*documents) == ([code] if code else [])


CIRCLE = """apiVersion: limen.dev/v1
kind: AttributeSource
metadata: {name: %(name)s}
spec:
  sqlite: {path: a.db, query: "select x from t where y = :p"}
  parameters: [{name: p, category: subject, attribute: %(asked)s}]
  attributes: [{category: subject, attribute: %(given)s, field: x}]
"""


def test_sources_that_need_one_another_are_refused() -> None:
    one = read(CIRCLE % {"name": "one", "asked": "b", "given": "a"})
    two = read(CIRCLE % {"name": "two", "asked": "a", "given": "b"})
    assert findings(*one, *two) == ["source-circle"]
