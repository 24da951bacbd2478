"""The node's own identity while it runs: renewed at half life, new roots, what is refused."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, Any

from tests.e2e.agent_fake_server import FakeServer
from tests.e2e.agent_harness import Load, application, host
from tests.e2e.mesh_harness import mesh

from limen.core.pki.profile import Profile
from limen.services.agent.identity import certificate_times
from limen.services.server import authority

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from tests.e2e.agent_harness import Host

LIFETIME_S = 8


def node_of(box: Host) -> dict[str, Any]:
    return dict(json.loads(box.paths.node.read_bytes()))


async def until_renewed(box: Host, old: str, timeout_s: float) -> str:
    async with asyncio.timeout(timeout_s):
        while (new := str(node_of(box)["certificate_pem"])) == old:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.05)
    return new


async def test_a_node_renews_itself_under_load_and_streams_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority, "NODE_LIFETIME_S", LIFETIME_S)
    async with mesh(tmp_path, "web", "items") as m, application("items") as app:
        first = str(node_of(m.box)["certificate_pem"])
        await m.run("items", app.port)
        web = await m.run("web", app.port)
        await m.allow(("web", "items"))
        load = Load(web.way, "http://items.mesh/")
        load.start(2)
        await load.more(100)
        second = await until_renewed(m.box, first, LIFETIME_S)
        third = await until_renewed(m.box, second, LIFETIME_S)
        starts = [certificate_times(pem)[0] for pem in (first, second, third)]
        for earlier, later in itertools.pairwise(starts):
            assert 0.3 * LIFETIME_S < later - earlier < 0.8 * LIFETIME_S
        # the first certificate has expired by now: what follows goes by a renewed one
        await asyncio.sleep(max(0.0, LIFETIME_S - 3))
        await m.server.apply(
            "type: TrafficPermission\nmesh: default\nname: none\n"
            "sources: [{match: {kuma.io/service: web}}]\n"
            "destinations: [{match: {kuma.io/service: nothing}}]\n"
        )
        await m.box.until(web.instance, lambda w: w["server_connected"])
        await load.more(100)
        assert load.failures == []
        await load.stop()
        deleted = await m.server.api.delete("/v1/resources/TrafficPermission/web-to-items")
        assert deleted.is_success, deleted.text
        async with asyncio.timeout(5):
            while (await web.way.get("http://items.mesh/"))[0] != 403:  # noqa: ASYNC110 - Envoy
                await asyncio.sleep(0.02)


class Rotating(FakeServer):
    """Its nodes live for seconds; a second control root is announced at renewal."""

    def __init__(self) -> None:
        super().__init__()
        self.next = type(self.control)(Profile.CONTROL_ROOT, Profile.CONTROL_INTERMEDIATE)
        self.bundle = ""
        self.node_lifetime_s = LIFETIME_S

    async def _renew(self, message: dict[str, Any], context: Any) -> dict[str, Any]:
        return {**await super()._renew(message, context), "control_bundle_pem": self.bundle}


async def test_a_new_control_root_is_taken_over_from_a_renewal_and_a_broken_one_is_not() -> None:
    async with Rotating() as server, host(server.token()) as box, application("items") as app:
        await box.start()
        way = await box.add("items", app.port, instance="one")
        before = node_of(box)
        server.bundle = "-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n"
        async with asyncio.timeout(LIFETIME_S):
            while "was not renewed" not in box.log.read_text():  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.05)
        assert node_of(box) == before
        server.bundle = server.control.bundle_pem + server.next.bundle_pem
        await until_renewed(box, before["certificate_pem"], LIFETIME_S)
        assert node_of(box)["control_bundle_pem"] == server.bundle
        # the old root has gone: the server's certificate is now of the new one
        server.control, server.node_roots = server.next, server.bundle
        await server.stop()
        await server.start()
        await box.until("default/items/one", lambda w: w["server_connected"])
        assert (await way.get("http://items.mesh/"))[0] == 200
