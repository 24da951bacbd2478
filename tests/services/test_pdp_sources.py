"""The doors with sources behind them: who answers when, and what a failure refuses."""

from __future__ import annotations

import asyncio
import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.core.policy.test_sources import REGO, WANTS_WEST
from tests.services.test_attribute_sources import respond, server

from limen.adapters.attributes.places import Places
from limen.adapters.attributes.point import InformationPoint
from limen.core.dialects.sources_file import read_sources
from limen.core.policy.rego.engine import load_rego
from limen.core.policy.rego.source import RegoModule
from limen.core.policy.sources import SourceBook
from limen.core.policy.xacml.access import XacmlPolicyEngine
from limen.core.policy.xacml.engine import load_policies
from limen.services.pdp.door import DoorReply, DoorRequest
from limen.services.pdp.doors import Doors
from limen.services.pdp.envoy_grpc import auth, check
from limen.services.pdp.serving import serve

if TYPE_CHECKING:
    from collections.abc import Callable

JSON = {"content-type": "application/json"}
HEAD = "apiVersion: limen.dev/v1\nkind: AttributeSource\nmetadata: {name: roster}\nspec:\n"
WARD = "  attributes: [{category: subject, attribute: ward, field: ward}]\n"
USER = "  parameters: [{name: user, category: subject, attribute: id}]\n"
FILE = f"{HEAD}  file: {{path: roster.csv, where: {{doctor: user}}}}\n{USER}{WARD}"
LISTED = (
    HEAD.replace("roster", "doctors")
    + "  file: {path: roster.csv}\n  lists: [{part: subject, type: user, field: doctor}]\n"
)
ROSTER = "doctor,ward\nann,west\nbob,north\ncarol,west\n"
BOTH = pytest.mark.parametrize("language", ["xacml", "rego"])


def doors(language: str, *sources: str, base: Path = Path("/"), labels: Any = None) -> Doors:
    found, findings = read_sources("---\n".join(sources).encode())
    assert not findings
    book = SourceBook(found)
    engine: Any = XacmlPolicyEngine(load_policies([WANTS_WEST.encode()]), book)
    if language == "rego":
        engine = load_rego([RegoModule("t", REGO)], (), "t/p")
    made = Doors(engine, [].append, InformationPoint(book, Places(base)), labels)
    made.address = "http://pdp"
    return made


async def ask(found: Doors, path: str, body: Any, **headers: str) -> DoorReply:
    data = json.dumps(body).encode()
    reply = found.answer(DoorRequest("POST", path, {**JSON, **headers}, data))
    return await reply if inspect.isawaitable(reply) else reply


def question(user: str = "ann") -> dict[str, Any]:
    return {
        "subject": {"type": "user", "id": user},
        "action": {"name": "read"},
        "resource": {"type": "record", "id": "1"},
    }


@pytest.fixture
def roster(tmp_path: Path) -> Path:
    (tmp_path / "roster.csv").write_text(ROSTER)
    return tmp_path


@BOTH
async def test_a_decision_waits_for_its_source_once_and_then_does_not(language: str, roster: Path):
    found = doors(language, FILE, base=roster)
    for user, expected in (("ann", True), ("bob", False), ("eve", False)):
        reply = await ask(found, "/access/v1/evaluation", question(user))
        assert json.loads(reply.body)["decision"] is expected
    request = DoorRequest("POST", "/access/v1/evaluation", JSON, json.dumps(question()).encode())
    assert isinstance(found.answer(request), DoorReply)


@BOTH
async def test_several_decisions_fetch_their_answers_together(language: str, roster: Path):
    found = doors(language, FILE, base=roster)
    body = {**question(), "evaluations": [{"subject": question(u)["subject"]} for u in "xy"]}
    body["evaluations"] += [{}, {"subject": question("bob")["subject"]}]
    reply = await ask(found, "/access/v1/evaluations", body)
    decisions = [one["decision"] for one in json.loads(reply.body)["evaluations"]]
    assert decisions == [False, False, True, False]


@BOTH
async def test_a_source_that_fails_refuses_and_says_which(language: str, tmp_path: Path):
    found = doors(language, FILE, base=tmp_path)
    reply = await ask(found, "/access/v1/evaluation", question())
    answer = json.loads(reply.body)
    assert answer["decision"] is False
    assert answer["context"]["limen_answer"] == "Indeterminate"
    assert "source default/roster" in answer["context"]["reason"]


CLAIMS = f"{HEAD}  claims: {{header: x-limen-claims}}\n{WARD}"


@BOTH
async def test_claims_count_only_where_the_proxy_writes_them(language: str):
    with_header, without = (
        doors(language, CLAIMS),
        doors(language, CLAIMS.replace("{header: x-limen-claims}", "{}")),
    )
    claims = {"x-limen-claims": '{"ward": ["west"]}'}
    assert (await ask(with_header, "/envoy/a", {}, **claims)).status == 200
    assert (await ask(without, "/envoy/a", {}, **claims)).status == 403
    for bad in ("", "[]", "{", '{"ward": 1}', '{"ward": "west", "ward": "west"}'):
        assert (await ask(with_header, "/envoy/a", {}, **{"x-limen-claims": bad})).status == 403
    assert (await ask(with_header, "/envoy/a", {})).status == 403


@BOTH
async def test_claims_come_with_grpc_as_envoy_verified_them(language: str):
    found = doors(language, CLAIMS)
    request = auth.CheckRequest()
    request.attributes.request.http.method = "GET"
    for expected in (7, 0):
        response = await found.judged(lambda judge: check(judge, request, found.log))
        assert response.status.code == expected
        metadata = request.attributes.metadata_context.filter_metadata
        metadata["envoy.filters.http.jwt_authn"].update({"payload": {"ward": "west"}})


@BOTH
async def test_labels_are_those_of_the_proven_caller(language: str):
    registered = {"spiffe://m/ns/a/sa/b": {"ward": "west"}}
    found = doors(language, f"{HEAD}  labels: {{}}\n{WARD}", labels=registered.get)
    for uri, expected in (("spiffe://m/ns/a/sa/b", 200), ("spiffe://m/ns/a/sa/c", 403)):
        certificate = {"x-forwarded-client-cert": f"URI={uri}"}
        assert (await ask(found, "/envoy/x", {}, **certificate)).status == expected
    assert (await ask(found, "/envoy/x", {})).status == 403


@BOTH
async def test_a_search_judges_those_whom_a_source_lists(language: str, roster: Path):
    found = doors(language, FILE, LISTED, base=roster)
    body = {**question(), "subject": {"type": "user"}}
    reply = json.loads((await ask(found, "/access/v1/search/subject", body)).body)
    assert reply["results"] == [{"type": "user", "id": "ann"}, {"type": "user", "id": "carol"}]
    assert reply["page"] == {"next_token": "", "count": 2}
    seen: list[Any] = []
    token = ""
    while True:
        page = {"limit": 2, "token": token}
        reply = json.loads(
            (await ask(found, "/access/v1/search/subject", {**body, "page": page})).body
        )
        seen += [one["id"] for one in reply["results"]]
        token = reply["page"]["next_token"]
        if not token:
            break
    assert seen == ["ann", "carol"]


@BOTH
async def test_candidates_may_come_with_the_request_and_actions_are_searched(
    language: str, roster: Path
):
    found = doors(language, FILE, base=roster)
    body = {**question("ann"), "candidates": ["read", "write", "read"]}
    reply = json.loads((await ask(found, "/access/v1/search/action", body)).body)
    assert reply["results"] == [{"name": "read"}, {"name": "write"}]
    body = {**question("eve"), "resource": {"type": "record"}, "candidates": ["1"]}
    reply = json.loads((await ask(found, "/access/v1/search/resource", body)).body)
    assert reply["results"] == []


@pytest.mark.parametrize(
    ("part", "change", "code"),
    [
        ("subject", {"subject": {"type": "robot"}}, "authzen-candidates"),
        ("action", {"subject": {"type": "user", "id": "a"}}, "authzen-candidates"),
        ("subject", {"subject": {}}, "authzen-request"),
        ("subject", {"candidates": "ann"}, "authzen-request"),
        ("subject", {"candidates": ["x"] * 1001 + [str(i) for i in range(1001)]}, "authzen-cand"),
        ("subject", {"page": {"limit": 0}}, "authzen-request"),
        ("subject", {"page": {"token": "?"}}, "authzen-request"),
        ("subject", {"page": []}, "authzen-request"),
        ("resource", {"resource": {"type": "r"}, "action": {}}, "authzen-request"),
    ],
)
async def test_a_search_that_cannot_be_answered_says_why(
    part: str, change: dict[str, Any], code: str, roster: Path
):
    found = doors("xacml", FILE, LISTED, base=roster)
    body = {**question(), "subject": {"type": "user"}, **change}
    reply = await ask(found, f"/access/v1/search/{part}", body)
    assert reply.status == 400
    assert json.loads(reply.body)["code"].startswith(code)


async def test_a_list_that_cannot_be_had_is_no_empty_result(tmp_path: Path):
    found = doors("xacml", FILE, LISTED, base=tmp_path)
    body = {**question(), "subject": {"type": "user"}}
    reply = await ask(found, "/access/v1/search/subject", body)
    assert reply.status == 503
    assert b"default/doctors" in reply.body


def test_metadata_names_the_searches_that_sources_make_possible(roster: Path):
    request = DoorRequest("GET", "/.well-known/authzen-configuration", {}, b"")
    for sources, expected in ((FILE,), []), ((FILE, LISTED), ["search_subject_endpoint"]):
        reply = doors("xacml", *sources, base=roster).answer(request)
        assert isinstance(reply, DoorReply)
        assert [name for name in json.loads(reply.body) if "search" in name] == expected


async def test_answers_keep_their_order_on_a_connection_and_others_do_not_wait(tmp_path: Path):
    end = asyncio.Event()

    async def slow(head: str, writer: asyncio.StreamWriter) -> None:
        if "/ann" in head:
            await end.wait()
        await respond('{"ward": "west"}')(head, writer)

    async with server(slow) as port:
        http = f"{HEAD}  http: {{url: 'http://127.0.0.1:{port}/{{user}}'}}\n  timeout: 10s\n"
        found = doors("xacml", http + USER + WARD)
        path = str(tmp_path / "s")
        ready = asyncio.Event()
        serving = asyncio.ensure_future(
            serve(found.answer, socket_path=path, ready=lambda _: ready.set())
        )
        await ready.wait()
        first, other = [await asyncio.open_unix_connection(path) for _ in range(2)]
        send(first[1].write, "ann", "bob", "zoe")
        send(other[1].write, "bob")
        assert await reply_on(other[0])
        assert not end.is_set()
        end.set()
        assert [await reply_on(first[0]) for _ in range(3)] == [True, True, True]
        for _, writer in (first, other):
            writer.close()
        serving.cancel()


def send(write: Callable[[bytes], None], *users: str) -> None:
    for user in users:
        body = json.dumps(question(user)).encode()
        head = (
            "POST /access/v1/evaluation HTTP/1.1\r\nhost: p\r\ncontent-type: application/json\r\n"
        )
        write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


async def reply_on(reader: asyncio.StreamReader) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.partition("content-length: ")[2].partition("\r")[0])
    return bool(json.loads(await reader.readexactly(length))["decision"])
