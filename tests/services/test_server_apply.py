"""Apply, delete and what they refuse; who enforces what, and who does not."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from tests.services.server_harness import anonymous, permission, running

from limen.adapters.store_memory import MemoryStore
from limen.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path


MESH = (
    "type: Mesh\nname: {}\nmtls:\n  enabledBackend: ca\n  backends: [{{name: ca, type: builtin}}]\n"
)
DATAPLANE = """
type: Dataplane
mesh: default
name: {name}
networking:
  address: 10.0.0.1
  inbound: [{{port: 8080, tags: {{kuma.io/service: {service}, version: v1}}}}]
"""


def codes(answer: object) -> set[str]:
    return {d["code"] for d in answer.json()["diagnostics"]}  # type: ignore[attr-defined]


async def test_apply_says_created_configured_unchanged(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        first = (await server.apply(permission("a", "b", "p"))).json()
        again = (await server.apply(permission("a", "b", "p"))).json()
        other = (await server.apply(permission("a", "c", "p"))).json()
        assert [x["results"][0]["result"] for x in (first, again, other)] == [
            "created",
            "unchanged",
            "configured",
        ]
        assert again["revision"] == first["revision"] < other["revision"]
        shown = (await server.api.get("/v1/resources/TrafficPermission/p")).json()
        assert (shown["file"], shown["line"]) == ("f0.yaml", 2)
        yaml = await server.api.get(
            "/v1/resources/trafficpermissions/p", headers={"accept": "application/yaml"}
        )
        assert "kuma.io/service: c" in yaml.text


async def test_one_bad_document_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        before = (await server.api.get("/v1/status")).json()["revision"]
        answer = await server.apply(
            permission("a", "b"),
            "type: TrafficPermission\nname: x\nsorces: []\n",
            "kind: [",
        )
        assert answer.status_code == 400
        assert len(answer.json()["diagnostics"]) >= 2
        assert {d["file"] for d in answer.json()["diagnostics"]} == {"f1.yaml", "f2.yaml"}
        assert (await server.api.get("/v1/status")).json()["revision"] == before


@pytest.mark.parametrize(
    "document",
    [
        "apiVersion: limen.dev/v1\nkind: Cutover\nmetadata: {name: items}\nspec: {revision: 9}\n",
        "apiVersion: limen.dev/v1\nkind: Credential\nmetadata: {name: admin}\nspec: {}\n",
        "apiVersion: limen.dev/v1\nkind: Node\nmetadata: {name: n}\nspec: {}\n",
        "apiVersion: limen.dev/v1\nkind: JoinToken\nmetadata: {name: n}\nspec: {}\n",
        "apiVersion: limen.dev/v1\nkind: Authority\nmetadata: {name: n}\nspec: {}\n",
        "type: TrafficPermission\nmesh: default\nname: caf\u00e9\nsources: []\ndestinations: []\n",
        permission("a", "b").replace("mesh: default", "mesh: nowhere"),
        "[" * 50_000,
        "a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n",
    ],
    ids=lambda d: d[:40],
)
async def test_documents_that_are_refused(tmp_path: Path, document: str) -> None:
    async with running(tmp_path) as server:
        answer = await server.apply(document)
        assert answer.status_code == 400
        assert answer.json()["diagnostics"]
        assert (await server.api.get("/v1/resources")).json()["items"] == []


async def test_a_ten_megabyte_body_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        answer = await server.apply("# " + "x" * 10_000_000)
        assert answer.status_code == 413
        assert (await server.api.get("/healthz")).status_code == 200


async def test_internal_kinds_cannot_be_read_or_deleted_by_path(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        for kind in ("Cutover", "Credential", "Authority", "Node", "JoinToken", "limen.dev/Node"):
            path = f"/v1/resources/{kind.replace('/', '%2F')}"
            assert (await server.api.get(path)).status_code == 404
            assert (await server.api.delete(path + "/x")).status_code == 404


async def test_dry_run_shows_the_change_per_proxy_and_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items", "users")
        await node.register("items")
        await node.register("users")
        before = (await server.api.get("/v1/status")).json()["revision"]
        answer = (await server.apply(permission("users", "items"), dry_run=True)).json()
        changes = {a["instance"]: a for a in answer["affected"]}
        assert "Cluster out:default/items" in changes["default/users/1"]["added"]
        assert "TypedExtensionConfig permission.allow:9080" in changes["default/items/1"]["changed"]
        assert (await server.api.get("/v1/status")).json()["revision"] == before
        await node.close()


async def test_a_dataplane_does_not_become_another_services(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        assert (await server.apply(DATAPLANE.format(name="d1", service="a"))).status_code == 200
        assert (await server.apply(DATAPLANE.format(name="d1", service="b"))).status_code == 400


async def test_an_operators_dataplane_keeps_its_tags_when_a_node_registers(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        await server.apply(DATAPLANE.format(name="d1", service="items"))
        node = await server.join("items", "users")
        await node.register("items", "d1")
        shown = (await server.api.get("/v1/resources/dataplane/d1")).json()
        assert shown["registration"]["node"] == node.node_id
        (resource,) = server.control.mirror.snapshot.of_kind("kuma.io/Dataplane")
        assert dict(resource.spec.inbounds[0].tags)["version"] == "v1"
        assert resource.spec.address == "127.0.0.1"
        await node.register("users", "d1")
        names = [r.key.name for r in server.control.mirror.snapshot.of_kind("kuma.io/Dataplane")]
        assert names == ["d1", "users.d1"]
        await node.close()


async def test_a_trust_domain_does_not_change_once_there_is_an_authority(tmp_path: Path) -> None:
    settings = (
        "apiVersion: limen.dev/v1\nkind: MeshSettings\nmetadata: {{name: default}}\n"
        "spec: {{trustDomain: {}}}\n"
    )
    async with running(tmp_path) as server:
        assert (await server.apply(settings.format("one.example"))).status_code == 200
        assert (await server.apply(settings.format("two.example"))).status_code == 200
        node = await server.join("items")
        registered = await node.register("items")
        assert registered["trust_domain"] == "two.example"
        answer = await server.apply(settings.format("three.example"))
        assert (answer.status_code, answer.json()["code"]) == (409, "trust-domain-fixed")
        await node.close()


async def test_a_mesh_in_use_is_not_deleted(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        await server.apply(
            MESH.format("other"), permission("a", "b", "p").replace("mesh: default", "mesh: other")
        )
        answer = await server.api.delete("/v1/resources/Mesh/other")
        assert (answer.status_code, answer.json()["code"]) == (409, "mesh-in-use")
        gone = await server.api.delete("/v1/resources/TrafficPermission/p?mesh=other")
        assert gone.status_code == 200
        assert (await server.api.delete("/v1/resources/Mesh/other")).status_code == 200
        assert (await server.api.delete("/v1/resources/Mesh/other")).status_code == 404


async def test_a_mesh_without_mtls_is_said_wherever_one_looks(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        assert (await server.api.get("/v1/status")).json()["meshes_without_mtls"] == []
        answer = await server.apply('type: Mesh\nname: plain\nmtls: {enabledBackend: ""}\n')
        assert codes(answer) == {"mtls-off"}
        assert (await server.api.get("/v1/status")).json()["meshes_without_mtls"] == ["plain"]


async def test_mesh_default_is_there_without_a_document(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        answer = await server.api.get("/v1/resources/mesh/default")
        assert answer.status_code == 404
        assert "is there all the same" in answer.json()["hint"]


async def test_audit_comes_in_pages_to_its_end(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        await server.apply(permission("a", "b", "p"))
        after, seen = 0, []
        while after is not None:
            page = (await server.api.get("/v1/audit", params={"after": after, "limit": 2})).json()
            seen += [event["seq"] for event in page["items"]]
            after = page["next"]
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) > 4


async def test_delete_with_an_old_revision_is_a_conflict(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        first = (await server.apply(permission("a", "b", "p"))).json()["revision"]
        await server.apply(permission("a", "c", "p"))
        path = f"/v1/resources/TrafficPermission/p?revision={first}"
        assert (await server.api.delete(path)).status_code == 409


async def test_a_withdrawn_right_cuts_over_in_the_same_commit(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items", "users")
        await node.register("items")
        await node.register("users")
        items = await node.open("default/items/1")
        await server.apply(permission("users", "items", "p"), wait_s=5)
        listener = items.resources[LISTENERS]["inbound:9080"]
        start = time.monotonic()
        await server.api.delete("/v1/resources/TrafficPermission/p")
        await items.until(lambda: items.resources[LISTENERS]["inbound:9080"] != listener)
        assert time.monotonic() - start < 2
        await node.close()


LISTENERS = "type.googleapis.com/envoy.config.listener.v3.Listener"


async def test_a_refusal_is_recorded_shown_and_named_by_wait(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items", "users")
        await node.register("items")
        await node.register("users")
        good = await node.open("default/items/1")
        bad = await node.open("default/users/1", refuse="out:default/items")
        await good.until(lambda: good.has("inbound:9080"))
        answer = (await server.apply(permission("users", "items"), wait_s=5)).json()
        (missing,) = answer["wait"]["missing"]
        assert missing["instance"] == "default/users/1"
        assert "out:default/items" in missing["why"]
        assert answer["wait"]["enforced"] == 1
        proxies = (await server.api.get("/v1/proxies")).json()["items"]
        shown = next(p for p in proxies if p["instance"] == "default/users/1")
        assert shown["refusals"][0]["name"] == "out:default/items"
        assert shown["refusals"][0]["message"] == "no out:default/items"
        assert bad.has("inbound:9080")
        assert b"limen_nacks_total 0" not in (await server.api.get("/metrics")).content
        await node.close()


async def test_a_client_that_never_answers_is_named_and_costs_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items", "users")
        await node.register("items")
        await node.register("users")
        await node.open("default/items/1")
        silent = await node.open("default/users/1", silent=True)
        await silent.until(lambda: bool(silent.resources))
        answer = (await server.apply(permission("users", "items"), wait_s=0.5)).json()
        assert [m["instance"] for m in answer["wait"]["missing"]] == ["default/users/1"]
        assert answer["wait"]["missing"][0]["why"] == "has not confirmed yet"
        for i in range(20):
            await server.apply(permission("users", "items", f"p{i}"))
        (stream,) = [s for s in server.control.loop.streams() if "users" in str(s.instance)]
        assert len(stream._outbox) <= 6  # type: ignore[attr-defined] # one of a type at most
        await node.close()


async def test_a_flood_of_changes_is_absorbed(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items", "users")
        await node.register("items")
        items = await node.open("default/items/1")
        await items.until(lambda: items.has("inbound:9080"))
        flood = [server.apply(permission("users", "items", f"p{i}")) for i in range(200)]
        sending = asyncio.gather(*flood)
        slowest = 0.0
        other = anonymous(server.client, server.client["token"])
        while not sending.done():
            start = time.monotonic()
            assert (await other.get("/v1/status")).status_code == 200
            slowest = max(slowest, time.monotonic() - start)
            await asyncio.wait({sending}, timeout=0.05)
        assert {a.status_code for a in sending.result()} == {200}
        await other.aclose()
        assert slowest < 2
        last = (
            await server.api.get(
                "/v1/wait",
                params={
                    "revision": server.control.mirror.snapshot.revision,
                    "timeout": 10,
                },
            )
        ).json()
        assert last["missing"] == []
        await node.close()


async def test_two_writers_of_one_resource_do_not_overwrite_blindly(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        answers = await asyncio.gather(
            *(server.apply(permission("a", f"b{i}", "p")) for i in range(8))
        )
        assert {a.status_code for a in answers} <= {200, 409}
        shown = (await server.api.get("/v1/resources/TrafficPermission/p")).json()
        assert shown["revision"] == max(
            a.json()["revision"] for a in answers if a.status_code == 200
        )


async def test_a_full_disk_is_a_503_and_discovery_goes_on(tmp_path: Path) -> None:
    store = MemoryStore()
    async with running(tmp_path, store) as server:
        node = await server.join("items")
        await node.register("items")
        commit = store.commit

        async def full(*_: object) -> int:
            raise Unavailable("the disk is full", code="disk-full", hint="make room")

        store.commit = full  # type: ignore[method-assign] # the disk is full from here
        answer = await server.apply(permission("a", "b"))
        assert (answer.status_code, answer.json()["hint"]) == (503, "make room")
        stream = await node.open("default/items/1")
        await stream.until(lambda: stream.has("inbound:9080"))
        store.commit = commit  # type: ignore[method-assign] # there is room again
        assert (await server.apply(permission("a", "b"))).status_code == 200
        await node.close()


async def test_explain_answers_as_offline(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items", "users")
        await node.register("items")
        await node.register("users")
        body = {"from": "users", "to": "items", "headers": [["x-a", "1"]]}
        denied = (await server.api.post("/v1/explain", json=body)).json()
        assert denied["allowed"] is False
        await server.apply(permission("users", "items", "p"))
        allowed = (await server.api.post("/v1/explain", json=body)).json()
        assert (allowed["allowed"], allowed["rule"]["name"]) == (True, "p")
        assert allowed["rule"]["file"] == "f0.yaml"
        missing = await server.api.post("/v1/explain", json={"from": "users", "to": "nobody"})
        assert missing.status_code == 404
        await node.close()


async def test_audit_names_every_write_and_verifies(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        await server.apply(permission("a", "b", "p"))
        await server.api.delete("/v1/resources/TrafficPermission/p")
        await server.token("items")
        events = (await server.api.get("/v1/audit")).json()["items"]
        written = [(e["actor"], e["verb"], e["name"]) for e in events]
        assert ("admin", "create", "p") in written
        assert ("admin", "delete", "p") in written
        assert any(e["kind"] == "limen.dev/JoinToken" for e in events)
        head = (await server.api.get("/v1/audit/verify")).json()
        assert head == {"events": len(events), "head": events[-1]["hash"]}


async def test_malformed_requests_are_told_apart(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        for body in ({}, {"files": []}, {"files": "x"}, {"files": [], "extra": 1}):
            answer = await server.api.post("/v1/apply", json=body)
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")
        answer = await server.api.post("/v1/apply", content=b"{")
        assert answer.status_code == 400
        assert (await server.api.get("/v1/nothing")).json()["code"] == "not-found"
        assert (await server.api.put("/v1/apply", json={})).status_code == 405
