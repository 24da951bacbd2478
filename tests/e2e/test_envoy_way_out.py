"""The ways out of a workload, seen on the wire with real Envoys."""

from __future__ import annotations

import asyncio
import itertools
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
import pytest_asyncio

from limen.core.model.workload import Probe, Protocol
from limen.core.plan.node import Endpoint, PortMode, ProbePlan
from limen.core.policy.rule import Policy

from .envoy_harness import (
    LOOPBACK,
    SECRET,
    USER,
    Connection,
    TestMesh,
    Workload,
    allow,
    free_port,
    proxy_headers,
    within,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest_asyncio.fixture
async def mesh() -> AsyncIterator[TestMesh]:
    async with TestMesh() as made:
        yield made


async def test_way_out_wants_the_workloads_secret(mesh: TestMesh) -> None:
    invoices = await mesh.start("invoices")
    port = invoices.plan.local.outbound_port
    for headers in ({}, proxy_headers(secret="x" * 32), proxy_headers(user="other")):
        for method, target in (("GET", "http://items.mesh/"), ("CONNECT", "items.mesh:80")):
            connection = await Connection.open(port)
            answer = await connection.request(method, target, headers)
            assert answer.status == 407, (method, answer)
            assert answer.headers["proxy-authenticate"] == 'Basic realm="limen"'


async def test_names_that_lead_nowhere_are_refused_with_a_reason(mesh: TestMesh) -> None:
    items = await mesh.start("items", policy=allow())
    invoices = await mesh.start("invoices", calls=[items])
    outside = await invoices.call("http://example.com/")
    assert outside.status == 403
    assert "example.com is outside the mesh" in outside.body.decode()
    unknown = await invoices.call("http://users.mesh/")
    assert unknown.status == 403
    assert "users.mesh" in unknown.body.decode()
    assert "limen explain --from spiffe://" in unknown.body.decode()
    connection = await invoices.proxy_connection()
    tunnel = await connection.request(
        "CONNECT", "example.com:443", proxy_headers(), host="example.com:443"
    )
    assert tunnel.status == 403
    for host in ("mesh", "items.mesh.example.com", "items.mesh@example.com", "169.254.169.254"):
        assert (await invoices.call(f"http://{host}/")).status in (400, 403), host


async def test_every_spelling_of_a_permitted_name_works(mesh: TestMesh) -> None:
    items = await mesh.start("items", policy=allow(mesh.identity("invoices")))
    invoices = await mesh.start("invoices", calls=[items])
    for host in ("items.mesh", "ITEMS.mesh", "items.mesh:80", "items.mesh.", "items.default.mesh"):
        assert (await invoices.call(f"http://{host}/")).status == 200, host
    connection = await invoices.proxy_connection()
    by_host = await connection.request("GET", "/by-host", proxy_headers(), host="items.mesh")
    assert (by_host.status, by_host.json["target"]) == (200, "/by-host")


async def test_unix_socket_opens_for_its_owner_only_and_needs_no_secret(mesh: TestMesh) -> None:
    items = await mesh.start("items", policy=allow(mesh.identity("invoices")))
    invoices = await mesh.start("invoices", calls=[items])
    path = invoices.plan.local.outbound_socket
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert stat.S_IMODE(invoices.envoy.admin_socket.stat().st_mode) == 0o600
    connection = await Connection.open_unix(path)
    assert (await connection.request("GET", "/", host="items.mesh")).status == 200
    assert (await connection.request("GET", "/", host="example.com")).status == 403


async def test_local_port_leads_to_its_one_callee_whatever_the_host(mesh: TestMesh) -> None:
    items = await mesh.start("items", policy=allow(mesh.identity("invoices")))
    invoices = await mesh.start("invoices", calls=[items], local_ports=[items])
    connection = await Connection.open(invoices.plan.local_ports[0].port)
    answer = await connection.request("GET", "/x", host="localhost:1234")
    assert (answer.status, answer.json["target"]) == (200, "/x")


async def test_websocket_and_streams_pass_both_proxies(mesh: TestMesh) -> None:
    items = await mesh.start("items", policy=allow(mesh.identity("invoices")))
    invoices = await mesh.start("invoices", calls=[items])
    connection = await Connection.open_unix(invoices.plan.local.outbound_socket)
    upgrade = {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    assert (await connection.request("GET", "/ws", upgrade)).status == 101
    for message in (b"hello", b"world" * 1000):
        connection.writer.write(message)
        assert await connection.reader.readexactly(len(message)) == message
    stream = await Connection.open_unix(invoices.plan.local.outbound_socket)
    await stream.send("GET", "/stream")
    assert (await stream.head())[0] == 200
    chunks = stream.chunks()
    assert [await anext(chunks) for _ in range(5)]


async def test_cutover_closes_a_stream_through_both_proxies_as_soon_as_the_callee_does(
    mesh: TestMesh,
) -> None:
    """The callee's chain drains for 1 s; the caller's own proxy adds nothing that counts."""
    items = await mesh.start("items", policy=allow(mesh.identity("invoices")))
    invoices = await mesh.start("invoices", calls=[items])
    cutovers = itertools.count(1)

    async def closed_after_s() -> float:
        await items.apply_policy(allow(mesh.identity("invoices")))
        connection = await Connection.open_unix(invoices.plan.local.outbound_socket)
        await connection.send("GET", "/stream")
        assert (await connection.head())[0] == 200
        started = time.monotonic()
        await items.apply_policy(allow(mesh.identity("users")), cutover=next(cutovers))
        async with asyncio.timeout(20):
            while await connection.reader.read(65536):
                pass
        return time.monotonic() - started

    await within(1.8, closed_after_s)


async def test_request_body_streams_to_the_application(mesh: TestMesh) -> None:
    items = await mesh.start("items", policy=allow(mesh.identity("invoices")))
    invoices = await mesh.start("invoices", calls=[items])
    body = b"0123456789abcdef" * 65536 * 4
    answer = await invoices.call("http://items.mesh/up", "POST", body=body)
    assert answer.status == 200
    assert len(answer.json["body"]) == len(body)


class Echo(grpc.GenericRpcHandler):
    """`/t/Unary` and `/t/Stream` answer with what they get."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        async def stream(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
            async for request in requests:
                yield request

        return grpc.stream_stream_rpc_method_handler(stream)


@pytest_asyncio.fixture
async def grpc_pair(mesh: TestMesh) -> AsyncIterator[Workload]:
    """A caller whose callee speaks gRPC."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    items = await mesh.start(
        "items",
        policy=allow(mesh.identity("invoices")),
        protocol=Protocol.GRPC,
        service_port=port,
    )
    yield await mesh.start("invoices", calls=[items])
    await server.stop(None)


async def converse(channel: grpc.aio.Channel) -> list[bytes]:
    """Three messages, each sent only after the answer to the one before."""
    call = channel.stream_stream("/t/Stream")()
    answers = []
    for message in (b"1", b"2", b"3"):
        await call.write(message)
        answers.append(await call.read())
    await call.done_writing()
    return answers


async def test_grpc_passes_by_proxy_and_by_socket(grpc_pair: Workload) -> None:
    proxy = f"http://{USER}:{SECRET}@{LOOPBACK}:{grpc_pair.plan.local.outbound_port}"
    options = [("grpc.http_proxy", proxy)]
    async with grpc.aio.insecure_channel("dns:///items.mesh:80", options=options) as channel:
        async with asyncio.timeout(10):
            assert await converse(channel) == [b"1", b"2", b"3"]
    options = [("grpc.default_authority", "items.mesh")]
    target = f"unix:{grpc_pair.plan.local.outbound_socket}"
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        async with asyncio.timeout(10):
            assert await converse(channel) == [b"1", b"2", b"3"]


async def test_refused_grpc_call_says_permission_denied(mesh: TestMesh) -> None:
    items = await mesh.start(
        "items", policy=allow(mesh.identity("users")), protocol=Protocol.GRPC, service_port=1
    )
    invoices = await mesh.start("invoices", calls=[items])
    options = [("grpc.default_authority", "items.mesh")]
    target = f"unix:{invoices.plan.local.outbound_socket}"
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        call = channel.unary_unary("/t/Unary")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call(b"x", timeout=10)
    assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "limen explain" in (refusal.value.details() or "")


async def test_caller_refuses_a_callee_with_another_identity(mesh: TestMesh) -> None:
    users = await mesh.start("users", policy=allow(mesh.identity("invoices")))
    invoices = await mesh.start("invoices", calls=[users])
    (edge,) = invoices.plan.edges
    await invoices.apply(edges=(replace(edge, principals=(mesh.identity("items"),)),))
    assert (await invoices.call("http://users.mesh/")).status == 503
    await invoices.apply(edges=(replace(edge, principals=()),))
    assert (await invoices.call("http://users.mesh/")).status == 503
    await invoices.apply(edges=(edge,))
    assert (await invoices.call("http://users.mesh/")).status == 200


async def test_dead_instance_is_invisible_to_callers(mesh: TestMesh) -> None:
    permission = allow(mesh.identity("invoices"))
    one = await mesh.start("items", instance="1", policy=permission)
    two = await mesh.start("items", instance="2", policy=permission)
    invoices = await mesh.start("invoices", calls=[one, two])
    statuses = [(await invoices.call("http://items.mesh/")).status for _ in range(20)]
    assert one.application is not None
    assert two.application is not None
    assert min(len(one.application.requests), len(two.application.requests)) > 0
    await two.envoy.kill()
    statuses += [
        (await invoices.call("http://items.mesh/", "POST", body=b"x")).status for _ in range(50)
    ]
    assert set(statuses) == {200}


async def test_instance_that_leaves_in_order_fails_no_request(mesh: TestMesh) -> None:
    """Its address is withdrawn, it drains, it ends; under load of a method that is never resent."""
    permission = allow(mesh.identity("invoices"))
    one = await mesh.start("items", instance="1", policy=permission)
    two = await mesh.start("items", instance="2", policy=permission)
    invoices = await mesh.start("invoices", calls=[one, two])
    load = Load(invoices, "POST")
    async with load:
        await load.reach(50)
        invoices.endpoints[one.name] = (Endpoint(LOOPBACK, one.port),)
        await invoices.apply()
        await two.envoy.admin("/drain_listeners?graceful", "POST")
        await load.reach(len(load.statuses) + 50)
        await two.envoy.kill()
        await load.reach(len(load.statuses) + 50)
    assert set(load.statuses) == {200}


async def test_instance_that_dies_fails_no_request_that_may_be_sent_again(mesh: TestMesh) -> None:
    permission = allow(mesh.identity("invoices"))
    one = await mesh.start("items", instance="1", policy=permission)
    two = await mesh.start("items", instance="2", policy=permission)
    invoices = await mesh.start("invoices", calls=[one, two])
    load = Load(invoices, "GET")
    async with load:
        await load.reach(50)
        await two.envoy.kill()
        await load.reach(len(load.statuses) + 100)
    assert set(load.statuses) == {200}


async def test_connections_end_at_their_age_without_a_failed_request(mesh: TestMesh) -> None:
    items = await mesh.start("items", policy=allow(mesh.identity("invoices")))
    invoices = await mesh.start("invoices", calls=[items])
    for workload in (items, invoices):
        await workload.apply(max_connection_age_s=1)
    load = Load(invoices, "POST")
    started = time.monotonic()
    async with load:
        while time.monotonic() - started < 3:
            await load.reach(len(load.statuses) + 10)
    assert set(load.statuses) == {200}


async def test_mesh_without_mutual_tls_still_decides(mesh: TestMesh) -> None:
    items = await mesh.start("items", policy=Policy(default_allow=True))
    invoices = await mesh.start("invoices", calls=[items])
    await items.apply(inbounds=(replace(items.plan.inbounds[0], mode=PortMode.DISABLE),))
    await invoices.apply(edges=(replace(invoices.plan.edges[0], mtls=False),))
    assert (await invoices.call("http://items.mesh/")).status == 200
    await items.apply_policy(allow(mesh.identity("invoices")))
    assert (await invoices.call("http://items.mesh/")).status == 403


class Load:
    """Four callers, one request after another."""

    def __init__(self, caller: Workload, method: str) -> None:
        self._caller, self._method = caller, method
        self._tasks: list[asyncio.Task[None]] = []
        self._more = asyncio.Condition()
        self.statuses: list[int] = []

    async def __aenter__(self) -> None:
        self._tasks = [asyncio.create_task(self._run()) for _ in range(4)]

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            answer = await self._caller.call("http://items.mesh/", self._method)
            self.statuses.append(answer.status)
            async with self._more:
                self._more.notify_all()

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(20), self._more:
            await self._more.wait_for(lambda: len(self.statuses) >= count)


async def test_callee_without_addresses_is_answered_at_once(mesh: TestMesh) -> None:
    items = await mesh.start("items", policy=allow(mesh.identity("invoices")))
    invoices = await mesh.start("invoices", calls=[items])
    invoices.endpoints[items.name] = ()
    await invoices.apply()

    async def answered_after_s() -> float:
        started = time.monotonic()
        assert (await invoices.call("http://items.mesh/")).status == 503
        return time.monotonic() - started

    await within(1, answered_after_s)
    invoices.endpoints[items.name] = (Endpoint(LOOPBACK, items.port),)
    await invoices.apply()
    assert (await invoices.call("http://items.mesh/")).status == 200


async def test_callee_that_was_added_and_removed(mesh: TestMesh) -> None:
    items = await mesh.start("items", policy=allow(mesh.identity("invoices")))
    invoices = await mesh.start("invoices", calls=[items])
    edges = invoices.plan.edges
    for _ in range(3):
        await invoices.apply(edges=())
        assert (await invoices.call("http://items.mesh/")).status == 403
        await invoices.apply(edges=edges)
        assert (await invoices.call("http://items.mesh/")).status == 200


async def test_health_probes_answer_without_identity_on_their_paths_only(mesh: TestMesh) -> None:
    def probes(port: int) -> ProbePlan:
        return ProbePlan(LOOPBACK, free_port(), (Probe("/live", port, "/healthz"),))

    items = await mesh.start("items", policy=allow(), probes=probes)
    assert items.plan.probes is not None
    connection = await Connection.open(items.plan.probes.port)
    answer = await connection.request("GET", "/live")
    assert (answer.status, answer.json["target"]) == (200, "/healthz")
    for method, target in (
        ("POST", "/live"),
        ("GET", "/live/x"),
        ("GET", "/healthz"),
        ("GET", "/"),
        ("GET", "/live/../info"),
        ("DELETE", "/live"),
    ):
        assert (await connection.request(method, target)).status == 404, (method, target)


async def test_envoy_that_restarts_gets_everything_again(mesh: TestMesh) -> None:
    items = await mesh.start("items", policy=allow(mesh.identity("invoices")))
    invoices = await mesh.start("invoices", calls=[items])
    await items.envoy.kill()
    await items.envoy.spawn()
    await items.apply(max_connection_age_s=60)
    assert (await invoices.call("http://items.mesh/")).status == 200


async def test_refusals_are_logged_with_peer_and_request(mesh: TestMesh) -> None:
    items = await mesh.start("items", policy=allow(mesh.identity("users")))
    invoices = await mesh.start("invoices", calls=[items])
    assert (await invoices.call('http://items.mesh/a"b%0a{?secret=1', "GET")).status in (400, 403)
    assert (await invoices.call("http://items.mesh/info?secret=1")).status == 403
    (line,) = await items.envoy.wait_logged("/info")
    assert line["peer"] == str(mesh.identity("invoices"))
    assert (line["status"], line["callee"], line["method"]) == (403, "default/items", "GET")
    assert "secret" not in str(line)
