"""Tokens at a guarded port, with a real Envoy: who gets 401, what the application sees."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from tests.core.tokens import corpus
from tests.core.tokens.resigned import resigned, resigned_pss
from tests.core.tokens.signing import ec_key, jwk, sign
from tests.core.tokens.vectors import MISSING

from limen.core.envoy import names, token_claims
from limen.core.model.request_authentication import ClaimHeader, TokenHeader
from limen.core.plan.node import JwtPlan
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import AllOf, Always, Claim, Effect, HasToken, Not, RequestPrincipal
from limen.core.tokens.algorithms import DEFAULT
from limen.core.tokens.jwks import fit_for_envoy, parse_jwks
from limen.core.tokens.verify import IssuerRules, verify_token
from limen.core.xds.events import Confirmed
from limen.errors import Untrusted

from .envoy_harness import Connection, Response, TestMesh, Workload, client_tls, policy, rule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from limen.core.policy.rule import Condition, Policy

ISSUER, OTHER, DOWN = (f"https://{name}.example.com" for name in ("login", "other", "down"))
ANYBODY = policy(rule(Effect.ALLOW, Always()))

ENVOY_IS_LARGER = {"payload with 6000 values", "a token of 23 KB", "a header of 8 KB"}
"""Our reader's caps on size: what Envoy takes was signed by the issuer, and only costs time."""
ENVOY_IGNORES = {"signature of 65 bytes", "signature padded"}
"""Zeros around a good ECDSA signature: the same token in two spellings."""
ENVOY_READS = {
    "header with a trailing comma",
    "header with single quotes",
    "payload with a raw NUL",
}
"""Its reader of JSON is laxer on form. It says the same claims, and the issuer signed them."""


def keys(*found: Any, **more: Any) -> str:
    made = [jwk(key, kid=f"k{index}", alg="ES256", **more) for index, key in enumerate(found)]
    return json.dumps({"keys": made})


PLAN = JwtPlan(ISSUER, jwks=keys(ec_key(number=1)))
PLAN_OF_OTHER = JwtPlan(OTHER, jwks=keys(ec_key(number=2)))


def token(issuer: str = ISSUER, key: int = 1, header: Any = None, **claims: Any) -> str:
    body = {"iss": issuer, "sub": "alice", "exp": int(time.time()) + 300} | claims
    body = {name: value for name, value in body.items() if value is not None}
    return sign({"alg": "ES256", "kid": "k0"} | (header or {}), body, ec_key(number=key), "ES256")


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


class Port:
    """A guarded port whose tokens and policy are changed, and a caller on one connection."""

    def __init__(self, mesh: TestMesh, workload: Workload) -> None:
        self.workload = workload
        self._tls = client_tls(mesh.authority.issue(mesh.identity("invoices")))
        self._connection: Connection | None = None

    @classmethod
    async def start(cls, mesh: TestMesh, *plans: JwtPlan, wanted: Policy = ANYBODY) -> Port:
        port = cls(mesh, await mesh.start("items", policy=wanted))
        await port.verify(*plans)
        return port

    async def verify(self, *plans: JwtPlan) -> None:
        inbound = replace(self.workload.plan.inbounds[0], tokens=plans)
        event = await self.workload.apply(inbounds=(inbound,))
        assert isinstance(event, Confirmed), event

    async def enforce(self, *conditions: Condition) -> None:
        wanted = policy(*(rule(Effect.ALLOW, c, f"rule {n}") for n, c in enumerate(conditions)))
        assert isinstance(await self.workload.apply_policy(wanted), Confirmed)

    async def ask(
        self,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        target: str = "/",
        method: str = "GET",
    ) -> Response:
        connection = await Connection.open(self.workload.port, self._tls)
        try:
            return await connection.request(method, target, headers)
        finally:
            await connection.close()

    async def status(self, *arguments: Any, **more: Any) -> int:
        return (await self.ask(*arguments, **more)).status


@pytest_asyncio.fixture
async def mesh() -> AsyncIterator[TestMesh]:
    async with TestMesh() as made:
        yield made


def seen(answer: Response, name: str) -> list[str]:
    """What the application received under a header."""
    assert answer.status == 200, answer
    return [value for key, value in answer.json["headers"] if key == name]


async def test_absent_passes_invalid_is_401_and_both_say_who_asks(mesh: TestMesh) -> None:
    port = await Port.start(mesh, PLAN)
    assert await port.status() == 200
    assert await port.status(bearer(token())) == 200
    assert await port.status({"authorization": "Basic dXNlcjpzZWNyZXQ="}) == 200
    refused = await port.ask(bearer(token(exp=int(time.time()) - 3600)))
    assert refused.status == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    shown = f"Request ID: {refused.headers['x-request-id']}."
    assert refused.body.decode() == (
        f"default/items needs a valid token in this request.\n{shown}\n"
    )
    for text in ("x", "a.b.c", token(key=9), token(issuer=f"{ISSUER}/"), token(exp=None)):
        assert await port.status(bearer(text)) == 401, text
    (line,) = (await port.workload.envoy.wait_logged("/"))[:1]
    assert (line["status"], line["token"]) == (401, "Jwt is expired")
    assert "eyJ" not in port.workload.envoy.log.read_text(encoding="utf-8")


async def test_one_corpus_through_envoy_and_through_our_reader(mesh: TestMesh) -> None:
    now = time.time()
    made = corpus.build(now)
    found = parse_jwks(made.jwks)
    rules = IssuerRules(made.issuer, found, audiences=(made.audience,))
    assert rules.leeway_s == token_claims.LEEWAY_S
    fit = fit_for_envoy(found, DEFAULT)
    port = await Port.start(mesh, JwtPlan(made.issuer, (made.audience,), fit))
    differing, sent = set(), 0
    for case in made.cases:
        if any(not 31 < ord(c) < 256 for c in case.token) or case.token.strip() != case.token:
            continue  # no header can carry it: see `test_corpus`
        ours = accepted(case.token, rules, now)
        answer = await port.ask(bearer(case.token))
        assert answer.status in (200, 401, 431), (case.name, answer)
        if answer.status == 401:
            assert answer.headers["www-authenticate"].startswith("Bearer"), case.name
        if (answer.status == 200) != ours:
            differing.add(case.name)
            assert answer.status == 200, case.name
        sent += 1
    assert differing == ENVOY_IS_LARGER | ENVOY_IGNORES | ENVOY_READS
    assert sent > 250


@MISSING
@pytest.mark.parametrize(
    ("made_anew", "kid", "valid", "invalid"),
    [(resigned, "rsa", 2, 100), (resigned_pss, "ps", 2, 20)],
    ids=["PKCS #1", "PSS"],
)
async def test_malformed_rsa_signatures_made_anew_around_claims(
    mesh: TestMesh, made_anew: Any, kid: str, valid: int, invalid: int
) -> None:
    """Public vectors of RSA forgeries: Envoy and our reader say the same of each."""
    now = time.time()
    made = corpus.build(now)
    found = parse_jwks(made.jwks)
    rules = IssuerRules(made.issuer, found, audiences=(made.audience,))
    fit = fit_for_envoy(found, DEFAULT)
    port = await Port.start(mesh, JwtPlan(made.issuer, (made.audience,), fit))
    claims = {"iss": made.issuer, "aud": made.audience, "exp": int(now) + 600}
    counted = {True: 0, False: 0}
    for vector, text in made_anew(claims, kid):
        ours = accepted(text, rules, now)
        assert ours is (vector.result == "valid"), vector.comment
        assert await port.status(bearer(text)) == (200 if ours else 401), vector.comment
        counted[ours] += 1
    assert counted[True] > valid, counted
    assert counted[False] > invalid, counted


def accepted(text: str, rules: IssuerRules, now_s: float) -> bool:
    try:
        verify_token(text, rules, now_s)
    except Untrusted:
        return False
    return True


async def test_issuer_without_keys_refuses_its_tokens_and_nothing_else(mesh: TestMesh) -> None:
    """JWKS unavailable leads to no default key (CVE-2026-31837)."""
    port = await Port.start(mesh, PLAN, JwtPlan(DOWN))
    assert await port.status(bearer(token(DOWN))) == 401
    assert await port.status(bearer(token())) == 200
    assert await port.status() == 200
    await port.verify(JwtPlan(DOWN))
    assert await port.status(bearer(token(DOWN))) == 401
    assert await port.status(bearer(token())) == 401
    assert await port.status() == 200


async def test_several_issuers_each_with_its_own_keys(mesh: TestMesh) -> None:
    port = await Port.start(mesh, PLAN, PLAN_OF_OTHER)
    assert await port.status(bearer(token())) == 200
    assert await port.status(bearer(token(OTHER, 2))) == 200
    assert await port.status(bearer(token(OTHER, 1))) == 401
    assert await port.status(bearer(token(ISSUER, 2))) == 401
    assert await port.status(bearer(token("https://unknown.example.com"))) == 401
    again = replace(PLAN, audiences=("a",)), replace(PLAN, audiences=("b",))
    await port.verify(*again)
    for audience, status in (("a", 200), ("b", 200), (["x", "b"], 200), ("c", 401), (None, 401)):
        assert await port.status(bearer(token(aud=audience))) == status


async def test_only_one_token_in_one_spelling(mesh: TestMesh) -> None:
    """Repeated headers, parameters and places: the application might take another one."""
    port = await Port.start(mesh, replace(PLAN, forward=True), PLAN_OF_OTHER)
    good, other = token(), token(OTHER, 2)
    assert await port.status((), f"/?access_token={good}&x=1") == 200
    assert await port.status((), f"/?x=?&access_token={good}") == 200
    for headers in (
        [("authorization", f"Bearer {good}"), ("authorization", f"Bearer {other}")],
        [("authorization", f"Bearer {good}"), ("authorization", "bearer x")],
        [("authorization", "Basic eA=="), ("authorization", f"Bearer {good}")],
        [("authorization", f"bearer {good}")],
        [("authorization", f"BEARER {good}")],
        [("authorization", f"Bearer  {good}")],
        [("authorization", f"Bearer\t{good}")],
        [("authorization", f"Basic x Bearer {good}")],
        [("authorization", f"\xffBearer {good}")],
        [("authorization", f"Bearer {good},{good}")],
        [("authorization", f"Bearer {good} x")],
        [("authorization", "Bearer")],
    ):
        assert await port.status(headers) == 401, headers
    for target in (
        f"/?access_token={good}&access_token=x",
        f"/?access_token=x&access_token={good}",
        f"/?access_token={good}&%61ccess_token=x",
        f"/?access_token={good}&access%5Ftoken=x",
        f"/?access_token={good}&access%5ftoken",
        f"/?%61ccess_token={good}",
        f"/?access_token={good.replace('.', '%2e')}",
        "/?access_token",
        "/?access_token=",
    ):
        assert await port.status((), target) == 401, target
    assert await port.status(bearer(good), f"/?access_token={other}") == 401
    assert await port.status(bearer(good), f"/?access_token={good}") == 401
    assert await port.status((), "/?my_access_token=x&access_tokens=y#".rstrip("#")) == 200


async def test_other_places_prefixes_parameters_and_cookies(mesh: TestMesh) -> None:
    plan = replace(
        PLAN,
        from_headers=(TokenHeader("X-Token", "Token="), TokenHeader("x-bare")),
        from_params=("tok", "a.b"),
        from_cookies=("session",),
    )
    port = await Port.start(mesh, plan)
    good = token()
    for headers, target in (
        ({"x-token": f"Token={good}"}, "/"),
        ({"x-bare": good}, "/"),
        ({}, f"/?tok={good}"),
        ({}, f"/?x&a.b={good}"),
        ({"cookie": f"a=b; session={good}"}, "/"),
        ({"cookie": f"session={good}; xsession=c"}, "/"),
        ({"authorization": "Bearer x"}, "/?access_token=x&axb=1"),
        ({"x-token": "other=x"}, "/"),
        ({"cookie": "xsession=1; sessions=2"}, "/"),
    ):
        answer = await port.ask(headers, target)
        assert answer.status == 200, (headers, target)
    for headers, target in (
        ({"x-token": f"token={good}"}, "/"),
        ({"x-token": f"x Token={good}"}, "/"),
        ({"x-bare": f"Bearer {good}"}, "/"),
        ({"x-bare": "x"}, "/"),
        ({}, "/?tok=x"),
        ({}, f"/?a.b={good}&a%2Eb=x"),
        ({"cookie": f"session={good}; session=x"}, "/"),
        ({"cookie": f"session=x; session={good}"}, "/"),
        ({"cookie": f'session="{good}"'}, "/"),
        ({"x-bare": good, "x-token": f"Token={good}"}, "/"),
        ({"x-bare": good, "cookie": f"session={good}"}, "/"),
    ):
        assert await port.status(headers, target) == 401, (headers, target)
    twice = [("cookie", f"session={good}"), ("cookie", "session=x")]
    assert await port.status(twice) == 401


async def test_token_is_taken_out_or_forwarded(mesh: TestMesh) -> None:
    port = await Port.start(mesh, PLAN)
    good = token()
    assert seen(await port.ask(bearer(good)), "authorization") == []
    assert (await port.ask((), f"/x?a=1&access_token={good}&b=2")).json["target"] == "/x?a=1&b=2"
    await port.verify(replace(PLAN, forward=True))
    assert seen(await port.ask(bearer(good)), "authorization") == [f"Bearer {good}"]
    target = f"/x?a=1&access_token={good}"
    assert (await port.ask((), target)).json["target"] == target


async def test_output_headers_come_from_the_token_and_never_from_the_client(
    mesh: TestMesh,
) -> None:
    """2024-45806: token headers accepted from outside. Also without a token, and of others."""
    outputs = (ClaimHeader("X-User", "sub"), ClaimHeader("x-tenant", "org.id"))
    plan = replace(PLAN, output_claims=outputs, output_payload_to_header="x-payload")
    of_other = replace(PLAN_OF_OTHER, output_claims=(ClaimHeader("x-admin", "admin"),))
    port = await Port.start(mesh, plan, of_other)
    forged = [("x-user", "root"), ("X-USER", "root"), ("x-tenant", "0"), ("x-payload", "e30")]
    forged += [("x-admin", "true")]
    answer = await port.ask([*bearer(token(org={"id": 7})).items(), *forged])
    assert seen(answer, "x-user") == ["alice"]
    assert seen(answer, "x-tenant") == ["7"]
    assert len(seen(answer, "x-payload")) == 1
    assert seen(answer, "x-admin") == [], "of the issuer that did not sign this token"
    preflight = [("origin", "https://a"), ("access-control-request-method", "GET")]
    for answer in (
        await port.ask(forged),
        await port.ask([*forged, *preflight], method="OPTIONS"),
    ):
        assert not [n for n, _ in answer.json["headers"] if n in dict(forged)]
    answer = await port.ask([*bearer(token(sub=None)).items(), *forged])
    assert seen(answer, "x-user") == []


async def test_required_token(mesh: TestMesh) -> None:
    port = await Port.start(mesh, replace(PLAN, required=True), PLAN_OF_OTHER)
    missing = await port.ask()
    assert (missing.status, "error" in missing.headers["www-authenticate"]) == (401, False)
    assert await port.status({"authorization": "Basic eA=="}) == 401
    assert await port.status(bearer(token())) == 200
    assert await port.status(bearer(token(OTHER, 2))) == 401, "not of one that is required"
    preflight = {"origin": "https://a", "access-control-request-method": "GET"}
    assert await port.status(preflight, method="OPTIONS") == 200
    assert await port.status({**preflight, **bearer(token(key=9))}, method="OPTIONS") == 401
    assert await port.status({"origin": "https://a"}, method="OPTIONS") == 401
    assert await port.status(preflight) == 401


async def test_rules_see_claims_of_the_verified_token(mesh: TestMesh) -> None:
    port = await Port.start(mesh, PLAN, PLAN_OF_OTHER)

    def claim(*path: str, value: str = "a") -> Claim:
        return Claim(path, StringMatch(How.EXACT, value))

    await port.enforce(claim("groups"), claim("realm", "roles"), claim("scope", value="items:read"))
    for claims, status in (
        ({"groups": "a"}, 200),
        ({"groups": ["b", "a"]}, 200),
        ({"groups": ["b", 1, ["a"], {"a": "a"}]}, 403),
        ({"groups": {"a": "a"}}, 403),
        ({"groups": "a b"}, 403),
        ({"realm": {"roles": ["a"]}}, 200),
        ({"realm": [{"roles": ["a"]}]}, 403),
        ({"realm.roles": "a"}, 403),
        ({"scope": "items:read items:write"}, 200),
        ({"scope": ["items:read"]}, 200),
        ({"scope": "items:readall"}, 403),
        ({}, 403),
    ):
        assert await port.status(bearer(token(**claims))) == status, claims
    assert await port.status() == 403
    await port.enforce(
        RequestPrincipal(StringMatch(How.EXACT, OTHER), StringMatch(How.PREFIX, "b"))
    )
    assert await port.status(bearer(token(OTHER, 2, sub="bob"))) == 200
    assert await port.status(bearer(token(OTHER, 2, sub="alice"))) == 403
    assert await port.status(bearer(token(OTHER, 2, sub=None))) == 403
    assert await port.status(bearer(token(sub="bob"))) == 403


async def test_denial_by_a_claim_does_not_open_without_the_claim(mesh: TestMesh) -> None:
    needed = Claim(("groups",), StringMatch(How.EXACT, "a"))
    wanted = policy(
        rule(Effect.DENY, Not(HasToken()), "a token is needed"),
        rule(Effect.DENY, AllOf((HasToken(), Not(needed))), "and the group"),
        rule(Effect.ALLOW, Always()),
    )
    port = await Port.start(mesh, PLAN, wanted=wanted)
    assert await port.status() == 403
    assert await port.status(bearer(token())) == 403
    assert await port.status(bearer(token(groups={}))) == 403
    assert await port.status(bearer(token(groups="a"))) == 200


async def test_removed_key_bites_at_once_on_an_open_connection(mesh: TestMesh) -> None:
    """A key removed from the set still verifies what is cached, or on old connections."""
    port = await Port.start(mesh, PLAN)
    certificate = mesh.authority.issue(mesh.identity("invoices"))
    connection = await Connection.open(port.workload.port, client_tls(certificate))
    old, new = token(), token(key=3)
    for _ in range(3):
        assert (await connection.request("GET", "/", bearer(old))).status == 200
    assert (await connection.request("GET", "/", bearer(new))).status == 401
    await port.verify(replace(PLAN, jwks=keys(ec_key(number=3))))
    assert (await connection.request("GET", "/", bearer(old))).status == 401
    assert (await connection.request("GET", "/", bearer(new))).status == 200


async def test_cached_token_is_not_accepted_longer_than_an_uncached_one(mesh: TestMesh) -> None:
    port = await Port.start(mesh, PLAN)
    ends = int(time.time()) - token_claims.LEEWAY_S + 2
    cached, uncached = token(exp=ends), token(exp=ends, sub="bob")
    for _ in range(3):
        assert await port.status(bearer(cached)) == 200
    async with asyncio.timeout(10):
        while await port.status(bearer(cached)) == 200:
            assert time.time() < ends + token_claims.LEEWAY_S + 2
            await asyncio.sleep(0.1)  # the clock is the event
    assert await port.status(bearer(uncached)) == 401


async def test_cached_token_is_not_good_for_another_audience(mesh: TestMesh) -> None:
    """Cache key without issuer or audience (Oathkeeper 2021-32701, 2026-33496)."""
    port = await Port.start(mesh, replace(PLAN, audiences=("a",)))
    text = token(aud="a")
    for _ in range(3):
        assert await port.status(bearer(text)) == 200
    await port.verify(replace(PLAN, audiences=("b",)))
    assert await port.status(bearer(text)) == 401
    await port.verify(replace(PLAN, audiences=("b",)), replace(PLAN_OF_OTHER, audiences=("a",)))
    assert await port.status(bearer(text)) == 401
    await port.verify(replace(PLAN, audiences=("a",)))
    assert await port.status(bearer(text)) == 200


async def test_first_tokens_of_a_port_change_its_listener_and_lose_nothing(mesh: TestMesh) -> None:
    port = await Port.start(mesh)
    assert await port.status(bearer("x")) == 200
    await port.verify(PLAN)
    assert await port.status(bearer("x")) == 401
    await port.verify()
    assert await port.status(bearer("x")) == 200
    assert names.NO_RULE == "[none]"


async def test_of_the_meshs_own_tokens_exactly_the_pinned_kind_passes(mesh: TestMesh) -> None:
    own = replace(PLAN_OF_OTHER, typ="at+jwt")
    port = await Port.start(mesh, PLAN, own)
    accepted = {}
    for typ in ("at+jwt", "AT+JWT", "application/at+jwt", "JWT", "txntoken+jwt", "limen-hop+jwt"):
        text = token(OTHER, 2, {"typ": typ}, iat=int(time.time()))
        accepted[typ] = await port.status(bearer(text))
    accepted["none"] = await port.status(bearer(token(OTHER, 2)))
    assert accepted == dict.fromkeys(accepted, 401) | {"at+jwt": 200}
    for header in ({"typ": "JWT"}, {"typ": "AT+JWT"}, {}):
        assert await port.status(bearer(token(header=header))) == 200, header
