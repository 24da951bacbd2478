"""Signing keys over time, and events that are never lost and never twice in the chain."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from tests.services.server_harness import KEK
from tests.services.token_harness import (
    LOGIN,
    WEB_POLICY,
    Signer,
    claims_of,
    issuer_document,
    world,
)

from limen.adapters.clock import FakeClock
from limen.adapters.keys import MemoryKek
from limen.core.tokens.signing import sign_token
from limen.core.tokens.verify import IssuerRules, verify_token
from limen.errors import Unavailable, Untrusted
from limen.services.tokens.keyring import FILE, LEEWAY_S, MAX_TOKEN_LIFE_S, Keyring
from limen.services.tokens.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 86400.0


def kids(ring: Keyring) -> list[str]:
    return [key["kid"] for key in json.loads(ring.published())["keys"]]


def verifies(ring: Keyring, token: str, now_s: float) -> bool:
    rules = IssuerRules("https://t", ring.keys, frozenset(["ES256"]), typ="at+jwt")
    try:
        verify_token(token, rules, now_s)
    except Untrusted:
        return False
    return True


async def make_ring(path: Path, clock: FakeClock, kek: Any = KEK) -> Keyring:
    ring = Keyring(path, kek, clock, life_s=7 * DAY_S, lead_s=600)
    await ring.load()
    return ring


async def test_a_key_is_published_before_it_signs_and_until_its_last_token_ends(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    ring = await make_ring(tmp_path, clock)
    first = ring.signing.kid
    assert kids(ring) == [first]
    clock.advance(7 * DAY_S - 600)
    assert await ring.turn()
    assert (len(kids(ring)), ring.signing.kid) == (2, first)
    clock.advance(599)
    assert not await ring.turn()
    assert ring.signing.kid == first
    claims = {"iss": "https://t", "sub": "a", "exp": clock.now_s() + MAX_TOKEN_LIFE_S}
    head = {"typ": "at+jwt", "kid": first}
    last = sign_token(head, claims, ring.signing.private)
    clock.advance(1)
    assert not await ring.turn()
    second = ring.signing.kid
    assert second != first
    clock.advance(MAX_TOKEN_LIFE_S - 2)
    await ring.turn()
    assert verifies(ring, last, clock.now_s())
    clock.advance(LEEWAY_S + 3)
    assert await ring.turn()
    assert kids(ring) == [second]


async def test_a_restart_signs_with_the_same_key_and_no_key_lies_open(tmp_path: Path) -> None:
    clock = FakeClock()
    ring = await make_ring(tmp_path, clock)
    again = await make_ring(tmp_path, clock)
    assert again.signing.kid == ring.signing.kid
    stored = (tmp_path / FILE).read_text()
    number = ring.signing.private.private_numbers().private_value
    assert number.to_bytes(32, "big").hex() not in stored
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    assert "private_value" not in repr(ring.signing)
    with pytest.raises(Untrusted) as caught:
        await make_ring(tmp_path, clock, MemoryKek(b"x" * 32))
    assert caught.value.code == "wrong-kek"


class Chain:
    """What a server's chain would hold: each event once, by number."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.up = True

    async def audit(self, source: str, after: int, entries: Any) -> int:
        del source
        await asyncio.sleep(0)
        if not self.up:
            raise Unavailable("away", code="server-unavailable")
        self.events += entries[max(0, len(self.events) - after) :]
        return after + len(entries)


async def test_events_survive_a_server_that_is_away_and_a_process_that_dies(
    tmp_path: Path,
) -> None:
    chain = Chain()
    spool = Spool(tmp_path, chain)  # type: ignore[arg-type] # as much of a link as it uses
    spool.load()
    await asyncio.gather(*(spool.write({"n": n}) for n in range(5)))
    await spool.ship()
    chain.up = False
    await asyncio.gather(*(spool.write({"n": n}) for n in range(5, 9)))
    with pytest.raises(Unavailable):
        await spool.ship()
    assert spool.unshipped == 4
    chain.up = True  # the process died here: nothing was closed
    again = Spool(tmp_path, chain)  # type: ignore[arg-type]
    again.load()
    await again.write({"n": 9})
    await again.ship()
    await again.close()
    assert [e["n"] for e in chain.events] == list(range(10))
    third = Spool(tmp_path, chain)  # type: ignore[arg-type]
    third.load()
    assert third.unshipped == 0
    await third.write({"n": 10})
    await third.ship()
    assert [e["n"] for e in chain.events] == list(range(11))


async def test_a_disk_that_is_full_refuses_and_leaves_no_half_of_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain()
    spool = Spool(tmp_path, chain)  # type: ignore[arg-type]
    spool.load()
    await spool.write({"n": 0})
    whole = os.write

    def half(file: int, data: bytes) -> int:
        return whole(file, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(Unavailable) as caught:
        await spool.write({"n": 1})
    assert caught.value.code == "audit-disk"
    assert os.strerror(errno.ENOSPC) in str(caught.value)
    monkeypatch.undo()
    await spool.write({"n": 2})
    again = Spool(tmp_path, chain)  # type: ignore[arg-type]
    again.load()
    await again.ship()
    assert [e["n"] for e in chain.events] == [0, 2]


async def test_tokens_go_on_while_the_server_is_away_and_the_chain_has_all_afterwards(
    tmp_path: Path,
) -> None:
    idp = Signer(LOGIN)
    async with world(tmp_path, issuer_document(idp), WEB_POLICY) as here:
        token = idp.sign({"typ": "at+jwt"}, sub="ann", aud="shop", scope="r")
        assert (await here.ask("web", subject_token=token)).status_code == 200
        link = here.service.link
        call = link.call

        async def cut(*_: Any) -> dict[str, Any]:
            raise Unavailable("cut", code="server-unavailable")

        link.call = cut  # type: ignore[method-assign]
        answer = await here.ask("web", subject_token=token)
        assert answer.status_code == 200, answer.text
        link.call = call  # type: ignore[method-assign]
        await here.service.spool.ship()
        events = await here.server.control.store.audit(0, 1000)
        names = [e.entry.name for e in events if e.entry.kind == "limen.dev/Token"]
        assert claims_of(answer.json()["access_token"])["jti"] in names
        assert len(names) == len(set(names)) == 2


async def test_what_is_too_old_to_be_known_is_not_decided(tmp_path: Path) -> None:
    idp = Signer(LOGIN)
    documents = (issuer_document(idp), WEB_POLICY)
    async with world(tmp_path, *documents, max_stale_s=1e-9) as here:
        token = idp.sign({"typ": "at+jwt"}, sub="ann", aud="shop", scope="r")
        answer = await here.ask("web", subject_token=token)
        assert (answer.status_code, answer.json()["code"]) == (503, "stale")
