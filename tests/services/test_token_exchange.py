"""A token service over real TLS: who gets which token, and each refusal by its code."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio
from tests.services.server_harness import KEK
from tests.services.token_harness import (
    ACCESS,
    ASSERTION,
    EXCHANGE,
    LOGIN,
    WEB_POLICY,
    Signer,
    claims_of,
    exchange_form,
    issuer_document,
    policy_document,
    spiffe,
    world,
)

from limen.adapters.clock import SystemClock
from limen.adapters.server_link import ServerPlace
from limen.core.tokens.jwks import parse_jwks
from limen.core.tokens.verify import IssuerRules, verify_token
from limen.errors import Unavailable
from limen.services.tokens.run import serving
from limen.services.tokens.settings import TokenSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.services.token_harness import World

IDP = Signer(LOGIN)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    documents = (issuer_document(IDP), WEB_POLICY, BATCH_POLICY)
    async with world(tmp_path_factory.mktemp("world"), *documents) as here:
        yield here


def user(**claims: Any) -> str:
    return IDP.sign(
        {"typ": "at+jwt"}, **{"sub": "ann", "aud": "shop", "scope": "r admin", **claims}
    )


def code(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()
    return answer.status_code, body["error"], body["code"]


async def test_a_workload_exchanges_a_users_token_and_everything_is_recorded(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, issuer_document(IDP), WEB_POLICY) as here:
        answer = await here.ask("web", subject_token=user(email="a@b"))
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert (body["token_type"], body["scope"]) == ("Bearer", "r")
        assert body["issued_token_type"] == ACCESS
        assert 0 < body["expires_in"] <= 240
        assert answer.headers["cache-control"] == "no-store"
        anybody = await here.client()
        keys = parse_jwks((await anybody.get("/jwks")).content)
        rules = IssuerRules(
            here.url, keys, frozenset(["ES256"]), audiences=("items",), typ="at+jwt"
        )
        token = verify_token(body["access_token"], rules, time.time())
        assert token.subject == "login:ann"
        assert token.claims["email"] == "a@b"
        assert token.claims["sub_id"] == {"format": "iss_sub", "iss": LOGIN, "sub": "ann"}
        assert token.claims["act"] == {"sub": spiffe("web")}
        refused = await here.ask("web", subject_token=user(), audience="orders")
        assert code(refused) == (400, "invalid_target", "invalid_target")
        await here.service.spool.ship()
        events = await here.server.control.store.audit(0, 1000)
        found = [e.entry for e in events if e.entry.kind == "limen.dev/Token"]
        assert [e.verb for e in found] == ["issue", "refuse"]
        assert found[0].detail["sub"] == "login:ann"
        assert found[0].name == token.claims["jti"]
        text = repr([e.entry for e in events]) + repr(here.service)
        assert body["access_token"] not in text
        assert body["access_token"].split(".")[2] not in text


async def test_the_next_workload_exchanges_again_and_the_chain_grows(tmp_path: Path) -> None:
    items = policy_document(
        "{from: [{serviceAccount: items}], subjects: [{issuer: mesh, audiences: [items]}],"
        " audiences: [stock], scopes: [r]}",
        "items",
    )
    async with world(tmp_path, issuer_document(IDP), WEB_POLICY, items) as here:
        first = (await here.ask("web", subject_token=user())).json()["access_token"]
        answer = await here.ask("items", subject_token=first, audience="stock")
        assert answer.status_code == 200, answer.text
        second = claims_of(answer.json()["access_token"])
        assert second["act"] == {"sub": spiffe("items"), "act": {"sub": spiffe("web")}}
        assert (second["sub"], second["sub_id"]["iss"]) == ("login:ann", LOGIN)
        stolen = await here.ask("web", subject_token=answer.json()["access_token"])
        assert code(stolen) == (400, "invalid_request", "invalid_request")


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ({"subject_token": None}, (400, "invalid_request", "missing-parameter")),
        ({"subject_token_type": None}, (400, "invalid_request", "missing-parameter")),
        ({"subject_token_type": "x"}, (400, "invalid_request", "token-type")),
        ({"subject_token": "x" * 16385}, (400, "invalid_request", "subject-token-too-large")),
        ({"subject_token": "opaque"}, (400, "invalid_grant", "token-not-compact")),
        ({"extra": "1"}, (400, "invalid_request", "unknown-parameter")),
        ({"client_id": spiffe("items")}, (401, "invalid_client", "client-id")),
        ({"client_secret": "s"}, (401, "invalid_client", "client-secret")),
        ({"grant_type": "password"}, (400, "unsupported_grant_type", "grant-type")),
        ({"grant_type": "token"}, (400, "unsupported_grant_type", "grant-type")),
        ({"grant_type": "client_credentials"}, (400, "invalid_request", "unknown-parameter")),
        ({"actor_token": "a.b.c"}, (400, "invalid_request", "missing-parameter")),
        ({"expires_in": "-1"}, (400, "invalid_request", "expires-in")),
        ({"requested_token_type": "x"}, (400, "invalid_request", "token-type")),
        ({"scope": "w"}, (400, "invalid_scope", "invalid_scope")),
        ({"audience": ["items", "orders"]}, (400, "invalid_target", "invalid_target")),
        ({"resource": "x#y"}, (400, "invalid_target", "invalid_target")),
        ({"padding": "x" * 70_000}, (413, "request_too_large", "request_too_large")),
    ],
    ids=str,
)
async def test_what_is_not_understood_in_full_is_refused_with_its_own_code(
    shared: World, form: dict[str, Any], wanted: tuple[int, str, str]
) -> None:
    answer = await shared.ask("web", **{"subject_token": user(), **form})
    assert code(answer) == wanted


@pytest.mark.parametrize(
    ("token", "wanted"),
    [
        (lambda: user(aud="other"), "audience-other"),
        (lambda: user(iss="https://evil.example"), "issuer-unknown"),
        (lambda: user(exp=1), "token-expired"),
        (lambda: user(exp="never"), "claim-exp"),
        (lambda: user(sub=""), "claim-sub"),
        (lambda: user(sub="a\nb"), "claim-sub"),
        (lambda: user(scope=1), "claim-scope"),
        (lambda: Signer(LOGIN).sign(sub="ann", aud="shop"), "key-unknown"),
        (lambda: Signer(LOGIN).sign({"kid": ""}, sub="ann", aud="shop"), "header-kid"),
        (lambda: IDP.sign({"typ": "logout+jwt"}, sub="ann", aud="shop"), "header-typ"),
        (lambda: IDP.sign({"crit": ["x"]}, sub="ann", aud="shop"), "header-crit"),
        (lambda: f"{user()[:-4]}AAAA", "signature-invalid"),
        (lambda: "a.b.c.d.e", "token-not-compact"),
    ],
)
async def test_a_subject_token_that_is_not_good_is_refused(
    shared: World, token: Any, wanted: str
) -> None:
    assert code(await shared.ask("web", subject_token=token())) == (400, "invalid_grant", wanted)


async def test_a_repeated_parameter_is_refused(shared: World) -> None:
    client = await shared.workload("web")
    body = f"grant_type={EXCHANGE}&grant_type={EXCHANGE}"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = await client.post("/token", content=body, headers=headers)
    assert code(answer) == (400, "invalid_request", "repeated-parameter")
    answer = await client.post("/token", content="{}", headers={"content-type": "application/json"})
    assert code(answer) == (400, "invalid_request", "content-type")


async def test_nobody_exchanges_without_a_policy_or_a_certificate(shared: World) -> None:
    assert code(await shared.ask("other", subject_token=user()))[1] == "unauthorized_client"
    anybody = await shared.client()
    answer = await anybody.post("/token", data=exchange_form(subject_token=user()))
    assert code(answer) == (401, "invalid_client", "no-credential")


async def test_a_certificate_of_another_authority_gets_no_connection(
    shared: World, tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    async with world(tmp_path / "b") as other:
        context = await other.workload_context("web")
    context.load_verify_locations(cadata=shared.server.client["ca_pem"])
    client = await shared.client(context)
    with pytest.raises((httpx.TransportError, OSError)):
        await client.post("/token", data=exchange_form(subject_token=user()))


async def test_metadata_says_where_everything_is(shared: World) -> None:
    anybody = await shared.client()
    found = (await anybody.get("/.well-known/oauth-authorization-server")).json()
    assert found["issuer"] == shared.url
    assert found["token_endpoint"] == f"{shared.url}/token"
    assert found["token_endpoint_auth_methods_supported"] == ["tls_client_auth", "private_key_jwt"]
    assert (await anybody.get("/token")).status_code == 405
    assert (await anybody.get("/nothing")).status_code == 404
    assert (await anybody.get("/healthz")).json() == {"status": "ok"}


async def test_a_revoked_token_is_refused_at_once_and_by_its_owner_only(shared: World) -> None:
    token = (await shared.ask("web", subject_token=user())).json()["access_token"]
    web, other = await shared.workload("web"), await shared.workload("other")
    said = (await web.post("/introspect", data={"token": token})).json()
    assert (said["active"], said["sub"]) == (True, "login:ann")
    assert (await other.post("/introspect", data={"token": token})).json() == {"active": False}
    assert code(await other.post("/revoke", data={"token": token}))[1] == "unauthorized_client"
    assert (await web.post("/revoke", data={"token": "nonsense"})).status_code == 200
    assert (await web.post("/revoke", data={"token": token})).status_code == 200
    assert (await web.post("/introspect", data={"token": token})).json() == {"active": False}
    assert code(await shared.ask("web", subject_token=token))[2] == "revoked"


async def test_a_user_who_was_revoked_brings_no_token(shared: World) -> None:
    token = user(sub="eve")
    assert (await shared.ask("web", subject_token=token)).status_code == 200
    said = {"issuer": "", "by": "sub", "value": "login:eve", "until_s": time.time() + 3600}
    assert (await shared.server.api.post("/v1/revocations", json=said)).status_code == 200
    await refused_soon(shared, token)


async def refused_soon(here: World, token: str) -> None:
    start = time.monotonic()
    while (answer := await here.ask("web", subject_token=token)).status_code == 200:
        assert time.monotonic() - start < 2, "a revocation takes two seconds at most"
    assert code(answer) == (400, "invalid_grant", "revoked")


def revoke(here: World, config: Path, *arguments: str) -> tuple[int, str]:
    """`limen token revoke` by the mesh's operator."""
    config.touch(0o600)
    config.write_text(json.dumps(here.server.client))
    line = ["token", "revoke", *arguments, "--config", str(config)]
    command = [sys.executable, "-m", "limen.cli.main", *line]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


async def test_an_operator_revokes_users_and_tokens_by_command(
    shared: World, tmp_path: Path
) -> None:
    config = tmp_path / "client.json"

    async def said(*arguments: str) -> tuple[int, str]:
        return await asyncio.to_thread(revoke, shared, config, *arguments)

    token = (await shared.ask("web", subject_token=user(sub="zoe"))).json()["access_token"]
    jti = claims_of(token)["jti"]
    web = await shared.workload("web")
    assert (await web.post("/introspect", data={"token": token})).json()["active"] is True
    assert await said("--jti", jti) == (0, f"jti {jti} revoked\n")
    start = time.monotonic()
    while (await web.post("/introspect", data={"token": token})).json()["active"]:
        assert time.monotonic() - start < 2, "a revocation takes two seconds at most"
    assert (await shared.ask("web", subject_token=user(sub="zoe"))).status_code == 200
    assert await said("--user", "login:zoe", "--for", "1h") == (0, "sub login:zoe revoked\n")
    await refused_soon(shared, user(sub="zoe"))
    for wrong, status, why in (
        ((), 2, "--user, --jti or --txn"),
        (("--jti", ""), 2, "--user, --jti or --txn"),
        (("--jti", "a", "--txn", "b"), 2, "--user, --jti or --txn"),
        (("--user", "zoe"), 2, "login:ann"),
        (("--user", "login:x", "--mesh", "none"), 4, "no mesh none"),
    ):
        found, text = await said(*wrong)
        assert (found, why in text) == (status, True), text
    late = {"issuer": "", "by": "sub", "value": "login:x", "until_s": time.time() - 1}
    answer = await shared.server.api.post("/v1/revocations", json=late)
    assert (answer.status_code, answer.json()["code"]) == (400, "revocation-over")


BATCH = Signer("batch")
BATCH_POLICY = policy_document(
    f"""
  from: [{{clientId: batch, jwks: '{BATCH.jwks}'}}]
  clientCredentials: true
  audiences: [items]
  scopes: [r]
""",
    "batch",
)


def assertion(url: str, **claims: Any) -> dict[str, str]:
    said = {"sub": "batch", "aud": f"{url}/token", "jti": str(time.monotonic_ns()), **claims}
    return {
        "grant_type": "client_credentials",
        "audience": "items",
        "client_assertion_type": ASSERTION,
        "client_assertion": BATCH.sign(**said),
    }


async def test_a_client_with_a_key_of_its_own_gets_a_token_for_itself(shared: World) -> None:
    anybody = await shared.client()
    form = assertion(shared.url)
    answer = await anybody.post("/token", data=form)
    assert answer.status_code == 200, answer.text
    said = claims_of(answer.json()["access_token"])
    assert (said["sub"], said["client_id"], said["scope"]) == ("client:batch", "batch", "r")
    assert "act" not in said
    again = await anybody.post("/token", data=form)
    assert code(again) == (401, "invalid_client", "assertion-used")


@pytest.mark.parametrize(
    ("claims", "wanted"),
    [
        ({"aud": "https://other.example"}, "audience-other"),
        ({"sub": "other"}, "assertion-claims"),
        ({"jti": ""}, "assertion-claims"),
        ({"iss": "other"}, "assertion-client"),
        ({"iss": spiffe("web")}, "assertion-client"),
        ({"exp": int(time.time()) + 7200}, "assertion-life"),
        ({"exp": 1}, "token-expired"),
    ],
    ids=str,
)
async def test_an_assertion_that_is_not_good_is_refused(
    shared: World, claims: dict[str, Any], wanted: str
) -> None:
    anybody = await shared.client()
    answer = await anybody.post("/token", data=assertion(shared.url, **claims))
    assert code(answer) == (401, "invalid_client", wanted)


async def test_an_assertion_is_used_once_across_token_services(tmp_path: Path) -> None:
    async with world(tmp_path, BATCH_POLICY, issuer="https://tokens.example") as here:
        role = {"name": "t2", "role": "tokens", "names": ["127.0.0.1"]}
        (tmp_path / "two").mkdir()
        made = (await here.server.api.post("/v1/roles", json=role)).json()
        settings = TokenSettings(
            tmp_path / "two", "127.0.0.1", 0, ("127.0.0.1",), "https://tokens.example"
        )
        place = ServerPlace(made["server"], made["ca_pem"], made["token"])
        async with serving(settings, place, KEK, SystemClock()) as second:
            form = assertion("", aud="https://tokens.example")
            one = await here.client()
            two = httpx.AsyncClient(base_url=second.url, verify=here.context(), trust_env=False)
            async with two:
                answers = await asyncio.gather(
                    *(c.post("/token", data=form) for c in (one, two, one, two))
                )
        assert sorted(a.status_code for a in answers) == [200, 401, 401, 401]


async def test_a_client_that_asks_too_often_is_refused_before_any_signature(
    tmp_path: Path,
) -> None:
    documents = (issuer_document(IDP), WEB_POLICY)
    async with world(tmp_path, *documents, rate_per_s=0.001, burst=2) as here:
        answers = [await here.ask("web", subject_token=user()) for _ in range(3)]
        assert [a.status_code for a in answers] == [200, 200, 429]
        assert (await here.ask("other", subject_token=user())).status_code != 429


async def test_a_stranger_is_limited_before_his_request_is_read_and_fills_no_log(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, rate_per_s=0.01, burst=1300) as here:
        stranger = await here.client()
        answers = [await stranger.post("/token", content=b"x") for _ in range(140)]
        assert [a.status_code for a in answers] == [400] * 130 + [429] * 10
        assert (await stranger.post("/introspect", content=b"x")).status_code == 429
        await here.service.spool.ship()
        events = await here.server.control.store.audit(0, 1000)
        found = [e for e in events if e.entry.kind == "limen.dev/Token"]
        assert 100 <= len(found) < 130


async def test_who_only_says_a_clients_name_does_not_use_up_its_limit(tmp_path: Path) -> None:
    async with world(tmp_path, BATCH_POLICY, rate_per_s=0.01, burst=30) as here:
        limit = here.service.limit
        forger, anybody = Signer("batch"), await here.client()
        for _ in range(3):
            form = assertion(here.url)
            form["client_assertion"] = forger.sign(sub="batch", aud=here.url, jti="1")
            assert (await anybody.post("/token", data=form)).status_code == 401
        for _ in range(30):
            limit.take("client:batch", here.service.clock.monotonic_s())


async def test_strangers_from_everywhere_do_not_use_up_what_clients_may(tmp_path: Path) -> None:
    documents = (issuer_document(IDP), WEB_POLICY)
    async with world(tmp_path, *documents, rate_per_s=0.01, burst=20) as here:
        for number in range(100):
            with contextlib.suppress(Unavailable):
                now_s = here.service.clock.monotonic_s()
                here.service.addresses.take(f"address 192.0.2.{number}", now_s)
        stranger = await here.client()
        assert (await stranger.post("/token", content=b"x")).status_code == 429
        assert (await here.ask("web", subject_token=user())).status_code == 200


async def test_a_header_without_an_end_is_refused_before_it_fills_the_memory(
    shared: World,
) -> None:
    url = httpx.URL(shared.url)
    reader, writer = await asyncio.open_connection(url.host, url.port, ssl=shared.context())
    writer.write(b"POST /token HTTP/1.1\r\nx: ")
    with contextlib.suppress(ConnectionError):
        for _ in range(32):
            writer.write(b"a" * 65536)
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(20):
            assert b" 413 " in await reader.readline()
    writer.close()


TRANSACTIONS = policy_document(
    """
  from: [{serviceAccount: edge}, {serviceAccount: items}]
  subjects: [{issuer: login}]
  audiences: [items]
  scopes: [r]
  transactions: {details: [cart], context: [ip]}
""",
    "edge",
)
TXN = "urn:ietf:params:oauth:token-type:txn_token"


async def test_a_transaction_begins_and_goes_on_with_its_name_and_context(shared: World) -> None:
    await shared.apply(TRANSACTIONS)
    asked = {
        "audience": "default.mesh.local",
        "requested_token_type": TXN,
        "scope": "r",
        "subject_token": user(),
        "request_details": '{"cart": 7}',
        "request_context": '{"ip": "192.0.2.1"}',
    }
    answer = await shared.ask("edge", **asked)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["token_type"], answer.json()["issued_token_type"]) == ("N_A", TXN)
    first = answer.json()["access_token"]
    said = claims_of(first)
    assert (said["aud"], said["req_wl"], said["tctx"]) == (
        "default.mesh.local", spiffe("edge"), {"cart": 7},
    )  # fmt: skip
    renewed = {**asked, "subject_token": first, "subject_token_type": TXN}
    del renewed["request_details"], renewed["request_context"]
    again = claims_of((await shared.ask("items", **renewed)).json()["access_token"])
    assert (again["txn"], again["tctx"]) == (said["txn"], {"cart": 7})
    assert again["call_chain"] == [spiffe("edge"), spiffe("items")]
    as_access = await shared.ask("web", subject_token=first)
    assert code(as_access) == (400, "invalid_grant", "header-typ")
    for change in ({"request_details": '{"other": 1}'}, {"request_details": "[]"}, {"scope": None}):
        refused = await shared.ask("edge", **{**asked, **change})
        assert refused.status_code == 400, change
    assert code(await shared.ask("web", **asked))[1] == "unauthorized_client"


async def test_services_verify_with_keys_that_the_server_hands_out(shared: World) -> None:
    await shared.workload("items")
    verifying = f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: inside}}
spec:
  selector: {{matchLabels: {{app: items}}}}
  jwtRules: [{{issuer: "{shared.url}", audiences: [items]}}]
"""
    assert (await shared.server.apply(verifying)).status_code == 200
    control = shared.server.control
    graph = control.loop.graph("default")
    (name,) = [one for one in graph.instances if one.workload.name == "items"]
    (plan,) = graph.plan(name).inbounds[0].tokens
    assert plan.typ == "at+jwt"
    assert shared.service.keyring.signing.kid in plan.jwks
    assert control.key_sets is not None
    assert control.key_sets.without_keys() == []
