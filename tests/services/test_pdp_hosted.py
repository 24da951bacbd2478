"""The decision point beside a proxy, as the process that an agent starts."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from limen.adapters.pdp_process import (
    PdpProcess,
    end_left_over,
    end_process,
    left_over,
    start_pdp,
)
from limen.adapters.runtime_dir import WorkloadPaths
from limen.core.model.attribute_source import (
    AttributeName,
    AttributeSource,
    FileOrigin,
    GivenAttribute,
    SourceParameter,
)
from limen.core.model.source_json import source_to_json
from limen.errors import Unavailable
from limen.services.agent.deciding import DecisionPoint
from limen.services.agent.published import NONE, Published

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ALLOW = "package envoy.authz\ndefault allow := true\n"
DENY = "package envoy.authz\ndefault allow := false\n"
READER = """package envoy.authz
default allow := false
claims := input.attributes.metadataContext.filterMetadata["envoy.filters.http.jwt_authn"].payload
allow if {
  claims.role == "doctor"
  input.attributes.source.principal == "spiffe://m/ns/default/sa/shop"
}
"""
XACML = """<Policy xmlns="urn:oasis:names:tc:xacml:3.0:core:schema:wd-17" PolicyId="p" Version="1"
 RuleCombiningAlgId="urn:oasis:names:tc:xacml:3.0:rule-combining-algorithm:deny-unless-permit">
 <Target/><Rule RuleId="r" Effect="Permit"><Condition>
 <Apply FunctionId="urn:oasis:names:tc:xacml:1.0:function:string-is-in">
 <AttributeValue DataType="http://www.w3.org/2001/XMLSchema#string">doctor</AttributeValue>
 <AttributeDesignator DataType="http://www.w3.org/2001/XMLSchema#string" MustBePresent="true"
  Category="urn:oasis:names:tc:xacml:1.0:subject-category:access-subject"
  AttributeId="urn:limen:claim:role"/></Apply></Condition></Rule></Policy>"""
SHOP = "x-limen-caller: spiffe://m/ns/default/sa/shop\r\n"
DOCTOR = 'x-limen-claims: {"role":"doctor","nested":{"a":1}}\r\n'
PATH = "/RegoPolicy/default/p"


def policy(text: str = ALLOW, epoch: int = 1, **more: Any) -> dict[str, Any]:
    language = "xacml" if text.startswith("<") else "rego"
    return {
        "path": "/XacmlPolicy/default/p" if language == "xacml" else PATH,
        "language": language,
        "epoch": epoch,
        "on_stale": "Refuse",
        "root": "",
        "texts": [{"name": "p", "text": text}],
        "data": [],
        **more,
    }


def offer(*policies: dict[str, Any], store: str = "s") -> Published:
    return Published(store, json.dumps({"policies": list(policies)}).encode(), b"", "")


class Beside:
    """A decision point and a caller of its socket."""

    def __init__(self, root: Path) -> None:
        self.paths = WorkloadPaths(root, root / "accepted")
        self.paths.private.mkdir(parents=True, exist_ok=True)
        self.age = 0.0
        self.point = DecisionPoint("w", self.paths, NONE, lambda: self.age)

    async def start(self) -> PdpProcess:
        paths = self.paths
        return await start_pdp(paths.pdp_socket, paths.pdp_log, paths.pdp_record, paths.sources)

    async def ask(self, path: str = PATH, headers: str = "") -> tuple[int, str]:
        """Status, and the whole answer."""
        return await self.ask_at(f"{path}/one?a=b", headers)

    async def ask_at(self, target: str, headers: str) -> tuple[int, str]:
        """As `ask`, at a path of its own."""
        reader, writer = await asyncio.open_unix_connection(str(self.paths.pdp_socket))
        head = f"GET {target} HTTP/1.1\r\nhost: items.mesh\r\nconnection: close\r\n"
        writer.write(f"{head}{headers}\r\n".encode())
        text = (await reader.read()).decode()
        writer.close()
        return int(text.split()[1]), text


@contextlib.asynccontextmanager
async def beside(root: Path) -> AsyncIterator[Beside]:
    made = Beside(root)
    try:
        yield made
    finally:
        await made.point.close(keep=False)


async def test_nothing_is_decided_before_the_first_whole_set(tmp_path: Path) -> None:
    async with beside(tmp_path) as b:
        bad = await b.point.take(offer(policy(), policy("<broken>")))
        assert "the policy cannot be loaded" in bad
        assert not b.paths.pdp_socket.exists()
        assert await b.point.take(offer(policy(epoch=7))) == ""
        status, text = await b.ask()
        assert status == 200
        assert "x-limen-policy: RegoPolicy/default/p@7\r\n" in text
        assert (await b.ask("/RegoPolicy/default/other"))[0] == 403


WARD = """package envoy.authz
default allow := false
allow if "west" in input.sources.subject.ward
"""
ROSTER = AttributeSource(
    "default",
    "roster",
    FileOrigin("roster.csv", "csv", (("caller", "who"),)),
    (SourceParameter("who", AttributeName("subject", "id")),),
    (GivenAttribute(AttributeName("subject", "ward"), "ward"),),
    cache_s=0,
)


async def test_attributes_of_sources_are_asked_for_by_files_of_the_namespace(
    tmp_path: Path,
) -> None:
    async with beside(tmp_path) as b:
        folder = b.paths.sources / "default"
        folder.mkdir(parents=True)
        (folder / "roster.csv").write_text("caller,ward\nspiffe://m/ns/default/sa/shop,west\n")
        sources = [source_to_json(ROSTER)]
        assert await b.point.take(offer(policy(WARD, sources=sources))) == ""
        assert (await b.ask(headers=SHOP))[0] == 200
        assert (await b.ask())[0] == 403
        (folder / "roster.csv").unlink()
        status, text = await b.ask(headers=SHOP)
        assert status == 403
        assert "source default/roster: its file cannot be read" in text
        outside = replace(ROSTER, origin=replace(ROSTER.origin, path="../other/roster.csv"))
        again = [source_to_json(outside)]
        assert await b.point.take(offer(policy(WARD, epoch=2, sources=again))) == ""
        assert "outside of the directory" in (await b.ask(headers=SHOP))[1]


async def test_sources_that_do_not_fit_together_refuse_the_set(tmp_path: Path) -> None:
    async with beside(tmp_path) as b:
        sources = [source_to_json(ROSTER), source_to_json(replace(ROSTER, name="other"))]
        refusal = await b.point.take(offer(policy(WARD, sources=sources)))
        assert "both give ward" in refusal


async def test_a_set_that_cannot_be_taken_leaves_the_one_before(tmp_path: Path) -> None:
    async with beside(tmp_path) as b:
        assert await b.point.take(offer(policy(DENY, epoch=3))) == ""
        assert await b.point.take(offer(policy("package x\nallow if {", 4)))
        older = await b.point.take(offer(policy(ALLOW, epoch=2)))
        assert "has epoch 2, here it is 3 already" in older
        assert (await b.ask())[0] == 403
        assert await b.point.take(offer(policy(ALLOW, epoch=4))) == ""
        assert (await b.ask())[0] == 200
        assert await b.point.take(offer(policy(DENY, epoch=1), store="another")) == ""
        assert (await b.ask())[0] == 403
        assert await b.point.take(NONE) == ""
        assert not b.paths.pdp_socket.exists()


@pytest.mark.parametrize("text", [READER, XACML], ids=["rego", "xacml"])
async def test_caller_and_claims_come_from_the_proxy_alone(tmp_path: Path, text: str) -> None:
    path = policy(text)["path"]
    async with beside(tmp_path) as b:
        assert await b.point.take(offer(policy(text))) == ""
        assert (await b.ask(path, SHOP + DOCTOR))[0] == 200
        assert (await b.ask(path, SHOP + "x-limen-claims: -\r\n"))[0] == 403
        assert (await b.ask(path, SHOP + 'x-limen-claims: {"role":"nurse"}\r\n'))[0] == 403
        assert (await b.ask(path, SHOP + "x-limen-claims: [1]\r\n"))[0] == 403
        assert (await b.ask(path, SHOP + "x-limen-claims: {\r\n"))[0] == 403
        if text == READER:
            assert (await b.ask(path, "x-limen-caller: -\r\n" + DOCTOR))[0] == 403
            two = "x-limen-caller: spiffe://m/ns/default/sa/shop,spiffe://m/b\r\n"
            assert (await b.ask(path, two + DOCTOR))[0] == 403


async def test_cut_off_for_too_long_it_refuses_or_keeps_as_the_policy_says(tmp_path: Path) -> None:
    limit = {"stale_after_s": 5}
    kept = policy(on_stale="Keep", path="/RegoPolicy/default/kept", **limit)
    async with beside(tmp_path) as b:
        b.age = 10.0
        assert await b.point.take(offer(policy(**limit), kept)) == ""
        status, text = await b.ask()
        assert status == 403
        assert "too old" in text
        assert (await b.ask("/RegoPolicy/default/kept"))[0] == 200
        b.age = 0.0
        assert await b.point.take(offer(policy(**limit), kept)) == ""
        assert (await b.ask())[0] == 200


async def answers(b: Beside, other_than: int) -> bool:
    if b.point.restarts == 0 or b.point.pid in {None, other_than}:
        return False
    with contextlib.suppress(OSError, IndexError):
        return (await b.ask())[0] == 200
    return False


async def test_one_that_is_killed_is_started_again_with_what_it_had(tmp_path: Path) -> None:
    async with beside(tmp_path) as b:
        assert await b.point.take(offer(policy())) == ""
        keeping = asyncio.create_task(b.point.run())
        try:
            first = left_over(b.paths.pdp_record)
            assert first is not None
            end_process(first)
            async with asyncio.timeout(30):
                while not await answers(b, first.pid):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)


async def test_without_its_agent_it_goes_on_and_the_next_takes_its_place(tmp_path: Path) -> None:
    async with beside(tmp_path) as b:
        older = await b.start()
        assert await older.ask({"set": [policy(DENY)]}, 30) == {}
        older._process.stdin.close()  # type: ignore[union-attr]
        assert (await b.ask())[0] == 403
        assert await b.point.take(offer(policy(ALLOW, 2))) == ""
        assert (await b.ask())[0] == 200
        async with asyncio.timeout(30):
            await older.wait()
        await asyncio.sleep(0)


async def test_nothing_is_left_of_one_that_is_not_needed(tmp_path: Path) -> None:
    async with beside(tmp_path) as b:
        idle = await b.start()
        idle._process.stdin.close()  # type: ignore[union-attr]
        async with asyncio.timeout(30):
            await idle.wait()  # it has no policies, and nobody to give it any
        left = await b.start()
        assert await left.ask({"set": [policy()]}, 30) == {}
        end_left_over(b.paths)
        async with asyncio.timeout(30):
            await left.wait()
        assert not b.paths.pdp_socket.exists()
        await left.stop()


async def test_a_process_that_is_gone_answers_nothing(tmp_path: Path) -> None:
    async with beside(tmp_path) as b:
        process = await b.start()
        await process.stop()
        with pytest.raises(Unavailable, match="died"):
            await process.ask({"set": [policy()]}, 30)
