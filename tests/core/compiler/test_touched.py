"""What a change brings is found by looking at what it touches: just what the whole check says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.compiler import build as b

from limen.core.compiler.checks import check
from limen.core.compiler.graph import Change, MeshGraph
from limen.core.compiler.touched import can_judge, judge
from limen.core.model.peer_authentication import MtlsMode, PeerAuthentication
from limen.core.model.permission import PermissionRule, TargetRef
from limen.core.model.resource import Origin, Resource
from limen.core.model.selector import Scope
from limen.core.model.snapshot import Snapshot

SERVICES = ("a", "c", "e")

selectors = st.builds(
    lambda service, version: b.tags(service, **({"version": version} if version else {})),
    st.sampled_from((*SERVICES, "*", "undeclared")),
    st.sampled_from(("", "", "1", "*")),
)
planes = st.builds(
    lambda service, number, version, account, namespace: b.dataplane(
        service,
        f"{service}-{number}",
        namespace=namespace,
        account=account or service,
        address=f"10.0.0.{number}",
        **({"version": version} if version else {}),
    ),
    st.sampled_from(SERVICES),
    st.integers(1, 3),
    st.sampled_from(("", "1", "2")),
    st.sampled_from(("", "", "shared")),
    st.sampled_from(("default", "default", "shop")),
)
traffic = st.builds(
    lambda name, sources, destinations, created: b.permission(
        f"t{name}", sources, destinations, created=created
    ),
    st.integers(0, 5),
    st.lists(selectors, min_size=1, max_size=2),
    st.lists(selectors, min_size=1, max_size=2),
    st.sampled_from(("", "2024-01-01T00:00:00.000000Z")),
)
targets = st.one_of(
    st.just(TargetRef()),
    st.builds(lambda app: b.labelled(app=app), st.sampled_from((*SERVICES, "undeclared"))),
    st.builds(
        lambda service: TargetRef(whole_mesh=False, name=f"{service}-1"), st.sampled_from(SERVICES)
    ),
)
ids = st.sampled_from(
    (str(b.who("a")), "spiffe://cluster.local/ns/default/sa/a", "spiffe://other.example/x")
)
rules = st.builds(
    lambda allow, deny: PermissionRule(allow=b.exact(*allow), deny=b.exact(*deny)),
    st.lists(ids, max_size=2),
    st.lists(ids, max_size=1),
)
mesh_traffic = st.builds(
    lambda name, target, some, namespace: b.mesh_permission(
        f"m{name}", *some, target=target, namespace=namespace
    ),
    st.integers(0, 3),
    targets,
    st.lists(rules, min_size=1, max_size=2),
    st.sampled_from(("", "", "shop")),
)


def written(resource: Resource, line: int) -> Resource:
    """In a file of its own, so that equal findings are about the same document."""
    lines = {"": line, **resource.origin.lines}
    name = f"{resource.key.kind}-{resource.key.namespace}-{resource.key.name}.yaml"
    return replace(resource, origin=Origin(name, lines))


permissions = st.builds(written, st.one_of(traffic, mesh_traffic), st.integers(1, 2))
worlds = st.tuples(st.lists(planes, max_size=5), st.lists(permissions, max_size=8))


def keyed(resources: list[Resource]) -> dict[object, Resource]:
    return {r.key: written(r, 1) if r.origin.file == "dp.yaml" else r for r in resources}


def expected(before: Snapshot, after: Snapshot) -> tuple[object, ...]:
    known = set(check(before))
    return tuple(d for d in check(after, before) if d not in known)


def state(graph: MeshGraph) -> dict[object, object]:
    found: dict[object, object] = {i: graph.plan(i) for i in graph.instances}
    found.update({w: graph.endpoints(w) for w in graph.workloads})
    return found


@given(
    world=worlds,
    puts=st.lists(permissions, max_size=3),
    deleted=st.lists(st.integers(0, 7), max_size=2),
)
@settings(max_examples=400, deadline=None)
def test_the_findings_of_a_change_are_the_difference_of_two_whole_checks(world, puts, deleted):
    resources = keyed([*world[0], *world[1]])
    documents = sorted(k for k, r in resources.items() if r.origin.file.count("Permission"))
    gone = [documents[i] for i in deleted if i < len(documents)]
    changes: list[Change] = [*dict.fromkeys(gone), *keyed(puts).values()]
    before = Snapshot(resources, 1)
    left = {k: r for k, r in resources.items() if k not in gone}
    after = Snapshot({**left, **keyed(puts)}, 2)
    graph = MeshGraph("default", resources.values())
    then = state(graph)
    judged = judge(graph, changes)
    assert judged.findings == expected(before, after)
    assert judged.dirty == MeshGraph("default", resources.values()).update(changes)
    assert state(graph) == then
    assert set(check(before)) == set(check(Snapshot(resources, 1)))


@given(world=worlds, steps=st.lists(st.one_of(permissions, st.integers(0, 7)), max_size=12))
@settings(max_examples=150, deadline=None)
def test_a_graph_that_lives_judges_as_a_new_one(world, steps):
    """Whatever was tried out and taken in before."""
    resources = keyed([*world[0], *world[1]])
    graph = MeshGraph("default", resources.values())
    for step in steps:
        documents = sorted(k for k, r in resources.items() if r.origin.file.count("Permission"))
        if isinstance(step, int):
            if step >= len(documents):
                continue
            change: Change = documents[step]
        else:
            change = step
        fresh = judge(MeshGraph("default", resources.values()), [change])
        assert judge(graph, [change]) == fresh
        assert graph.update([change]) == fresh.dirty
        if isinstance(change, Resource):
            resources[change.key] = change
        else:
            del resources[change]


def test_a_new_winner_is_told_where_it_beats_the_old_one():
    old = b.permission("p1", [b.tags("a")], [b.tags("c")])
    graph = MeshGraph("default", [b.dataplane("a"), b.dataplane("c"), old])
    new = b.permission("p0", [b.tags("e")], [b.tags("c")])
    found = judge(graph, [new]).findings
    assert {(d.code, "p1" in d.message) for d in found} >= {("equal-permissions", True)}


def test_narrowing_is_known_without_asking_again():
    allow = b.permission("p", [b.tags("a")], [b.tags("c")])
    graph = MeshGraph("default", [b.dataplane("a"), b.dataplane("c"), allow])
    assert judge(graph, [allow.key]).dirty.narrowed == {b.workload("c")}
    assert judge(graph, [allow]).dirty.narrowed == frozenset()


def test_what_reaches_further_is_left_to_the_whole_check():
    graph = MeshGraph("default", [b.dataplane("a")])
    istio = b.istio("p", PeerAuthentication(Scope("default"), MtlsMode.STRICT))
    allow = b.permission("p", [b.tags("a")], [b.tags("c")])
    for change in (b.dataplane("c"), b.dataplane("a").key, b.mesh(), b.settings(), istio):
        assert not can_judge(graph, [change])
        with pytest.raises(ValueError, match="use check"):
            judge(graph, [allow, change])
    assert can_judge(graph, [allow])
    graph.update([istio])
    assert not can_judge(graph, [allow])


cutovers = st.builds(b.cutover, st.sampled_from(SERVICES), st.integers(1, 9))
modes = st.builds(
    lambda mode, name: b.istio(name, PeerAuthentication(Scope("default"), mode)),
    st.sampled_from((MtlsMode.STRICT, MtlsMode.PERMISSIVE, MtlsMode.DISABLE)),
    st.sampled_from(("p1", "p2")),
)


@given(
    world=worlds,
    steps=st.lists(
        st.tuples(
            st.one_of(permissions, planes, cutovers, modes, st.integers(0, 12)),
            st.integers(0, 3),
        ),
        max_size=12,
    ),
)
@settings(max_examples=150, deadline=None)
def test_what_a_living_graph_remembers_never_shows(world, steps):
    """Every update says what a graph made for it would say, whoever is away."""
    resources = keyed([*world[0], *world[1]])
    graph = MeshGraph("default", resources.values())
    for step, away in steps:
        present = sorted(resources, key=str)
        if isinstance(step, int) and step >= len(present):
            continue
        change = present[step] if isinstance(step, int) else step
        fresh = MeshGraph("default", resources.values())
        absent = sorted(graph.instances)[:away]
        graph.set_absent(absent)
        fresh.set_absent(absent)
        assert graph.preview([change]) == fresh.preview([change])
        assert graph.update([change]) == fresh.update([change])
        assert state(graph) == state(fresh)
        if isinstance(change, Resource):
            resources[change.key] = change
        else:
            del resources[change]
