"""The agent's doors for tokens, and how it asks the token service: over real sockets and TLS."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio
from tests.core.tokens.signing import ec_key, sign
from tests.e2e.envoy_harness import Authority
from tests.services.token_service_fake import FakeTokenService

from limen.core.plan.node import TokenServicePlan
from limen.services.agent.identity import Svid
from limen.services.agent.token_client import ACCESS_TOKEN, GRANT, TokenClient
from limen.services.agent.token_door import TokenDoor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GATEWAY = "spiffe://default.mesh.local/ns/default/sa/gateway"
ISSUER = "https://tokens.mesh"
ABOUT = "Exchanged login read 0 60 5 items"
OPAQUE = "opaque-1"


def made(**claims: Any) -> str:
    body = {"iss": ISSUER, "sub": "login:ann", "aud": ["items"], "exp": int(time.time()) + 300}
    return sign({"alg": "ES256", "typ": "at+jwt"}, {**body, **claims}, ec_key(), "ES256")


def says(token: str, **more: Any) -> tuple[int, bytes]:
    return 200, json.dumps({"access_token": token, "token_type": "Bearer", **more}).encode()


class Doors:
    """A workload's doors between a token service and whoever asks."""

    def __init__(self, directory: Path) -> None:
        self.mesh, self.control = Authority("mesh"), Authority("control")
        self.service = FakeTokenService(lambda _: says(made()))
        self.trusted = self.control
        self.svid = self.certify()
        self.plan: TokenServicePlan | None = None
        self.proxy_path, self.program_path = directory / "door", directory / "token"
        self.door = TokenDoor(
            self.proxy_path,
            self.program_path,
            TokenClient(lambda: self.svid, self.roots),
            lambda: self.plan,
        )

    def roots(self) -> str:
        return self.trusted.pem.decode()

    def certify(self, name: str = GATEWAY) -> Svid | None:
        issued = self.mesh.issue(name)
        return Svid(
            name,
            issued.chain_pem.decode(),
            self.mesh.pem.decode(),
            time.time() + 600,
            time.time() + 300,
            issued.key_pem.decode(),
        )

    async def ask(self, token: str = OPAQUE, about: str = ABOUT) -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(uds=str(self.proxy_path))
        async with httpx.AsyncClient(transport=transport, timeout=20) as client:
            return await client.post("http://agent/hop", content=token, headers={"x-about": about})

    async def exchange(self, body: Any) -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(uds=str(self.program_path))
        async with httpx.AsyncClient(transport=transport, timeout=20) as client:
            return await client.post("http://agent/exchange", json=body)


@pytest_asyncio.fixture
async def doors(tmp_path: Path) -> AsyncIterator[Doors]:
    found = Doors(tmp_path)
    await found.service.start(found.control, found.mesh)
    found.plan = TokenServicePlan(ISSUER, found.service.url)
    await found.door.start()
    yield found
    await found.door.close()
    await found.service.stop()


async def test_a_token_is_exchanged_with_the_workloads_own_certificate(doors: Doors) -> None:
    token = made()
    doors.service.answer = lambda _: says(token)
    answer = await doors.ask()
    assert (answer.status_code, answer.text) == (200, token)
    assert 50_000 < int(answer.headers["x-cache-ms"]) <= 60_000
    ((client, form),) = doors.service.asked
    assert client == GATEWAY
    assert form == {
        "grant_type": [GRANT],
        "subject_token": [OPAQUE],
        "subject_token_type": [ACCESS_TOKEN],
        "audience": ["items"],
        "scope": ["read"],
        "subject_issuer": ["login"],
    }


async def test_an_answer_is_not_kept_beyond_the_tokens_end(doors: Doors) -> None:
    doors.service.answer = lambda _: says(made(exp=int(time.time()) + 3), expires_in=3600)
    answer = await doors.ask()
    assert 0 <= int(answer.headers["x-cache-ms"]) <= 3000


async def test_the_documents_lifetime_bounds_how_long_it_is_kept(doors: Doors) -> None:
    answer = await doors.ask(about="Exchanged login read 10 60 5 items")
    assert int(answer.headers["x-cache-ms"]) <= 10_000
    assert doors.service.asked[0][1]["expires_in"] == ["10"]


async def test_many_askers_share_one_exchange(doors: Doors) -> None:
    doors.service.hold = asyncio.Event()
    asking = [asyncio.create_task(doors.ask()) for _ in range(8)]
    await asyncio.wait_for(doors.service.arrived.wait(), 20)
    other = asyncio.create_task(doors.ask("opaque-2"))
    async with asyncio.timeout(20):
        while len(doors.service.asked) < 2:
            doors.service.arrived.clear()
            await doors.service.arrived.wait()
    doors.service.hold.set()
    assert {answer.status_code for answer in await asyncio.gather(*asking, other)} == {200}
    asked = [form["subject_token"][0] for _, form in doors.service.asked]
    assert asked.count("opaque-2") == 1
    assert asked.count(OPAQUE) <= 2  # one for all that came before the answer


async def test_one_asker_that_goes_away_does_not_take_the_exchange_with_it(doors: Doors) -> None:
    doors.service.hold = asyncio.Event()
    leaving = asyncio.create_task(doors.ask())
    await asyncio.wait_for(doors.service.arrived.wait(), 20)
    staying = asyncio.create_task(doors.ask())
    leaving.cancel()
    doors.service.hold.set()
    assert (await staying).status_code == 200


@pytest.mark.parametrize(
    "error", ["invalid_request", "invalid_grant", "invalid_target", "invalid_scope"]
)
async def test_a_refusal_is_passed_on_and_kept_briefly(doors: Doors, error: str) -> None:
    said = json.dumps({"error": error, "error_description": "no"}).encode()
    doors.service.answer = lambda _: (400, said)
    answer = await doors.ask()
    assert (answer.status_code, answer.text) == (403, f"{error}: no\n")
    assert answer.headers["x-cache-ms"] == "5000"


@pytest.mark.parametrize(
    "lie",
    [
        (500, b"{}"),
        (503, b""),
        (429, b'{"error": "slow_down"}'),
        (302, b""),
        (200, b""),
        (200, b"[]"),
        (200, b'{"access_token": 7}'),
        (200, b'{"access_token": "a.b.c", "access_token": "d.e.f"}'),
        (200, b"x" * 100_000),
        (400, b'{"error": 7}'),
        says("opaque"),
        says(made(iss="https://evil.example")),
        says(made(aud=["items", "stock"])),
        says(made(exp="never")),
    ],
)
async def test_a_service_that_lies_or_is_ill_gives_nothing_and_nothing_is_kept(
    doors: Doors, lie: tuple[int, bytes]
) -> None:
    doors.service.answer = lambda _: lie
    answer = await doors.ask()
    assert answer.status_code == 503
    assert "x-cache-ms" not in answer.headers


async def test_a_user_of_an_issuer_that_is_not_accepted_here_is_refused(doors: Doors) -> None:
    doors.service.answer = lambda _: says(made(sub="partner:ann"))
    assert (await doors.ask()).status_code == 403
    assert (await doors.ask(about="Exchanged - read 0 60 5 items")).status_code == 200
    assert (await doors.ask(about="Exchanged login,mesh read 0 60 5 items")).status_code == 403


async def test_a_token_of_the_inside_comes_in_where_it_is_listed_and_lets_nobody_else_in(
    doors: Doors,
) -> None:
    doors.service.answer = lambda _: says(made(sub="partner:ann"))
    inside = made(sub="partner:ann", aud=[GATEWAY])
    assert (await doors.ask(inside, "Exchanged login,mesh read 0 60 5 items")).status_code == 200
    assert (await doors.ask(inside, "Exchanged mesh read 0 60 5 items")).status_code == 200
    asked = len(doors.service.asked)
    assert (await doors.ask(inside, "Exchanged login read 0 60 5 items")).status_code == 403
    assert (await doors.ask(OPAQUE, "Exchanged mesh read 0 60 5 items")).status_code == 403
    assert len(doors.service.asked) == asked


async def test_a_service_of_another_authority_gets_no_token(doors: Doors) -> None:
    doors.trusted = Authority("somebody else")
    assert (await doors.ask()).status_code == 503
    assert doors.service.asked == []


async def test_another_name_than_the_certificates_gets_no_token(doors: Doors) -> None:
    url = doors.service.url.replace("localhost", "127.0.0.1")
    doors.plan = TokenServicePlan(ISSUER, url)
    assert (await doors.ask()).status_code == 503
    assert doors.service.asked == []


@pytest.mark.parametrize("plan", [None, TokenServicePlan(ISSUER, "")])
async def test_without_a_token_service_nobody_can_say(doors: Doors, plan: Any) -> None:
    doors.plan = plan
    assert (await doors.ask()).status_code == 503


async def test_a_service_that_is_down_is_asked_again_when_it_is_back(doors: Doors) -> None:
    await doors.service.stop()
    assert (await doors.ask()).status_code == 503
    again = await FakeTokenService(lambda _: says(made())).start(doors.control, doors.mesh)
    doors.plan = TokenServicePlan(ISSUER, again.url)
    assert (await doors.ask()).status_code == 200
    await again.stop()


async def test_a_new_certificate_is_shown_from_the_next_question_on(doors: Doors) -> None:
    await doors.ask()
    doors.svid = doors.certify("spiffe://default.mesh.local/ns/default/sa/other")
    await doors.ask()
    assert doors.service.asked[1][0].endswith("/sa/other")
    doors.svid = None
    assert (await doors.ask()).status_code == 503


@pytest.mark.parametrize(
    ("token", "about"),
    [
        ("", ABOUT),
        ("a b", ABOUT),
        ("a\nb", ABOUT),
        ("x" * 16_385, ABOUT),
        (OPAQUE, ""),
        (OPAQUE, "Exchanged login read 0 60 5"),
        (OPAQUE, "HopProof login read 0 60 5 items"),
    ],
)
async def test_a_doubtful_question_is_not_passed_on(doors: Doors, token: str, about: str) -> None:
    assert (await doors.ask(token, about)).status_code == 400
    assert doors.service.asked == []


async def test_a_program_gets_a_token_for_another_service(doors: Doors) -> None:
    token = made()
    doors.service.answer = lambda _: says(token)
    answer = await doors.exchange({"token": OPAQUE, "audience": "items", "scope": "read"})
    assert answer.status_code == 200
    found = answer.json()
    assert (found["access_token"], found["token_type"]) == (token, "Bearer")
    assert 290 <= found["expires_in"] <= 300
    assert answer.headers["cache-control"] == "no-store"


async def test_a_program_learns_why_not(doors: Doors) -> None:
    doors.service.answer = lambda _: (400, b'{"error": "invalid_target"}')
    refused = await doors.exchange({"token": OPAQUE, "audience": "stock"})
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_target")
    for wrong in ({}, [], {"token": OPAQUE}, {"token": 7, "audience": "x"}, {"token": "a b"}):
        assert (await doors.exchange(wrong)).status_code == 400
    doors.plan = None
    assert (await doors.exchange({"token": OPAQUE, "audience": "x"})).status_code == 503


async def test_the_sdk_speaks_to_the_door(doors: Doors) -> None:
    from tests.sdk.test_context import user  # noqa: PLC0415

    from limen.sdk.exchange import Exchanger  # noqa: PLC0415

    exchanger = Exchanger(str(doors.program_path))
    found = await asyncio.to_thread(exchanger.exchange, "items", "read", user())
    assert found.token.count(".") == 2


async def test_nobody_else_opens_the_sockets(doors: Doors) -> None:
    for path in (doors.proxy_path, doors.program_path):
        assert path.stat().st_mode & 0o777 == 0o600


async def test_what_is_no_http_is_answered_and_the_door_stays_open(doors: Doors) -> None:
    reader, writer = await asyncio.open_unix_connection(str(doors.proxy_path))
    writer.write(b"\x16\x03\x01 nonsense\r\n\r\n")
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    assert (await doors.ask()).status_code == 200


async def test_no_token_is_in_a_message(doors: Doors, caplog: pytest.LogCaptureFixture) -> None:
    secret = made()
    doors.service.answer = lambda _: says(secret[:-4])
    await doors.ask("very-secret-token")
    doors.plan = None
    await doors.ask("very-secret-token")
    assert "very-secret-token" not in caplog.text
    assert secret not in caplog.text
