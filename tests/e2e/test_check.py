"""`limen check` against a real installation: well, and broken in each way that it looks for."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.e2e.agent_harness import LIMEN, application
from tests.e2e.mesh_harness import mesh

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from tests.e2e.mesh_harness import Mesh

EXPECTED = {
    "agent and Envoy",
    "server",
    "certificates",
    "outage budget",
    "clocks",
    "socket modes",
    "versions",
    "proxies",
    "isolation",
    "store epoch",
    "runtime directory",
    "audit chain",
    "mutual TLS",
    "token issuers",
    "given certificates",
    "audit events",
}


async def check(m: Mesh, client: Path | None, *more: str) -> tuple[int, str]:
    """Exit code and output."""
    environment = {k: v for k, v in os.environ.items() if k != "LIMEN_CONFIG"}
    config = () if client is None else ("--config", str(client))
    process = await asyncio.create_subprocess_exec(
        *(*LIMEN, "check", *m.box.places, *config, *more),
        env=environment | {"XDG_CONFIG_HOME": str(m.box.root), "HOME": str(m.box.root)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()
    return process.returncode or 0, out.decode()


async def findings(m: Mesh, client: Path | None) -> tuple[int, dict[str, dict[str, Any]]]:
    status, out = await check(m, client, "-o", "json")
    found = {f["check"]: f for f in json.loads(out)}
    assert set(found) == EXPECTED
    for finding in found.values():
        assert finding["found"]
        assert bool(finding["hint"]) or finding["level"] == "ok"
    return status, found


async def test_a_good_installation_passes_and_says_what_it_found(tmp_path: Path) -> None:
    async with mesh(tmp_path, "web") as m, application("web") as app:
        web = await m.run("web", app.port)
        await m.box.until(web.instance, lambda w: w["ready"] and w["server_connected"])
        client = tmp_path / "data" / "client.json"
        status, found = await findings(m, client)
        levels = {name: finding["level"] for name, finding in found.items()}
        assert status == 0
        assert {n for n, level in levels.items() if level != "ok"} <= {"isolation"}
        assert "unbroken" in found["audit chain"]["found"]
        events = int(found["audit chain"]["found"].split()[1])
        assert events == (await m.server.api.get("/v1/audit/verify")).json()["events"]
        assert "1 connected" in found["proxies"]["found"]
        status, table = await check(m, client)
        assert status == 0
        assert "audit chain" in table
        assert m.server.client["token"] not in table
        # without the operator's file the server's part is a warning, not a failure
        status, found = await findings(m, None)
        assert status == 0
        assert found["audit chain"]["level"] == "warn"
        assert found["server"]["level"] == "warn"


async def test_each_fault_is_found_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mesh(tmp_path, "web") as m:
        async with application("web") as app:
            web = await m.run("web", app.port)
            await m.box.until(web.instance, lambda w: w["ready"])
        client = tmp_path / "data" / "client.json"
        await m.box.until(web.instance, lambda w: not w["application_listening"])
        m.box.paths.node.chmod(0o644)
        store = m.server.control.store
        whole = store.audit

        async def forged(after: int, limit: int) -> Any:
            events = list(await whole(after, limit))
            if events:
                events[0] = replace(events[0], entry=replace(events[0].entry, actor="mallory"))
            return events

        monkeypatch.setattr(store, "audit", forged)
        status, found = await findings(m, client)
        assert status == 1
        assert found["proxies"]["level"] == "warn"
        assert "does not listen" in found["proxies"]["found"]
        assert (found["socket modes"]["level"], found["audit chain"]["level"]) == ("fail", "fail")
        assert "node.json" in found["socket modes"]["found"]
        assert "chmod" in found["socket modes"]["hint"]
        assert "tampered" in found["audit chain"]["found"]
        await m.box.kill()
        status, found = await findings(m, client)
        assert status == 1
        assert found["agent and Envoy"]["level"] == "fail"
        assert "limen agent run" in found["agent and Envoy"]["hint"]
        assert found["certificates"]["level"] == "warn"
        assert "not checked" in found["certificates"]["found"]


async def test_an_agent_without_its_server_is_a_failure_with_the_time_that_is_left(
    tmp_path: Path,
) -> None:
    async with mesh(tmp_path, "web") as m, application("web") as app:
        web = await m.run("web", app.port)
        (known,) = (await m.server.api.get("/v1/nodes")).json()["items"]
        node = known.get("node_id") or known["id"]
        assert (await m.server.api.delete(f"/v1/nodes/{node}")).is_success
        await m.box.until(web.instance, lambda w: not w["server_connected"], 20)
        status, found = await findings(m, tmp_path / "data" / "client.json")
        assert status == 1
        assert found["server"]["level"] == "fail"
        assert web.instance in found["server"]["found"]
        assert "traffic goes on" in found["server"]["hint"]
