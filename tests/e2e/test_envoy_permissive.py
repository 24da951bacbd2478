"""Ports that speak plaintext too, or only: who is let in as whom, seen with real Envoys."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from limen.core.plan.node import Endpoint, PortMode
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    AllOf,
    Always,
    Authenticated,
    Effect,
    Header,
    Not,
    Path,
    Principal,
    PrincipalNamespace,
)
from limen.core.xds.events import Confirmed

from .envoy_harness import (
    DOMAIN,
    LOOPBACK,
    Authority,
    Connection,
    TestMesh,
    Workload,
    client_tls,
    policy,
    rule,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from limen.core.policy.rule import Policy

ANYBODY = policy(rule(Effect.ALLOW, Always()))
FORGED = {"x-forwarded-client-cert": f"URI=spiffe://{DOMAIN}/ns/default/sa/invoices"}


@pytest_asyncio.fixture
async def mesh() -> AsyncIterator[TestMesh]:
    async with TestMesh() as made:
        yield made


async def start(mesh: TestMesh, mode: PortMode, wanted: Policy = ANYBODY) -> Workload:
    items = await mesh.start("items", policy=wanted)
    await change(items, mode)
    return items


async def change(items: Workload, mode: PortMode) -> None:
    event = await items.apply(inbounds=(replace(items.plan.inbounds[0], mode=mode),))
    assert isinstance(event, Confirmed), event


async def status(items: Workload, tls: ssl.SSLContext | None, target: str = "/") -> int | None:
    """None: refused before any HTTP answer."""
    try:
        connection = await Connection.open(items.port, tls)
        return (await connection.request("GET", target, FORGED)).status
    except (OSError, asyncio.IncompleteReadError):
        return None


@pytest.mark.parametrize(
    ("mode", "mutual", "plain"),
    [
        (PortMode.STRICT, 200, None),
        (PortMode.PERMISSIVE, 200, 200),
        (PortMode.DISABLE, None, 200),
    ],
)
async def test_each_mode_lets_in_what_it_says(
    mesh: TestMesh, mode: PortMode, mutual: int | None, plain: int | None
) -> None:
    items = await start(mesh, mode)
    caller = mesh.identity("invoices")
    assert await status(items, client_tls(mesh.authority.issue(caller))) == mutual
    assert await status(items, None) == plain
    for tls in (
        client_tls(None),
        client_tls(Authority().issue(caller)),
        client_tls(mesh.authority.issue("spiffe://other/ns/default/sa/invoices")),
        client_tls(mesh.authority.issue(caller), maximum=ssl.TLSVersion.TLSv1_2),
    ):
        assert await status(items, tls) is None, "TLS that is not the mesh's"


async def test_plaintext_caller_has_no_identity_whatever_it_says(mesh: TestMesh) -> None:
    """2026 permissive bypass, 2024-45806: a plaintext peer never passes for somebody."""
    someone = Principal(StringMatch(How.PREFIX, "spiffe://"))
    namespace = PrincipalNamespace(StringMatch(How.PRESENT))
    says = Header("x-forwarded-client-cert", StringMatch(How.PRESENT))
    conditions = {
        "/authenticated": Authenticated(),
        "/someone": someone,
        "/namespace": namespace,
        "/not-other": AllOf((Authenticated(), Not(Principal(StringMatch(How.EXACT, "x"))))),
        "/header": says,
        "/nobody": Not(Authenticated()),
        "/not-someone": Not(someone),
    }
    wanted = policy(
        *(
            rule(Effect.ALLOW, AllOf((Path(StringMatch(How.EXACT, path)), condition)), path)
            for path, condition in conditions.items()
        )
    )
    items = await start(mesh, PortMode.PERMISSIVE, wanted)
    tls = client_tls(mesh.authority.issue(mesh.identity("invoices")))
    mutual = {path: await status(items, tls, path) for path in conditions}
    plain = {path: await status(items, None, path) for path in conditions}
    nobody = {"/nobody", "/not-someone"}
    assert {path for path, code in mutual.items() if code == 200} == set(conditions) - nobody
    assert {path for path, code in plain.items() if code == 200} == nobody
    await items.apply_policy(ANYBODY)
    answer = await (await Connection.open(items.port)).request("GET", "/", FORGED)
    assert "x-forwarded-client-cert" not in dict(answer.json["headers"])


async def test_denial_of_callers_without_identity_requires_mutual_tls(mesh: TestMesh) -> None:
    """The documented way to require mTLS of some paths: DENY notPrincipals `*`."""
    nobody = Not(Principal(StringMatch(How.PRESENT)))
    wanted = policy(
        rule(Effect.DENY, AllOf((nobody, Path(StringMatch(How.PREFIX, "/in"))))),
        rule(Effect.ALLOW, Always()),
    )
    items = await start(mesh, PortMode.PERMISSIVE, wanted)
    tls = client_tls(mesh.authority.issue(mesh.identity("invoices")))
    assert (await status(items, tls, "/in"), await status(items, None, "/in")) == (200, 403)
    assert await status(items, None, "/out") == 200


async def test_proxy_of_a_caller_speaks_what_the_callee_does(mesh: TestMesh) -> None:
    """HTTP/2 in plaintext too; one address of each kind behind one callee."""
    items = await start(mesh, PortMode.PERMISSIVE)
    invoices = await mesh.start("invoices", calls=[items])
    edge = invoices.plan.edges[0]
    caller = str(mesh.identity("invoices"))

    async def becomes(wanted: str | None) -> None:
        """Open connections end when the callee's chain does; no request fails meanwhile."""
        async with asyncio.timeout(5):
            while True:
                if await peer() == wanted:
                    return
                await asyncio.sleep(0.02)

    async def peer() -> str | None:
        answer = await invoices.call("http://items.mesh/")
        assert answer.status == 200, answer
        certificate: str | None = dict(answer.json["headers"]).get("x-forwarded-client-cert")
        return certificate and certificate.partition(";URI=")[2]

    assert await peer() == caller
    await invoices.apply(edges=(replace(edge, mtls=False),))
    assert await peer() is None
    await invoices.apply(edges=(replace(edge, mixed=True),))
    assert await peer() == caller
    await change(items, PortMode.DISABLE)
    invoices.endpoints[items.name] = (Endpoint(LOOPBACK, items.port, mtls=False),)
    await invoices.apply()
    await becomes(None)
    await change(items, PortMode.STRICT)
    invoices.endpoints[items.name] = (Endpoint(LOOPBACK, items.port),)
    await invoices.apply()
    await becomes(caller)


async def test_caller_that_expects_mutual_tls_never_falls_back(mesh: TestMesh) -> None:
    items = await start(mesh, PortMode.DISABLE)
    invoices = await mesh.start("invoices", calls=[items])
    assert (await invoices.call("http://items.mesh/")).status == 503
    assert items.application is not None
    assert items.application.requests == []


async def test_change_of_mode_moves_new_connections(mesh: TestMesh) -> None:
    items = await start(mesh, PortMode.PERMISSIVE)
    assert await status(items, None) == 200
    await change(items, PortMode.STRICT)
    assert await status(items, None) is None
    await change(items, PortMode.DISABLE)
    assert await status(items, None) == 200


async def test_open_plaintext_connection_is_closed_when_a_port_becomes_strict(
    mesh: TestMesh,
) -> None:
    items = await start(mesh, PortMode.PERMISSIVE)
    connection = await Connection.open(items.port)
    assert (await connection.request("GET", "/")).status == 200
    await change(items, PortMode.STRICT)
    async with asyncio.timeout(3):
        assert await connection.reader.read(1) == b""


async def test_who_still_sends_plaintext_is_told(mesh: TestMesh) -> None:
    items = await start(mesh, PortMode.PERMISSIVE)
    tls = client_tls(mesh.authority.issue(mesh.identity("invoices")))
    mutual = await Connection.open(items.port, tls)
    assert (await mutual.request("GET", "/")).status == 200
    await mutual.close()
    connection = await Connection.open(items.port)
    for _ in range(3):
        assert (await connection.request("GET", "/")).status == 200
    port = connection.writer.get_extra_info("sockname")[1]
    await connection.close()
    (line,) = await logged_connections(items, 1)
    assert (line["transport"], line["peer_address"]) == ("plaintext", f"{LOOPBACK}:{port}")
    assert (line["callee"], line["mesh"]) == ("default/items", "default")
    begun = [x for x in items.envoy.logged() if x["edge"] == "plaintext-request"]
    assert [x["peer_address"] for x in begun] == [f"{LOOPBACK}:{port}"] * 3
    assert {x["port"] for x in begun} == {items.port}
    stats = await items.envoy.admin("/stats?filter=downstream_rq_total")
    prefix = f"http.inbound_{items.port}"
    assert f"{prefix}_plaintext.downstream_rq_total: 3" in stats
    assert f"{prefix}.downstream_rq_total: 1" in stats
    await items.apply_policy(policy())
    assert await status(items, None, "/refused") == 403
    (refused,) = await items.envoy.wait_logged("/refused")
    assert (refused["transport"], refused["edge"]) == ("plaintext", "inbound")
    assert await status(items, tls, "/refused-too") == 403
    (refused,) = await items.envoy.wait_logged("/refused-too")
    assert "transport" not in refused


async def logged_connections(items: Workload, count: int) -> list[dict[str, object]]:
    async with asyncio.timeout(10):
        while True:
            lines = [x for x in items.envoy.logged() if x["edge"] == "inbound-connection"]
            if len(lines) >= count:
                return lines
            await asyncio.sleep(0.1)
