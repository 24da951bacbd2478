"""The store's resources in memory: parsed once, one immutable snapshot per revision.

Follows the store's watch. Whoever needs a revision awaits `reached`. `listener` gets each batch of
changes in the order of commits; it must be quick. Records stay as they are stored: what a Secret
holds is only in the snapshot.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from limen.adapters.store import Compacted, Record
from limen.core.model.snapshot import Snapshot
from limen.services.server.records import SNAPSHOT_KINDS, resource_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from limen.adapters.store import Change, JsonValue, Store
    from limen.core.model.resource import Resource, ResourceKey
    from limen.services.server.secret_bodies import SecretBodies

    Listener = Callable[[Mapping[ResourceKey, "Resource | None"], int], None]

_log = logging.getLogger("limen.mirror")


class Mirror:
    """`snapshot` is what the store held at `snapshot.revision`."""

    def __init__(self, store: Store, secrets: SecretBodies) -> None:
        self.snapshot = Snapshot()
        self._store = store
        self._secrets = secrets
        self._records: dict[ResourceKey, Record] = {}
        self._listeners: list[Listener] = []
        self._raw_listeners: list[Callable[[Sequence[Change]], None]] = []
        self._progress = asyncio.Event()

    def listen(self, listener: Listener) -> None:
        """Call `listener(changes, revision)` for every batch; None stands for a deletion."""
        self._listeners.append(listener)

    def listen_raw(self, listener: Callable[[Sequence[Change]], None]) -> None:
        """Call `listener` with every batch of the store, of all kinds."""
        self._raw_listeners.append(listener)

    def revision_of(self, key: ResourceKey) -> int:
        """The revision of a resource's last write, 0 if it does not exist."""
        record = self._records.get(key)
        return record.revision if record else 0

    def body_of(self, key: ResourceKey) -> Mapping[str, JsonValue] | None:
        """A resource's stored body."""
        record = self._records.get(key)
        return record.body if record else None

    def records(self) -> Sequence[Record]:
        """All resources' records, in key order."""
        return [self._records[key] for key in sorted(self._records)]

    async def load(self) -> None:
        """Read everything. Raises InvalidInput if a stored document is not understood."""
        records, revision = await self._store.list()
        own = [r for r in records if r.key.kind in SNAPSHOT_KINDS]
        before = self.snapshot.resources
        resources = {r.key: await self._understand(r.key, r.body) for r in own}
        gone: dict[ResourceKey, Resource | None] = {k: None for k in before if k not in resources}
        changed = {k: r for k, r in resources.items() if before.get(k) != r}
        self._records = {r.key: r for r in own}
        self.snapshot = Snapshot(resources, revision)
        self._tell(gone | changed, revision)

    async def run(self) -> None:
        """Follow the store until it closes."""
        while True:
            try:
                async for batch in self._store.watch(self.snapshot.revision):
                    await self._apply(batch)
            except Compacted:
                _log.warning("the watch fell behind; reading everything again")
                await self.load()
            else:
                return

    async def reached(self, revision: int) -> Snapshot:
        """The snapshot, once it is at `revision` or later."""
        while self.snapshot.revision < revision:
            await self._progress.wait()
        return self.snapshot

    async def _understand(self, key: ResourceKey, body: Mapping[str, JsonValue]) -> Resource:
        return resource_of(key, await self._secrets.reveal(key, body))

    async def _apply(self, batch: Sequence[Change]) -> None:
        changes: dict[ResourceKey, Resource | None] = {}
        revision = batch[-1].revision
        for change in batch:
            if change.key.kind not in SNAPSHOT_KINDS:
                continue
            if change.body is None:
                self._records.pop(change.key, None)
                changes[change.key] = None
            else:
                self._records[change.key] = Record(change.key, change.body, change.revision)
                changes[change.key] = await self._understand(change.key, change.body)
        if changes:
            put = [r for r in changes.values() if r is not None]
            deleted = [k for k, r in changes.items() if r is None]
            self.snapshot = self.snapshot.replaced(put, deleted, revision)
        else:
            self.snapshot = Snapshot(self.snapshot.resources, revision)
        for listener in self._raw_listeners:
            listener(batch)
        self._tell(changes, revision)

    def _tell(self, changes: Mapping[ResourceKey, Resource | None], revision: int) -> None:
        for listener in self._listeners:
            listener(changes, revision)
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()
