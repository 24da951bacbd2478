"""Random histories: the store in memory is the model, and SQLite must say the same at each step."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from limen.adapters.store import AuditEntry, Compacted, Delete, Put
from limen.adapters.store_memory import MemoryStore
from limen.adapters.store_sqlite import SqliteStore, StoreOptions, backup, open_store, restore
from limen.core.audit import verify_chain
from limen.core.model.resource import ResourceKey
from limen.errors import LimenError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from limen.adapters.store import Change, Store

KEEP = 6
NAMES = st.sampled_from(["a", "b", "ä", "\U0001f600"])
KEYS = st.builds(ResourceKey, st.sampled_from(["k/A", "k/B"]), st.just("m"), st.just("n"), NAMES)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
BODIES = st.dictionaries(TEXT, TEXT | st.integers() | st.floats(allow_nan=False) | st.none())
EXPECTED = st.none() | st.integers(0, 12)
WRITES = st.builds(Put, KEYS, BODIES, EXPECTED) | st.builds(Delete, KEYS, EXPECTED)
ENTRIES = st.builds(
    AuditEntry, st.floats(0, 2**33), TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, st.just({"x": [1.5]})
)


async def outcome(work: Coroutine[Any, Any, Any]) -> Any:
    """A value, or the kind and words of the refusal."""
    try:
        return await work
    except LimenError as error:
        return type(error), error.code, str(error)


async def changes(store: Store, after: int) -> Any:
    """All that a watch yields up to now."""
    _, revision = await store.list()
    found: list[Sequence[Change]] = []
    probe = store.watch(after)
    try:
        while True:
            async with asyncio.timeout(0.02 if found or after >= revision else 1):
                found.append(await anext(probe))
            if found[-1][0].revision == revision:
                return found
    except Compacted as error:
        return str(error)
    except TimeoutError:
        return found
    finally:
        await probe.aclose()  # type: ignore[attr-defined]  # watches are generators


class Histories(RuleBasedStateMachine):
    watched = Bundle("watched")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        memory = Path("/dev/shm")  # noqa: S108 - a private directory is made in it
        self.directory = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.count = 0

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    @initialize()
    def open(self) -> None:
        self.model = MemoryStore(keep_changes=KEEP)
        self.path = self.directory / "store.db"
        self.store = self.run(self._opened())

    async def _opened(self) -> SqliteStore:
        return await open_store(self.path, options=StoreOptions(keep_changes=KEEP))

    async def _both(self, work: Any) -> tuple[Any, Any]:
        return await outcome(work(self.model)), await outcome(work(self.store))

    @rule(writes=st.lists(WRITES, max_size=4), entries=st.lists(ENTRIES, max_size=2))
    def commit(self, writes: list[Put | Delete], entries: list[AuditEntry]) -> None:
        model, real = self.run(self._both(lambda store: store.commit(writes, entries)))
        assert model == real

    @rule(commits=st.lists(st.lists(WRITES, min_size=1, max_size=2), max_size=5))
    def commit_together(self, commits: list[list[Put | Delete]]) -> None:
        async def together(store: Store) -> list[Any]:
            work = (outcome(store.commit(writes, [])) for writes in commits)
            return list(await asyncio.gather(*work))

        model, real = self.run(self._both(together))
        assert model == real

    @rule(key=KEYS)
    def get(self, key: ResourceKey) -> None:
        model, real = self.run(self._both(lambda store: store.get(key)))
        assert model == real

    @rule(after=st.integers(-1, 20), limit=st.integers(0, 5))
    def read_audit(self, after: int, limit: int) -> None:
        model, real = self.run(self._both(lambda store: store.audit(after, limit)))
        assert model == real

    @rule(kind=st.sampled_from([None, "k/A", "k/C"]), mesh=st.sampled_from([None, "m", "x"]))
    def filter(self, kind: str | None, mesh: str | None) -> None:
        model, real = self.run(self._both(lambda store: store.list(kind, mesh)))
        assert model == real

    @rule(behind=st.integers(-1, 12))
    def watch(self, behind: int) -> None:
        _, revision = self.run(self.model.list())
        model, real = self.run(self._both(lambda store: changes(store, revision - behind)))
        assert model == real

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.run(self._opened())

    @rule()
    def back_up_and_restore(self) -> None:
        self.count += 1
        copy = self.directory / f"copy{self.count}.db"
        epochs = {self.run(self.store.epoch()), self.run(self.model.epoch())}
        self.run(backup(self.store, copy))
        self.run(self.store.close())
        self.path = self.directory / f"store{self.count}.db"
        self.run(restore(copy, self.path))
        self.store = self.run(self._opened())
        self.model = self.model.restored()
        epochs |= {self.run(self.store.epoch()), self.run(self.model.epoch())}
        assert len(epochs) == 4

    @invariant()
    def same(self) -> None:
        if hasattr(self, "store"):
            model, real = self.run(self._both(lambda store: store.list()))
            assert model == real
            model, real = self.run(self._both(lambda store: store.audit(0, 1000)))
            assert model == real
            verify_chain(real)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.directory)


Histories.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestHistories = Histories.TestCase
