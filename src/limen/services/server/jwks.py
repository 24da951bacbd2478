"""The key sets of issuers: fetched, kept for a bounded time, never replaced by anything else.

A source that cannot be asked, or answers with what is no key set, keeps its last good one until
`keep_s` after that was last confirmed, over restarts too; then, and if there never was one, it has
no keys: tokens of that issuer are refused, and nothing else changes. What a provider publishes now
replaces what it published before, fewer keys too: a key that was removed verifies nothing more.

Every source is asked on its own: one that is down or slow delays no other.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from limen.adapters.jwks_fetch import fetch_key_set
from limen.adapters.store import AuditEntry, Delete, Put
from limen.core.model.resource import JWKS_CACHE, ResourceKey
from limen.core.tokens.jwks import KeySet, format_jwks, parse_jwks
from limen.errors import Conflict, InvalidInput, LimenError, NotFound, Unavailable

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from limen.adapters.clock import Clock
    from limen.adapters.judged_https import FetchRules
    from limen.adapters.store import JsonValue, Record, Store

ACTOR = "system:jwks"
MAX_ERROR_CHARS = 300
_log = logging.getLogger("limen.jwks")


@dataclass(frozen=True, slots=True, order=True)
class JwksSource:
    """Where keys come from: an address, or the metadata of an issuer. The other is empty."""

    issuer: str = ""
    uri: str = ""

    def __str__(self) -> str:
        return self.uri or f"the metadata of {self.issuer}"


def source_of(issuer: str, jwks_uri: str) -> JwksSource:
    """The source for a rule with this issuer and `jwksUri` (may be empty)."""
    return JwksSource(uri=jwks_uri) if jwks_uri else JwksSource(issuer=issuer)


@dataclass(frozen=True, slots=True)
class KeeperSettings:
    """Seconds. `retry_s` doubles with each failure, up to `max_retry_s`."""

    refresh_s: float = 1200.0
    retry_s: float = 5.0
    max_retry_s: float = 300.0
    keep_s: float = 86400.0
    fetch_timeout_s: float = 30.0
    parallel: int = 32


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """What `get` and `check` show of a source. `error` is the last attempt's, empty if good.

    `confirmed_at_s`: when the keys were last seen at the provider, 0 if never. `kids`: of the keys
    in use; `dropped`: one line for each key that is left out.
    """

    source: JwksSource
    kids: tuple[str, ...]
    dropped: tuple[str, ...]
    confirmed_at_s: float
    expires_in_s: float
    failures: int
    error: str


@dataclass(slots=True)
class _Held:
    """One source. Times are monotonic, but for those that end in `at_s`."""

    keys: KeySet = field(default_factory=KeySet)
    good_until: float = 0.0
    due: float = 0.0
    confirmed_at_s: float = 0.0
    stored_at_s: float = 0.0
    failures: int = 0
    error: str = ""
    asking: bool = False


def fetching(rules: FetchRules) -> Callable[[JwksSource], Awaitable[bytes]]:
    """The keeper's `fetch` over HTTPS."""

    async def fetch(source: JwksSource) -> bytes:
        return await fetch_key_set(source.issuer, source.uri, rules)

    return fetch


class JwksKeeper:
    """Keeps the key sets of the sources that are wanted. One task runs `run`.

    `fetch` gives a source's bytes or raises LimenError. `on_change` is called in the event loop
    when a source's keys are others than before, none left included.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        fetch: Callable[[JwksSource], Awaitable[bytes]],
        *,
        on_change: Callable[[JwksSource], None],
        jitter: random.Random,
        settings: KeeperSettings | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._fetch = fetch
        self._on_change = on_change
        self._jitter = jitter
        self._settings = settings or KeeperSettings()
        self._held: dict[JwksSource, _Held] = {}
        self._stored: dict[JwksSource, _Held] = {}
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(self._settings.parallel)

    async def start(self) -> None:
        """Take up what an earlier process kept. Call before `want`. Raises Unavailable."""
        records, _ = await self._store.list(JWKS_CACHE)
        for record in records:
            try:
                source, held = self._from_body(record.body)
            except (InvalidInput, KeyError, TypeError, ValueError):
                fields = {"key": str(record.key)}
                _log.warning("a kept key set is unreadable", extra={"fields": fields})
                continue
            if held.good_until > self._clock.monotonic_s():
                self._stored[source] = held
            else:
                await self._forget(record)

    async def _forget(self, record: Record) -> None:
        """Remove what is too old to be used, unless somebody has just written it."""
        with suppress(Conflict, NotFound):
            await self._store.commit([Delete(record.key, expected=record.revision)], [])

    def want(self, sources: Iterable[JwksSource]) -> None:
        """Keep these sources and no others. New ones are asked at once."""
        wanted = set(sources)
        for source in [s for s in self._held if s not in wanted]:
            self._stored[source] = self._held.pop(source)
        for source in sorted(wanted - self._held.keys()):
            held = self._stored.pop(source, None) or _Held()
            held.due = min(held.due, self._clock.monotonic_s())
            self._held[source] = held
        self._wake.set()

    def keys(self, source: JwksSource) -> KeySet:
        """The keys that verify this source's tokens now; an empty set if there are none."""
        held = self._held.get(source)
        if held is None or self._clock.monotonic_s() >= held.good_until:
            return KeySet()
        return held.keys

    def status(self) -> tuple[SourceStatus, ...]:
        """Every wanted source, sorted."""
        now = self._clock.monotonic_s()
        return tuple(
            SourceStatus(
                source,
                tuple(key.kid for key in self.keys(source).keys),
                tuple(f"key {d.index} ({d.kid or 'no kid'}): {d.why}" for d in held.keys.dropped),
                held.confirmed_at_s,
                max(0.0, held.good_until - now),
                held.failures,
                held.error,
            )
            for source, held in sorted(self._held.items(), key=lambda item: item[0])
        )

    # --- asking

    async def run(self) -> None:
        """Ask every source when it is due, until cancelled."""
        async with asyncio.TaskGroup() as asking:
            while True:
                self._wake.clear()
                self.expire()
                for source, held in self._begin():
                    asking.create_task(self._refresh(source, held))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._wait_s()):
                        await self._wake.wait()

    async def refresh_due(self) -> None:
        """Ask all that are due now, and return when all have answered or failed."""
        self.expire()
        await asyncio.gather(*(self._refresh(source, held) for source, held in self._begin()))

    def _begin(self) -> list[tuple[JwksSource, _Held]]:
        """The sources to ask now, marked as being asked: one question in flight for each."""
        now = self._clock.monotonic_s()
        due = [(s, held) for s, held in self._held.items() if held.due <= now and not held.asking]
        for _, held in due:
            held.asking = True
        return due

    def expire(self) -> None:
        """Let go of keys that were not confirmed for too long."""
        now = self._clock.monotonic_s()
        for source, held in list(self._held.items()):
            if held.keys.keys and now >= held.good_until:
                _log.warning("a key set is too old", extra={"fields": {"source": str(source)}})
                held.keys = KeySet()
                self._on_change(source)

    def _wait_s(self) -> float | None:
        now = self._clock.monotonic_s()
        moments = [held.due for held in self._held.values() if not held.asking]
        moments += [held.good_until for held in self._held.values() if held.keys.keys]
        return max(0.0, min(moments) - now) if moments else None

    async def _refresh(self, source: JwksSource, held: _Held) -> None:
        try:
            async with self._slots, asyncio.timeout(self._settings.fetch_timeout_s):
                raw = await self._fetch(source)
            await self._replace(source, held, parse_jwks(raw))
        except TimeoutError:
            self._failed(source, held, Unavailable("the provider is too slow", code="jwks-timeout"))
        except LimenError as error:
            self._failed(source, held, error)
        finally:
            held.asking = False
            self._wake.set()

    async def _replace(self, source: JwksSource, held: _Held, keys: KeySet) -> None:
        """The provider answered: these are its keys, and no others."""
        now = self._clock.monotonic_s()
        changed = keys.keys != self._usable(held)
        held.keys, held.failures, held.error = keys, 0, ""
        held.good_until = now + self._settings.keep_s
        held.confirmed_at_s = self._clock.now_s()
        held.due = now + self._settings.refresh_s * self._jitter.uniform(0.9, 1.1)
        if changed and self._held.get(source) is held:
            self._on_change(source)
        old = held.confirmed_at_s - held.stored_at_s > self._settings.keep_s / 8
        if changed or old:
            await self._save(source, held, changed=changed)

    def _usable(self, held: _Held) -> tuple[object, ...]:
        return held.keys.keys if self._clock.monotonic_s() < held.good_until else ()

    def _failed(self, source: JwksSource, held: _Held, error: LimenError) -> None:
        held.error = f"{error.code}: {error}"[:MAX_ERROR_CHARS]
        delay = min(
            self._settings.retry_s * 2 ** min(held.failures, 16), self._settings.max_retry_s
        )
        held.failures += 1
        held.due = self._clock.monotonic_s() + delay * self._jitter.uniform(0.5, 1.0)
        fields = {"source": str(source), "error": held.error, "failures": held.failures}
        _log.warning("a key set could not be fetched", extra={"fields": fields})

    # --- keeping

    async def _save(self, source: JwksSource, held: _Held, *, changed: bool) -> None:
        """Store it for the next process. Keys in use do not depend on whether that works."""
        body: dict[str, JsonValue] = {
            "issuer": source.issuer,
            "uri": source.uri,
            "jwks": format_jwks(held.keys),
            "confirmed_at_s": held.confirmed_at_s,
        }
        key = ResourceKey(JWKS_CACHE, "", "", record_name(source))
        kids: list[JsonValue] = [k.kid for k in held.keys.keys]
        detail: dict[str, JsonValue] = {"source": str(source), "kids": kids}
        entry = AuditEntry(
            held.confirmed_at_s, ACTOR, "fetch", JWKS_CACHE, "", "", key.name, detail
        )
        try:
            await self._store.commit([Put(key, body)], [entry] if changed else [])
        except LimenError as error:
            fields = {"source": str(source), "error": str(error)}
            _log.warning("a key set could not be kept", extra={"fields": fields})
        else:
            held.stored_at_s = held.confirmed_at_s

    def _from_body(self, body: Mapping[str, JsonValue]) -> tuple[JwksSource, _Held]:
        """What was kept, good for the rest of its time and never for longer than `keep_s`."""
        source = JwksSource(str(body["issuer"]), str(body["uri"]))
        confirmed_at_s = float(cast("float", body["confirmed_at_s"]))
        age_s = max(0.0, self._clock.now_s() - confirmed_at_s)
        held = _Held(parse_jwks(str(body["jwks"])))
        held.confirmed_at_s = held.stored_at_s = confirmed_at_s
        held.good_until = self._clock.monotonic_s() + self._settings.keep_s - age_s
        return source, held


def record_name(source: JwksSource) -> str:
    """The name of a source's record: its own text may be none."""
    return hashlib.sha256(f"{source.issuer}\n{source.uri}".encode()).hexdigest()
