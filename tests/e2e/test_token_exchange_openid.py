"""Tokens of an OpenID provider that is not ours become ours, and npm jose verifies them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from tests.e2e.openid_harness import OpenIdProvider, node_parts, verify_with_jose
from tests.services.token_harness import ACCESS, JWT, World, policy_document, spiffe, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CACHE_S = 1
pytestmark = pytest.mark.asyncio(loop_scope="module")
POLICY = policy_document("""
  from: [{serviceAccount: web}]
  subjects: [{issuer: login}]
  audiences: [items]
  scopes: [orders.read]
""")


def secret(provider: OpenIdProvider) -> str:
    return f"""
apiVersion: v1
kind: Secret
metadata: {{name: login}}
stringData: {{client-secret: "{provider.app["client_secret"]}"}}
"""


def issuer(provider: OpenIdProvider, more: str = "") -> str:
    """Opaque tokens by introspection; ID tokens by the keys that OpenID's metadata lead to."""
    return f"""
apiVersion: limen.dev/v1
kind: TrustedIssuer
metadata: {{name: login}}
spec:
  issuer: {provider.issuer}
  jwt: {{algorithms: [ES256]}}
  introspection:
    url: {provider.issuer}/token/introspection
    clientId: {provider.app["client_id"]}
    clientSecretRef: {{name: login}}
    cacheTtl: {CACHE_S}s
    negativeCacheTtl: 0s
  audiences: ["{provider.audience}", {provider.app["client_id"]}]
  {more}
"""


@dataclass
class Both:
    """A provider of OpenID, and a token service that trusts it."""

    provider: OpenIdProvider
    here: World
    ca_file: Path

    async def exchange(self, token: str, kind: str = ACCESS) -> tuple[int, dict[str, Any]]:
        answer = await self.here.ask("web", subject_token=token, subject_token_type=kind)
        return answer.status_code, answer.json()

    async def until(self, token: str, code: str, kind: str = ACCESS) -> dict[str, Any]:
        """The refusal with this code; what came before it was a success or another code."""
        async with asyncio.timeout(30):
            while True:
                _, body = await self.exchange(token, kind)
                if body.get("code", "good") == code:
                    return body
                await asyncio.sleep(0.05)

    async def judged(self, token: str, audience: str = "items") -> tuple[int, dict[str, Any]]:
        return await verify_with_jose(
            self.ca_file,
            jwksUri=f"{self.here.url}/jwks",
            token=token,
            issuer=self.here.service.issuer,
            audience=audience,
            typ="at+jwt",
            algorithms=["ES256"],
        )


@asynccontextmanager
async def standing(path: Path) -> AsyncIterator[Both]:
    await asyncio.to_thread(node_parts)
    async with OpenIdProvider(path) as provider:
        documents = (secret(provider), issuer(provider), POLICY)
        ca_pem = provider.company.pem.decode()
        async with world(path, *documents, ca_pem=ca_pem) as here:
            ca_file = path / "limen-ca.pem"
            ca_file.write_text(here.server.client["ca_pem"])
            await keys_known(here)
            yield Both(provider, here, ca_file)


async def keys_known(here: World) -> None:
    """The provider's keys were fetched, and have reached the token service."""
    async with asyncio.timeout(30):
        while True:
            sources = (await here.server.api.get("/v1/jwks")).json()["items"]
            if sources and all(one["keys"] for one in sources):
                break
            await asyncio.sleep(0.05)
    await here.taken_up()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Both]:
    async with standing(tmp_path_factory.mktemp("openid")) as found:
        yield found


async def test_a_persons_opaque_token_becomes_one_that_jose_verifies(both: Both) -> None:
    tokens = await both.provider.log_in("alice")
    assert "." not in tokens["access_token"]
    status, body = await both.exchange(tokens["access_token"])
    assert status == 200, body
    assert body["scope"] == "orders.read"
    assert body["expires_in"] <= tokens["expires_in"]
    status, found = await both.judged(body["access_token"])
    assert status == 0, found
    assert (found["header"]["typ"], found["header"]["alg"]) == ("at+jwt", "ES256")
    said = found["payload"]
    assert (said["sub"], said["act"]) == ("login:alice", {"sub": spiffe("web")})
    assert said["sub_id"] == {"format": "iss_sub", "iss": both.provider.issuer, "sub": "alice"}
    status, found = await both.judged(body["access_token"], audience="orders")
    assert (status, found) == (1, {"refused": "ERR_JWT_CLAIM_VALIDATION_FAILED"})


async def test_a_token_revoked_at_the_provider_is_refused_once_the_cache_is_over(
    both: Both,
) -> None:
    token = (await both.provider.log_in("bob"))["access_token"]
    status, body = await both.exchange(token)
    assert status == 200, body
    await both.provider.revoke(token)
    assert (await both.until(token, "inactive"))["error"] == "invalid_grant"


async def test_a_machines_token_has_no_user_unless_the_document_says_where(both: Both) -> None:
    """Its introspection says `client_id` and no `sub` (RFC 7662): nobody is guessed from it."""
    token = (await both.provider.as_machine())["access_token"]
    assert "sub" not in await both.provider.introspect(token)
    status, body = await both.exchange(token)
    assert (status, body["error"], body["code"]) == (400, "invalid_grant", "claim-sub")
    await both.here.apply(issuer(both.provider, "subjectClaim: client_id"))
    try:
        status, body = await both.exchange(token)
        assert status == 200, body
        status, found = await both.judged(body["access_token"])
        assert (status, found["payload"]["sub"]) == (0, "login:billing")
    finally:
        await both.here.apply(issuer(both.provider))


async def test_a_provider_that_is_down_is_told_apart_from_a_bad_token(both: Both) -> None:
    tokens = await both.provider.log_in("carol")
    status, body = await both.exchange(tokens["id_token"], JWT)
    assert status == 200, body
    await both.provider.stop()
    status, body = await both.exchange(tokens["access_token"])
    wanted = (503, "temporarily_unavailable", "introspection-failed")
    assert (status, body["error"], body["code"]) == wanted
    status, body = await both.exchange(tokens["id_token"], JWT)
    assert status == 200, "its keys are kept: signed tokens go on"
    await both.provider.start()
    assert (await both.until(tokens["access_token"], "inactive"))["error"] == "invalid_grant"
    again = await both.provider.log_in("carol")
    status, body = await both.exchange(again["access_token"])
    assert status == 200, body


async def test_keys_that_the_provider_rotates_away_verify_nothing_more(both: Both) -> None:
    old = (await both.provider.log_in("dave"))["id_token"]
    status, body = await both.exchange(old, JWT)
    assert status == 200, body
    status, found = await both.judged(body["access_token"])
    assert (status, found["payload"]["sub"]) == (0, "login:dave")
    await both.provider.rotate_keys()
    fresh = (await both.provider.log_in("dave"))["id_token"]
    status, body = await both.exchange(fresh, JWT)
    assert (status, body["code"]) == (400, "key-unknown")
    keeper = both.here.server.control.key_sets.keeper
    for held in keeper._held.values():
        held.due = 0.0
    keeper._wake.set()
    assert (await both.until(old, "key-unknown", JWT))["error"] == "invalid_grant"
    status, body = await both.exchange(fresh, JWT)
    assert status == 200, body
