"""From RequestAuthentications to the key sets that they need, and from those to the proxies.

What is to be fetched follows the documents; what was fetched goes into the graphs, which change
the proxies that verify tokens of that issuer and no others.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from limen.adapters.jwks_fetch import FetchRules, fetch_key_set
from limen.core.compiler.token_plans import KeySource, key_sources
from limen.core.model.resource import REQUEST_AUTHENTICATION
from limen.core.tokens.jwks import format_jwks
from limen.services.server.jwks import JwksKeeper, source_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    Uses = Mapping[KeySource, set[str]]
    from limen.adapters.clock import Clock
    from limen.adapters.store import JsonValue, Store
    from limen.core.model.resource import Resource, ResourceKey
    from limen.services.server.compile_loop import CompileLoop
    from limen.services.server.jwks import JwksSource, KeeperSettings, SourceStatus
    from limen.services.server.mirror import Mirror


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
        if any(key.kind == REQUEST_AUTHENTICATION for key in changes):
            self._want()

    def _want(self) -> None:
        self._wanted = {}
        for resource in self._mirror.snapshot.of_kind(REQUEST_AUTHENTICATION):
            for source in key_sources(resource):
                uses = self._wanted.setdefault(source_of(source.issuer, source.uri), {})
                uses.setdefault(source, set()).add(resource.key.mesh)
        self.keeper.want(self._wanted)
        self._push()

    def _push(self) -> None:
        """Hand all keys that are good now to the graphs."""
        keys: dict[str, str] = {}
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
