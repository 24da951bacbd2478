"""The laws of `MeshGraph`: order does not matter, what changed is named, nothing leaks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.compiler import build as b

from limen.core.compiler.graph import MeshGraph
from limen.core.model.authorization import (
    Action,
    AuthorizationPolicy,
    AuthorizationRule,
    AuthorizationSource,
    Operation,
)
from limen.core.model.mesh import DEFAULT_ROOT_NAMESPACE
from limen.core.model.names import InstanceName
from limen.core.model.peer_authentication import MtlsMode, PeerAuthentication
from limen.core.model.permission import PermissionRule
from limen.core.model.request_authentication import JwtRule, RequestAuthentication
from limen.core.model.resource import Resource, ResourceKey
from limen.core.model.selector import PolicyTarget, Scope, TargetKind
from limen.core.model.workload import Dataplane, Inbound, LocalPort, Protocol
from limen.core.plan.node import Endpoint, LocalSide, PortMode
from limen.core.policy.decide import decide
from limen.core.policy.decision import Request
from limen.core.policy.rule import Authenticated, Effect
from limen.errors import NotFound


def marketplace() -> list[Resource]:
    return [
        b.dataplane("users"),
        b.dataplane("items"),
        b.dataplane("invoices"),
        b.permission("to-users", [b.tags("invoices")], [b.tags("users")]),
        b.permission("to-items", [b.tags("invoices")], [b.tags("items")]),
        b.permission("to-invoices", [b.tags("users")], [b.tags("invoices")]),
    ]


def callees(graph: MeshGraph, instance: InstanceName) -> list[str]:
    return [str(edge.callee) for edge in graph.plan(instance).edges]


def allowed(graph: MeshGraph, caller: str, callee: str, port: int = 8080) -> bool:
    policy = graph.policy_for(b.workload(callee), port)
    return decide(policy, Request(principal=b.who(caller))).allowed


def state(graph: MeshGraph) -> dict[object, object]:
    """Everything that a reader can get out of a graph."""
    found: dict[object, object] = {i: graph.plan(i) for i in graph.instances}
    found.update({w: graph.endpoints(w) for w in graph.workloads})
    return found


# --- the marketplace


def test_a_proxy_is_sent_only_what_its_workload_may_reach():
    graph = MeshGraph("default", marketplace())
    assert callees(graph, b.instance("invoices")) == ["default/items", "default/users"]
    assert callees(graph, b.instance("users")) == ["default/invoices"]
    assert callees(graph, b.instance("items")) == []


def test_permissions_decide_as_the_edges_say():
    graph = MeshGraph("default", marketplace())
    names = ("users", "items", "invoices")
    seen = {(a, c): allowed(graph, a, c) for a in names for c in names}
    assert {pair for pair, verdict in seen.items() if verdict} == {
        ("invoices", "users"),
        ("invoices", "items"),
        ("users", "invoices"),
    }


def test_no_permission_means_denied():
    graph = MeshGraph("default", [b.dataplane("users"), b.dataplane("items")])
    assert not allowed(graph, "items", "users")
    assert callees(graph, b.instance("items")) == []


def test_a_plan_has_identity_ports_cutover_and_local_side():
    local = LocalSide(outbound_port=15001)
    resources = [*marketplace(), b.cutover("users", 7), b.settings(max_connection_age_s=60)]
    plan = MeshGraph("default", resources).plan(b.instance("users"), local)
    assert str(plan.spiffe_id) == "spiffe://default.mesh.local/ns/default/sa/users"
    assert plan.trusted_domains == ("default.mesh.local",)
    assert plan.inbounds[0].address == "127.0.0.1"
    assert plan.inbounds[0].cutover == 7
    assert plan.inbounds[0].mode is PortMode.STRICT
    assert plan.local == local
    assert plan.max_connection_age_s == 60


def test_a_rule_says_where_it_was_written_and_its_name_sorts():
    permission = b.permission("p", [b.tags("a"), b.tags("*")], [b.tags("users")])
    graph = MeshGraph("default", [b.dataplane("users"), b.dataplane("a"), permission])
    (layer,) = graph.policy_for(b.workload("users"), 8080).layers
    assert [rule.ref.line for rule in layer.rules] == [7, 8]
    assert [rule.ref.index for rule in layer.rules] == [0, 1]
    assert layer.rules[0].ref.file == "permissions.yaml"
    names = [rule.name for rule in layer.rules]
    assert names == sorted(set(names))
    assert layer.rules[1].condition == Authenticated()


# --- Kuma's choice of one TrafficPermission


def test_the_most_specific_destination_decides_alone():
    """Kuma: one permission per inbound; the others do not add up (no broad allow leaks in)."""
    resources = [
        *(b.dataplane(n) for n in ("users", "items", "invoices")),
        b.permission("everyone", [b.tags("*")], [b.tags("*")]),
        b.permission("only-invoices", [b.tags("invoices")], [b.tags("users")]),
    ]
    graph = MeshGraph("default", resources)
    assert allowed(graph, "invoices", "users")
    assert not allowed(graph, "items", "users")
    assert allowed(graph, "users", "items")


def test_more_tags_beat_an_exact_service():
    resources = [
        b.dataplane("users", version="v1"),
        b.dataplane("a"),
        b.dataplane("c"),
        b.permission("service", [b.tags("a")], [b.tags("users")]),
        b.permission("version", [b.tags("c")], [b.tags("*", version="v1")]),
    ]
    graph = MeshGraph("default", resources)
    assert not allowed(graph, "a", "users")
    assert allowed(graph, "c", "users")


def test_a_tie_goes_to_the_later_document_then_to_the_first_name():
    people = [b.dataplane(n) for n in ("users", "a", "c")]
    first = b.permission("p1", [b.tags("a")], [b.tags("users")])
    second = b.permission("p2", [b.tags("c")], [b.tags("users")])
    graph = MeshGraph("default", [*people, second, first])
    assert allowed(graph, "a", "users")
    assert not allowed(graph, "c", "users")
    later = b.permission(
        "p2", [b.tags("c")], [b.tags("users")], created="2024-01-01T00:00:00.000000Z"
    )
    graph.update([later])
    assert not allowed(graph, "a", "users")
    assert allowed(graph, "c", "users")


def test_a_source_that_is_not_registered_means_nobody():
    resources = [b.dataplane("users"), b.permission("p", [b.tags("ghost")], [b.tags("users")])]
    graph = MeshGraph("default", resources)
    policy = graph.policy_for(b.workload("users"), 8080)
    assert policy.layers[0].rules == ()
    assert policy.layers[0].allows
    graph.update([b.dataplane("ghost")])
    assert allowed(graph, "ghost", "users")


def test_a_source_that_would_split_an_identity_grants_nothing():
    resources = [
        b.dataplane("users"),
        b.dataplane("a", "a-1", version="v1"),
        b.permission("p", [b.tags("a", version="v1")], [b.tags("users")]),
    ]
    graph = MeshGraph("default", resources)
    assert allowed(graph, "a", "users")
    dirty = graph.update([b.dataplane("a", "a-2", version="v2")])
    assert not allowed(graph, "a", "users")
    assert b.instance("users") in dirty.instances
    assert dirty.narrowed == {b.workload("users")}
    graph.update([b.dataplane("a", "a-2").key])
    assert allowed(graph, "a", "users")


# --- MeshTrafficPermission


def test_deny_beats_allow_whatever_the_document():
    """Kuma #16873: a broad allow overrode a specific deny."""
    resources = [
        *(b.dataplane(n) for n in ("users", "a", "c")),
        b.mesh_permission("all", PermissionRule(allow=b.prefix(f"spiffe://{b.TD}"))),
        b.mesh_permission(
            "not-c", PermissionRule(deny=b.exact(b.who("c"))), target=b.labelled(app="users")
        ),
    ]
    graph = MeshGraph("default", resources)
    assert allowed(graph, "a", "users")
    assert not allowed(graph, "c", "users")
    assert allowed(graph, "c", "a")
    assert "default/users" not in callees(graph, b.instance("c"))


def test_shadow_deny_allows_and_says_so():
    rule = PermissionRule(allow_with_shadow_deny=b.exact(b.who("a")))
    resources = [b.dataplane("users"), b.dataplane("a"), b.mesh_permission("s", rule)]
    policy = MeshGraph("default", resources).policy_for(b.workload("users"), 8080)
    decision = decide(policy, Request(principal=b.who("a")))
    assert decision.allowed
    assert [r.effect for r in decision.shadow_denied] == [Effect.DENY]
    names = [rule.name for rule in policy.layers[0].rules]
    assert names == sorted(set(names))


def test_only_denials_deny_everything():
    rule = PermissionRule(deny=b.exact(b.who("c")))
    graph = MeshGraph("default", [b.dataplane("users"), b.mesh_permission("d", rule)])
    assert not allowed(graph, "a", "users")


def test_cluster_local_and_aliases_are_read_as_the_mesh():
    rules = (
        PermissionRule(allow=b.exact("spiffe://cluster.local/ns/default/sa/a")),
        PermissionRule(allow=b.prefix("spiffe://old.example/ns/default")),
    )
    resources = [
        b.dataplane("users"),
        b.settings(trust_domain="prod.example", trust_domain_aliases=("old.example",)),
        b.mesh_permission("p", *rules),
    ]
    policy = MeshGraph("default", resources).policy_for(b.workload("users"), 8080)
    for name in ("a", "c"):
        assert decide(policy, Request(principal=b.who(name, domain="prod.example"))).allowed
        assert not decide(policy, Request(principal=b.who(name, domain="old.example"))).allowed
        assert not decide(policy, Request(principal=b.who(name, domain="cluster.local"))).allowed


def test_a_prefix_matches_whole_segments():
    rule = PermissionRule(allow=b.prefix(f"spiffe://{b.TD}/ns/team"))
    policy = MeshGraph("default", [b.dataplane("users"), b.mesh_permission("p", rule)]).policy_for(
        b.workload("users"), 8080
    )
    assert decide(policy, Request(principal=b.who("a", "team"))).allowed
    assert not decide(policy, Request(principal=b.who("a", "team-b"))).allowed


def test_a_section_concerns_one_port_only():
    ports = tuple(
        Inbound(p, p + 1, Protocol.HTTP, b.tags("users"), name=n)
        for p, n in ((8080, "web"), (9090, ""))
    )
    allow = PermissionRule(allow=b.exact(b.who("a")))
    for section, port in (("web", 8080), ("9090", 9090), ("8080", 8080)):
        resources = [
            b.dataplane("users", inbounds=ports),
            b.dataplane("a"),
            b.mesh_permission("p", allow, target=b.labelled(section, app="users")),
        ]
        graph = MeshGraph("default", resources)
        open_ports = [p for p in (8080, 9090) if allowed(graph, "a", "users", p)]
        assert open_ports == [port]
        assert callees(graph, b.instance("a")) == ["default/users"]


def test_both_kinds_for_one_workload_allow_nothing():
    allow = PermissionRule(allow=b.exact(b.who("a")))
    resources = [
        b.dataplane("users"),
        b.dataplane("a"),
        b.permission("tp", [b.tags("*")], [b.tags("users")]),
        b.mesh_permission("mtp", allow),
    ]
    graph = MeshGraph("default", resources)
    assert not allowed(graph, "a", "users")


# --- what must not leak


def test_a_policy_of_one_namespace_never_reaches_another():
    """Istio 2026-002."""
    allow = PermissionRule(allow=b.prefix(f"spiffe://{b.TD}"))
    resources = [
        b.dataplane("users", namespace="shop"),
        b.dataplane("users", namespace="bank"),
        b.mesh_permission("p", allow, namespace="shop"),
    ]
    graph = MeshGraph("default", resources)
    caller = Request(principal=b.who("users", "shop"))
    assert decide(graph.policy_for(b.workload("users", "shop"), 8080), caller).allowed
    assert not decide(graph.policy_for(b.workload("users", "bank"), 8080), caller).allowed


def test_a_policy_cannot_name_a_dataplane_of_another_namespace():
    rule = PermissionRule(allow=b.prefix(f"spiffe://{b.TD}"))
    policy = b.mesh_permission("p", rule, namespace="shop")
    target = replace(policy.spec.target, whole_mesh=False, name="users-1", namespace="bank")
    policy = replace(policy, spec=replace(policy.spec, target=target))
    graph = MeshGraph("default", [b.dataplane("users", namespace="bank"), policy])
    assert not allowed_in(graph, "bank")


def allowed_in(graph: MeshGraph, namespace: str) -> bool:
    policy = graph.policy_for(b.workload("users", namespace), 8080)
    return decide(policy, Request(principal=b.who("users", "shop"))).allowed


@pytest.mark.parametrize("namespace", ["", "kuma-system", "istio-system"])
def test_a_policy_of_the_system_concerns_the_whole_mesh(namespace):
    rule = PermissionRule(allow=b.prefix(f"spiffe://{b.TD}"))
    resources = [
        b.dataplane("users", namespace="shop"),
        b.dataplane("users", namespace="bank"),
        b.mesh_permission("p", rule, namespace=namespace),
    ]
    graph = MeshGraph("default", resources)
    assert allowed_in(graph, "shop")
    assert allowed_in(graph, "bank")


def test_nothing_of_another_mesh_is_taken_in():
    other = [
        b.dataplane("users", mesh="other"),
        b.permission("p", [b.tags("*")], [b.tags("*")], mesh="other"),
        b.mesh_permission("q", PermissionRule(allow=b.prefix("spiffe://")), mesh="other"),
    ]
    graph = MeshGraph("default", [*marketplace(), *other])
    assert state(graph) == state(MeshGraph("default", marketplace()))
    assert graph.update(other) == MeshGraph("default").update([])
    assert not allowed(graph, "items", "users")


def test_same_service_in_two_namespaces_is_two_workloads():
    resources = [
        b.dataplane("users"),
        b.dataplane("users", namespace="bank", address="10.0.0.2"),
        b.dataplane("a"),
        b.permission("p", [b.tags("a")], [b.tags("users")]),
    ]
    plan = MeshGraph("default", resources).plan(b.instance("a"))
    assert [(str(e.callee), e.hostnames) for e in plan.edges] == [
        ("bank/users", ("users.bank.mesh",)),
        ("default/users", ("users.default.mesh", "users.mesh")),
    ]
    assert plan.edges[0].principals == (b.who("users", "bank"),)


def test_host_names_that_clash_lead_nowhere():
    resources = [
        b.dataplane("a"),
        b.dataplane("x.default"),
        b.dataplane("x"),
        b.permission("p", [b.tags("*")], [b.tags("*")]),
    ]
    names = [
        name
        for edge in MeshGraph("default", resources).plan(b.instance("a")).edges
        for name in edge.hostnames
    ]
    assert len(names) == len(set(names))
    assert names.count("x.default.mesh") == 1


# --- mTLS off, Istio's default


def test_mtls_off_opens_and_says_so_in_the_plan():
    resources = [b.mesh(mtls=False), *marketplace()]
    plan = MeshGraph("default", resources).plan(b.instance("items"))
    assert plan.inbounds[0].mode is PortMode.DISABLE
    assert plan.inbounds[0].policy.default_allow
    assert [str(e.callee) for e in plan.edges] == [
        "default/invoices",
        "default/items",
        "default/users",
    ]
    assert not any(e.mtls for e in plan.edges)


def test_default_allow_opens_only_what_no_document_concerns():
    resources = [
        b.settings(default_allow=True),
        b.dataplane("users"),
        b.dataplane("items"),
        b.permission("p", [b.tags("ghost")], [b.tags("users")]),
    ]
    graph = MeshGraph("default", resources)
    assert allowed(graph, "users", "items")
    assert not allowed(graph, "items", "users")


# --- endpoints and presence


def test_a_dead_instance_leaves_unless_none_would_remain():
    resources = [
        b.dataplane("users", "users-1", address="10.0.0.1"),
        b.dataplane("users", "users-2", address="10.0.0.2"),
    ]
    graph = MeshGraph("default", resources)
    both = (Endpoint("10.0.0.1", 8080), Endpoint("10.0.0.2", 8080))
    users = b.workload("users")
    assert graph.endpoints(users).endpoints == both
    dirty = graph.set_absent([b.instance("users", "users-1")])
    assert dirty.endpoints == {users}
    assert not dirty.instances
    assert graph.endpoints(users).endpoints == both[1:]
    graph.set_absent([b.instance("users", "users-1"), b.instance("users", "users-2")])
    assert graph.endpoints(users).endpoints == both
    assert graph.set_absent([]).endpoints == frozenset()


def test_absence_survives_a_change_of_settings():
    resources = [b.dataplane("users", f"users-{n}", address=f"10.0.0.{n}") for n in (1, 2)]
    graph = MeshGraph("default", resources)
    graph.set_absent([b.instance("users", "users-1")])
    graph.update([b.settings(max_connection_age_s=5)])
    assert graph.endpoints(b.workload("users")).endpoints == (Endpoint("10.0.0.2", 8080),)


def test_a_new_instance_dirties_itself_and_the_endpoints_only():
    graph = MeshGraph("default", marketplace())
    dirty = graph.update([b.dataplane("users", "users-2", address="10.0.0.9")])
    assert dirty.instances == {b.instance("users", "users-2")}
    assert dirty.endpoints == {b.workload("users")}


def test_unknown_things_are_not_found():
    graph = MeshGraph("default", marketplace())
    with pytest.raises(NotFound):
        graph.plan(b.instance("ghost"))
    with pytest.raises(NotFound):
        graph.policy_for(b.workload("users"), 1)
    assert graph.endpoints(b.workload("ghost")).endpoints == ()


def test_a_local_port_leads_only_where_an_edge_leads():
    resource = b.dataplane("users")
    outbounds = (
        LocalPort("127.0.0.1", 20001, b.tags("invoices")),
        LocalPort("127.0.0.1", 20002, b.tags("items")),
    )
    resource = replace(resource, spec=replace(resource.spec, outbounds=outbounds))
    plan = MeshGraph("default", [*marketplace(), resource]).plan(b.instance("users"))
    assert [(p.port, str(p.callee)) for p in plan.local_ports] == [(20001, "default/invoices")]


# --- the laws, on random meshes

SERVICES = ("a", "b", "c", "d")
NAMESPACES = ("default", "bank")
services = st.sampled_from(SERVICES)
versions = st.sampled_from(({}, {"version": "v1"}, {"version": "v2"}))
numbers = st.sampled_from(("1", "2", "3"))


@st.composite
def dataplanes(draw) -> Resource:
    number = draw(numbers)
    return b.dataplane(
        draw(services),
        number,
        namespace=draw(st.sampled_from(NAMESPACES)),
        account=draw(st.sampled_from(("", "", "shared"))),
        address=f"10.0.0.{number}",
        port=draw(st.sampled_from((8080, 9090))),
        **draw(versions),
    )


selectors = st.one_of(
    st.just(b.tags("*")),
    st.builds(b.tags, services),
    st.builds(lambda s: b.tags(s, version="v1"), services),
    st.just(b.tags("*", version="*")),
    st.just((("version", "v1"),)),
)
permissions = st.builds(
    lambda n, s, d, c: b.permission(f"p{n}", s, d, created=c),
    numbers,
    st.lists(selectors, min_size=1, max_size=2),
    st.lists(selectors, min_size=1, max_size=2),
    st.sampled_from(("", "2024-01-01T00:00:00.000000Z")),
)
matches = st.one_of(
    st.builds(lambda s: b.exact(b.who(s)), services),
    st.just(b.prefix(f"spiffe://{b.TD}/ns/bank")),
    st.just(()),
)
mesh_permissions = st.builds(
    lambda n, deny, shadow, allow, target, namespace: b.mesh_permission(
        f"m{n}", PermissionRule(deny, shadow, allow), target=target, namespace=namespace
    ),
    numbers,
    matches,
    matches,
    matches,
    st.one_of(
        st.none(),
        st.builds(lambda s: b.labelled(app=s), services),
        st.builds(lambda s: b.labelled("8080", app=s), services),
    ),
    st.sampled_from(("", "bank")),
)
environments = st.one_of(
    st.builds(lambda on: b.mesh(mtls=on), st.booleans()),
    st.builds(
        lambda td, allow: b.settings(trust_domain=td, default_allow=allow),
        st.sampled_from((None, "prod.example")),
        st.booleans(),
    ),
)
cutovers = st.builds(b.cutover, services, st.integers(1, 3), st.sampled_from(NAMESPACES))
scopes = st.builds(
    lambda namespace, labels, target: Scope(
        namespace, labels, () if labels or not target else (PolicyTarget(TargetKind.SERVICE, "a"),)
    ),
    st.sampled_from((*NAMESPACES, DEFAULT_ROOT_NAMESPACE)),
    st.sampled_from(((), (("app", "a"),), (("version", "v1"),))),
    st.booleans(),
)
rules = st.builds(
    AuthorizationRule,
    st.sampled_from(
        (
            (),
            (AuthorizationSource(principals=("cluster.local/ns/default/sa/a",)),),
            (AuthorizationSource(namespaces=("bank",)),),
            (AuthorizationSource(not_principals=("cluster.local/ns/default/sa/*",)),),
        )
    ),
    st.sampled_from(((), (Operation(methods=("GET",)),), (Operation(ports=(8081,)),))),
)
authorizations = st.builds(
    lambda number, scope, action, found, trial: b.istio(
        f"a{number}", AuthorizationPolicy(scope, action, tuple(found), dry_run=trial)
    ),
    numbers,
    scopes,
    st.sampled_from((Action.ALLOW, Action.ALLOW, Action.DENY, Action.AUDIT)),
    st.lists(rules, max_size=2),
    st.sampled_from((False, False, True)),
)
peers = st.builds(
    lambda number, scope, mode, port: b.istio(
        f"s{number}",
        PeerAuthentication(scope, mode, ((8081, port),) if scope.labels else ()),
    ),
    numbers,
    scopes.map(lambda scope: Scope(scope.namespace, scope.labels)),
    st.sampled_from(MtlsMode),
    st.sampled_from(MtlsMode),
)
tokens = st.builds(
    lambda number, scope, issuer, required: b.istio(
        f"j{number}", RequestAuthentication(scope, (JwtRule(issuer),), required)
    ),
    numbers,
    scopes,
    st.sampled_from(("one", "two")),
    st.booleans(),
)
puts = st.one_of(
    dataplanes(),
    dataplanes(),
    permissions,
    permissions,
    mesh_permissions,
    environments,
    cutovers,
    authorizations,
    authorizations,
    peers,
    tokens,
)
steps = st.lists(st.tuples(puts, st.booleans()), max_size=4)


def _changes(step: list[tuple[Resource, bool]]) -> list[Resource | ResourceKey]:
    return [resource if put else resource.key for resource, put in step]


@settings(max_examples=300, deadline=None)
@given(st.lists(puts, max_size=12), st.lists(steps, max_size=5), st.data())
def test_incremental_equals_fresh_and_names_what_changed(start, batches, data):
    known = {r.key: r for r in start}
    graph = MeshGraph("default", known.values())
    assert state(graph) == state(
        MeshGraph("default", data.draw(st.permutations(list(known.values()))))
    )
    for batch in batches:
        changes = _changes(batch)
        before = state(graph)
        policies = _policies(graph)
        preview = graph.preview(changes)
        assert state(graph) == before
        dirty = graph.update(changes)
        assert preview == dirty
        for change in changes:
            if isinstance(change, Resource):
                known[change.key] = change
            else:
                known.pop(change, None)
        fresh = MeshGraph("default", known.values())
        after = state(graph)
        assert after == state(fresh)
        changed = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
        assert {k for k in changed if isinstance(k, InstanceName)} <= dirty.instances
        assert changed - {k for k in changed if isinstance(k, InstanceName)} == dirty.endpoints
        _assert_losses_are_named(policies, graph, dirty.narrowed)


def _policies(graph: MeshGraph) -> dict[object, object]:
    found = {}
    for name in graph.instances:
        dataplane = graph.resource(name).spec
        assert isinstance(dataplane, Dataplane)
        for inbound in dataplane.inbounds:
            own = dataplane.workload_of(inbound)
            found[name, inbound.port, own] = graph.policy_for(name, inbound.port)
    return found


def _assert_losses_are_named(before, graph: MeshGraph, narrowed) -> None:
    callers = [b.who(s, n) for s in (*SERVICES, "shared", "ghost") for n in NAMESPACES]
    for (name, port, workload), policy in _policies(graph).items():
        old = before.get((name, port, workload))
        if old is None or workload in narrowed:
            continue
        for caller in callers:
            for method in ("GET", "PUT"):
                request = Request(principal=caller, port=port, method=method)
                assert decide(policy, request).allowed or not decide(old, request).allowed
