"""What token services say, and what is revoked, reaches the compile loop whatever happens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from limen.adapters.store import Delete, Put
from limen.adapters.store_memory import MemoryStore
from limen.core.compiler.user_contexts import TokenService
from limen.core.model.resource import (
    REVOCATION,
    TOKEN_EXCHANGE_POLICY,
    TOKEN_SERVICE,
    TRUSTED_ISSUER,
    ResourceKey,
)
from limen.services.server.token_services import TokenServices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

SAID = {"issuer": "https://tokens.mesh", "url": "https://tokens:8443", "jwks": "{}"}


def service(name: str = "tokens", mesh: str = "default") -> ResourceKey:
    return ResourceKey(TOKEN_SERVICE, mesh, "", name)


def revocation(name: str, mesh: str = "default") -> Put:
    body = {"issuer": "i", "by": "jti", "value": name, "until_s": 1.0}
    return Put(ResourceKey(REVOCATION, mesh, "", name), body)


class Loop:
    """Stands where the compile loop does."""

    def __init__(self) -> None:
        self.pushed: list[dict[str, TokenService]] = []
        self._told = asyncio.Event()

    def set_token_services(self, services: Mapping[str, TokenService]) -> None:
        self.pushed.append(dict(services))
        self._told.set()

    async def until(self, wanted: Any) -> dict[str, TokenService]:
        async with asyncio.timeout(20):
            while not (self.pushed and wanted(self.pushed[-1])):
                self._told.clear()
                await self._told.wait()
        return self.pushed[-1]


@pytest_asyncio.fixture
async def store() -> AsyncIterator[MemoryStore]:
    made = MemoryStore()
    yield made
    await made.close()


@pytest_asyncio.fixture
async def loop(store: MemoryStore) -> AsyncIterator[Loop]:
    found = Loop()
    services = TokenServices(store, found)  # type: ignore[arg-type]
    await services.load()
    task = asyncio.create_task(services.run())
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_a_token_service_says_is_passed_on_and_taken_back(
    store: MemoryStore, loop: Loop
) -> None:
    await store.commit([Put(service(), SAID)], [])
    found = await loop.until(lambda pushed: pushed)
    assert found == {"default": TokenService(*SAID.values(), "0")}
    await store.commit([Delete(service())], [])
    assert await loop.until(lambda pushed: not pushed) == {}


async def test_a_revocation_is_another_generation_of_its_mesh_alone(
    store: MemoryStore, loop: Loop
) -> None:
    await store.commit([Put(service(), SAID), Put(service(mesh="other"), SAID)], [])
    before = await loop.until(lambda pushed: len(pushed) == 2)
    await store.commit([revocation("one")], [])
    after = await loop.until(lambda pushed: pushed != before)
    assert after["default"].generation != before["default"].generation
    assert after["other"] == before["other"]
    await store.commit([revocation("two")], [])
    later = await loop.until(lambda pushed: pushed != after)
    assert later["default"].generation != after["default"].generation


async def test_a_forgotten_revocation_is_no_other_generation(
    store: MemoryStore, loop: Loop
) -> None:
    await store.commit([Put(service(), SAID)], [])
    await store.commit([revocation("one")], [])
    before = await loop.until(lambda pushed: pushed and pushed["default"].generation != "0")
    count = len(loop.pushed)
    await store.commit([Delete(revocation("one").key)], [])
    await loop.until(lambda _: len(loop.pushed) > count)
    assert loop.pushed[-1] == before


@pytest.mark.parametrize("kind", [TRUSTED_ISSUER, TOKEN_EXCHANGE_POLICY])
async def test_an_issuer_or_a_right_that_changes_or_goes_is_another_generation(
    store: MemoryStore, loop: Loop, kind: str
) -> None:
    key = ResourceKey(kind, "default", "default", "one")
    await store.commit([Put(service(), SAID)], [])
    seen = await loop.until(lambda pushed: pushed)
    for change in (Put(key, {"document": {}}), Delete(key)):
        await store.commit([change], [])
        before = seen["default"].generation
        seen = await loop.until(lambda p, b=before: p["default"].generation != b)


async def test_of_several_services_the_first_by_name_counts(store: MemoryStore, loop: Loop) -> None:
    await store.commit([Put(service("b"), {**SAID, "issuer": "https://b"})], [])
    await store.commit([Put(service("a"), {**SAID, "issuer": "https://a"})], [])
    found = await loop.until(lambda pushed: pushed and pushed["default"].issuer == "https://a")
    assert set(found) == {"default"}


async def test_what_was_there_before_counts_from_the_start(store: MemoryStore) -> None:
    await store.commit([Put(service(), SAID)], [])
    await store.commit([revocation("one")], [])
    found = Loop()
    await TokenServices(store, found).load()  # type: ignore[arg-type]
    assert found.pushed[-1]["default"].generation != "0"
