"""Nobody gets in without a credential: every route, every RPC shape, from loopback too."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from tests.services.server_harness import (
    ADS,
    NODE_SERVICE,
    anonymous,
    join,
    make_csr,
    permission,
    running,
)

from limen.services.server.api.app import build_app
from limen.services.server.api.guard import OPEN
from limen.services.server.node.rpc import GuardedService, Method

if TYPE_CHECKING:
    from pathlib import Path

ROUTES = [
    (method.upper(), path)
    for path, methods in build_app(None).openapi()["paths"].items()
    for method in methods
]
HIDDEN = [("GET", "/v1/openapi.json"), ("GET", "/docs"), ("GET", "/debug"), ("GET", "/nothing")]


async def test_every_route_refuses_an_anonymous_caller(tmp_path: Path) -> None:
    assert len(ROUTES) > 15
    async with running(tmp_path) as server, anonymous(server.client) as http:
        for method, path in [*ROUTES, *HIDDEN]:
            if (method, path) in OPEN:
                continue
            answer = await http.request(method, path.replace("{", "").replace("}", ""))
            assert answer.status_code == 401, (method, path)
            assert answer.json()["code"] == "unauthenticated"


@pytest.mark.parametrize(
    "header",
    ["Bearer wrong", "Bearer", "Basic YWRtaW46YWRtaW4=", "bearer limen-admin-", "limen-admin-x"],
)
async def test_wrong_credentials_are_refused(tmp_path: Path, header: str) -> None:
    async with running(tmp_path) as server, anonymous(server.client) as http:
        answer = await http.get("/v1/status", headers={"authorization": header})
        assert answer.status_code == 401


async def test_two_authorization_headers_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as server, anonymous(server.client) as http:
        good = f"Bearer {server.client['token']}"
        answer = await http.get(
            "/v1/status", headers=[("authorization", good), ("authorization", "Bearer x")]
        )
        assert answer.status_code == 401


async def test_loopback_host_and_origin_make_nobody_an_admin(tmp_path: Path) -> None:
    """localhost is admin, CORS `.*` (Kuma 2026-45021)."""
    async with running(tmp_path) as server, anonymous(server.client) as http:
        for host in ("localhost", "127.0.0.1", "evil.example"):
            headers = {"host": host, "origin": "https://evil.example", "x-forwarded-for": "::1"}
            assert (await http.get("/v1/status", headers=headers)).status_code == 401
        answer = await server.api.get("/v1/status", headers={"origin": "https://evil.example"})
        assert answer.status_code == 200
        assert not [h for h in answer.headers if h.startswith("access-control")]
        preflight = await http.options("/v1/apply", headers={"origin": "https://evil.example"})
        assert preflight.status_code == 401


async def test_websocket_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as server, anonymous(server.client) as http:
        upgrade = {"connection": "upgrade", "upgrade": "websocket"}
        assert (await http.get("/v1/watch", headers=upgrade)).status_code == 401


async def test_plain_http_and_foreign_authority_do_not_connect(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        plain = server.client["server"].replace("https", "http")
        async with httpx.AsyncClient(trust_env=False) as http:
            with pytest.raises(httpx.TransportError):
                await http.get(plain + "/healthz")
            with pytest.raises(httpx.ConnectError):
                await http.get(server.client["server"] + "/healthz")


async def test_health_is_open_and_says_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as server, anonymous(server.client) as http:
        for path in ("/healthz", "/readyz"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_openapi_is_served_to_operators_and_is_valid(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        document = (await server.api.get("/v1/openapi.json")).json()
        assert document["openapi"].startswith("3.")
        names = set(document["components"]["schemas"])
        for reference in _references(document):
            assert reference.removeprefix("#/components/schemas/") in names
        ids = [o["operationId"] for methods in document["paths"].values() for o in methods.values()]
        assert len(ids) == len(set(ids))


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [r for v in value.values() for r in _references(v)]
    return [r for v in value for r in _references(v)] if isinstance(value, list) else []


async def test_every_rpc_refuses_a_caller_without_a_certificate(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        credentials = grpc.ssl_channel_credentials(server.client["ca_pem"].encode())
        channel = grpc.aio.secure_channel(server.control.node_address, credentials)
        for method in ("Renew", "Register", "Deregister", "Sign", "Status"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(NODE_SERVICE + method)(b"{}", timeout=5)
            assert caught.value.code() in REFUSED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in channel.stream_stream(ADS)(iter([b""]), timeout=5):
                pass
        assert caught.value.code() in REFUSED
        await channel.close()


REFUSED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED}


async def test_every_rpc_refuses_a_node_that_was_deleted(tmp_path: Path) -> None:
    """One RPC shape without authentication (Istio 2026-31838): unary and streaming alike."""
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items")
        stream = await node.open("default/items/1")
        await stream.until(lambda: stream.has("inbound:9080"))
        gone = await server.api.delete(f"/v1/nodes/{node.node_id}")
        assert gone.status_code == 200
        assert await stream.ended() is grpc.StatusCode.PERMISSION_DENIED
        for method in ("Renew", "Register", "Deregister", "Sign", "Status"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await node.call(method, {})
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED, method
        again = await node.open("default/items/1")
        assert await again.ended() is grpc.StatusCode.PERMISSION_DENIED
        await node.close()


async def test_other_services_and_shapes_do_not_exist(tmp_path: Path) -> None:
    """State-of-the-world beside delta, reflection, health: nothing else is served."""
    async with running(tmp_path) as server:
        node = await server.join("items")
        for path in (
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ):
            call = node.channel.stream_stream(path)()
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
        await node.close()


def test_a_method_without_behaviour_cannot_be_registered() -> None:
    with pytest.raises(AssertionError):
        GuardedService((Method("/x"),), None)  # type: ignore[arg-type] # never called


async def test_a_node_cannot_use_another_nodes_instance(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        owner, other = await server.join("items"), await server.join("items")
        await owner.register("items", "1")
        for method, message in (
            ("Sign", {"instance": "default/items/1", "csr_pem": make_csr()[1]}),
            ("Status", {"instances": [{"instance": "default/items/1"}]}),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await other.call(method, message)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        stream = await other.open("default/items/1")
        assert await stream.ended() is grpc.StatusCode.PERMISSION_DENIED
        await owner.call("Sign", {"instance": "default/items/1", "csr_pem": make_csr()[1]})
        live = await owner.open("default/items/1")
        await live.until(lambda: live.has("inbound:9080"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await other.register("items", "1")
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        await other.call("Deregister", {"instance": "default/items/1"})
        assert server.control.mirror.snapshot.resources
        await owner.close()
        await other.close()


async def test_a_node_runs_only_what_its_token_named(tmp_path: Path) -> None:
    """Labels chosen by the client become its identity (Kuma 2026-18677)."""
    async with running(tmp_path) as server:
        node = await server.join("items")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.register("users")
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.register("items", namespace="other")
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.register("items", tags={"kuma.io/service": "users"}, service_account="admin")
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        await node.register("items")
        answer = (await server.api.get("/v1/services")).json()
        assert [s["identities"] for s in answer["items"]] == [
            ["spiffe://default.mesh.local/ns/default/sa/items"]
        ]
        await node.close()


async def test_names_in_the_certificate_are_the_servers(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        registered = await node.register("items")
        identity = registered["spiffe_id"]
        foreign = "spiffe://default.mesh.local/ns/default/sa/users"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.call(
                "Sign", {"instance": "default/items/1", "csr_pem": make_csr(foreign)[1]}
            )
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        signed = await node.call(
            "Sign", {"instance": "default/items/1", "csr_pem": make_csr(identity)[1]}
        )
        assert signed["certificate_pem"].count("BEGIN CERTIFICATE") == 2
        await node.close()


async def test_a_join_token_works_once(tmp_path: Path) -> None:
    async with running(tmp_path) as server, anonymous(server.client) as http:
        token = await server.token("items")
        body = {"token": token, "csr_pem": make_csr()[1]}
        answers = await asyncio.gather(*(http.post("/v1/join", json=body) for _ in range(4)))
        assert sorted(a.status_code for a in answers) == [200, 401, 401, 401]


async def test_joining_is_limited_before_anything_is_computed(tmp_path: Path) -> None:
    async with running(tmp_path) as server, anonymous(server.client) as http:
        body = {"token": "limen1.x", "csr_pem": "x"}
        answers = await asyncio.gather(*(http.post("/v1/join", json=body) for _ in range(150)))
        assert {a.status_code for a in answers} == {400, 429}


async def test_secrets_are_not_in_what_is_shown(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        text = await server.token("items")
        node = await join(server, text)
        for path in ("/v1/tokens", "/v1/nodes", "/v1/audit", "/v1/certificates", "/v1/resources"):
            shown = (await server.api.get(path)).text
            assert text not in shown
            assert server.client["token"] not in shown
            assert "secret_hash" not in shown
            assert "PRIVATE KEY" not in shown
        await node.close()


async def test_watch_does_not_show_the_servers_own_records(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        await server.token("items")
        await server.apply(permission("users", "items"))
        async with server.api.stream("GET", "/v1/watch", params={"after": 0}) as answer:
            kinds = set()
            async for line in answer.aiter_lines():
                kinds |= {c["kind"] for c in json.loads(line)["changes"]} if line else set()
                if "kuma.io/TrafficPermission" in kinds:
                    break
        assert kinds == {"kuma.io/TrafficPermission"}
