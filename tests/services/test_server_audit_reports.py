"""AUDIT: what nodes report of requests becomes part of the audit chain, once, and only theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.services.server_harness import running

from limen.adapters.store_memory import MemoryStore
from limen.core.model.resource import DATAPLANE
from limen.services.server.node.auditing import AUDIT_POSITION, prune_positions

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services.server_harness import FakeNode, Running

RULE = "000000 3-audit/AuthorizationPolicy/default/watch/00002"


def event(position: int, **more: Any) -> dict[str, Any]:
    return {
        "position": position,
        "rule": RULE,
        "time": "2026-12-01T00:00:00.000Z",
        "caller": "spiffe://default.mesh.local/ns/default/sa/web",
        "user": "https://issuer/ann",
        "method": "POST",
        "path": "/data",
        "decision": "allowed",
        "request_id": "id-1",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "status": 200,
        "port": 9080,
        **more,
    }


async def report(node: FakeNode, *events: dict[str, Any], **more: Any) -> dict[str, Any]:
    message = {"instance": "default/items/1", "log": "ab12", "events": list(events), "dropped": 0}
    return await node.call("Audit", {**message, **more})


async def matches(server: Running, verb: str = "match") -> list[dict[str, Any]]:
    items = (await server.api.get("/v1/audit")).json()["items"]
    return [item for item in items if item["verb"] == verb]


async def refusal(node: FakeNode, *events: Any, **more: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await report(node, *events, **more)
    return caught.value


async def test_a_match_is_in_the_chain_with_who_what_and_why(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items")
        await report(node, event(10))
        (found,) = await matches(server)
        assert (found["actor"], found["kind"], found["namespace"], found["name"]) == (
            "spiffe://default.mesh.local/ns/default/sa/web",
            "security.istio.io/AuthorizationPolicy",
            "default",
            "watch",
        )
        detail = found["detail"]
        assert (detail["rule"], detail["user"], detail["path"]) == (
            2,
            "https://issuer/ann",
            "/data",
        )
        assert (detail["request_id"], detail["trace_id"], detail["decision"]) == (
            "id-1",
            "4bf92f3577b34da6a3ce929d0e0e4736",
            "allowed",
        )
        assert (detail["node"], found["mesh"]) == (node.node_id, "default")
        assert (await server.api.get("/v1/audit/verify")).json()["events"] >= 1
        await node.close()


async def test_each_event_is_taken_once_whatever_its_request_id(tmp_path: Path) -> None:
    """A caller that sends one id with all its requests hides none of them."""
    store = MemoryStore()
    async with running(tmp_path, store) as server:
        node = await server.join("items")
        await node.register("items")
        assert (await report(node, event(10), event(20)))["position"] == 20
        assert (await report(node, event(10), event(20), event(30)))["position"] == 30
        assert len(await matches(server)) == 3
        await report(node, event(10), log="cd34")  # another log of that name
        assert len(await matches(server)) == 4
        await node.close()


async def test_a_node_reports_only_of_what_it_runs(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        owner, other, stranger = (
            await server.join("items"), await server.join("items"), await server.join("web")
        )  # fmt: skip
        await owner.register("items")
        for node in (other, stranger):
            error = await refusal(node, event(1))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "not-your-instance" in str(error.details())
        assert await matches(server) == []
        # its last lines come after it has ended; nobody else may run it, but for its node
        await owner.call("Deregister", {"instance": "default/items/1"})
        assert list(server.control.mirror.snapshot.of_kind(DATAPLANE)) == []
        await report(owner, event(1))
        assert len(await matches(server)) == 1
        error = await refusal(stranger, event(2))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        for node in (owner, other, stranger):
            await node.close()


@pytest.mark.parametrize(
    "bad",
    [
        {"log": "../x"},
        {"log": None},
        {"events": {}},
        {"events": [1]},
        {"events": [event(1, rule="[none]")]},
        {"events": [event(1, rule="000000 0-deny/TrafficPermission/default/x/00000")]},
        {"events": [event(n) for n in range(501)]},
    ],
    ids=str,
)
async def test_malformed_reports_are_refused_whole(tmp_path: Path, bad: dict[str, Any]) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items")
        error = await refusal(node, **{"events": [event(5)], **bad})
        assert "invalid-audit-event" in str(error.details())
        assert await matches(server) == []
        await node.close()


async def test_what_callers_send_cannot_pass_for_an_operator_or_break_the_chain(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items")
        odd = event(1, caller="admin", path="/\x1b[2J\ud800\u202e", host="x" * 5000)
        await report(node, odd, event(2, caller=None))
        first, second = await matches(server)
        assert (first["actor"], second["actor"]) == ("peer:admin", "anonymous")
        assert first["detail"]["path"] == "/\\x1b[2J\\ud800\\u202e"
        assert len(first["detail"]["host"]) == 1024
        assert (await server.api.get("/v1/audit/verify")).status_code == 200
        await node.close()


async def test_events_that_an_agent_had_to_drop_are_told_once(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items")
        for dropped in (3, 3, 5):
            await report(node, dropped=dropped)
        assert [x["detail"]["events"] for x in await matches(server, "lost")] == [3, 2]
        await node.close()


async def test_reports_are_limited_by_rate(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items")
        for _ in range(400):
            try:
                await report(node)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - one of many
                assert "too-many-requests" in str(error.details())  # noqa: PT017 - as above
                break
        else:
            raise AssertionError("no limit")
        await node.close()


async def test_positions_of_logs_that_are_no_more_are_forgotten(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items")
        await report(node, event(10))
        assert await prune_positions(server.control) == 0
        assert await prune_positions(server.control, keep_s=-1.0) == 1
        assert (await server.control.store.list(AUDIT_POSITION))[0] == []
        await node.close()
