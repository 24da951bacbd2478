"""What is seen of real traffic: AUDIT in the audit chain, plaintext counted, logs that outlive."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from tests.e2e.agent_harness import application
from tests.e2e.envoy_harness import Connection
from tests.e2e.mesh_harness import mesh
from tests.e2e.test_past_requests import explained, limen, send

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.mesh_harness import Mesh, Program

POLICIES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-get}
spec:
  selector: {matchLabels: {app: items}}
  rules: [{to: [{operation: {methods: [GET]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: watch-data}
spec:
  action: AUDIT
  selector: {matchLabels: {app: items}}
  rules: [{to: [{operation: {paths: [/none]}}]}, {to: [{operation: {paths: [/data*]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: on-trial, annotations: {istio.io/dry-run: "true"}}
spec:
  action: AUDIT
  selector: {matchLabels: {app: items}}
  rules: [{}]
"""
MODE = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: default}}
spec: {{mtls: {{mode: {mode}}}}}
"""
WITHIN_S = 40


async def rows(m: Mesh, client: Path, *what: str) -> list[dict[str, Any]]:
    status, out, err = await limen(m, client, "get", *what, "-o", "json")
    assert status == 0, err
    found: list[dict[str, Any]] = json.loads(out)
    return found


async def matches(m: Mesh, client: Path, count: int) -> list[dict[str, Any]]:
    """The newest `count` events of AUDIT rules, once they are there."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            found = [e for e in await rows(m, client, "audit") if e["verb"] == "match"]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.2)


async def plain_request(port: int, path: str) -> int:
    connection = await Connection.open(port)
    try:
        return (await connection.request("GET", path, {"user-agent": "old-client/1"})).status
    finally:
        connection.writer.transport.abort()


def guarded_port(m: Mesh, name: str) -> int:
    snapshot = m.server.control.mirror.snapshot
    (dataplane,) = (
        r.spec for r in snapshot.of_kind("kuma.io/Dataplane") if r.spec.name.workload.name == name
    )
    return int(dataplane.inbounds[0].port)


async def test_audited_requests_are_in_the_audit_chain_and_outlive_their_workload(
    tmp_path: Path,
) -> None:
    async with mesh(tmp_path, "web", "items") as m, application("items") as app:
        client = tmp_path / "data" / "client.json"
        items, web = await m.run("items", app.port), await m.run("web", app.port)
        applied = await m.server.apply(POLICIES, wait_s=10)
        assert applied.is_success, applied.text
        trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
        allowed = await send(web, "GET", "http://items.mesh/data?token=secret", trace)
        refused = await send(web, "POST", "http://items.mesh/data/x", {"x-request-id": "mine"})
        await send(web, "GET", "http://items.mesh/other")
        assert (allowed[0], refused[0]) == (200, 403)
        first, second = await matches(m, client, 2)
        assert (first["name"], first["actor"]) == (
            "watch-data",
            "spiffe://default.mesh.local/ns/default/sa/web",
        )
        detail = first["detail"]
        assert (detail["rule"], detail["path"], detail["decision"]) == (1, "/data", "allowed")
        assert detail["request_id"] == allowed[1]["x-request-id"]
        assert detail["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
        assert "secret" not in json.dumps([first, second])
        assert (second["detail"]["decision"], second["detail"]["request_id"]) == ("denied", "mine")
        status, out, _ = await limen(m, client, "get", "audit", "--verify")
        assert (status, "none changed" in out) == (0, True)
        # the last line before it ends is shipped after it has ended, and its log is still searched
        last = await send(web, "GET", "http://items.mesh/data/last")
        await items.stop()
        third = (await matches(m, client, 3))[2]
        assert third["detail"]["request_id"] == last[1]["x-request-id"]
        file = tmp_path / "policies.yaml"
        file.write_text(POLICIES)
        found = await explained(m, client, refused[1]["x-request-id"], ("-f", str(file)))
        assert found["then"]["allowed"] is False
        asked = ("explain", "--server", "--request-id", "none")
        status, _, err = await limen(m, client, *asked, "--runtime", str(m.box.paths.runtime))
        assert (status, "searched from 20" in err) == (4, True), err


async def test_who_still_sends_plaintext_is_shown_until_strict_is_safe(tmp_path: Path) -> None:
    async with mesh(tmp_path, "web", "items") as m, application("items") as app:
        client = tmp_path / "data" / "client.json"
        items = await m.run("items", app.port)
        web = await m.run("web", app.port)
        applied = await m.server.apply(POLICIES, MODE.format(mode="PERMISSIVE"), wait_s=10)
        assert applied.is_success, applied.text
        port = guarded_port(m, "items")
        await send(web, "GET", "http://items.mesh/")  # by mTLS: not counted
        row = await plaintext(m, client, items, lambda found: found["since_s"] is not None)
        assert (row["requests"], row["last"], row["sources"]) == (0, None, [])
        assert await plain_request(port, "/old") == 200
        assert await plain_request(port, "/old") == 200
        row = await plaintext(m, client, items, lambda found: found["requests"] == 2)
        (source,) = row["sources"]
        assert (source["address"], source["user_agent"]) == ("127.0.0.1", "old-client/1")
        assert items.instance in source["instances"]  # who is known at that address
        assert (row["port"], row["mode"], row["last"][:3]) == (port, "PERMISSIVE", "202")
        status, out, _ = await limen(m, client, "get", "plaintext")
        assert (status, "127.0.0.1" in out, "COUNTED SINCE" in out) == (0, True, True)
        # STRICT: nothing to watch any more
        applied = await m.server.apply(MODE.format(mode="STRICT"), wait_s=10)
        assert applied.is_success, applied.text
        assert await rows(m, client, "plaintext") == []


async def plaintext(
    m: Mesh, client: Path, program: Program, wanted: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The row of an instance, once it is as wanted."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            for row in await rows(m, client, "plaintext"):
                if row["instance"] == program.instance and wanted(row):
                    return row
            await asyncio.sleep(0.2)
