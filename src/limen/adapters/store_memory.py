"""A store in memory: the whole contract, nothing durable. For tests and for work without a server.

It is the reference for `store_sqlite`: the same suite and a stateful comparison run on both.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING

from limen.adapters.store import AuditEvent, Change, Compacted, Record
from limen.adapters.store_commit import (
    Announcer,
    audit_event_text,
    check_expected,
    check_page,
    decode_body,
    decode_entry,
    prepare_commit,
    store_closed,
)
from limen.core.audit import GENESIS, hash_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from limen.adapters.store import AuditEntry, Write
    from limen.adapters.store_commit import PreparedCommit, PreparedWrite
    from limen.core.model.resource import ResourceKey

KEEP_CHANGES = 10_000


class MemoryStore:
    """Fulfils `adapters.store.Store`. Keeps the last `keep_changes` changes for watches."""

    def __init__(self, *, keep_changes: int = KEEP_CHANGES) -> None:
        self._epoch = secrets.token_hex(16)
        self._keep = keep_changes
        self._records: dict[ResourceKey, tuple[int, str]] = {}
        self._commits: list[tuple[int, tuple[PreparedWrite, ...]]] = []  # revision, its writes
        self._kept = 0
        self._compacted = 0
        self._audit: list[tuple[int, str, str, str]] = []  # revision, entry, previous, hash
        self._announcer = Announcer(0)

    async def epoch(self) -> str:
        """See `Store.epoch`."""
        self._check_open()
        return self._epoch

    async def get(self, key: ResourceKey) -> Record | None:
        """See `Store.get`."""
        self._check_open()
        found = self._records.get(key)
        return None if found is None else Record(key, decode_body(found[1]), found[0])

    async def list(
        self, kind: str | None = None, mesh: str | None = None, namespace: str | None = None
    ) -> tuple[Sequence[Record], int]:
        """See `Store.list`."""
        self._check_open()
        keys = sorted(
            key
            for key in self._records
            if (kind is None or key.kind == kind)
            and (mesh is None or key.mesh == mesh)
            and (namespace is None or key.namespace == namespace)
        )
        found = [Record(k, decode_body(self._records[k][1]), self._records[k][0]) for k in keys]
        return found, self._announcer.revision

    async def commit(self, writes: Sequence[Write], audit: Sequence[AuditEntry]) -> int:
        """See `Store.commit`."""
        self._check_open()
        prepared = prepare_commit(writes, audit)
        for part in prepared.compared():
            check_expected(part, self._records.get(part.key, (0, ""))[0])
        revision = self._announcer.revision + 1
        self._apply(prepared, revision)
        self._compact()
        self._announcer.announce(revision)
        return revision

    async def watch(self, after: int) -> AsyncIterator[Sequence[Change]]:
        """See `Store.watch`."""
        while not self._announcer.is_closed():
            if not self._compacted <= after <= self._announcer.revision:
                raise Compacted(
                    f"changes after revision {after} are not kept",
                    hint="list again and watch from there",
                )
            batch = self._batch(after)
            if batch:
                yield batch
                after = batch[0].revision
                continue
            after = self._announcer.revision
            await self._announcer.newer_than(after)

    async def audit(self, after_seq: int = 0, limit: int = 1000) -> Sequence[AuditEvent]:
        """See `Store.audit`."""
        self._check_open()
        first = max(after_seq, 0)
        page = self._audit[first : first + check_page(limit)]
        return [
            AuditEvent(seq, revision, decode_entry(entry), previous, digest)
            for seq, (revision, entry, previous, digest) in enumerate(page, first + 1)
        ]

    async def audit_head(self) -> tuple[int, str]:
        """See `Store.audit_head`."""
        self._check_open()
        return len(self._audit), self._audit[-1][3] if self._audit else GENESIS

    async def close(self) -> None:
        """See `Store.close`."""
        self._announcer.close()

    def restored(self) -> MemoryStore:
        """A new store as a restored backup of this one would be: same content, new epoch."""
        copy = MemoryStore(keep_changes=self._keep)
        copy._records = dict(self._records)
        copy._commits, copy._kept = list(self._commits), self._kept
        copy._compacted = self._compacted
        copy._audit = list(self._audit)
        copy._announcer = Announcer(self._announcer.revision)
        return copy

    def _check_open(self) -> None:
        if self._announcer.is_closed():
            raise store_closed()

    def _apply(self, prepared: PreparedCommit, revision: int) -> None:
        for write in prepared.writes:
            if write.body is None:
                del self._records[write.key]
            else:
                self._records[write.key] = (revision, write.body)
        if prepared.writes:
            self._commits.append((revision, prepared.writes))
            self._kept += len(prepared.writes)
        for entry in prepared.entries:
            previous = self._audit[-1][3] if self._audit else GENESIS
            event = audit_event_text(len(self._audit) + 1, revision, entry)
            self._audit.append((revision, entry, previous, hash_event(previous, event)))

    def _compact(self) -> None:
        """Forget the oldest commits' changes while there are too many; never the newest commit."""
        while self._kept > self._keep and len(self._commits) > 1:
            self._compacted, writes = self._commits.pop(0)
            self._kept -= len(writes)

    def _batch(self, after: int) -> Sequence[Change]:
        """Changes of the first commit after `after` that has any."""
        at = bisect_right(self._commits, after, key=itemgetter(0))
        if at == len(self._commits):
            return []
        revision, writes = self._commits[at]
        return [
            Change(revision, w.key, None if w.body is None else decode_body(w.body)) for w in writes
        ]
