"""From what token services say of themselves, and from revocations, to the proxies that ask them.

A revocation changes the generation of a mesh's token service, and proxies forget what they keep of
it; so does every change of what it goes by, for an issuer that is trusted no more must not live on
in a proxy. It follows the store by a watch of its own: a revocation that was overlooked would be a
token that goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.adapters.store import Compacted
from limen.core.compiler.user_contexts import TokenService
from limen.core.model.resource import (
    REVOCATION,
    TOKEN_EXCHANGE_POLICY,
    TOKEN_SERVICE,
    TRUSTED_ISSUER,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limen.adapters.store import Change, JsonValue, Store
    from limen.core.model.resource import ResourceKey
    from limen.services.server.compile_loop import CompileLoop

_RIGHTS = frozenset((TRUSTED_ISSUER, TOKEN_EXCHANGE_POLICY))
_KINDS = _RIGHTS | {TOKEN_SERVICE, REVOCATION}


class TokenServices:
    """One server's. `load` once, before the loop starts; then `run` is a task of its own."""

    def __init__(self, store: Store, loop: CompileLoop) -> None:
        self._store = store
        self._loop = loop
        self._services: dict[ResourceKey, TokenService] = {}
        self._changed_at: dict[str, int] = {}
        self._revision = 0

    async def load(self) -> None:
        """Read everything. Raises Unavailable."""
        records, self._revision = await self._store.list()
        self._services.clear()
        for record in records:
            self._take(record.key, record.body, record.revision)
        self._push()

    async def run(self) -> None:
        """Follow the store until it closes."""
        while True:
            try:
                async for batch in self._store.watch(self._revision):
                    self._apply(batch)
            except Compacted:
                await self.load()
            else:
                return

    def _apply(self, batch: Iterable[Change]) -> None:
        concerned = False
        for change in batch:
            self._revision = change.revision
            if change.key.kind in _KINDS:
                self._take(change.key, change.body, change.revision)
                concerned = True
        if concerned:
            self._push()

    def _take(self, key: ResourceKey, body: Mapping[str, JsonValue] | None, revision: int) -> None:
        """A revocation that is forgotten (its tokens have ended) revokes nothing anew."""
        if key.kind in _RIGHTS or (key.kind == REVOCATION and body is not None):
            self._changed_at[key.mesh] = max(revision, self._changed_at.get(key.mesh, 0))
        elif key.kind == TOKEN_SERVICE and body is None:
            self._services.pop(key, None)
        elif key.kind == TOKEN_SERVICE and body is not None:
            said = (str(body.get(name, "")) for name in ("issuer", "url", "jwks"))
            self._services[key] = TokenService(*said)

    def _push(self) -> None:
        """The first by name counts where a mesh has several."""
        found: dict[str, TokenService] = {}
        for key in sorted(self._services, reverse=True):
            service = self._services[key]
            generation = str(self._changed_at.get(key.mesh, 0))
            found[key.mesh] = TokenService(service.issuer, service.url, service.jwks, generation)
        self._loop.set_token_services(found)
