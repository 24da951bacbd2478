"""Policies that other meshes compiled wrongly: documents through the compiler to a real Envoy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest_asyncio

from limen.core.compiler.asking import World
from limen.core.dialects import read_resources
from limen.core.model.diagnostic import has_errors
from limen.core.model.names import InstanceName, SpiffeId, WorkloadName
from limen.core.model.resource import DATAPLANE, Resource, ResourceKey
from limen.core.model.snapshot import Snapshot
from limen.core.model.workload import SERVICE_TAG, Dataplane, Inbound, Protocol
from limen.core.xds.events import Confirmed

from .edge_harness import EdgeMesh
from .envoy_harness import DOMAIN, Connection, TestMesh, Workload, client_tls, policy
from .test_edge_istio import ALLOWED, HOST, TO_ITEMS, gateway, routes, server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .envoy_harness import Response

HEAD = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
---
"""
PERMISSIVE = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: mesh, namespace: istio-system}
spec: {mtls: {mode: PERMISSIVE}}
---
"""
EVERYBODY = "{rules: [{}]}"
TCP = """
type: Dataplane
mesh: default
name: items-1
networking:
  address: 10.0.0.1
  inbound: [{port: 8080, tags: {kuma.io/service: items, kuma.io/protocol: tcp}}]
"""


def written(name: str, spec: str, namespace: str = "default") -> str:
    return HEAD.format(name=name, namespace=namespace, spec=spec)


class Guarded:
    """A port that is guarded as documents say, and a caller."""

    def __init__(self, mesh: TestMesh, workload: Workload) -> None:
        self.mesh, self.workload = mesh, workload

    async def enforce(self, *documents: str, protocol: Protocol = Protocol.HTTP) -> bool:
        """False: refused by the reader, so that everything stays as it is."""
        found, _, findings = read_resources("".join(documents).encode() or b"{}", "p.yaml")
        if documents and has_errors(findings):
            return False
        name = InstanceName(WorkloadName("default", "default", "items"), "items-1")
        port = self.workload.port
        inbound = Inbound(port, port, protocol, ((SERVICE_TAG, "items"),))
        spec = Dataplane(name, "items", "127.0.0.1", (inbound,))
        own = Resource(ResourceKey(DATAPLANE, "default", "default", "items-1"), spec)
        known = Snapshot({r.key: r for r in (*(found if documents else ()), own)})
        graph = World(known).graph("default")
        (wanted,) = graph.plan(name).inbounds
        kept = self.workload.plan.inbounds[0]
        service = {"service_address": kept.service_address, "service_port": kept.service_port}
        event = await self.workload.apply(inbounds=(replace(wanted, **service),))
        assert isinstance(event, Confirmed), event
        return True

    async def connects(self) -> int:
        """The status of a connection that is to be passed on."""
        tls = client_tls(self.mesh.authority.issue(SpiffeId(DOMAIN, "default", "users")))
        connection = await Connection.open(self.workload.port, tls)
        try:
            await connection.send("CONNECT", "items.mesh:443", host="items.mesh:443")
            return (await connection.head())[0]
        finally:
            connection.writer.transport.abort()

    async def status(self, target: str = "/", method: str = "GET", *, plain: bool = False) -> int:
        who = SpiffeId(DOMAIN, "default", "users")
        tls = None if plain else client_tls(self.mesh.authority.issue(who))
        connection = await Connection.open(self.workload.port, tls)
        try:
            return (await connection.request(method, target)).status
        finally:
            connection.writer.transport.abort()


@pytest_asyncio.fixture
async def items() -> AsyncIterator[Guarded]:
    async with TestMesh() as mesh:
        yield Guarded(mesh, await mesh.start("items", policy=policy()))


async def test_denial_is_shadowed_by_nothing(items: Guarded) -> None:
    """Deny shadowed: neither its name, nor the order of documents, nor a wider ALLOW hides it."""
    no = "{action: DENY, rules: [{to: [{operation: {paths: [/no]}}]}]}"
    for first, second in (("a", "z"), ("z", "a")):
        documents = [written(first, no), written(second, EVERYBODY)]
        for order in (documents, documents[::-1]):
            assert await items.enforce(*order)
            assert (await items.status("/no"), await items.status("/yes")) == (403, 200)


async def test_unknown_when_key_leaves_what_was_enforced(items: Guarded) -> None:
    """Unknown `when` key drops the whole rule, of a DENY too: here the document is refused."""
    no = "{action: DENY, rules: [{to: [{operation: {paths: [/no]}}]}]}"
    assert await items.enforce(written("deny", no), written("allow", EVERYBODY))
    odd = "{action: DENY, rules: [{when: [{key: request.headres[x], values: [a]}]}]}"
    assert not await items.enforce(written("deny", odd), written("allow", EVERYBODY))
    assert (await items.status("/no"), await items.status("/yes")) == (403, 200)


async def test_empty_list_of_rules_allows_nothing(items: Guarded) -> None:
    """Empty rule list read as allow."""
    assert await items.enforce(written("nothing", "{}"))
    assert await items.status() == 403


async def test_no_document_refuses(items: Guarded) -> None:
    """Deny-by-default read as allow (Consul 2021-36213)."""
    assert await items.enforce()
    assert await items.status() == 403


async def test_policy_of_another_namespace_does_not_reach_here(items: Guarded) -> None:
    """Policy of one namespace reaches another (Istio 2026-002): neither ALLOW nor DENY."""
    assert await items.enforce(written("allow", EVERYBODY, "shop"))
    assert await items.status() == 403
    everything = "{action: DENY, rules: [{}]}"
    assert await items.enforce(written("deny", everything, "shop"), written("allow", EVERYBODY))
    assert await items.status() == 200
    assert await items.enforce(
        written("deny", everything, "istio-system"), written("allow", EVERYBODY)
    )
    assert await items.status() == 403, "the root namespace reaches everywhere"


async def test_plaintext_in_permissive_mode_meets_every_rule(items: Guarded) -> None:
    """Permissive mode's plaintext bypasses RBAC."""
    others = "{rules: [{from: [{source: {notPrincipals: ['x/ns/y/sa/z']}}]}]}"
    assert await items.enforce(PERMISSIVE, written("others", others))
    assert (await items.status(), await items.status(plain=True)) == (200, 403)
    no = "{action: DENY, rules: [{to: [{operation: {paths: [/no]}}]}]}"
    assert await items.enforce(PERMISSIVE, written("deny", no), written("allow", EVERYBODY))
    assert (await items.status("/no", plain=True), await items.status("/", plain=True)) == (
        403,
        200,
    )


async def test_policy_of_another_mesh_does_not_reach_here(items: Guarded) -> None:
    """Policy of one mesh reaches another: of the same names, neither ALLOW nor DENY."""
    elsewhere = "metadata: {labels: {kuma.io/mesh: other}, "
    allow = written("allow", EVERYBODY)
    foreign = allow.replace("metadata: {", elsewhere)
    assert await items.enforce(foreign)
    assert await items.status() == 403
    deny = written("deny", "{action: DENY, rules: [{}]}")
    assert await items.enforce(allow, deny.replace("metadata: {", elsewhere))
    assert await items.status() == 200
    assert await items.enforce(allow, deny)
    assert await items.status() == 403


async def test_denial_by_http_fields_at_a_port_without_requests_refuses_all(
    items: Guarded,
) -> None:
    """HTTP-only DENY on a TCP port: it neither vanishes nor lets anything pass.

    A port of `protocol: tcp` is refused by name; one that passes TLS on sees connections only.
    """
    found, _, findings = read_resources(TCP.encode(), "tcp.yaml")
    assert not found
    assert [f.code for f in findings] == ["refused-value"]
    allow = written("allow", EVERYBODY)
    assert await items.enforce(allow, protocol=Protocol.TLS)
    assert await items.connects() == 200
    paths = "{action: DENY, rules: [{to: [{operation: {paths: [/no]}}]}]}"
    assert await items.enforce(allow, written("deny", paths), protocol=Protocol.TLS)
    assert await items.connects() == 403
    others = paths.replace("{to:", "{from: [{source: {namespaces: [shop]}}], to:")
    assert await items.enforce(allow, written("deny", others), protocol=Protocol.TLS)
    assert await items.connects() == 200, "it is not the caller of the rule"
    gets = "{rules: [{to: [{operation: {methods: [GET, CONNECT]}}]}]}"
    assert await items.enforce(written("gets", gets), protocol=Protocol.TLS)
    assert await items.connects() == 403, "an ALLOW by a method never applies there"


async def test_ports_at_a_gateway_are_its_own() -> None:
    """Gateway ports read as container ports: a rule means the port that the client reached."""
    async with EdgeMesh() as edge:
        await edge.serve("items")
        ports = [server(edge, "['*']", port=80), server(edge, "['*']", port=80, name="second")]
        ports[1] = ports[1].replace(str(edge.port(80)), str(edge.port(81)))
        text = gateway(", ".join(ports)) + routes(f"[{{{TO_ITEMS}}}]") + ALLOWED
        chosen = "{selector: {matchLabels: {istio: ingressgateway}}, action: DENY, rules: [{to: "
        for field, wanted in (("ports", (403, 200)), ("notPorts", (200, 403))):
            spec = chosen + f"[{{operation: {{{field}: ['{edge.port(80)}']}}}}]}}]}}"
            await edge.start(text + "---" + written("deny", spec, "istio-system"))
            seen = [await edge.get("/", host=HOST, port=80), await plain(edge, 81)]
            assert tuple(answer.status for answer in seen) == wanted
        inside = chosen + "[{operation: {ports: ['8080']}}]}]}"
        await edge.start(text + "---" + written("deny", inside, "istio-system"))
        assert (await edge.get("/", host=HOST, port=80)).status == 200, "8080 is the service's"


async def plain(edge: EdgeMesh, port: int) -> Response:
    connection = await edge.open(port)
    try:
        return await connection.request("GET", "/", host=HOST)
    finally:
        await connection.close()
