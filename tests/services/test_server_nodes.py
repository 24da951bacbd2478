"""Nodes: limits, reports, silence, and the end of one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import grpc
import pytest
from tests.services.server_harness import make_csr, running

from limen.core.model.resource import DATAPLANE

ROOT = Path(__file__).parents[2]
CLIENT = """
import asyncio, json, sys, grpc
from tests.services.server_harness import FakeProxy
async def main():
    o = json.loads(sys.argv[1])
    pems = [o[k].encode() for k in ("ca", "key", "cert")]
    credentials = grpc.ssl_channel_credentials(*pems)
    proxy = FakeProxy(grpc.aio.secure_channel(o["address"], credentials), o["name"])
    await proxy.start()
    await proxy.until(lambda: proxy.has("inbound:9080"))
    print("open", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_status_is_shown_and_bounded(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items")
        await node.call("Status", {
            "versions": {"agent": "0.1"},
            "instances": [{
                "instance": "default/items/1", "ready": True, "envoy_version": "1.40.0",
                "isolation": "Uid", "outage_budget_s": 43200,
            }],
        })  # fmt: skip
        (shown,) = (await server.api.get("/v1/proxies")).json()["items"]
        assert (shown["ready"], shown["isolation"], shown["outage_budget_s"]) == (
            True,
            "Uid",
            43200,
        )
        assert (shown["connected"], shown["state"]) == (False, "not connected")
        for bad in ({}, {"instances": {}}, {"instances": [1]}, {"instances": [{}] * 2000}):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await node.call("Status", bad)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await node.close()


async def test_a_registered_instance_that_never_came_is_missing(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items")
        answer = (await server.api.get("/v1/wait", params={"revision": 1, "timeout": 1})).json()
        assert [m["why"] for m in answer["missing"]] == ["not connected"]
        await node.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"address": "0.0.0.0"},  # noqa: S104 - refused
        {"address": "evil.example"},
        {"inbounds": []},
        {"inbounds": [{"port": 0, "service_port": 1, "protocol": "http"}]},
        {"inbounds": [{"port": 1, "service_port": 1, "protocol": "tcp"}]},
        {"inbounds": [{"port": 1, "service_port": 1, "protocol": "http"}] * 2},
        {"instance": "../x"},
        {"instance": "caf\u00e9"},
        {"local": {"outbound_socket": "relative"}},
        {"local": {"outbound_port": 99999}},
        {"isolation": "Total"},
        {"probe_port": 9000, "probes": [{"path": "x", "inbound_port": 1, "inbound_path": "/"}]},
    ],
    ids=str,
)
async def test_malformed_registrations_are_refused(tmp_path: Path, fields: dict) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.register("items", **fields)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert not server.control.mirror.snapshot.resources
        await node.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"mesh": "other"},
        {"tags": {"kuma.io/service": "users"}},
        {"labels": {"app": "users"}},
        {"service_account": "users"},
        {"spiffe_id": "spiffe://default.mesh.local/ns/default/sa/users"},
        {"inbounds": [{"port": 1, "service_port": 1, "protocol": "http", "tags": {"a": "b"}}]},
    ],
    ids=str,
)
async def test_node_that_claims_an_identity_is_refused(tmp_path: Path, fields: dict) -> None:
    """Kuma 2026-18677: labels chosen by the client became its identity."""
    async with running(tmp_path) as server:
        node = await server.join("items")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.register("items", **fields)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "identity-claimed" in str(caught.value.details())
        assert not server.control.mirror.snapshot.resources
        await node.close()


async def test_what_a_node_says_beside_the_place_is_not_stored(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        inbound = {"port": 1, "service_port": 1, "protocol": "http", "junk": "x"}
        await node.register("items", inbounds=[inbound], junk="x" * 100_000, mesh="default")
        (record,) = [r for r in server.control.mirror.records() if r.key.kind == DATAPLANE]
        assert "junk" not in json.dumps(record.body)
        await node.close()


async def test_a_node_has_room_for_so_many_instances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limen.services.server.node.service.MAX_INSTANCES", 2)
    async with running(tmp_path) as server:
        node = await server.join("items")
        for instance in ("1", "2", "1"):
            await node.register("items", instance)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.register("items", "3")
        assert "too-many-instances" in str(caught.value.details())
        await node.close()


async def test_signature_takes_no_longer_than_the_mesh_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = (
        "type: Mesh\nname: default\nmtls:\n  enabledBackend: ca\n  backends:\n"
        "  - {name: ca, type: builtin, dpCert: {requestTimeout: 100ms}}\n"
    )
    async with running(tmp_path) as server:
        assert (await server.apply(mesh)).status_code == 200
        node = await server.join("items")
        assert (await node.register("items"))["request_timeout_s"] == 0.1

        async def never(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(server.control.authority, "issue_workload", never)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.call("Sign", {"instance": "default/items/1", "csr_pem": make_csr()[0]})
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "sign-timeout" in str(caught.value.details())
        await node.close()


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"a":1,"a":2}', b'{"a":NaN}', b"[" * 90_000])
async def test_messages_that_are_not_json_objects_are_refused(tmp_path: Path, data: bytes) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        call = node.channel.unary_unary("/limen.node.v1.Node/Register")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(data, timeout=5)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await node.close()


async def test_a_message_above_the_cap_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        call = node.channel.unary_unary("/limen.node.v1.Node/Register")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"x" * 5_000_000, timeout=5)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await node.close()


async def test_isolation_that_a_mesh_demands_is_demanded(tmp_path: Path) -> None:
    settings = (
        "apiVersion: limen.dev/v1\nkind: MeshSettings\nmetadata: {name: default}\n"
        "spec: {minIsolation: Uid}\n"
    )
    async with running(tmp_path) as server:
        answer = await server.apply(settings)
        assert answer.status_code == 200, answer.text
        node = await server.join("items")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.register("items", isolation="None")
        assert "isolation-too-weak" in str(caught.value.details())
        await node.register("items", isolation="Uid")
        await node.close()


async def test_a_deleted_node_takes_its_instances_with_it(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items")
        assert (await server.api.get("/v1/services")).json()["items"]
        await server.api.delete(f"/v1/nodes/{node.node_id}")
        assert not (await server.api.get("/v1/services")).json()["items"]
        assert not (await server.api.get("/v1/proxies")).json()["items"]
        assert (await server.api.delete(f"/v1/nodes/{node.node_id}")).status_code == 404
        await node.close()


async def test_a_renewed_node_certificate_goes_on_working(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        renewed = await node.call("Renew", {"csr_pem": make_csr()[1]})
        assert renewed["certificate_pem"].count("BEGIN CERTIFICATE") == 2
        await node.register("items")
        await node.close()


async def test_a_silent_peer_is_noticed_within_seconds(tmp_path: Path) -> None:
    """Its kernel still answers; the process does not."""
    async with running(tmp_path, quiet_s=2.0) as server:
        node = await server.join("items")
        await node.register("items")
        orders = {
            "ca": server.client["ca_pem"],
            "address": server.control.node_address,
            "name": "default/items/1",
            "key": node.key_pem,
            "cert": node.certificate_pem,
        }
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, json.dumps(orders),
            cwd=ROOT, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert child.stdout is not None
            assert (await child.stdout.readline()).strip() == b"open"
            proxy = next(iter(server.control.proxies))
            assert proxy.connected
            os.kill(child.pid, signal.SIGSTOP)
            async with asyncio.timeout(6):
                while proxy.connected:
                    await server.control.proxies.next_change()
        finally:
            os.kill(child.pid, signal.SIGKILL)
            await child.wait()
        await node.close()


async def test_a_token_that_would_live_too_long_is_refused_in_words(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        for ttl_s in (0, -1, 7 * 86400 + 1, 10**30):
            body = {"services": ["items"], "ttl_s": ttl_s}
            answer = await server.api.post("/v1/tokens", json=body)
            assert answer.status_code == 400, answer.text
            assert answer.json()["code"] == "invalid-ttl"
            assert "7 days" in answer.json()["hint"]
