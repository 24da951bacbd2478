"""What `explain` answers, and when it refuses to answer."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.compiler import build as b

if TYPE_CHECKING:
    from limen.core.model.resource import Resource

from limen.core.compiler.explain import explain
from limen.core.compiler.explanation import ExplainQuery
from limen.core.compiler.graph import MeshGraph
from limen.core.model.permission import PermissionRule
from limen.core.model.snapshot import Snapshot
from limen.core.model.workload import Inbound, Protocol
from limen.core.policy.decide import decide
from limen.core.policy.decision import Request
from limen.errors import InvalidInput, NotFound

MARKET = (
    b.dataplane("users"),
    b.dataplane("items"),
    b.dataplane("invoices"),
    b.permission("to-users", [b.tags("invoices")], [b.tags("users")]),
)


def ask(resources, caller="invoices", callee="users", **fields):
    snapshot = Snapshot({r.key: r for r in resources})
    return explain(snapshot, ExplainQuery(caller, callee, **fields))


def test_an_allowed_request_names_its_rule():
    answer = ask(MARKET).to_json()
    assert answer["allowed"] is True
    assert answer["rule"] == {
        "kind": "TrafficPermission",
        "name": "to-users",
        "namespace": "default",
        "index": 0,
        "file": "permissions.yaml",
        "line": 7,
    }
    assert answer["assumed"] == []
    assert answer["port"] == 8080
    json.dumps(answer)


def test_a_denied_request_says_what_nearly_matched():
    answer = ask(MARKET, "items").to_json()
    assert answer["allowed"] is False
    assert answer["rule"] is None
    (miss,) = answer["near_misses"]
    assert miss["field"] == "principal"
    assert miss["wanted"] == str(b.who("invoices"))
    assert miss["seen"] == str(b.who("items"))


def test_no_permission_is_denied_by_default():
    answer = ask(MARKET, "users", "items")
    assert not answer.allowed
    assert "refused by default" in answer.reason


def test_a_denial_names_the_rule_that_denies():
    deny = b.mesh_permission(
        "d",
        PermissionRule(allow=b.prefix(f"spiffe://{b.TD}")),
        PermissionRule(deny=b.exact(b.who("items"))),
    )
    answer = ask([*MARKET[:3], deny], "items").to_json()
    assert answer["allowed"] is False
    assert answer["rule"]["index"] == 1
    assert answer["rule"]["line"] == 11


@pytest.mark.parametrize("domain", ["cluster.local", b.TD, "old.example"])
def test_from_reads_every_name_of_the_trust_domain(domain):
    aliases = b.settings(trust_domain_aliases=("old.example",))
    answer = ask([*MARKET, aliases], f"spiffe://{domain}/ns/default/sa/invoices")
    assert answer.allowed
    assert answer.caller == b.who("invoices")


def test_an_identity_of_another_mesh_is_refused_at_the_handshake():
    open_to_all = b.permission("p", [b.tags("*")], [b.tags("users")])
    answer = ask([*MARKET[:3], open_to_all], "spiffe://prod.mesh.local/ns/default/sa/invoices")
    assert not answer.allowed
    assert "handshake" in answer.reason


@pytest.mark.parametrize("caller", ["", "-", "anonymous"])
def test_a_caller_without_identity_is_refused_even_where_the_mesh_allows(caller):
    answer = ask([*MARKET, b.settings(default_allow=True)], caller, "items")
    assert not answer.allowed
    assert answer.to_json()["from"] is None


def test_a_server_does_not_know_what_is_not_registered():
    for caller, callee in (("ghost", "users"), ("users", "ghost"), ("users", "bank/users")):
        with pytest.raises(NotFound):
            ask(MARKET, caller, callee)
    with pytest.raises(NotFound):
        ask(MARKET, mesh="prod")
    with pytest.raises(NotFound):
        ask(MARKET, port=1)


def test_an_identity_that_is_not_registered_is_judged_and_told():
    rule = PermissionRule(allow=b.prefix(f"spiffe://{b.TD}/ns/bank"))
    resources = [*MARKET[:3], b.mesh_permission("p", rule)]
    answer = ask(resources, f"spiffe://{b.TD}/ns/bank/sa/teller")
    assert answer.allowed
    assert any("not registered" in note for note in answer.notes)


def test_files_assume_what_they_do_not_declare_and_say_so():
    answer = ask(MARKET[3:], assume=True)
    assert answer.allowed
    assert [text.split(" ")[0] for text in answer.assumed] == ["default/users", "default/invoices"]
    labelled = b.mesh_permission(
        "p", PermissionRule(allow=b.exact(b.who("x", "bank"))), target=b.labelled(app="users")
    )
    assert ask([labelled], "bank/x", assume=True).allowed


def test_a_near_miss_of_undeclared_services_is_shown():
    (miss,) = ask(MARKET[3:], "items", assume=True).near_misses
    assert miss.wanted == str(b.who("invoices"))


def test_declared_and_assumed_give_the_same_answer():
    for caller in ("items", "invoices", "users"):
        declared = ask(MARKET, caller)
        assumed = ask(MARKET[3:], caller, assume=True, port=8080)
        assert replace(assumed, assumed=()) == declared


def test_mtls_off_lets_everything_through_and_says_so():
    answer = ask([*MARKET, b.mesh(mtls=False)], "anonymous")
    assert answer.allowed
    assert "mTLS is off" in answer.reason
    assert any("plaintext" in note for note in answer.notes)


def test_ports_that_differ_answer_with_the_refusal():
    ports = tuple(
        Inbound(p, p + 1, Protocol.HTTP, b.tags("users"), name=n)
        for p, n in ((8080, "web"), (9090, "admin"))
    )
    rule = PermissionRule(allow=b.exact(b.who("items")))
    resources = [
        b.dataplane("users", inbounds=ports),
        b.dataplane("items"),
        b.mesh_permission("p", rule, target=b.labelled("web", app="users")),
    ]
    answer = ask(resources, "items")
    assert not answer.allowed
    assert answer.port == 9090
    assert any("allowed on 8080" in note for note in answer.notes)
    assert ask(resources, "items", port=8080).allowed


def test_a_permission_that_lost_is_named():
    wide = b.permission("wide", [b.tags("*")], [b.tags("*")])
    answer = ask([*MARKET, wide], "items")
    assert not answer.allowed
    assert any("wide" in note for note in answer.notes)


def test_sources_that_mean_nobody_are_named():
    permission = b.permission("p", [b.tags("ghost")], [b.tags("users")])
    answer = ask([*MARKET[:3], permission], "items")
    assert any("ghost" in note for note in answer.notes)


def test_a_path_that_envoy_refuses_is_refused():
    answer = ask(MARKET, path="/a%2fb")
    assert not answer.allowed
    assert "400" in answer.reason


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "GE T"},
        {"method": ""},
        {"headers": (("a b", "1"),)},
        {"headers": (("a", "1\r\nb: 2"),)},
        {"caller": "spiffe://x/y"},
        {"caller": "Ünïcode"},
        {"callee": "../etc"},
    ],
)
def test_what_cannot_be_asked_is_invalid(fields):
    with pytest.raises(InvalidInput):
        ask(MARKET, **fields)


def test_a_name_with_two_identities_is_ambiguous():
    resources = [*MARKET, b.dataplane("items", "items-2", account="other")]
    with pytest.raises(InvalidInput, match="several identities"):
        ask(resources, "items")


def test_claims_are_taken_and_said_to_be_unread():
    assert any("claims" in note for note in ask(MARKET, claims={"sub": "x"}).notes)


names = st.sampled_from(("users", "items", "invoices", "a"))
resources_of = st.lists(
    st.one_of(
        st.builds(b.dataplane, names),
        st.builds(
            lambda n, s, d: b.permission(n, [b.tags(s)], [b.tags(d)]),
            st.sampled_from("pqr"),
            names | st.just("*"),
            names | st.just("*"),
        ),
        st.builds(
            lambda n, a, d: b.mesh_permission(
                n, PermissionRule(b.exact(b.who(d)), (), b.exact(b.who(a)))
            ),
            st.sampled_from("xy"),
            names,
            names,
        ),
    ),
    max_size=10,
)


@settings(max_examples=150, deadline=None)
@given(resources_of, names, names)
def test_explain_agrees_with_what_is_enforced(resources, caller, callee):
    known: list[Resource] = list({r.key: r for r in resources}.values())
    graph = MeshGraph("default", known)
    if not {b.workload(caller), b.workload(callee)} <= graph.workloads:
        return
    policy = graph.policy_for(b.workload(callee), 8080)
    expected = decide(policy, Request(principal=b.who(caller), port=8080))
    answer = ask(known, caller, callee)
    assert answer.allowed == expected.allowed
    assert answer.rule == (expected.rule.ref if expected.rule else None)
