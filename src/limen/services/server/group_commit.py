"""Many small commits at once become few large ones.

While one transaction is being written, the next callers' writes are gathered; they go together in
the next. A thousand agents that ask at once cost a handful of disk flushes. Each caller still
waits until its own writes are durable, and a conflict of one is not the others' conflict.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.errors import LimenError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.adapters.store import AuditEntry, Store, Write

MAX_GROUP = 256


@dataclass(frozen=True, slots=True)
class _Waiting:
    writes: Sequence[Write]
    audit: Sequence[AuditEntry]
    revision: asyncio.Future[int]


class GroupCommit:
    """`commit` as the store's, for writes whose order among callers does not matter."""

    def __init__(self, store: Store, max_group: int = MAX_GROUP) -> None:
        self._store = store
        self._max_group = max_group
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None

    async def commit(self, writes: Sequence[Write], audit: Sequence[AuditEntry]) -> int:
        """Return the revision once these writes are durable. Errors as `Store.commit`.

        A caller that is cancelled leaves its writes in the group: they may still be committed.
        """
        waiting = _Waiting(writes, audit, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        return await waiting.revision

    async def _flush(self) -> None:
        group: list[_Waiting] = []
        try:
            while self._waiting:
                group, self._waiting = (
                    self._waiting[: self._max_group],
                    self._waiting[self._max_group :],
                )
                await self._commit_group(group)
        except BaseException:  # cancelled, or a fault of the store: nobody may wait for ever
            for waiting in (*group, *self._waiting):
                _fail(waiting, Unavailable("the write was interrupted", code="interrupted"))
            self._waiting = []
            raise
        finally:
            self._flushing = None

    async def _commit_group(self, group: Sequence[_Waiting]) -> None:
        try:
            revision = await self._store.commit(
                [write for w in group for write in w.writes],
                [entry for w in group for entry in w.audit],
            )
        except LimenError as error:
            if len(group) == 1 or isinstance(error, Unavailable):
                for waiting in group:
                    _fail(waiting, error)
                return
            for waiting in group:
                await self._commit_group([waiting])
            return
        for waiting in group:
            if not waiting.revision.done():
                waiting.revision.set_result(revision)


def _fail(waiting: _Waiting, error: LimenError) -> None:
    if not waiting.revision.done():
        waiting.revision.set_exception(error)
