"""Keys of token issuers: fetched because a document names them, pushed to the proxies, kept."""

from __future__ import annotations

import asyncio
import json
from base64 import urlsafe_b64encode
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec
from tests.services.jwks_provider import answer, make_authority, providing, server_context
from tests.services.server_harness import permission, running

from limen.adapters.store_memory import MemoryStore
from limen.core.envoy import names
from limen.core.model.resource import JWKS_CACHE
from limen.services.agent.checks import Level, Observed, check_key_sets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.services.jwks_provider import Provider
    from tests.services.server_harness import FakeProxy, Running

    from limen.adapters.store import Store

LOOPBACK = (ip_network("127.0.0.0/8"),)


def key_set(*kids: str) -> bytes:
    """Fresh public keys with these names."""
    return json.dumps({"keys": [public_key(kid) for kid in kids]}).encode()


def public_key(kid: str) -> dict[str, str]:
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    x, y = (encoded(n.to_bytes(32, "big")) for n in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": x, "y": y}


def encoded(data: bytes) -> str:

    return urlsafe_b64encode(data).rstrip(b"=").decode()


def tokens_of(uri: str, name: str = "tokens", service: str = "items") -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: {name}, namespace: default}}
spec:
  selector: {{matchLabels: {{app: {service}}}}}
  jwtRules: [{{issuer: "https://issuer.example", jwksUri: "{uri}"}}]
"""


@dataclass
class World:
    provider: Provider
    ca_pem: str

    @property
    def uri(self) -> str:
        return self.provider.url(host="127.0.0.1")

    @asynccontextmanager
    async def server(self, path: Path, store: Store | None = None) -> AsyncIterator[Running]:
        settings: dict[str, Any] = {"jwks_allowed": LOOPBACK, "jwks_ca_pem": self.ca_pem}
        async with running(path, store, **settings) as server:
            yield server


@asynccontextmanager
async def world(path: Path) -> AsyncIterator[World]:
    authority = make_authority()
    async with providing(server_context(authority, path, "127.0.0.1")) as provider:
        yield World(provider, authority.pem)


async def shown(server: Running) -> list[dict[str, Any]]:
    return list((await server.api.get("/v1/jwks")).json()["items"])


async def settled(server: Running, count: int = 1, *, failed: bool = False) -> list[dict[str, Any]]:
    """The sources, once each has answered or failed; or once each has failed."""
    async with asyncio.timeout(10):
        while True:
            found = await shown(server)
            done = all(s["failures"] or (s["keys"] and not failed) for s in found)
            if len(found) == count and done:
                return found
            await asyncio.sleep(0.02)


def token_filter(proxy: FakeProxy) -> str:
    """Version of the filter that verifies tokens, "" if there is none."""
    return proxy.resources[names.EXTENSION].get(names.tokens(9080), "")


async def test_keys_are_fetched_for_a_document_and_reach_its_proxies_only(tmp_path: Path) -> None:
    async with world(tmp_path) as here, here.server(tmp_path) as server:
        here.provider.pages["/jwks"] = answer(key_set("one"))
        node = await server.join("items", "users")
        await node.register("items")
        await node.register("users", address="127.0.0.2")
        items, users = await node.open("default/items/1"), await node.open("default/users/1")
        await server.apply(permission("users", "items"), wait_s=5)
        assert (await server.apply(tokens_of(here.uri))).status_code == 200
        (source,) = await settled(server)
        assert source["keys"] == ["one"]
        assert (source["source"], source["meshes"]) == (here.uri, ["default"])
        await items.until(lambda: token_filter(items) != "")
        with_one = token_filter(items)
        assert token_filter(users) == ""
        here.provider.pages["/jwks"] = answer(key_set("two"))
        keeper = server.control.key_sets.keeper
        for held in keeper._held.values():
            held.due = 0.0
        keeper._wake.set()
        await items.until(lambda: token_filter(items) not in {"", with_one})
        assert (await shown(server))[0]["keys"] == ["two"]
        assert (await server.api.get("/v1/status")).json()["issuers_without_keys"] == []
        await server.api.delete("/v1/resources/RequestAuthentication/tokens")
        await items.until(lambda: token_filter(items) == "")
        assert await shown(server) == []
        await node.close()


async def test_a_provider_that_is_down_refuses_its_own_tokens_and_nothing_else(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as here, here.server(tmp_path) as server:
        here.provider.pages["/jwks"] = answer(key_set("one"))
        other = here.provider.url("/missing", host="127.0.0.1")
        await server.apply(tokens_of(here.uri), tokens_of(other, "others", "users"))
        found = {source["source"]: source for source in await settled(server, 2)}
        assert found[here.uri]["keys"] == ["one"]
        assert found[other]["keys"] == []
        assert found[other]["error"].startswith("fetch-status")
        status = (await server.api.get("/v1/status")).json()
        assert status["issuers_without_keys"] == [other]
        finding = check_key_sets(Observed(agent=None, server=status))
        assert finding.level is Level.FAIL
        assert other in finding.found
        status["issuers_without_keys"] = []
        assert check_key_sets(Observed(agent=None, server=status)).level is Level.OK
        assert check_key_sets(Observed(agent=None)).level is Level.WARN


async def test_a_restart_goes_on_with_the_last_good_keys(tmp_path: Path) -> None:
    store = MemoryStore()
    async with world(tmp_path) as here:
        here.provider.pages["/jwks"] = answer(key_set("one"))
        async with here.server(tmp_path, store) as server:
            await server.apply(tokens_of(here.uri))
            await settled(server)
            async with asyncio.timeout(10):
                async for batch in store.watch(0):
                    if any(change.key.kind == JWKS_CACHE for change in batch):
                        break
        again = store.restored()
        here.provider.pages["/jwks"] = answer(b"{}", status="503 Service Unavailable")
        async with here.server(tmp_path, again) as server:
            (source,) = await shown(server)
            assert source["keys"] == ["one"], "before anybody was asked"
            node = await server.join("items")
            await node.register("items")
            items = await node.open("default/items/1")
            await items.until(lambda: token_filter(items) != "")
            (source,) = await settled(server, failed=True)
            assert source["keys"] == ["one"]
            assert source["error"].startswith("fetch-status")
            await node.close()


async def test_addresses_that_are_not_public_are_asked_only_if_allowed(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        here.provider.pages["/jwks"] = answer(key_set("one"))
        async with running(tmp_path, jwks_ca_pem=here.ca_pem) as server:
            await server.apply(tokens_of(here.uri))
            (source,) = await settled(server)
            assert source["keys"] == []
            assert source["error"].startswith("fetch-address")
        assert here.provider.requests == []


async def test_a_server_without_such_documents_asks_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        await server.apply(permission("a", "b"))
        assert await shown(server) == []
