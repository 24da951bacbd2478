"""The decision point as a role of the server: same answers, always current, behind mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import httpx
from tests.e2e.agent_harness import LIMEN, host
from tests.e2e.test_decisions import WARD, apply, document, rego, xacml
from tests.services.server_harness import permission, running
from tests.services.test_pdp_hosted import Beside, Published

from limen.adapters.runtime_dir import write_atomic
from limen.core.dialects import read_resources
from limen.core.envoy.policies import content_of, policy_set
from limen.core.plan.node import HeldPolicy
from limen.sdk.pdp import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.services.server_harness import Running

SHOP = "spiffe://default.mesh.local/ns/default/sa/shop"
CORPUS = [
    (caller, path)
    for caller in (SHOP, "spiffe://default.mesh.local/ns/default/sa/other", "")
    for path in ("/one", "/two", "/", "/one/", "//one", "/one%2F", "/ONE")
]
RECORDS = "/XacmlPolicy/default/records"
EVALUATION = f"{RECORDS}/access/v1/evaluation"


async def role(server: Running, name: str = "pdp-1") -> dict[str, str]:
    made = await server.api.post("/v1/roles", json={"name": name, "role": "pdp"})
    assert made.is_success, made.text
    found: dict[str, str] = made.json()
    return found


@contextlib.asynccontextmanager
async def serving(root: Path, credential: dict[str, str]) -> AsyncIterator[tuple[str, Any]]:
    """`limen pdp serve --server`: its address, when callers may come, and the process."""
    file = root / "role.json"
    write_atomic(file, json.dumps(credential).encode())
    process = await asyncio.create_subprocess_exec(
        *(*LIMEN, "pdp", "serve", "--server", str(file), "--listen", "127.0.0.1:0"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(40):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("ready "), line
        yield line.split()[1], process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def parts(caller: str, path: str) -> dict[str, Any]:
    return {
        "subject": {"type": "workload", "id": caller},
        "action": {"name": "GET"},
        "resource": {"type": "path", "id": path},
    }


def held(text: str) -> HeldPolicy:
    (resource,), _, _ = read_resources(text.encode())
    key, spec = resource.key, resource.spec
    return HeldPolicy(key.kind, key.namespace, key.name, spec)  # type: ignore[arg-type]


async def test_one_corpus_has_the_same_answers_in_all_three_places(tmp_path: Path) -> None:
    text = xacml("/one")
    policy = held(text)
    file = tmp_path / "records.xml"
    file.write_text(policy.policy.texts[0].text)
    inside = load([file])
    in_application = [inside.decide(**parts(*case)).permitted for case in CORPUS]

    beside = Beside(tmp_path / "w")
    set_ = content_of(policy_set((policy,)).body)
    try:
        assert await beside.point.take(Published("s", set_, b"", "")) == ""
        at_proxy = [
            (await beside.ask_at(f"{RECORDS}{path}", f"x-limen-caller: {caller or '-'}\r\n"))[0]
            == 200
            for caller, path in CORPUS
        ]
    finally:
        await beside.point.close(keep=False)

    async with running(tmp_path / "server") as server:
        await apply(server, text)
        async with (
            serving(tmp_path, await role(server)) as (address, _),
            httpx.AsyncClient(base_url=address, trust_env=False, timeout=30) as client,
        ):
            replies = [await client.post(EVALUATION, json=parts(*case)) for case in CORPUS]
            apart = [reply.json()["decision"] for reply in replies]
            assert {r.headers["x-limen-policy"] for r in replies} == {f"{RECORDS[1:]}@1"}
    assert in_application == at_proxy == apart
    assert sum(in_application) == 1


async def test_a_publish_reaches_it_and_waits_for_it(tmp_path: Path) -> None:
    async with running(tmp_path / "server") as server:
        await apply(server, xacml("/one"), rego("/one"))
        asked = "/v1/policies/xacmlpolicy/records/subscribers"
        credential = await role(server)
        (missing,) = (await server.api.get(asked)).json()["missing"]
        assert missing["instance"] == "pdp:pdp-1"
        async with (
            serving(tmp_path, credential) as (address, process),
            httpx.AsyncClient(base_url=address, trust_env=False, timeout=30) as client,
        ):

            async def permits(path: str) -> bool:
                reply = await client.post(EVALUATION, json=parts(SHOP, path))
                return reply.json()["decision"] is True

            async def status() -> int:
                return (await client.post(EVALUATION, json=parts(SHOP, "/two"))).status_code

            assert await permits("/one")
            await apply(server, xacml("/two"))
            found = (await server.api.get(asked, params={"wait_s": 30})).json()
            assert (found["enforced"], found["missing"]) == (1, [])
            assert not await permits("/one")
            assert await permits("/two")
            assert (
                await client.post("/XacmlPolicy/default/x/access/v1/evaluation")
            ).status_code == 404
            deleted = await server.api.delete("/v1/resources/xacmlpolicies/records")
            assert deleted.is_success
            async with asyncio.timeout(20):
                while (await status()) != 404:  # noqa: ASYNC110 - only a request can tell
                    await asyncio.sleep(0.02)
            await apply(server, xacml("/two"))
            process.kill()
            await process.wait()
        found = (await server.api.get(asked)).json()
        assert found["total"] == 1


async def test_it_is_a_workload_of_the_mesh_and_its_callers_are_known(tmp_path: Path) -> None:
    async with running(tmp_path / "server") as server:
        await apply(server, rego("/one"))
        async with (
            serving(tmp_path, await role(server)) as (address, _),
            host(await server.token("pdp", "shop", "other")) as box,
        ):
            await box.start()
            port = int(address.rpartition(":")[2])
            await box.add("pdp", port)
            shop, other = await box.add("shop", port), await box.add("other", port)
            await apply(server, permission("shop", "pdp"))
            url = "http://pdp.mesh/RegoPolicy/default/records/envoy"
            assert (await shop.get(f"{url}/one"))[0] == 200
            assert (await shop.get(f"{url}/two"))[0] == 403
            status, body = await other.get(f"{url}/one")
            assert status == 403
            assert b"limen explain" in body  # the mesh refuses, nobody is asked
            await apply(server, permission("*", "pdp", "all"))
            assert (await other.get(f"{url}/one"))[0] == 403  # known as another, and refused


ROSTER = """
apiVersion: limen.dev/v1
kind: AttributeSource
metadata: {name: roster}
spec:
  file: {path: roster.csv, where: {who: who}}
  parameters: [{name: who, category: subject, attribute: id}]
  attributes: [{category: subject, attribute: ward, field: ward}]
  cache: 0s
---
"""


async def test_a_role_asks_the_sources_of_a_policys_namespace(tmp_path: Path) -> None:
    text = document("RegoPolicy", ("modules", "rego", "records.rego"), WARD, "Refuse")
    folder = tmp_path / "sources" / "default"
    folder.mkdir(parents=True)
    (folder / "roster.csv").write_text(f"who,ward\n{SHOP},west\n")
    door = "/RegoPolicy/default/records/access/v1/evaluation"
    async with running(tmp_path / "server") as server:
        await apply(server, text, ROSTER)
        async with (
            serving(tmp_path, await role(server)) as (address, _),
            httpx.AsyncClient(base_url=address, trust_env=False, timeout=30) as client,
        ):

            async def decision() -> bool:
                reply = await client.post(door, json=parts(SHOP, "/one"))
                return bool(reply.json()["decision"])

            assert await decision()
            (folder / "roster.csv").write_text(f"who,ward\n{SHOP},east\n")
            assert not await decision()
            await apply(server, ROSTER.replace("roster.csv", "other.csv"))
            (folder / "other.csv").write_text(f"who,ward\n{SHOP},west\n")
            async with asyncio.timeout(20):
                while not await decision():  # noqa: ASYNC110 - only a request can tell
                    await asyncio.sleep(0.02)
