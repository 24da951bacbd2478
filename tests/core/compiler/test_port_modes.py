"""PeerAuthentication: precedence, ties, ports; what callers are told; what a change takes away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.core.compiler import build as b
from tests.core.compiler.istio import ask

from limen.core.compiler.graph import MeshGraph
from limen.core.model.authorization import AuthorizationPolicy, AuthorizationRule
from limen.core.model.mesh import DEFAULT_ROOT_NAMESPACE
from limen.core.model.peer_authentication import MtlsMode, PeerAuthentication
from limen.core.model.selector import Scope
from limen.core.model.workload import Inbound, Protocol
from limen.core.plan.node import Endpoint, PortMode

if TYPE_CHECKING:
    from limen.core.model.resource import Resource

ITEMS = b.dataplane("items")
ALL = b.istio("all", AuthorizationPolicy(Scope("default"), rules=(AuthorizationRule(),)))
ROOT = DEFAULT_ROOT_NAMESPACE
OWN = (("app", "items"),)


def peer(mode: str, namespace="default", labels=(), *, name="p", ports=(), created="") -> Resource:
    wanted = tuple((port, MtlsMode(m)) for port, m in ports)
    spec = PeerAuthentication(Scope(namespace, labels), MtlsMode(mode), wanted, created)
    return b.istio(name, spec)


def mode(*documents: Resource) -> str:
    graph = MeshGraph("default", [ITEMS, *documents])
    return graph.plan(b.instance("items")).inbounds[0].mode.name


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ((), "STRICT"),
        ((peer("PERMISSIVE", ROOT),), "PERMISSIVE"),
        ((peer("UNSET", ROOT),), "STRICT"),
        ((peer("PERMISSIVE", ROOT), peer("STRICT")), "STRICT"),
        ((peer("PERMISSIVE", ROOT), peer("UNSET")), "PERMISSIVE"),
        ((peer("STRICT", ROOT), peer("DISABLE", labels=OWN)), "DISABLE"),
        ((peer("PERMISSIVE"), peer("UNSET", labels=OWN, name="q")), "PERMISSIVE"),
        ((peer("PERMISSIVE", ROOT, OWN), peer("STRICT")), "PERMISSIVE"),
        ((peer("PERMISSIVE", ROOT, OWN), peer("STRICT", labels=OWN)), "STRICT"),
        ((peer("PERMISSIVE", "bank"),), "STRICT"),
        ((peer("PERMISSIVE", "bank", OWN),), "STRICT"),
        ((peer("PERMISSIVE", labels=(("app", "users"),)),), "STRICT"),
        ((peer("STRICT", labels=OWN, ports=((8081, "DISABLE"),)),), "DISABLE"),
        ((peer("DISABLE", labels=OWN, ports=((8081, "UNSET"),)),), "DISABLE"),
        ((peer("UNSET", labels=OWN, ports=((8081, "PERMISSIVE"),)),), "PERMISSIVE"),
        ((peer("STRICT", labels=OWN, ports=((8080, "DISABLE"),)),), "DISABLE"),
        ((peer("STRICT", labels=OWN, ports=((80, "DISABLE"),)),), "STRICT"),
        (
            (
                peer("PERMISSIVE", name="a", created="2024-01-02T00:00:00.000000Z"),
                peer("STRICT", name="b", created="2024-01-01T00:00:00.000000Z"),
            ),
            "STRICT",
        ),
        ((peer("PERMISSIVE", name="a"), peer("STRICT", name="b")), "PERMISSIVE"),
        (
            (
                peer("PERMISSIVE", name="a"),
                peer("STRICT", name="b", created="2024-01-01T00:00:00Z"),
            ),
            "STRICT",
        ),
        ((b.mesh(mtls=False), peer("STRICT")), "DISABLE"),
    ],
)
def test_precedence(documents: tuple[Resource, ...], expected: str):
    assert mode(*documents) == expected
    assert mode(*reversed(documents)) == expected


def test_callers_speak_what_the_callee_does():
    resources = [ITEMS, b.dataplane("users"), ALL]
    graph = MeshGraph("default", resources)

    def seen() -> tuple[bool, bool, tuple[Endpoint, ...]]:
        edges = {e.callee.name: e for e in graph.plan(b.instance("users")).edges}
        edge = edges["items"]
        return edge.mtls, edge.mixed, graph.endpoints(b.workload("items")).endpoints

    assert seen() == (True, False, (Endpoint("127.0.0.1", 8080),))
    for wanted, mtls in (("PERMISSIVE", True), ("DISABLE", False), ("STRICT", True)):
        dirty = graph.update([peer(wanted, labels=OWN)])
        assert b.instance("items") in dirty.instances
        assert seen() == (mtls, False, (Endpoint("127.0.0.1", 8080, mtls),))
    dirty = graph.update([peer("DISABLE", labels=OWN)])
    assert b.instance("users") in dirty.instances
    assert dirty.endpoints == {b.workload("items")}


def test_a_callee_with_ports_of_both_kinds_says_so_for_each_address():
    inbounds = tuple(Inbound(p, p + 1, Protocol.HTTP, b.tags("items")) for p in (80, 90))
    resources = [b.dataplane("items", inbounds=inbounds), b.dataplane("users"), ALL]
    resources.append(peer("UNSET", labels=OWN, ports=((91, "DISABLE"),)))
    graph = MeshGraph("default", resources)
    edges = {e.callee.name: e for e in graph.plan(b.instance("users")).edges}
    assert (edges["items"].mtls, edges["items"].mixed) == (True, True)
    places = (Endpoint("127.0.0.1", 80), Endpoint("127.0.0.1", 90, mtls=False))
    assert graph.endpoints(b.workload("items")).endpoints == places


def test_where_nobody_is_known_identities_open_no_way():
    named = b.permission("k", [b.tags("users")], [b.tags("items")])
    graph = MeshGraph("default", [ITEMS, b.dataplane("users"), named])
    assert graph.callees(b.who("users")) == [b.workload("items")]
    graph.update([peer("DISABLE", labels=OWN)])
    assert graph.callees(b.who("users")) == []


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        ("STRICT", "PERMISSIVE", False),
        ("PERMISSIVE", "STRICT", True),
        ("STRICT", "DISABLE", True),
        ("DISABLE", "PERMISSIVE", True),
        ("UNSET", "STRICT", False),
    ],
)
def test_what_takes_a_right_away(before: str, after: str, lost: bool):  # noqa: FBT001 - a row
    graph = MeshGraph("default", [ITEMS, ALL, peer(before)])
    assert bool(graph.preview([peer(after)]).narrowed) is lost


def test_explain_knows_the_mode():
    assert ask(ALL, caller="anonymous").status == 0
    plain = ask(ALL, peer("PERMISSIVE"), caller="anonymous")
    assert (plain.allowed, plain.mode) == (True, PortMode.PERMISSIVE.value)
    off = ask(ALL, peer("DISABLE"))
    assert off.allowed
    assert any("nobody is known here" in note for note in off.notes)
