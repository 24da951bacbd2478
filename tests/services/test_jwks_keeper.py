"""The keeper of key sets, with a clock that stands and a provider that does as it is told."""

from __future__ import annotations

import asyncio
import json
import random
from ipaddress import ip_network
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from tests.core.tokens import corpus
from tests.core.tokens.signing import ec_key, jwk, rsa_key
from tests.services.jwks_provider import answer, make_authority, providing, server_context

from limen.adapters.clock import FakeClock, SystemClock
from limen.adapters.judged_https import FetchRules
from limen.adapters.jwks_fetch import WELL_KNOWN
from limen.adapters.store import Put
from limen.adapters.store_memory import MemoryStore
from limen.adapters.store_sqlite import open_store
from limen.core.model.resource import ResourceKey
from limen.core.tokens.jwks import KeySet, fit_for_envoy, format_jwks, parse_jwks
from limen.core.tokens.verify import IssuerRules, verify_token
from limen.errors import Unavailable, Untrusted
from limen.services.server.jwks import (
    JWKS_CACHE,
    JwksKeeper,
    JwksSource,
    KeeperSettings,
    fetching,
    record_name,
    source_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

A = JwksSource(uri="https://a.example/jwks")
B = JwksSource(issuer="https://b.example")
SETTINGS = KeeperSettings(refresh_s=100, retry_s=10, max_retry_s=40, keep_s=1000)
DAY = 86400


def key_set(*kids: str) -> bytes:
    keys = [jwk(ec_key(number=100 + ord(kid[0])), kid=kid) for kid in kids]
    return json.dumps({"keys": keys}).encode()


class Providers:
    """What each source answers: bytes, an error, or an event to wait for."""

    def __init__(self) -> None:
        self.answers: dict[JwksSource, Any] = {}
        self.asked: list[JwksSource] = []
        self.asking = asyncio.Event()

    async def __call__(self, source: JwksSource) -> bytes:
        self.asked.append(source)
        self.asking.set()
        answer = self.answers.get(source, Unavailable("it is down", code="fetch-failed"))
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            return key_set("late")
        if isinstance(answer, Exception):
            raise answer
        return bytes(answer)


class World:
    """A keeper's surroundings, which outlive it."""

    def __init__(self, store: Any = None) -> None:
        self.store = store or MemoryStore()
        self.clock = FakeClock()
        self.providers = Providers()
        self.changes: list[JwksSource] = []

    async def keeper(self, *sources: JwksSource, **changes: Any) -> JwksKeeper:
        keeper = JwksKeeper(
            self.store,
            self.clock,
            self.providers,
            on_change=self.changes.append,
            jitter=random.Random(1),  # noqa: S311 - tests repeat
            **{"settings": SETTINGS, **changes},
        )
        await keeper.start()
        keeper.want(sources)
        return keeper


def kids(keeper: JwksKeeper, source: JwksSource = A) -> list[str]:
    return [key.kid for key in keeper.keys(source).keys]


def error(keeper: JwksKeeper, source: JwksSource = A) -> str:
    return next(one.error for one in keeper.status() if one.source == source)


@pytest.fixture
def world() -> World:
    return World()


# --- asking


async def test_a_wanted_source_is_asked_and_its_keys_are_there(world: World) -> None:
    world.providers.answers[A] = key_set("x", "y")
    keeper = await world.keeper(A)
    assert kids(keeper) == []
    await keeper.refresh_due()
    assert kids(keeper) == ["x", "y"]
    assert world.changes == [A]
    (status,) = keeper.status()
    assert (status.kids, status.error, status.failures) == (("x", "y"), "", 0)
    assert status.confirmed_at_s == world.clock.now_s()
    assert status.expires_in_s == 1000


async def test_a_source_is_asked_again_when_it_is_due_and_not_before(world: World) -> None:
    world.providers.answers[A] = key_set("x")
    keeper = await world.keeper(A)
    await keeper.refresh_due()
    world.clock.advance(89)
    await keeper.refresh_due()
    assert len(world.providers.asked) == 1
    world.clock.advance(22)
    await keeper.refresh_due()
    assert len(world.providers.asked) == 2
    assert world.changes == [A]


async def test_refreshes_are_spread_by_jitter(world: World) -> None:
    sources = [JwksSource(uri=f"https://{n}.example/") for n in range(20)]
    for source in sources:
        world.providers.answers[source] = key_set("x")
    keeper = await world.keeper(*sources)
    await keeper.refresh_due()
    world.providers.asked.clear()
    world.clock.advance(100)
    await keeper.refresh_due()
    assert 0 < len(world.providers.asked) < 20
    world.clock.advance(10.1)
    await keeper.refresh_due()
    assert set(world.providers.asked) == set(sources)


async def test_a_source_that_is_no_longer_wanted_has_no_keys(world: World) -> None:
    world.providers.answers[A] = key_set("x")
    keeper = await world.keeper(A)
    await keeper.refresh_due()
    keeper.want([B])
    assert kids(keeper) == []
    assert [one.source for one in keeper.status()] == [B]
    keeper.want([A])
    assert kids(keeper) == ["x"]


async def test_a_source_that_never_was_wanted_has_no_keys(world: World) -> None:
    assert (await world.keeper()).keys(A) == KeySet()


def test_one_address_is_one_source_whoever_names_it() -> None:
    assert source_of("https://i1", A.uri) == source_of("https://i2", A.uri) == A
    assert source_of("https://b.example", "") == B
    assert source_of(A.uri, "") != A
    assert record_name(A) != record_name(JwksSource(issuer=A.uri))


# --- rotation


async def test_a_rotated_set_replaces_the_old_one(world: World) -> None:
    """Key removed from the JWKS still accepted."""
    keeper = await world.keeper(A)
    for published in (("x",), ("x", "y"), ("y",), ()):
        world.providers.answers[A] = key_set(*published)
        world.clock.advance(120)
        await keeper.refresh_due()
        assert kids(keeper) == list(published)
    assert world.changes == [A] * 4
    assert error(keeper) == ""


async def test_a_set_in_another_order_is_no_change(world: World) -> None:
    keeper = await world.keeper(A)
    for published in (("x", "y"), ("y", "x")):
        world.providers.answers[A] = key_set(*published)
        world.clock.advance(120)
        await keeper.refresh_due()
    assert world.changes == [A]


# --- providers that are down or lie


async def test_a_provider_that_is_down_at_start_refuses_its_own_tokens_only(world: World) -> None:
    """JWKS unavailable leads to no default key (CVE-2026-31837)."""
    world.providers.answers[A] = json.dumps(corpus.published()).encode()
    keeper = await world.keeper(A, B)
    await keeper.refresh_due()
    now = world.clock.now_s()
    token = corpus.Maker(int(now)).token
    good = IssuerRules(corpus.ISSUER, keeper.keys(A))
    down = IssuerRules("https://b.example", keeper.keys(B))
    assert verify_token(token(), (good, down), now).issuer == corpus.ISSUER
    with pytest.raises(Untrusted) as caught:
        verify_token(token(iss="https://b.example"), (good, down), now)
    assert caught.value.code == "key-unknown"
    assert fit_for_envoy(keeper.keys(B), {"ES256"}) == '{"keys":[]}'
    assert error(keeper, B).startswith("fetch-failed: ")
    assert error(keeper, A) == ""


HOSTILE = {
    "not JSON": b"<html>",
    "no keys": b"{}",
    "wrong types": b'{"keys":[{"kty":"EC","kid":7}]}',
    "a list": b"[]",
    "nothing": b"",
    "huge": b'{"keys":[' + b" " * 300_000 + b"]}",
    "many": json.dumps({"keys": [jwk(ec_key(), kid=str(n)) for n in range(65)]}).encode(),
    "twice": b'{"keys":[],"keys":[]}',
    "deep": b'{"keys":' + b"[" * 100_000,
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_set_leaves_the_last_good_one_until_its_bound(
    world: World, what: str
) -> None:
    world.providers.answers[A] = key_set("x")
    keeper = await world.keeper(A)
    await keeper.refresh_due()
    world.providers.answers[A] = HOSTILE[what]
    world.clock.advance(120)
    await keeper.refresh_due()
    assert kids(keeper) == ["x"]
    assert error(keeper).startswith("jwks-")
    world.clock.advance(879)
    await keeper.refresh_due()
    assert kids(keeper) == ["x"]
    world.clock.advance(1)
    assert kids(keeper) == []
    await keeper.refresh_due()
    assert kids(keeper) == []
    assert world.changes == [A, A]


async def test_a_provider_that_comes_back_is_believed_again(world: World) -> None:
    keeper = await world.keeper(A)
    await keeper.refresh_due()
    assert keeper.status()[0].failures == 1
    world.providers.answers[A] = key_set("x")
    world.clock.advance(10)
    await keeper.refresh_due()
    assert kids(keeper) == ["x"]
    assert keeper.status()[0].failures == 0


async def test_a_confirmed_set_lives_from_its_last_confirmation(world: World) -> None:
    world.providers.answers[A] = key_set("x")
    keeper = await world.keeper(A)
    for _ in range(30):
        await keeper.refresh_due()
        world.clock.advance(111)
    assert kids(keeper) == ["x"]


async def test_failures_are_retried_less_and_less_often_but_always(world: World) -> None:
    keeper = await world.keeper(A)
    times = []
    for _ in range(400):
        before = len(world.providers.asked)
        await keeper.refresh_due()
        if len(world.providers.asked) > before:
            times.append(world.clock.monotonic_s())
        world.clock.advance(1)
    waits = [b - a for a, b in pairwise(times)]
    assert 5 <= waits[0] <= 10
    assert max(waits) <= 40
    assert min(waits[4:]) >= 20


async def test_a_provider_that_never_answers_is_given_up(world: World) -> None:
    world.providers.answers[A] = asyncio.Event()
    keeper = await world.keeper(A, settings=KeeperSettings(fetch_timeout_s=0.05))
    await keeper.refresh_due()
    assert error(keeper).startswith("jwks-timeout: ")


# --- over restarts


async def test_the_last_good_set_outlives_a_restart(world: World) -> None:
    world.providers.answers[A] = key_set("x")
    await (await world.keeper(A)).refresh_due()
    world.providers.answers.clear()
    world.clock.advance(500)
    after = await world.keeper(A)
    assert kids(after) == ["x"]
    await after.refresh_due()
    assert kids(after) == ["x"]
    assert error(after)
    world.clock.advance(499)
    assert kids(after) == ["x"]
    world.clock.advance(1)
    assert kids(after) == []


async def test_restarts_do_not_make_a_set_live_longer(world: World) -> None:
    world.providers.answers[A] = key_set("x")
    await (await world.keeper(A)).refresh_due()
    world.providers.answers.clear()
    for _ in range(9):
        world.clock.advance(110)
        keeper = await world.keeper(A)
        await keeper.refresh_due()
        assert kids(keeper) == ["x"]
    world.clock.advance(110)
    assert kids(await world.keeper(A)) == []


async def test_a_confirmation_reaches_the_store_before_the_bound(world: World) -> None:
    """A restart after long confirmed service finds a set that is still good."""
    world.providers.answers[A] = key_set("x")
    keeper = await world.keeper(A)
    for _ in range(20):
        await keeper.refresh_due()
        world.clock.advance(111)
    world.providers.answers.clear()
    world.clock.advance(500)
    assert kids(await world.keeper(A)) == ["x"]


async def test_a_set_that_is_too_old_is_removed_from_the_store(world: World) -> None:
    world.providers.answers[A] = key_set("x")
    await (await world.keeper(A)).refresh_due()
    world.clock.advance(1001)
    assert kids(await world.keeper(A)) == []
    assert (await world.store.list(JWKS_CACHE))[0] == []


async def test_a_clock_that_went_back_gives_no_more_than_the_bound(world: World) -> None:
    world.providers.answers[A] = key_set("x")
    await (await world.keeper(A)).refresh_due()
    world.providers.answers.clear()
    world.clock.set_s(world.clock.now_s() - 10 * DAY)
    after = await world.keeper(A)
    world.clock.advance(999)
    assert kids(after) == ["x"]
    world.clock.advance(1)
    assert kids(after) == []


async def test_a_jump_of_the_wall_clock_changes_nothing_while_it_runs(world: World) -> None:
    world.providers.answers[A] = key_set("x")
    keeper = await world.keeper(A)
    await keeper.refresh_due()
    for jump in (10 * DAY, -20 * DAY):
        world.clock.set_s(world.clock.now_s() + jump)
        assert kids(keeper) == ["x"]


async def test_a_removed_key_does_not_come_back_with_a_restart(world: World) -> None:
    keeper = await world.keeper(A)
    for published in (("x", "y"), ("y",)):
        world.providers.answers[A] = key_set(*published)
        world.clock.advance(120)
        await keeper.refresh_due()
    world.providers.answers.clear()
    assert kids(await world.keeper(A)) == ["y"]


async def test_only_public_members_are_stored_and_a_restart_changes_nothing(world: World) -> None:
    published = corpus.published()
    leaked = jwk(ec_key(number=60), kid="leaked", d="c2VjcmV0")
    plain = [jwk(rsa_key(2048, n), kid=f"r{n}") for n in range(3)]
    raw = json.dumps({"keys": published["keys"] + [leaked] + plain})
    world.providers.answers[A] = raw.encode()
    await (await world.keeper(A)).refresh_due()
    (record,), _ = await world.store.list(JWKS_CACHE)
    text = str(record.body["jwks"])
    assert "c2VjcmV0" not in text
    assert '"k"' not in text
    assert '"d"' not in text
    again = await world.keeper(A)
    assert again.keys(A).keys == parse_jwks(raw).keys
    await again.refresh_due()
    assert world.changes == [A]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"issuer": "", "uri": A.uri, "jwks": "nonsense", "confirmed_at_s": 1.8e9},
        {"issuer": "", "uri": A.uri, "jwks": '{"keys":[]}', "confirmed_at_s": "now"},
        {"issuer": "", "uri": A.uri, "jwks": None, "confirmed_at_s": None},
    ],
)
async def test_an_unreadable_record_is_as_none(world: World, body: dict[str, Any]) -> None:
    key = ResourceKey(JWKS_CACHE, "", "", record_name(A))
    await world.store.commit([Put(key, body)], [])
    world.providers.answers[A] = key_set("x")
    keeper = await world.keeper(A)
    assert kids(keeper) == []
    await keeper.refresh_due()
    assert kids(keeper) == ["x"]


async def test_changed_keys_are_audited_and_confirmed_ones_are_not(world: World) -> None:
    world.providers.answers[A] = key_set("x")
    keeper = await world.keeper(A)
    for _ in range(5):
        await keeper.refresh_due()
        world.clock.advance(111)
    (event,) = await world.store.audit()
    assert (event.entry.actor, event.entry.verb) == ("system:jwks", "fetch")
    assert event.entry.detail == {"source": A.uri, "kids": ["x"]}


async def test_keys_are_in_use_though_the_store_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(writes: object, audit: object) -> int:
        raise Unavailable("the disk is full")

    world.providers.answers[A] = key_set("x")
    keeper = await world.keeper(A)
    with monkeypatch.context() as patched:
        patched.setattr(world.store, "commit", full)
        await keeper.refresh_due()
    assert kids(keeper) == ["x"]
    assert (await world.store.list(JWKS_CACHE))[0] == []


@pytest_asyncio.fixture
async def on_disk(tmp_path: Path) -> AsyncIterator[World]:
    store = await open_store(tmp_path / "limen.db")
    yield World(store)
    await store.close()


async def test_it_is_kept_in_the_real_store_too(on_disk: World) -> None:
    on_disk.providers.answers[B] = key_set("x")
    await (await on_disk.keeper(B)).refresh_due()
    on_disk.providers.answers.clear()
    assert kids(await on_disk.keeper(B), B) == ["x"]


def test_a_key_set_is_written_as_it_is_read() -> None:
    keys = parse_jwks(json.dumps(corpus.published()))
    assert parse_jwks(format_jwks(keys)).keys == keys.keys
    secrets = parse_jwks(json.dumps({"keys": [jwk(b"s" * 64)]}), symmetric=True)
    assert format_jwks(secrets) == '{"keys":[]}'


# --- the running loop


class Running:
    """A keeper that runs by the machine's clock."""

    def __init__(self, settings: KeeperSettings, *sources: JwksSource) -> None:
        self.world = World()
        self.world.clock = SystemClock()  # type: ignore[assignment] # by the machine's clock
        self.settings = settings
        self.sources = sources
        self.changed = asyncio.Event()
        self.world.changes = self  # type: ignore[assignment] # `append` is all that is used

    def append(self, _source: JwksSource) -> None:
        self.changed.set()

    async def __aenter__(self) -> JwksKeeper:
        self.keeper = await self.world.keeper(*self.sources, settings=self.settings)
        self.task = asyncio.create_task(self.keeper.run())
        return self.keeper

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def until(self, wanted: list[str], source: JwksSource = A) -> None:
        async with asyncio.timeout(5):
            while kids(self.keeper, source) != wanted:
                self.changed.clear()
                await self.changed.wait()


async def test_the_loop_asks_refreshes_and_expires_by_itself() -> None:
    running = Running(KeeperSettings(refresh_s=0.05, retry_s=0.02, keep_s=0.4), A)
    running.world.providers.answers[A] = key_set("x")
    async with running as keeper:
        await running.until(["x"])
        running.world.providers.answers[A] = key_set("y")
        await running.until(["y"])
        running.world.providers.answers.clear()
        await running.until([])
        assert error(keeper)
        running.world.providers.answers[B] = key_set("z")
        keeper.want([A, B])
        await running.until(["z"], B)


async def test_a_provider_that_hangs_delays_no_other() -> None:
    hanging = asyncio.Event()
    running = Running(KeeperSettings(), A, B)
    running.world.providers.answers.update({A: hanging, B: key_set("x")})
    async with running as keeper:
        await running.until(["x"], B)
        assert kids(keeper) == []
        late = JwksSource(uri="https://late.example")
        running.world.providers.answers[late] = key_set("l")
        keeper.want([A, B, late])
        await running.until(["l"], late)
        assert running.world.providers.asked.count(A) == 1
        hanging.set()
        await running.until(["late"])


async def test_a_source_dropped_while_it_is_asked_tells_nobody() -> None:
    hanging = asyncio.Event()
    running = Running(KeeperSettings(), A)
    running.world.providers.answers.update({A: hanging, B: key_set("x")})
    async with running as keeper:
        await asyncio.wait_for(running.world.providers.asking.wait(), 5)
        keeper.want([B])
        await running.until(["x"], B)
        running.changed.clear()
        hanging.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not running.changed.is_set()
        assert kids(keeper) == []


async def test_stopping_stops_what_is_in_flight() -> None:
    running = Running(KeeperSettings(), A)
    running.world.providers.answers[A] = asyncio.Event()
    async with running:
        await asyncio.wait_for(running.world.providers.asking.wait(), 5)
    assert running.task.done()


async def test_a_whole_way_over_https_to_a_verified_token(tmp_path: Path) -> None:
    """Metadata, key set, keeper, token; then the provider goes away and the keys stay."""
    authority = make_authority()
    world = World()
    maker = corpus.Maker(int(world.clock.now_s()))
    async with providing(server_context(authority, tmp_path, "127.0.0.1")) as provider:
        issuer = provider.url("", host="127.0.0.1")
        source = source_of(issuer, "")
        metadata = {"issuer": issuer, "jwks_uri": f"{issuer}/keys"}
        provider.pages["/keys"] = answer(json.dumps(corpus.published()).encode())
        provider.pages[WELL_KNOWN] = answer(json.dumps(metadata).encode())
        rules = FetchRules((ip_network("127.0.0.0/8"),), authority.pem)
        world.providers = fetching(rules)  # type: ignore[assignment] # the real one
        keeper = await world.keeper(source)
        await keeper.refresh_due()
    world.clock.advance(120)
    await keeper.refresh_due()
    assert error(keeper, source).startswith("fetch-failed: ")
    wanted = IssuerRules(issuer, keeper.keys(source))
    found = verify_token(maker.token(iss=issuer), wanted, world.clock.now_s())
    assert found.request_principal == f"{issuer}/alice"
    refusing = await world.keeper(source, settings=SETTINGS)
    assert refusing.keys(source).keys == keeper.keys(source).keys
