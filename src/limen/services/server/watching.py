"""What a role follows: everything of some kinds in its mesh, then every change, one line each.

The first line has the whole (`reset`), unless the reader names an epoch and revision that this
history still has. A reader that falls behind what is kept gets the whole again. Lines without
changes say that the server is there and how far it is. Bodies are as stored; a Secret is not among
the kinds that may be asked for.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from limen.adapters.store import Change, Compacted
from limen.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from limen.adapters.store import Store

MAX_WATCHERS = 256
MAX_WATCH_S = 3600.0
"""Then the stream ends, and the reader goes on from where it was: rights are judged anew."""
KEEPALIVE_S = 2.0


class Watchers:
    """All streams of one server: how many there are, and how they end with it."""

    def __init__(self, store: Store, maximum: int = MAX_WATCHERS) -> None:
        self._store = store
        self._maximum = maximum
        self._open = 0
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End every stream."""
        self._closing.set()

    def admit(self) -> None:
        """Raises Unavailable (`too-many-watches`) if there is no room for one more."""
        if self._closing.is_set():
            raise Unavailable("the server is stopping", code="stopping")
        if self._open >= self._maximum:
            raise Unavailable(
                f"{self._maximum} watches are open already",
                code="too-many-watches",
                hint="stop readers that are not needed",
            )

    async def lines(
        self, kinds: frozenset[str], mesh: str, after: int, epoch: str
    ) -> AsyncIterator[bytes]:
        """The stream. `admit` comes first."""
        self._open += 1
        try:
            async for line in self._follow(kinds, mesh, after, epoch):
                yield line
        finally:
            self._open -= 1

    async def _follow(
        self, kinds: frozenset[str], mesh: str, after: int, epoch: str
    ) -> AsyncIterator[bytes]:
        own = await self._store.epoch()
        known = epoch == own and after > 0
        end = asyncio.get_running_loop().time() + MAX_WATCH_S
        while True:
            if not known:
                changes, after = await self._whole(kinds, mesh)
                yield _line(own, after, changes, reset=True)
            try:
                async for revision, found in self._changes(after, end):
                    after = max(after, revision)
                    mine = [c for c in found if c.key.kind in kinds and c.key.mesh in {mesh, ""}]
                    if mine or not found:
                        yield _line(own, after, mine)
            except Compacted:
                known = False
            else:
                return

    async def _whole(self, kinds: frozenset[str], mesh: str) -> tuple[list[Change], int]:
        records, revision = await self._store.list()
        return [
            Change(r.revision, r.key, r.body)
            for r in records
            if r.key.kind in kinds and r.key.mesh in {mesh, ""}
        ], revision

    async def _changes(self, after: int, end: float) -> AsyncIterator[tuple[int, Sequence[Change]]]:
        """Batches with their revision; an empty one from time to time. Raises Compacted."""
        loop = asyncio.get_running_loop()
        batches = aiter(self._store.watch(after))
        closing = asyncio.ensure_future(self._closing.wait())
        pending: asyncio.Future[Sequence[Change]] | None = None
        try:
            while loop.time() < end and not self._closing.is_set():
                pending = pending or asyncio.ensure_future(_next(batches))
                await asyncio.wait(
                    (pending, closing), timeout=KEEPALIVE_S, return_when=asyncio.FIRST_COMPLETED
                )
                if not pending.done():
                    yield 0, ()
                    continue
                batch = pending.result()
                pending = None
                if not batch:
                    return
                yield batch[-1].revision, batch
        finally:
            closing.cancel()
            if pending is not None:
                pending.cancel()


async def _next(batches: AsyncIterator[Sequence[Change]]) -> Sequence[Change]:
    """The next batch; an empty one if the store has closed."""
    return await anext(batches, ())


def _line(epoch: str, revision: int, changes: Iterable[Change], *, reset: bool = False) -> bytes:
    found: list[dict[str, Any]] = [
        {
            "kind": c.key.kind,
            "mesh": c.key.mesh,
            "namespace": c.key.namespace,
            "name": c.key.name,
            "body": c.body,
        }
        for c in changes
    ]
    said = {"revision": revision, "epoch": epoch, "reset": reset, "changes": found}
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"
