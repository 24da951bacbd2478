"""From documents to the key sets that they need, and from those to proxies and token services.

What is to be fetched follows the documents; what was fetched goes into the graphs, which change
the proxies that verify tokens of that issuer and no others.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from limen.adapters.jwks_fetch import fetch_key_set
from limen.core.compiler.token_plans import KeySource, key_sources
from limen.core.model.resource import (
    REQUEST_AUTHENTICATION,
    TOKEN_EXCHANGE_POLICY,
    TOKEN_SERVICE,
    TRUSTED_ISSUER,
)
from limen.core.tokens.jwks import format_jwks
from limen.services.server.jwks import JwksKeeper, source_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from limen.adapters.judged_https import FetchRules

    Uses = Mapping[KeySource, set[str]]
    from limen.adapters.clock import Clock
    from limen.adapters.store import Change, JsonValue, Store
    from limen.core.model.resource import Resource, ResourceKey
    from limen.services.server.compile_loop import CompileLoop
    from limen.services.server.jwks import JwksSource, KeeperSettings, SourceStatus
    from limen.services.server.mirror import Mirror


_NAMING = (REQUEST_AUTHENTICATION, TRUSTED_ISSUER, TOKEN_EXCHANGE_POLICY)
"""Kinds that name where keys are published."""


class KeySets:
    """One server's. `start` once, before the loop starts; `keeper.run` is a task of its own."""

    def __init__(
        self,
        mirror: Mirror,
        loop: CompileLoop,
        store: Store,
        clock: Clock,
        *,
        rules: FetchRules,
        settings: KeeperSettings | None = None,
    ) -> None:
        self._mirror = mirror
        self._loop = loop
        self._rules = rules
        self._store = store
        self._services: dict[ResourceKey, Mapping[str, JsonValue]] = {}
        self._wanted: dict[JwksSource, dict[KeySource, set[str]]] = {}
        self.keeper = JwksKeeper(
            store,
            clock,
            self._fetch,
            on_change=lambda _: self._push(),
            jitter=random.SystemRandom(),
            settings=settings,
        )

    async def start(self) -> None:
        """Take up what was kept, and follow the documents. Raises Unavailable."""
        await self.keeper.start()
        records, _ = await self._store.list(TOKEN_SERVICE)
        self._services = {record.key: record.body for record in records}
        self._mirror.listen_raw(self._services_changed)
        self._mirror.listen(self._changed)
        self._want()

    def to_json(self) -> list[dict[str, JsonValue]]:
        """Each source: what it is for, which keys it has, what was wrong at the last attempt."""
        return [
            _shown(status, self._wanted.get(status.source, {})) for status in self.keeper.status()
        ]

    def without_keys(self) -> list[str]:
        """Sources that have no key: all tokens of their issuers are refused."""
        return [str(status.source) for status in self.keeper.status() if not status.kids]

    def _changed(self, changes: Mapping[ResourceKey, Resource | None], revision: int) -> None:
        """The mirror's listener."""
        del revision
        if any(key.kind in _NAMING for key in changes):
            self._want()

    def _services_changed(self, batch: Sequence[Change]) -> None:
        """Token services say themselves with which keys they sign: nobody is asked for those."""
        found = [change for change in batch if change.key.kind == TOKEN_SERVICE]
        for change in found:
            if change.body is None:
                self._services.pop(change.key, None)
            else:
                self._services[change.key] = change.body
        if found:
            self._want()

    def _want(self) -> None:
        self._wanted = {}
        own = {str(body["issuer"]) for body in self._services.values()}
        named = (r for kind in _NAMING for r in self._mirror.snapshot.of_kind(kind))
        for resource in named:
            for source in key_sources(resource):
                if not source.uri and source.issuer in own:
                    continue
                uses = self._wanted.setdefault(source_of(source.issuer, source.uri), {})
                uses.setdefault(source, set()).add(resource.key.mesh)
        self.keeper.want(self._wanted)
        self._push()

    def _push(self) -> None:
        """Hand all keys that are good now to the graphs."""
        keys = {str(body["issuer"]): str(body["jwks"]) for body in self._services.values()}
        for source, uses in self._wanted.items():
            found = self.keeper.keys(source)
            if found.keys:
                text = format_jwks(found)
                keys.update({use.name: text for use in uses})
        self._loop.set_keys(keys)

    async def _fetch(self, source: JwksSource) -> bytes:
        """Ask the provider, for as long as the most patient document allows."""
        uses = self._wanted.get(source, {})
        patience_s = max((use.timeout_s for use in uses), default=self._rules.timeout_s)
        return await fetch_key_set(
            source.issuer, source.uri, replace(self._rules, timeout_s=patience_s)
        )


def _shown(status: SourceStatus, uses: Uses) -> dict[str, JsonValue]:
    issuers: list[JsonValue] = [*sorted({use.issuer for use in uses})]
    meshes: list[JsonValue] = [*sorted({mesh for some in uses.values() for mesh in some})]
    return {
        "source": str(status.source),
        "issuers": issuers,
        "meshes": meshes,
        "keys": [*status.kids],
        "dropped": [*status.dropped],
        "confirmed_at_s": status.confirmed_at_s,
        "expires_in_s": round(status.expires_in_s, 1),
        "failures": status.failures,
        "error": status.error,
    }
