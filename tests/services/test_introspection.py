"""Opaque tokens at an issuer that is slow, huge, lying, away: each with its own refusal."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
import pytest_asyncio
from tests.services.jwks_provider import make_authority, server_context
from tests.services.token_harness import ACCESS, LOOPBACK, World, policy_document, world

from limen.adapters.clock import FakeClock
from limen.adapters.judged_https import FetchRules
from limen.core.model.token_service import Introspection, SecretName, TrustedIssuer
from limen.errors import Unavailable
from limen.services.tokens.introspection import Credential, Introspector, Wanted, parse_answer

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

ISSUER = "https://idp.example"
ACTIVE = {"active": True, "sub": "ann", "aud": "shop", "scope": "r", "iss": ISSUER}
SECRET = """
apiVersion: v1
kind: Secret
metadata: {name: idp}
stringData: {client-secret: s3cr3ts3cr3t}
"""
pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Idp:
    """An authorization server's introspection endpoint, as the test wants it."""

    port: int = 0
    ca_pem: str = ""
    asked: list[dict[str, list[str]]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    answer: Callable[[str], bytes] | None = None
    wait_s: float = 0.0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/introspect"

    def says(self, value: Any, status: str = "200 OK", headers: str = "") -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}"
        whole = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        self.answer = lambda _: whole

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0] or 0)
            form = parse_qs((await reader.readexactly(length)).decode())
            self.heads.append(head)
            self.asked.append(form)
            await asyncio.sleep(self.wait_s)
            if self.answer is not None:
                writer.write(self.answer(form["token"][0]))
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            return  # the caller went away, or the test is over
        finally:
            writer.close()


@asynccontextmanager
async def listening(context: ssl.SSLContext, ca_pem: str) -> AsyncIterator[Idp]:
    idp = Idp(ca_pem=ca_pem)
    server = await asyncio.start_server(idp.serve, "127.0.0.1", 0, ssl=context)
    idp.port = server.sockets[0].getsockname()[1]
    try:
        yield idp
    finally:
        server.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def idp(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Idp]:
    authority = make_authority()
    folder = tmp_path_factory.mktemp("idp")
    async with listening(server_context(authority, folder, "127.0.0.1"), authority.pem) as found:
        yield found


class Asking:
    """An introspector with a clock of the test's own."""

    def __init__(self, idp: Idp, **changes: Any) -> None:
        self.clock = FakeClock()
        rules = FetchRules(LOOPBACK, idp.ca_pem)
        self.introspector = Introspector(rules, self.clock, self._credential)
        asked = Introspection(idp.url, "limen", SecretName("default", "idp"), **changes)
        self.issuer = TrustedIssuer(ISSUER, introspection=asked, audiences=("shop",))

    async def _credential(self, _: Introspection) -> Credential:
        return Credential("s3cr3t:/+ ü")

    async def ask(self, text: str = "t", audience: str = "items", scope: str = "r") -> Any:
        return await self.introspector.active(text, Wanted(self.issuer, (audience,), (scope,)))

    async def fails(self, **wanted: Any) -> str:
        with pytest.raises(Unavailable) as caught:
            await self.ask(**wanted)
        return caught.value.code


async def test_an_answer_is_remembered_never_past_the_tokens_end(idp: Idp) -> None:
    here = Asking(idp)
    idp.says({**ACTIVE, "exp": here.clock.now_s() + 10})
    assert (await here.ask())["sub"] == "ann"
    await here.ask()
    assert here.introspector.asked == 1
    here.clock.advance(10)
    await here.ask()
    assert here.introspector.asked == 2


async def test_an_inactive_answer_is_remembered_briefly(idp: Idp) -> None:
    here = Asking(idp, negative_cache_s=5)
    idp.says({"active": False})
    assert await here.ask() is None
    here.clock.advance(4.9)
    assert await here.ask() is None
    assert here.introspector.asked == 1
    idp.says(ACTIVE)
    here.clock.advance(0.2)
    assert await here.ask() is not None


@pytest.mark.parametrize("other", [{"audience": "x"}, {"scope": "w"}, {"text": "u"}], ids=str)
async def test_what_was_said_for_one_question_answers_no_other(
    idp: Idp, other: dict[str, str]
) -> None:
    """Oathkeeper's cache forgot issuer, audience, scope or address (2021-32701, 2026-33496)."""
    here = Asking(idp)
    idp.says(ACTIVE)
    await here.ask()
    await here.ask(**other)
    assert here.introspector.asked == 2


async def test_another_issuer_or_address_is_another_question(idp: Idp) -> None:
    here = Asking(idp)
    idp.says(ACTIVE)
    await here.ask()
    here.issuer = TrustedIssuer("https://other.example", introspection=here.issuer.introspection)
    await here.ask()
    moved = Introspection(f"{idp.url}?x=1", "limen", SecretName("default", "idp"))
    here.issuer = TrustedIssuer("https://other.example", introspection=moved)
    await here.ask()
    assert here.introspector.asked == 3


async def test_what_a_client_writes_takes_no_room_in_the_memory(idp: Idp) -> None:
    here = Asking(idp)
    idp.says({"active": False})
    await here.ask(audience="x" * 4000)
    (kept,) = here.introspector._remembered
    assert len(kept) == 32


async def test_however_many_ask_at_once_the_issuer_is_asked_once(idp: Idp) -> None:
    here = Asking(idp)
    idp.says(ACTIVE)
    idp.wait_s = 0.2
    try:
        answers = await asyncio.gather(*(here.ask() for _ in range(20)))
    finally:
        idp.wait_s = 0.0
    assert len(answers) == 20
    assert here.introspector.asked == 1


async def test_we_prove_who_asks_and_the_secret_is_encoded(idp: Idp) -> None:
    here = Asking(idp)
    idp.says(ACTIVE)
    await here.ask("the token")
    assert idp.asked[-1] == {"token": ["the token"], "token_type_hint": ["access_token"]}
    assert "authorization: basic bGltZW46czNjcjN0JTNBJTJGJTJCKyVDMyVCQw==" in idp.heads[-1].replace(
        "Authorization: Basic", "authorization: basic"
    )


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"no json", "introspection-malformed"),
        (b'{"active": "true"}', "introspection-malformed"),
        (b'{"active": 1}', "introspection-malformed"),
        (b'{"active": true, "active": false}', "introspection-malformed"),
        (b"[]", "introspection-malformed"),
        (b'{"active": true, "sub": "' + b"a" * 70_000 + b'"}', "introspection-too-large"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_an_answer_that_is_no_answer_is_a_refusal(idp: Idp, said: bytes, code: str) -> None:
    here = Asking(idp)
    idp.says(said)
    assert await here.fails() == code


async def test_an_issuer_that_is_slow_redirects_or_errs_is_a_refusal(idp: Idp) -> None:
    here = Asking(idp, timeout_s=0.3)
    idp.says(ACTIVE, "302 Found", "location: https://127.0.0.1/\r\n")
    assert await here.fails() == "introspection-redirected"
    idp.says(ACTIVE, "500 Oops")
    assert await here.fails(text="b") == "introspection-status"
    idp.wait_s = 2.0
    try:
        assert await here.fails(text="c") == "introspection-timeout"
    finally:
        idp.wait_s = 0.0


async def test_an_issuer_that_is_away_or_another_is_a_refusal(idp: Idp, tmp_path: Path) -> None:
    here = Asking(idp)
    async with listening(server_context(make_authority(), tmp_path, "127.0.0.1"), "") as false:
        false.says(ACTIVE)
        asked = Introspection(false.url, "limen", SecretName("default", "idp"))
        here.issuer = TrustedIssuer(ISSUER, introspection=asked)
        assert await here.fails() == "introspection-certificate"
        assert false.asked == []
    assert await here.fails(text="b") == "introspection-failed"


async def test_only_true_is_active() -> None:
    assert parse_answer(b'{"active": false, "sub": "x"}') is None
    assert parse_answer(b'{"active": true, "sub": "x"}') == {"sub": "x"}


# --- at the token service


def opaque_issuer(url: str) -> str:
    return f"""
apiVersion: limen.dev/v1
kind: TrustedIssuer
metadata: {{name: idp}}
spec:
  issuer: {ISSUER}
  introspection: {{url: "{url}", clientId: limen, clientSecretRef: {{name: idp}}}}
  audiences: [shop]
"""


POLICY = policy_document(
    "{from: [{serviceAccount: web}], subjects: [{issuer: idp}], audiences: [items], scopes: [r]}"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(idp: Idp, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    documents = (SECRET, opaque_issuer(idp.url), POLICY)
    folder = tmp_path_factory.mktemp("world")
    async with world(folder, *documents, ca_pem=idp.ca_pem) as found:
        yield found


async def test_an_opaque_token_becomes_a_short_signed_one(here: World, idp: Idp) -> None:
    idp.says({**ACTIVE, "exp": int(time.time()) + 60})
    answer = await here.ask("web", subject_token="opaque-1", subject_token_type=ACCESS)
    assert answer.status_code == 200, answer.text
    assert answer.json()["expires_in"] <= 60
    assert "Authorization: Basic bGltZW46czNjcjN0czNjcjN0" in idp.heads[-1]


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ({"active": False}, 400, "inactive"),
        ({**ACTIVE, "aud": "other"}, 400, "audience-other"),
        ({**ACTIVE, "aud": None}, 400, "claim-aud"),
        ({k: v for k, v in ACTIVE.items() if k != "aud"}, 400, "audience-other"),
        ({**ACTIVE, "iss": "https://evil.example"}, 400, "issuer-unknown"),
        ({**ACTIVE, "exp": 1}, 400, "token-expired"),
        ({**ACTIVE, "exp": "1e99"}, 400, "claim-exp"),
        ({**ACTIVE, "sub": ""}, 400, "claim-sub"),
        ("nonsense", 503, "introspection-malformed"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_an_issuer_says_is_judged(
    here: World, idp: Idp, said: Any, status: int, code: str
) -> None:
    idp.says(said)
    token = f"opaque-{code}-{time.monotonic_ns()}"
    answer = await here.ask("web", subject_token=token, subject_token_type=ACCESS)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    wanted = "temporarily_unavailable" if status == 503 else "invalid_grant"
    assert answer.json()["error"] == wanted


async def test_a_token_of_another_issuer_is_shown_to_nobody(here: World, idp: Idp) -> None:
    idp.says(ACTIVE)
    before = len(idp.asked)
    foreign = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL290aGVyIn0.AAAA"
    for kind in (ACCESS, "urn:ietf:params:oauth:token-type:jwt"):
        answer = await here.ask("web", subject_token=foreign, subject_token_type=kind)
        assert answer.json()["code"] == "issuer-unknown"
    huge = await here.ask("web", subject_token="x" * 17_000, subject_token_type=ACCESS)
    assert huge.json()["code"] == "subject-token-too-large"
    assert len(idp.asked) == before
