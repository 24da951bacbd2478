"""From a token to a proxy that enforces a permission, on real sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.services.server_harness import permission, running

if TYPE_CHECKING:
    from pathlib import Path


async def test_permission_reaches_both_proxies_and_wait_names_them(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items", "users")
        await node.register("items", "1")
        await node.register(
            "users", "1", inbounds=[{"port": 9081, "service_port": 8081, "protocol": "http"}]
        )
        items = await node.open("default/items/1")
        users = await node.open("default/users/1")
        await items.until(lambda: items.has("inbound:9080"))
        await users.until(lambda: users.has("inbound:9081"))
        assert not users.has("out:default/items")
        answer = (await server.apply(permission("users", "items"), wait_s=5)).json()
        assert answer["results"][0]["result"] == "created", answer
        assert answer["wait"] == {
            "revision": answer["revision"],
            "enforced": 2,
            "total": 2,
            "missing": [],
        }
        assert users.has("out:default/items")
        assert {a["instance"] for a in answer["affected"]} == {"default/items/1", "default/users/1"}
        await node.close()
