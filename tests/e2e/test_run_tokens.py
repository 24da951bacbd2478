"""Several tokens on one host: whoever comes first starts the agent, the others widen its node."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.e2e.agent_harness import Host, application, host
from tests.e2e.mesh_harness import Mesh
from tests.services.server_harness import running

if TYPE_CHECKING:
    from pathlib import Path


async def test_runs_with_a_token_each_may_start_at_once_and_later(tmp_path: Path) -> None:
    async with running(tmp_path) as server, host("") as box, application("shop") as app:
        m = Mesh(server, box)
        try:
            tokens = [await server.token(name) for name in ("items", "shop", "late")]
            items, shop = await asyncio.gather(
                m.run("items", app.port, token=tokens[0]),
                m.run("shop", app.port, token=tokens[1]),
            )
            late = await m.run("late", app.port, token=tokens[2])
            assert [
                p.environment["LIMEN_SPIFFE_ID"].rpartition("/")[2] for p in (items, shop, late)
            ] == [
                "items",
                "shop",
                "late",
            ]
            assert len((await server.api.get("/v1/nodes")).json()["items"]) == 1
            used = await refused(m, box, "more", app.port, tokens[2])
            assert "join-refused" in used
            none = await refused(m, box, "more", app.port, "")
            assert "not-entitled" in none
        finally:
            for program in m.programs:
                await program.stop()


async def test_a_token_of_another_server_is_refused_and_stays_good(tmp_path: Path) -> None:
    async with (
        running(tmp_path / "one") as one,
        running(tmp_path / "two") as two,
        host("") as box,
        application("shop") as app,
    ):
        m = Mesh(one, box)
        try:
            await m.run("items", app.port, token=await one.token("items"))
            foreign = await two.token("shop")
            assert "pin-mismatch" in await refused(m, box, "shop", app.port, foreign)
            (token,) = (await two.api.get("/v1/tokens")).json()["items"]
            assert token["state"] == "open", token
        finally:
            for program in m.programs:
                await program.stop()


async def refused(m: Mesh, box: Host, service: str, port: int, token: str) -> str:
    try:
        await m.run(service, port, box=box, token=token)
    except AssertionError as error:
        return str(error)
    raise AssertionError("it ran")
