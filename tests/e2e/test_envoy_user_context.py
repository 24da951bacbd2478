"""Tokens on their way in and out, with a real Envoy and a door that the test plays."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from tests.core.tokens.signing import ec_key, jwk, sign

from limen.adapters.unix_http import HttpReply, HttpRequest, UnixHttpServer
from limen.core.model.request_authentication import TokenHeader
from limen.core.model.user_context import HopStyle
from limen.core.plan.node import ExchangePlan, HopPlan, JwtPlan, TokenServicePlan
from limen.core.policy.rule import Always, Effect
from limen.core.xds.events import Confirmed

from .envoy_harness import Connection, Response, TestMesh, Workload, client_tls, policy, rule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

ISSUER = "https://tokens.mesh"
ANYBODY = policy(rule(Effect.ALLOW, Always()))
CONTEXT = "x-limen-user-context"
KEY = ec_key(number=7)
SERVICE = TokenServicePlan(ISSUER, "https://tokens.example:8443", "g1")


def inner(audience: str = "items", key: Any = KEY, **claims: Any) -> str:
    """What the token service makes."""
    said = {"iss": ISSUER, "sub": "login:ann", "aud": [audience], "exp": int(time.time()) + 300}
    body = {**said, **claims}
    return sign({"alg": "ES256", "typ": "at+jwt", "kid": "k"}, body, key, "ES256")


PLAN = JwtPlan(
    ISSUER,
    audiences=("items",),
    jwks=json.dumps({"keys": [jwk(KEY, kid="k", alg="ES256")]}),
    forward=True,
    output_payload_to_header="x-limen-user",
)


class Door:
    """Plays the agent: answers by token, remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.replies: dict[str, HttpReply] = {}
        self.hold: asyncio.Event | None = None
        self.was_asked = asyncio.Event()

    def say(self, token: str, body: str = "", status: int = 200, cache_ms: int = 60_000) -> None:
        headers = {"x-cache-ms": str(cache_ms)}
        self.replies[token] = HttpReply(status, body.encode(), headers)

    async def answer(self, request: HttpRequest) -> HttpReply:
        token = request.body.decode()
        self.asked.append((request.headers["x-about"], token))
        self.was_asked.set()
        if self.hold is not None:
            await self.hold.wait()
        return self.replies.get(token, HttpReply(401, b"", {"x-cache-ms": "1000"}))

    def count(self, token: str) -> int:
        return sum(one == token for _, one in self.asked)


class Port:
    """A guarded port that exchanges tokens, its door, and a caller."""

    def __init__(self, mesh: TestMesh, workload: Workload, door: Door) -> None:
        self.workload = workload
        self.door = door
        self._tls = client_tls(mesh.authority.issue(mesh.identity("invoices")))

    async def apply(self, exchange: ExchangePlan | None, **changes: Any) -> None:
        inbound = self.workload.plan.inbounds[0]
        wanted = {"tokens": (PLAN,), "context_header": CONTEXT, **changes}
        event = await self.workload.apply(
            inbounds=(replace(inbound, exchange=exchange, **wanted),), token_service=SERVICE
        )
        assert isinstance(event, Confirmed), event

    async def generation(self, name: str) -> None:
        event = await self.workload.apply(token_service=replace(SERVICE, generation=name))
        assert isinstance(event, Confirmed), event

    async def ask(
        self, headers: Mapping[str, str] | Sequence[tuple[str, str]] = (), target: str = "/"
    ) -> Response:
        connection = await Connection.open(self.workload.port, self._tls)
        try:
            async with asyncio.timeout(20):
                return await connection.request("GET", target, headers)
        finally:
            await connection.close()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def seen(answer: Response) -> dict[str, list[str]]:
    assert answer.status == 200, (answer.status, answer.body)
    found: dict[str, list[str]] = {}
    for name, value in answer.json["headers"]:
        found.setdefault(name, []).append(value)
    return found


@pytest_asyncio.fixture
async def mesh() -> AsyncIterator[TestMesh]:
    async with TestMesh() as made:
        yield made


@pytest_asyncio.fixture
async def port(mesh: TestMesh) -> AsyncIterator[Port]:
    door = Door()
    workload = await mesh.start("items", policy=ANYBODY)
    server = UnixHttpServer(workload.envoy.directory / "door.sock", door.answer)
    await server.start()
    found = Port(mesh, workload, door)
    await found.apply(ExchangePlan(("items",), scopes=("read",), lifetime_s=60))
    yield found
    await server.close()


async def test_an_opaque_token_becomes_one_of_the_mesh_and_stays_outside(port: Port) -> None:
    made = inner()
    port.door.say("opaque-1", made)
    got = seen(await port.ask(bearer("opaque-1")))
    assert got["authorization"] == [f"Bearer {made}"]
    assert got[CONTEXT] == [made]
    assert got["x-limen-user"] == [made.split(".")[1]]
    assert "opaque-1" not in json.dumps(got)
    assert port.door.asked == [("Exchanged - read 60 60 5 items", "opaque-1")]


async def test_a_token_that_was_seen_costs_no_call(port: Port) -> None:
    port.door.say("opaque-1", inner())
    for _ in range(3):
        seen(await port.ask(bearer("opaque-1")))
    assert port.door.count("opaque-1") == 1


async def test_a_kept_answer_is_not_used_beyond_its_time(port: Port) -> None:
    port.door.say("opaque-1", inner(), cache_ms=1)
    seen(await port.ask(bearer("opaque-1")))
    seen(await port.ask(bearer("opaque-1")))
    assert port.door.count("opaque-1") == 2


async def test_without_a_token_there_is_no_user(port: Port) -> None:
    forged = {CONTEXT: inner(), "x-limen-user": "e30"}
    got = seen(await port.ask(forged))
    assert not got.keys() & {CONTEXT, "x-limen-user", "authorization"}
    assert port.door.asked == []


async def test_a_program_that_no_document_concerns_is_told_no_user_by_anybody(port: Port) -> None:
    """A caller that writes the headers of the sidecar would else be believed."""
    await port.apply(None, tokens=(), context_header="")
    forged = {CONTEXT: inner(), "x-limen-user": inner().split(".")[1], "x-other": "stays"}
    got = seen(await port.ask(forged))
    assert not got.keys() & {CONTEXT, "x-limen-user"}
    assert got["x-other"] == ["stays"]


async def test_a_refused_token_is_401_and_the_refusal_is_kept_briefly(port: Port) -> None:
    answer = await port.ask(bearer("unknown"))
    assert (answer.status, answer.headers["www-authenticate"]) == (
        401, 'Bearer error="invalid_token"'
    )  # fmt: skip
    assert (await port.ask(bearer("unknown"))).status == 401
    assert port.door.count("unknown") == 1


async def test_a_door_that_cannot_say_is_503_and_nothing_is_kept(port: Port) -> None:
    port.door.say("opaque-1", status=503, cache_ms=0)
    assert (await port.ask(bearer("opaque-1"))).status == 503
    port.door.say("opaque-1", inner())
    seen(await port.ask(bearer("opaque-1")))


async def test_a_dead_door_lets_nothing_pass(mesh: TestMesh) -> None:
    workload = await mesh.start("items", policy=ANYBODY)
    dead = Port(mesh, workload, Door())
    await dead.apply(ExchangePlan(("items",)))
    assert (await dead.ask(bearer("opaque-1"))).status == 503
    seen(await dead.ask())


@pytest.mark.parametrize(
    "lie",
    [
        inner(key=ec_key(number=8)),
        inner("stock"),
        inner(exp=int(time.time()) - 120),
        inner(iss="https://evil.example"),
        "opaque",
        "",
    ],
)
async def test_a_poisoned_cache_is_refused_by_the_verification(port: Port, lie: str) -> None:
    """What the door or the cache says counts for nothing until its signature was verified."""
    port.door.say("opaque-1", lie)
    for _ in range(2):
        assert (await port.ask(bearer("opaque-1"))).status == 401


async def test_a_token_of_the_mesh_from_outside_is_asked_about_like_any_other(port: Port) -> None:
    assert (await port.ask(bearer(inner()))).status == 401
    assert len(port.door.asked) == 1


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer a"), ("authorization", "Bearer b")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer a b")],
        [("authorization", "Bearer a, Bearer b")],
        [("authorization", f"Bearer {'x' * 16_385}")],
    ],
)
async def test_a_doubtful_token_is_not_asked_about(
    port: Port, headers: list[tuple[str, str]]
) -> None:
    assert (await port.ask(headers)).status == 401
    assert port.door.asked == []


async def test_other_spellings_do_not_slip_past_the_exchange(port: Port) -> None:
    made = inner()
    assert (await port.ask({"authorization": f"bearer {made}"})).status == 401
    assert (await port.ask({}, f"/?access_token={made}")).status in {200, 401, 403}
    got = await port.ask({}, f"/?access_token={made}")
    assert got.status != 200 or CONTEXT not in seen(got)


async def test_a_named_header_is_the_only_place(port: Port) -> None:
    await port.apply(ExchangePlan(("items",), headers=(TokenHeader("X-Session", ""),)))
    port.door.say("opaque-1", inner())
    got = seen(await port.ask({"x-session": "opaque-1"}))
    assert "x-session" not in got
    internal = await port.ask(bearer(inner()))
    assert CONTEXT not in seen(internal)
    assert "authorization" not in seen(internal)


async def test_a_revoked_token_is_asked_about_again_at_once(port: Port) -> None:
    port.door.say("opaque-1", inner())
    seen(await port.ask(bearer("opaque-1")))
    del port.door.replies["opaque-1"]
    seen(await port.ask(bearer("opaque-1")))
    await port.generation("g2")
    assert (await port.ask(bearer("opaque-1"))).status == 401


async def test_an_answer_from_before_a_revocation_is_not_kept(port: Port) -> None:
    port.door.say("opaque-1", inner())
    port.door.hold = asyncio.Event()
    late = asyncio.create_task(port.ask(bearer("opaque-1")))
    await asyncio.wait_for(port.door.was_asked.wait(), 20)
    await port.generation("g2")
    port.door.hold.set()
    await late
    port.door.hold = None
    await port.ask(bearer("opaque-1"))
    assert port.door.count("opaque-1") == 2


async def test_another_policy_does_not_use_what_was_kept_for_the_first(port: Port) -> None:
    """CVE-2021-32701 and 2026-33496 elsewhere: a cache key without the audience."""
    port.door.say("opaque-1", inner())
    seen(await port.ask(bearer("opaque-1")))
    await port.apply(ExchangePlan(("items", "stock"), scopes=("read",), lifetime_s=60))
    seen(await port.ask(bearer("opaque-1")))
    assert [about for about, _ in port.door.asked] == [
        "Exchanged - read 60 60 5 items",
        "Exchanged - read 60 60 5 items stock",
    ]


async def test_the_lua_hash_is_sha_256(port: Port) -> None:
    """Two tokens whose hashes were equal would share an answer."""
    from limen.core.envoy.lua_text import HASH  # noqa: PLC0415

    for size in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1000):
        text = "".join(chr(33 + (index * 7) % 90) for index in range(size))
        wanted = hashlib.sha256(text.encode()).hexdigest()
        assert await lua_hash(port, HASH, text) == wanted


async def lua_hash(port: Port, code: str, text: str) -> str:
    from limen.core.envoy import names  # noqa: PLC0415
    from limen.core.envoy.lua_text import literal  # noqa: PLC0415
    from limen.core.envoy.user_context import _lua  # noqa: PLC0415

    script = f"""{code}
function envoy_on_request(handle)
  local digest = sha256({literal(text)})
  local hex = string.gsub(digest, ".", function(c) return string.format("%02x", string.byte(c)) end)
  handle:respond({{[":status"] = "200"}}, hex)
end
"""
    name = names.token_exchange(port.workload.port)
    resources = port.workload.resources()
    resources[names.EXTENSION][name] = _lua(name, script)
    assert isinstance(await port.workload.envoy.ads.apply(resources), Confirmed)
    return (await port.ask()).body.decode()


# -- the way out


@pytest_asyncio.fixture
async def way(mesh: TestMesh) -> AsyncIterator[tuple[Workload, Workload, Door]]:
    items = await mesh.start("items", policy=ANYBODY)
    orders = await mesh.start("orders", calls=[items])
    door = Door()
    server = UnixHttpServer(orders.envoy.directory / "door.sock", door.answer)
    await server.start()
    yield orders, items, door
    await server.close()


async def hop(orders: Workload, style: HopStyle = HopStyle.EXCHANGED) -> None:
    plan = HopPlan(style, CONTEXT)
    event = await orders.apply(hop=plan, token_service=SERVICE)
    assert isinstance(event, Confirmed), event


async def test_a_context_that_is_passed_on_is_exchanged_for_the_callee(
    way: tuple[Workload, Workload, Door],
) -> None:
    orders, items, door = way
    await hop(orders)
    mine, theirs = inner("orders"), inner("items")
    door.say(mine, theirs)
    for _ in range(2):
        got = seen(await orders.call("http://items.mesh/", headers={CONTEXT: mine}))
        assert got["authorization"] == [f"Bearer {theirs}"]
        assert CONTEXT not in got
    assert door.asked == [(f"Exchanged - - 0 60 5 {items.plan.spiffe_id}", mine)]


async def test_without_a_context_nothing_is_added(way: tuple[Workload, Workload, Door]) -> None:
    orders, _, door = way
    await hop(orders)
    door.say(inner("orders"), inner("items"))
    got = seen(await orders.call("http://items.mesh/"))
    assert "authorization" not in got
    assert door.asked == []


async def test_a_context_leaves_no_workload_whose_document_says_nothing(
    way: tuple[Workload, Workload, Door],
) -> None:
    orders, _, door = way
    got = seen(await orders.call("http://items.mesh/", headers={CONTEXT: inner("orders")}))
    assert not got.keys() & {CONTEXT, "authorization"}
    assert door.asked == []


async def test_the_same_token_goes_on_where_that_is_the_style(
    way: tuple[Workload, Workload, Door],
) -> None:
    orders, _, door = way
    await hop(orders, HopStyle.SAME_TOKEN)
    mine = inner("items")
    got = seen(await orders.call("http://items.mesh/", headers={CONTEXT: mine}))
    assert got["authorization"] == [f"Bearer {mine}"]
    assert door.asked == []


async def test_an_exchange_that_is_refused_stops_the_call(
    way: tuple[Workload, Workload, Door],
) -> None:
    orders, items, door = way
    await hop(orders)
    mine = inner("orders")
    door.say(mine, "invalid_target: not granted\n", status=403, cache_ms=1000)
    refused = await orders.call("http://items.mesh/", headers={CONTEXT: mine})
    assert refused.status == 403
    assert b"not granted" in refused.body
    door.say(mine, status=503, cache_ms=0)
    other = inner("orders", jti="2")
    door.say(other, status=503, cache_ms=0)
    assert (await orders.call("http://items.mesh/", headers={CONTEXT: other})).status == 503
    assert items.application is not None
    assert items.application.requests == []


async def test_a_transaction_token_travels_in_its_own_header(
    way: tuple[Workload, Workload, Door],
) -> None:
    orders, _, door = way
    await hop(orders, HopStyle.TRANSACTION_TOKEN)
    mine = inner("orders")
    door.say(mine, "t.x.n")
    got = seen(await orders.call("http://items.mesh/", headers={CONTEXT: mine}))
    assert (got["txn-token"], "authorization" in got) == (["t.x.n"], False)
