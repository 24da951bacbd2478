"""Ways in that other token services left open, each tried at ours, over real TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from tests.services.token_harness import (
    ACCESS,
    EXCHANGE,
    JWT,
    LOGIN,
    WEB_POLICY,
    Signer,
    claims_of,
    issuer_document,
    policy_document,
    spiffe,
    world,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.services.token_harness import World

IDP, OTHER = Signer(LOGIN), Signer("https://other.example")
ITEMS = policy_document(
    "{from: [{serviceAccount: items}], subjects: [{issuer: login, audiences: [stock]},"
    " {issuer: mesh}], audiences: [stock], scopes: [r], clientCredentials: true}",
    "items",
)
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    documents = (issuer_document(IDP), issuer_document(OTHER, "other"), WEB_POLICY, ITEMS)
    async with world(tmp_path_factory.mktemp("world"), *documents) as found:
        yield found


def user(**claims: Any) -> str:
    said = {"sub": "ann", "aud": "shop", "scope": "r", **claims}
    return IDP.sign({"typ": "at+jwt"}, **said)


async def refusal(here: World, name: str, **form: Any) -> tuple[str, str]:
    body = (await here.ask(name, **form)).json()
    assert "access_token" not in body
    return body["error"], body["code"]


async def test_a_token_of_one_client_is_not_exchanged_by_another(here: World) -> None:
    """ZITADEL: the token of one client, brought by another that may exchange too."""
    given = (await here.ask("web", subject_token=user())).json()["access_token"]
    assert claims_of(given)["aud"] == ["items"]
    error, _ = await refusal(here, "items", subject_token=given, audience="stock")
    assert error == "invalid_request"
    error, _ = await refusal(here, "items", subject_token=user(), audience="stock")
    assert error == "invalid_request"


async def test_an_audience_is_not_ignored_and_a_scope_not_widened(here: World) -> None:
    """Audience ignored on exchange; scope widened by exchange."""
    assert (await refusal(here, "web", subject_token=user(), audience="stock"))[0] == (
        "invalid_target"
    )
    assert (await refusal(here, "web", subject_token=user(), scope="w"))[0] == "invalid_scope"
    assert (await refusal(here, "web", subject_token=user(), audience="*.example.com"))[0] == (
        "invalid_target"
    )


async def test_an_oversized_subject_token_falls_to_no_other_grant(here: World) -> None:
    """Keycloak 2026-9704: the client may have tokens for itself, and gets none here."""
    found = await refusal(here, "items", subject_token="a" * 20_000, audience="stock")
    assert found == ("invalid_request", "subject-token-too-large")


async def test_an_actor_token_without_may_act_is_refused(here: World) -> None:
    """Whoever has two tokens joins them: only where the subject's token names the actor."""
    actor = IDP.sign({"typ": "at+jwt"}, sub="robot", aud=["shop", spiffe("web")], scope="r")
    form = {"subject_token": user(), "actor_token": actor, "actor_token_type": JWT}
    assert (await refusal(here, "web", **form))[0] == "invalid_request"
    form["subject_token"] = user(may_act={"sub": "robot", "iss": LOGIN})
    answer = (await here.ask("web", **form)).json()
    assert claims_of(answer["access_token"])["act"] == {"sub": "robot", "iss": LOGIN}


async def test_introspection_tells_a_stranger_nothing(here: World) -> None:
    """Introspection by another client."""
    given = (await here.ask("web", subject_token=user())).json()["access_token"]
    stranger = await here.workload("stranger")
    answer = await stranger.post("/introspect", data={"token": given})
    assert answer.json() == {"active": False}


@pytest.mark.parametrize(
    "token",
    [
        lambda: user(iss="https://login.example.evil.example"),
        lambda: user(iss="https://LOGIN.example"),
        lambda: user(iss=""),
        lambda: user(iss=None),
        lambda: OTHER.sign({"typ": "at+jwt"}, iss=LOGIN, sub="ann", aud="shop"),
        lambda: IDP.sign({"typ": "at+jwt"}, iss=OTHER.name, sub="ann", aud="shop"),
    ],
)
async def test_an_issuer_is_compared_in_full_and_by_its_own_keys(here: World, token: Any) -> None:
    """Partial issuer match; issuer missing; one issuer's key for another's token."""
    assert (await refusal(here, "web", subject_token=token()))[0] == "invalid_grant"


async def test_two_issuers_users_are_two_users(here: World) -> None:
    """One `sub` of two issuers would be one principal to whoever compares `iss/sub`."""
    wide = policy_document(
        "{from: [{serviceAccount: both}], subjects: [{issuer: login}, {issuer: other}],"
        " audiences: [items], scopes: [r]}",
        "both",
    )
    await here.apply(wide)
    said = [
        claims_of((await here.ask("both", subject_token=text)).json()["access_token"])["sub"]
        for text in (user(), OTHER.sign({"typ": "at+jwt"}, sub="ann", aud="shop", scope="r"))
    ]
    assert said == ["login:ann", "other:ann"]


@pytest.mark.parametrize("kind", ["kid", "jku", "jwk", "x5u", "x5c"])
async def test_a_token_brings_no_key_of_its_own(here: World, kind: str) -> None:
    """`jku`, `x5u`, `jwk`, `x5c` from the token trusted; `kid` as a path or a query."""
    forger = Signer(LOGIN)
    value: Any = {
        "kid": "../../dev/null' OR 1=1 --", "jku": "https://evil.example/jwks",
        "jwk": {"kty": "EC"}, "x5u": "https://evil.example/x5u", "x5c": ["AAAA"],
    }[kind]  # fmt: skip
    token = forger.sign({"typ": "at+jwt", kind: value}, sub="ann", aud="shop", scope="r")
    assert (await refusal(here, "web", subject_token=token))[0] == "invalid_grant"


async def test_a_token_of_this_service_is_no_assertion_and_no_certificate(here: World) -> None:
    """A token of another kind where a client proves itself."""
    given = (await here.ask("web", subject_token=user())).json()["access_token"]
    anybody = await here.client()
    form = {
        "grant_type": EXCHANGE,
        "subject_token": user(),
        "subject_token_type": ACCESS,
        "audience": "items",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": given,
    }
    answer = await anybody.post("/token", data=form)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
