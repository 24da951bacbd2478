"""The contract suite on the store in memory and on SQLite."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import apsw
import pytest
from tests.services.store_contract import StoreContract

from limen.adapters.store_memory import MemoryStore
from limen.adapters.store_sqlite import SqliteStore, StoreOptions, backup, open_store, restore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from limen.adapters.store import Store


@dataclass
class MemoryHarness:
    keep_changes: int = 10_000
    stores: list[MemoryStore] = field(default_factory=list)

    async def open(self) -> tuple[Store, Store]:
        self.stores.append(MemoryStore(keep_changes=self.keep_changes))
        return self.stores[0], self.stores[0]

    async def restored(self) -> Store:
        return self.stores[0].restored()

    async def tamper(self, seq: int) -> None:
        audit = self.stores[0]._audit
        revision, entry, previous, digest = audit[seq - 1]
        audit[seq - 1] = (revision, entry.replace("admin", "nobody"), previous, digest)


@dataclass
class SqliteHarness:
    directory: Path
    keep_changes: int = 10_000
    stores: list[SqliteStore] = field(default_factory=list)
    count: int = 0

    async def open(self) -> tuple[Store, Store]:
        """One handle twice: a SQLite store belongs to one process and one object."""
        options = StoreOptions(keep_changes=self.keep_changes)
        self.stores.append(await open_store(self.directory / "store.db", options=options))
        return self.stores[0], self.stores[0]

    async def restored(self) -> Store:
        self.count += 1
        copy = self.directory / f"copy{self.count}.db"
        into = self.directory / f"restored{self.count}.db"
        await backup(self.stores[0], copy)
        epoch = await restore(copy, into)
        self.stores.append(await open_store(into))
        assert await self.stores[-1].epoch() == epoch
        return self.stores[-1]

    async def tamper(self, seq: int) -> None:
        connection = apsw.Connection(str(self.directory / "store.db"))
        with connection:
            connection.execute("DROP TRIGGER audit_no_update")
            connection.execute(
                "UPDATE audit SET entry = replace(entry, 'admin', 'nobody') WHERE seq = ?", (seq,)
            )
        connection.close()


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def harness(self) -> MemoryHarness:
        return MemoryHarness()


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[SqliteHarness]:
        harness = SqliteHarness(tmp_path)
        yield harness
        for store in harness.stores:
            await store.close()
