"""Why was I denied? From a request's id to its line, its rule, and what holds now."""

from __future__ import annotations

import asyncio
import json
import os
import re
from typing import TYPE_CHECKING, Any

from tests.e2e.agent_harness import LIMEN, application
from tests.e2e.envoy_harness import Connection
from tests.e2e.mesh_harness import mesh

from limen.adapters.runtime_dir import AgentPaths

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.mesh_harness import Mesh, Program

SETTINGS = """
apiVersion: limen.dev/v1
kind: MeshSettings
metadata: {name: default}
spec: {accessLog: All}
"""
ONLY_GET = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-get}
spec:
  selector: {matchLabels: {app: items}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/web]}}]
    to: [{operation: {methods: [GET]}}]
    when: [{key: "request.headers[x-team]", values: [blue]}]
"""


async def limen(m: Mesh, client: Path | None, *arguments: str) -> tuple[int, str, str]:
    config = () if client is None else ("--config", str(client))
    process = await asyncio.create_subprocess_exec(
        *(*LIMEN, *arguments, *config),
        env=dict(os.environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()
    return process.returncode or 0, out.decode(), err.decode()


async def explained(
    m: Mesh, client: Path, request_id: str, against: tuple[str, ...] = ("--server",)
) -> dict[str, Any]:
    """`limen explain --request-id`, once the line is written."""
    asked = ("explain", *against, "--request-id", request_id, "-o", "json")
    place = ("--runtime", str(m.box.paths.runtime))
    async with asyncio.timeout(20):
        while True:
            status, out, err = await limen(m, client, *asked, *place)
            if status == 0:
                found: dict[str, Any] = json.loads(out)
                return found
            assert "unknown-request" in err, err
            await asyncio.sleep(0.1)


async def send(
    program: Program, method: str, url: str, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str]]:
    """One request through the program's way out: status and headers of the answer."""
    way = program.way
    connection = await Connection.open(way.info["outbound_port"])
    given = {"proxy-authorization": way.authorization, **(headers or {})}
    try:
        async with asyncio.timeout(20):
            answer = await connection.request(method, url, given, host=url.split("/")[2])
    finally:
        connection.writer.transport.abort()
    return answer.status, answer.headers


def log_of(m: Mesh, program: Program) -> Path:
    paths = AgentPaths(m.box.paths.runtime, m.box.paths.state)
    return paths.workload(program.instance).envoy_log


async def test_a_refused_request_is_explained_by_its_id_then_and_now(tmp_path: Path) -> None:
    async with mesh(tmp_path, "web", "items") as m, application("items") as app:
        client = tmp_path / "data" / "client.json"
        items, web = await m.run("items", app.port), await m.run("web", app.port)
        # the caller's own edge: no service that it may call
        status, headers = await send(web, "GET", "http://items.mesh/")
        assert status == 403
        at_caller = await explained(m, client, headers["x-request-id"])
        assert at_caller["allowed"] is False
        assert at_caller["then"]["allowed"] is False
        assert at_caller["to"] == "default/items"
        # the callee's edge: its rule wants another method
        applied = await m.server.apply(SETTINGS, ONLY_GET, wait_s=10)
        assert applied.is_success, applied.text
        status, headers = await send(web, "POST", "http://items.mesh/x", {"x-team": "blue"})
        assert status == 403
        denied = await explained(m, client, headers["x-request-id"])
        assert (denied["then"]["status"], denied["then"]["allowed"]) == (403, False)
        assert denied["allowed"] is False
        (miss,) = denied["near_misses"]
        assert (miss["field"], miss["seen"]) == ("method", "POST")
        assert (miss["rule"]["name"], miss["rule"]["line"] > 0) == ("only-get", True)
        # allowed ones are logged because the mesh says so
        status, headers = await send(web, "GET", "http://items.mesh/x", {"x-team": "blue"})
        assert status == 200
        allowed = await explained(m, client, headers["x-request-id"])
        assert allowed["then"]["allowed"] is True
        assert "only-get" in allowed["then"]["rule"]
        # replay: what would change under other policies
        log = log_of(m, items)
        same = await replayed(m, log, tmp_path, ONLY_GET)
        assert (same[0], same[1]["changed"], same[1]["undecidable"]) == (0, 0, 0)
        assert same[1]["same"] == 2
        stricter = ONLY_GET.replace("blue", "red")
        status, found = await replayed(m, log, tmp_path, stricter)
        assert status == 1
        (row,) = found["requests"]
        assert (row["then"], row["now"], row["method"]) == ("allow", "deny", "GET")
        # among the server's documents: alone they are what holds now
        live = ("--server", "--config", str(client))
        assert (await replayed(m, log, tmp_path, "", *live))[1]["same"] == 2
        status, found = await replayed(m, log, tmp_path, stricter, *live)
        assert (status, found["changed"], found["undecidable"]) == (1, 1, 0)
        unknown = ONLY_GET.replace("x-team", "x-other")
        status, found = await replayed(m, log, tmp_path, unknown)
        assert (status, found["undecidable"]) == (1, 2)
        assert "x-other" in found["requests"][0]["why"]
        # an id that nobody has; text that would be a line of its own
        status, _, err = await limen(
            m, client, "explain", "--server", "--request-id", "nobody", "--runtime",
            str(m.box.paths.runtime),
        )  # fmt: skip
        assert status == 4
        assert "unknown-request" in err


async def test_log_injection_is_escaped(tmp_path: Path) -> None:
    """CVE-2024-45808: a value that a caller sends does not become a line of the log."""
    async with mesh(tmp_path, "web", "items") as m, application("items") as app:
        items, web = await m.run("items", app.port), await m.run("web", app.port)
        assert (await m.server.apply(ONLY_GET, SETTINGS, wait_s=10)).is_success
        forged = 'x", "status": "200", "edge": "inbound'
        await send(web, "POST", "http://items.mesh/" + "%0A%7B%22edge%22", {"x-team": forged})
        async with asyncio.timeout(20):
            while not (text := log_of(m, items).read_text()).count("x-team"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # written by Envoy, from outside
        lines = [json.loads(t) for t in text.splitlines() if t.startswith("{")]
        assert {line["status"] for line in lines if "status" in line} <= {403, "403"}
        assert any(line.get("header.x-team") == forged for line in lines)
        assert not re.search(r"^\{\"edge\"$", text, re.MULTILINE)


async def replayed(
    m: Mesh, log: Path, tmp_path: Path, policy: str, *more: str
) -> tuple[int, dict[str, Any]]:
    file = tmp_path / "candidate.yaml"
    file.write_text(policy)
    candidate = ("-f", str(file)) if policy else ()
    process = await asyncio.create_subprocess_exec(
        *(*LIMEN, "replay", "--log", str(log), *candidate, *more, "-o", "json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert out, err.decode()
    return process.returncode or 0, json.loads(out)
