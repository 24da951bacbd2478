"""A node's certificate: what ends with it, how often it is had, and who gets none any more."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.services.server_harness import FakeNode, Running, make_csr, permission, running

from limen.errors import Unavailable
from limen.services.server import authority
from limen.services.server.node import limits
from limen.services.server.node.limits import CallLimits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from limen.adapters.store import AuditEntry, Write

LIFE_S = 3


async def renew(node: FakeNode, server: Running) -> FakeNode:
    """The same node on a channel of its new certificate."""
    key_pem, csr_pem = make_csr()
    answer = await node.call("Renew", {"csr_pem": csr_pem})
    credentials = grpc.ssl_channel_credentials(
        answer["control_bundle_pem"].encode(), key_pem.encode(), answer["certificate_pem"].encode()
    )
    channel = grpc.aio.secure_channel(server.control.node_address, credentials)
    return FakeNode(node.node_id, key_pem, answer["certificate_pem"], channel)


async def test_a_stream_ends_with_the_certificate_that_opened_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority, "NODE_LIFETIME_S", LIFE_S)
    async with running(tmp_path) as server:
        start = time.monotonic()
        node = await server.join("items")
        await node.register("items")
        old = await node.open("default/items/1")
        await old.until(lambda: old.has("inbound:9080"))
        monkeypatch.undo()
        renewed = await renew(node, server)
        assert await old.ended() is grpc.StatusCode.UNAUTHENTICATED
        assert time.monotonic() - start < LIFE_S + 1
        assert old.error is not None
        assert "certificate-expired" in str(old.error.details())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.register("items")
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        proxy = await renewed.open("default/items/1")
        await proxy.until(lambda: proxy.has("inbound:9080"))
        answer = await server.apply(permission("users", "items"), wait_s=5)
        assert answer.json()["wait"]["missing"] == []
        await node.close()
        await renewed.close()


async def test_a_node_that_asks_too_often_is_told_to_wait_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(limits.LIMITS, "Sign", (0.001, 2))
    monkeypatch.setitem(limits.LIMITS, "Renew", (0.001, 1))
    async with running(tmp_path) as server:
        greedy, other = await server.join("items"), await server.join("users")
        await greedy.register("items")
        await other.register("users")
        sign = {"instance": "default/items/1", "csr_pem": make_csr()[1]}
        for _ in range(2):
            await greedy.call("Sign", sign)
        await greedy.call("Renew", {"csr_pem": make_csr()[1]})
        for method, message in (("Sign", sign), ("Renew", {"csr_pem": make_csr()[1]})):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await greedy.call(method, message)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "too-many-requests" in str(caught.value.details())
        await other.call("Sign", {"instance": "default/users/1", "csr_pem": make_csr()[1]})
        await greedy.close()
        await other.close()


def test_the_limit_lets_through_again_with_time() -> None:
    class Node:
        node_id = "n"

    now_s = 1000.0
    calls = CallLimits(lambda: now_s)
    per_s, burst = limits.LIMITS["Sign"]
    for _ in range(burst):
        calls.take("Sign", Node())  # type: ignore[arg-type] # only its name counts
    with pytest.raises(Unavailable):
        calls.take("Sign", Node())  # type: ignore[arg-type] # as above
    now_s += 1.5 / per_s
    calls.take("Sign", Node())  # type: ignore[arg-type] # as above
    with pytest.raises(Unavailable):
        calls.take("Sign", Node())  # type: ignore[arg-type] # as above


@pytest.mark.parametrize("end", ["revoke_node", "delete_node"])
async def test_a_node_that_is_revoked_while_its_request_is_signed_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items")
        commits = server.control.authority.commits
        commit, known = commits.commit, await issued(server)

        async def too_late(writes: Sequence[Write], audit: Sequence[AuditEntry]) -> int:
            monkeypatch.undo()
            await getattr(server.control.joining, end)(node.node_id, "admin")
            return await commit(writes, audit)

        monkeypatch.setattr(commits, "commit", too_late)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.call("Sign", {"instance": "default/items/1", "csr_pem": make_csr()[1]})
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "node-revoked" in str(caught.value.details())
        assert await issued(server) == known
        await node.close()


async def test_a_node_that_renews_meanwhile_gets_its_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items")
        commits = server.control.authority.commits
        commit = commits.commit

        async def renewed_first(writes: Sequence[Write], audit: Sequence[AuditEntry]) -> int:
            monkeypatch.undo()
            await server.control.joining.renew(node.node_id, make_csr()[1])
            return await commit(writes, audit)

        monkeypatch.setattr(commits, "commit", renewed_first)
        sign = {"instance": "default/items/1", "csr_pem": make_csr()[1]}
        assert "BEGIN CERTIFICATE" in (await node.call("Sign", sign))["certificate_pem"]
        await asyncio.gather(*(node.call("Sign", sign) for _ in range(20)))
        await node.close()


async def issued(server: Running) -> int:
    """How many certificates the authority has recorded."""
    records, _ = await server.control.store.list("limen.dev/Certificate")
    return len(records)
