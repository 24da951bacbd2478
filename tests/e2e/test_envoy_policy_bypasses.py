"""Policies that other meshes compiled wrongly: documents through the compiler to a real Envoy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest_asyncio

from limen.core.compiler.graph import MeshGraph
from limen.core.dialects import read_resources
from limen.core.model.diagnostic import has_errors
from limen.core.model.names import InstanceName, SpiffeId, WorkloadName
from limen.core.model.resource import DATAPLANE, Resource, ResourceKey
from limen.core.model.workload import SERVICE_TAG, Dataplane, Inbound, Protocol
from limen.core.xds.events import Confirmed

from .envoy_harness import DOMAIN, Connection, TestMesh, Workload, client_tls, policy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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


def written(name: str, spec: str, namespace: str = "default") -> str:
    return HEAD.format(name=name, namespace=namespace, spec=spec)


class Guarded:
    """A port that is guarded as documents say, and a caller."""

    def __init__(self, mesh: TestMesh, workload: Workload) -> None:
        self.mesh, self.workload = mesh, workload

    async def enforce(self, *documents: str) -> bool:
        """False: refused by the reader, so that everything stays as it is."""
        found, _, findings = read_resources("".join(documents).encode() or b"{}", "p.yaml")
        if documents and has_errors(findings):
            return False
        name = InstanceName(WorkloadName("default", "default", "items"), "items-1")
        port = self.workload.port
        inbound = Inbound(port, port, Protocol.HTTP, ((SERVICE_TAG, "items"),))
        spec = Dataplane(name, "items", "127.0.0.1", (inbound,))
        own = Resource(ResourceKey(DATAPLANE, "default", "default", "items-1"), spec)
        graph = MeshGraph("default", [*(found if documents else ()), own])
        (wanted,) = graph.plan(name).inbounds
        kept = self.workload.plan.inbounds[0]
        service = {"service_address": kept.service_address, "service_port": kept.service_port}
        event = await self.workload.apply(inbounds=(replace(wanted, **service),))
        assert isinstance(event, Confirmed), event
        return True

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
