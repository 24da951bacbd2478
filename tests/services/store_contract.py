"""The laws of `limen.adapters.store`, as tests that every store runs.

A store's test file makes a subclass of `StoreContract` with a fixture `harness`. A harness gives
two handles of one history (two connections, where a store allows that), restores a backup of it,
and changes the audit log behind the store's back.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from limen.adapters.store import AuditEntry, Change, Check, Compacted, Delete, Put, Record
from limen.core.audit import GENESIS, ChainHead, verify_chain, verify_head
from limen.core.model.resource import ResourceKey
from limen.errors import Conflict, InvalidInput, NotFound, Unavailable, Untrusted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from limen.adapters.store import Store

ENTRY = AuditEntry(1700000000.25, "admin", "apply", "Mesh", "default", "default", "x", {"n": 1})
PATIENCE_S = 20


class Harness(Protocol):
    keep_changes: int

    async def open(self) -> tuple[Store, Store]: ...
    async def restored(self) -> Store: ...
    async def tamper(self, seq: int) -> None: ...


def key(name: str, kind: str = "kuma.io/Mesh", mesh: str = "default", ns: str = "d") -> ResourceKey:
    return ResourceKey(kind, mesh, ns, name)


async def take(watch: AsyncIterator[Sequence[Change]], count: int) -> list[Sequence[Change]]:
    """The next `count` batches; the watch is closed."""
    found: list[Sequence[Change]] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            found.append(await anext(watch))
    await watch.aclose()  # type: ignore[attr-defined]  # watches are generators
    return found


async def whole_audit(store: Store) -> list[Any]:
    events: list[Any] = []
    while page := await store.audit(len(events), 7):
        events += page
    return events


class StoreContract:
    """Subclass, and give a fixture `harness`."""

    @pytest.fixture
    async def two(self, harness: Harness) -> tuple[Store, Store]:
        return await harness.open()

    @pytest.fixture
    def store(self, two: tuple[Store, Store]) -> Store:
        return two[0]

    # Compare and set

    async def test_a_new_store_is_empty_at_revision_zero(self, store: Store) -> None:
        assert await store.get(key("a")) is None
        assert await store.list() == ([], 0)
        assert list(await store.audit()) == []

    async def test_what_is_put_is_got(self, store: Store) -> None:
        body = {"b": [1, 2.5, None, True, "ü"], "a": {"x": {}}, "big": 2**70}
        assert await store.commit([Put(key("a"), body)], [ENTRY]) == 1
        assert await store.get(key("a")) == Record(key("a"), body, 1)
        assert await store.commit([Put(key("a"), {})], [ENTRY]) == 2
        assert await store.get(key("a")) == Record(key("a"), {}, 2)

    async def test_what_is_deleted_is_gone(self, store: Store) -> None:
        await store.commit([Put(key("a"), {})], [])
        assert await store.commit([Delete(key("a"), 1)], []) == 2
        assert await store.get(key("a")) is None
        assert await store.list() == ([], 2)
        assert await store.commit([Put(key("a"), {"again": True}, 0)], []) == 3

    @pytest.mark.parametrize(
        ("write", "error"),
        [
            (Put(key("old"), {}, 0), Conflict),
            (Put(key("old"), {}, 2), Conflict),
            (Put(key("old"), {}, -1), Conflict),
            (Put(key("new"), {}, 1), Conflict),
            (Delete(key("old"), 7), Conflict),
            (Delete(key("old"), 0), Conflict),
            (Delete(key("new")), NotFound),
            (Delete(key("new"), 0), NotFound),
            (Delete(key("new"), 5), NotFound),
        ],
    )
    async def test_a_write_that_expects_something_else_is_refused(
        self, store: Store, write: Put | Delete, error: type[Exception]
    ) -> None:
        await store.commit([Put(key("old"), {"v": 1})], [ENTRY])
        with pytest.raises(error):
            await store.commit([write], [ENTRY])
        assert await store.list() == ([Record(key("old"), {"v": 1}, 1)], 1)
        assert len(await store.audit()) == 1

    async def test_writers_that_compare_and_set_lose_no_update(
        self, two: tuple[Store, Store]
    ) -> None:
        await two[0].commit([Put(key("n"), {"n": 0})], [])

        async def add(store: Store, times: int) -> None:
            for _ in range(times):
                while True:
                    found = await store.get(key("n"))
                    assert found is not None
                    body = {"n": int(str(found.body["n"])) + 1}
                    try:
                        await store.commit([Put(key("n"), body, found.revision)], [])
                    except Conflict:
                        continue
                    break

        await asyncio.gather(*(add(store, 15) for store in two))
        found = await two[1].get(key("n"))
        assert found is not None
        assert (found.body, found.revision) == ({"n": 30}, 31)

    async def test_only_one_of_many_racing_creators_wins(self, two: tuple[Store, Store]) -> None:
        outcomes = await asyncio.gather(
            *(two[i % 2].commit([Put(key("token"), {"by": i}, 0)], [ENTRY]) for i in range(20)),
            return_exceptions=True,
        )
        winners = [i for i, outcome in enumerate(outcomes) if outcome == 1]
        assert len(winners) == 1
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 19
        assert await two[0].list() == ([Record(key("token"), {"by": winners[0]}, 1)], 1)
        assert len(await two[0].audit()) == 1

    # All or nothing

    async def test_a_check_refuses_what_was_changed_meanwhile(
        self, two: tuple[Store, Store]
    ) -> None:
        store, other = two
        revision = await store.commit([Put(key("a"), {"n": 1})], [])
        again = [Check(key("a"), revision), Check(key("absent"), 0), Put(key("b"), {})]
        await store.commit(again, [ENTRY])
        found = await store.get(key("a"))
        assert found == Record(key("a"), {"n": 1}, revision), "a check writes nothing"
        await other.commit([Put(key("a"), {"n": 2})], [])
        for check in (Check(key("a"), revision), Check(key("a"), 0), Check(key("absent"), 7)):
            with pytest.raises(Conflict):
                await store.commit([check, Put(key("c"), {})], [ENTRY])
        assert await store.get(key("c")) is None
        assert len(await whole_audit(store)) == 1
        with pytest.raises(InvalidInput):
            await store.commit([Check(key("absent"), 0)], [])

    async def test_a_key_that_is_checked_may_be_written_too(self, store: Store) -> None:
        revision = await store.commit([Put(key("a"), {})], [])
        await store.commit([Check(key("a"), revision), Put(key("a"), {"n": 1})], [])
        with pytest.raises(Conflict):
            await store.commit([Check(key("a"), revision), Delete(key("a"))], [])

    async def test_one_refused_write_undoes_the_whole_commit(self, store: Store) -> None:
        await store.commit([Put(key("a"), {}), Put(key("b"), {})], [])
        with pytest.raises(Conflict):
            await store.commit(
                [Put(key("c"), {}), Delete(key("a")), Put(key("b"), {"x": 1}, 9)], [ENTRY]
            )
        records, revision = await store.list()
        assert ([r.key.name for r in records], revision) == (["a", "b"], 1)
        assert list(await store.audit()) == []
        assert len(await take(store.watch(0), 1)) == 1

    @pytest.mark.parametrize(
        "body",
        [
            {"x": math.nan},
            {"x": math.inf},
            {"x": "\ud800"},
            {1: "x"},
            {"x": b"bytes"},
            {"x": object()},
            {"x": 10**5000},
        ],
    )
    async def test_what_is_not_json_is_refused_before_anything_is_written(
        self, store: Store, body: Any
    ) -> None:
        with pytest.raises(InvalidInput):
            await store.commit([Put(key("ok"), {}), Put(key("a"), body)], [ENTRY])
        with pytest.raises(InvalidInput):
            await store.commit([Put(key("ok"), {})], [AuditEntry(0, *"abcdef", detail=body)])
        assert await store.list() == ([], 0)

    async def test_senseless_commits_are_refused(self, store: Store) -> None:
        deep: Any = {}
        for _ in range(5000):
            deep = {"x": deep}
        for writes in (
            [],
            [Put(key("a"), {}), Delete(key("a"))],
            [Put(key("\udc80"), {})],
            [Put(key("a"), deep)],
            [Put(key("a"), {"x": "x" * (17 * 1024 * 1024)})],
        ):
            with pytest.raises(InvalidInput):
                await store.commit(writes, [])
        assert await store.list() == ([], 0)

    async def test_a_stored_body_is_nobodys_to_change(self, store: Store) -> None:
        body: dict[str, Any] = {"list": [1]}
        detail: dict[str, Any] = {"d": [1]}
        entry = AuditEntry(0, *"abcdef", detail=detail)
        await store.commit([Put(key("a"), body)], [entry])
        body["list"].append(2)
        detail["d"].append(2)
        first = await store.get(key("a"))
        assert first is not None
        first.body["list"].append(3)  # type: ignore[union-attr]  # what a careless reader does
        (batch,) = await take(store.watch(0), 1)
        batch[0].body["list"].append(4)  # type: ignore[index,union-attr]  # as above
        assert await store.list() == ([Record(key("a"), {"list": [1]}, 1)], 1)
        assert (await take(store.watch(0), 1))[0][0].body == {"list": [1]}
        assert verify_chain(await store.audit()).seq == 1

    # Revisions and lists

    async def test_revisions_are_consecutive_under_two_writers(
        self, two: tuple[Store, Store]
    ) -> None:
        revisions = await asyncio.gather(
            *(two[i % 2].commit([Put(key(f"r{i}"), {})], [ENTRY]) for i in range(100))
        )
        assert sorted(revisions) == list(range(1, 101))
        for i, revision in enumerate(revisions):
            found = await two[0].get(key(f"r{i}"))
            assert found is not None
            assert found.revision == revision

    async def test_a_commit_of_audit_alone_is_a_revision_too(self, store: Store) -> None:
        assert await store.commit([], [ENTRY]) == 1
        assert await store.commit([Put(key("a"), {})], []) == 2
        assert await store.list() == ([Record(key("a"), {}, 2)], 2)
        assert [event.revision for event in await store.audit()] == [1]

    async def test_a_list_is_filtered_and_in_key_order(self, store: Store) -> None:
        keys = [
            key(name, kind, mesh, ns)
            for name in ("b", "a", "ä", "\U0001f600", "\uffff", "Z")
            for kind in ("k/B", "k/A")
            for mesh in ("n", "m")
            for ns in ("y", "x")
        ]
        await store.commit([Put(k, {}) for k in keys], [])

        async def listed(**filters: str) -> list[ResourceKey]:
            records, revision = await store.list(**filters)
            assert revision == 1
            return [record.key for record in records]

        assert await listed() == sorted(keys)
        assert await listed(kind="k/A") == sorted(k for k in keys if k.kind == "k/A")
        assert await listed(mesh="m") == sorted(k for k in keys if k.mesh == "m")
        assert await listed(namespace="x") == sorted(k for k in keys if k.namespace == "x")
        both = await listed(kind="k/B", mesh="n", namespace="y")
        assert both == sorted(k for k in keys if (k.kind, k.mesh, k.namespace) == ("k/B", "n", "y"))
        assert await listed(kind="k/C") == []
        assert await listed(kind="") == []

    async def test_names_are_kept_as_they_are(self, store: Store) -> None:
        names = [
            "",
            "ä",
            "a\u0308",
            "İ",
            "' OR 1=1 --",
            "%",
            "_",
            "a\x00b",
            "\U0001f600",
            "x" * 5000,
        ]
        await store.commit([Put(key(name), {"is": name}) for name in names], [])
        for name in names:
            assert await store.get(key(name)) == Record(key(name), {"is": name}, 1)
        assert await store.get(key("A\u0308")) is None

    async def test_a_large_body_is_kept(self, store: Store) -> None:
        body = {"x": "ä€" * 1_000_000}
        await store.commit([Put(key("big"), body)], [ENTRY])
        found = await store.get(key("big"))
        assert found is not None
        assert found.body == body

    async def test_a_list_and_the_watch_from_it_show_the_same_history(
        self, two: tuple[Store, Store]
    ) -> None:
        async def write(store: Store, who: int) -> None:
            for i in range(60):
                name = key(f"{who}-{i % 7}")
                exists = await store.get(name) is not None
                write = Delete(name) if exists and i % 3 == 0 else Put(name, {"i": i})
                await store.commit([write, Put(key(f"{who}"), {"i": i})], [])

        async def snapshots(store: Store) -> list[tuple[Sequence[Record], int]]:
            return [await store.list() for _ in range(10)]

        _, _, lists = await asyncio.gather(write(two[0], 1), write(two[1], 2), snapshots(two[0]))
        final, last = await two[1].list()
        for records, revision in lists:
            state = {r.key: (r.revision, r.body) for r in records}
            for batch in await take(two[1].watch(revision), last - revision):
                for change in batch:
                    state.pop(change.key, None)
                    if change.body is not None:
                        state[change.key] = (change.revision, change.body)
            assert state == {r.key: (r.revision, r.body) for r in final}

    # Watches

    async def test_a_watch_yields_one_batch_per_commit_in_order(self, store: Store) -> None:
        await store.commit([Put(key("b"), {"v": 1}), Put(key("a"), {"v": 1})], [ENTRY])
        await store.commit([], [ENTRY])
        await store.commit([Delete(key("b")), Put(key("a"), {"v": 2})], [])
        first, second = await take(store.watch(0), 2)
        assert first == [Change(1, key("b"), {"v": 1}), Change(1, key("a"), {"v": 1})]
        assert second == [Change(3, key("b"), None), Change(3, key("a"), {"v": 2})]
        assert await take(store.watch(1), 1) == [second]
        assert await take(store.watch(2), 1) == [second]

    async def test_a_watch_waits_for_what_comes(self, two: tuple[Store, Store]) -> None:
        await two[0].commit([Put(key("a"), {})], [])
        async with aclosing(two[1].watch(1)) as watch:  # type: ignore[type-var]  # a generator
            waiting = asyncio.ensure_future(anext(watch))
            await two[0].commit([], [ENTRY])
            assert not waiting.done()
            await two[0].commit([Put(key("b"), {})], [])
            async with asyncio.timeout(PATIENCE_S):
                assert await waiting == [Change(3, key("b"), {})]

    async def test_watches_skip_and_repeat_nothing_under_two_racing_writers(
        self, two: tuple[Store, Store]
    ) -> None:
        count, early = 150, 10
        for i in range(early):
            await two[0].commit([Put(key("early"), {"i": i})], [])
        total = 2 * count + early

        async def write(store: Store, who: int) -> None:
            await asyncio.gather(
                *(store.commit([Put(key(f"{who}-{i}"), {"i": i})], []) for i in range(count))
            )

        async def slowly(watch: AsyncIterator[Sequence[Change]]) -> list[Sequence[Change]]:
            found = []
            async for batch in watch:
                found.append(batch)
                for _ in range(5):
                    await asyncio.sleep(0)
                if len(found) == total:
                    break
            return found

        async with asyncio.timeout(PATIENCE_S):
            fast, slow, late, *_ = await asyncio.gather(
                take(two[0].watch(0), total),
                slowly(two[1].watch(0)),
                take(two[0].watch(early), total - early),
                write(two[0], 0),
                write(two[1], 1),
            )
        assert [batch[0].revision for batch in fast] == list(range(1, total + 1))
        assert all(len(batch) == 1 for batch in fast)
        assert slow == fast
        assert late == fast[early:]
        assert len({batch[0].key for batch in fast}) == 2 * count + 1

    async def test_a_watch_from_what_is_no_longer_kept_must_list_again(
        self, harness: Harness
    ) -> None:
        harness.keep_changes = 5
        store, _ = await harness.open()
        for i in range(20):
            await store.commit([Put(key(f"r{i}"), {})], [ENTRY])
        for after in (0, 1, 14, -1):
            with pytest.raises(Compacted):
                await anext(store.watch(after))
        batches = await take(store.watch(15), 5)
        assert [batch[0].revision for batch in batches] == [16, 17, 18, 19, 20]
        assert len((await store.list())[0]) == 20

    async def test_a_watch_that_falls_behind_is_told(self, harness: Harness) -> None:
        harness.keep_changes = 5
        store, _ = await harness.open()
        watch = store.watch(0)
        await store.commit([Put(key("a"), {})], [])
        assert (await anext(watch))[0].revision == 1
        for i in range(200):
            await store.commit([Put(key("a"), {"i": i})], [])
        with pytest.raises(Compacted):
            async for _ in watch:
                pass

    async def test_audit_alone_never_makes_a_watch_list_again(self, harness: Harness) -> None:
        harness.keep_changes = 5
        store, _ = await harness.open()
        await store.commit([Put(key("a"), {})], [])
        for _ in range(20):
            await store.commit([], [ENTRY])
        assert await take(store.watch(0), 1) == [[Change(1, key("a"), {})]]

    async def test_a_commit_larger_than_what_is_kept_is_seen(self, harness: Harness) -> None:
        harness.keep_changes = 5
        store, _ = await harness.open()
        await store.commit([Put(key("first"), {})], [])
        await store.commit([Put(key(f"r{i}"), {}) for i in range(12)], [])
        (batch,) = await take(store.watch(1), 1)
        assert len(batch) == 12
        with pytest.raises(Compacted):
            await anext(store.watch(0))
        await store.commit([Put(key("last"), {})], [])
        assert await take(store.watch(2), 1) == [[Change(3, key("last"), {})]]

    async def test_a_watch_from_another_history_must_list_again(self, store: Store) -> None:
        await store.commit([Put(key("a"), {})], [])
        with pytest.raises(Compacted):
            await anext(store.watch(2))

    async def test_a_cancelled_watch_leaves_the_others_alone(self, store: Store) -> None:
        waiting = [asyncio.ensure_future(anext(store.watch(0))) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        await store.commit([Put(key("a"), {})], [])
        async with asyncio.timeout(PATIENCE_S):
            assert await waiting[0] == await waiting[2] == [Change(1, key("a"), {})]
        with pytest.raises(asyncio.CancelledError):
            await waiting[1]

    # Epoch

    async def test_the_epoch_changes_when_a_backup_is_restored(self, harness: Harness) -> None:
        store, other = await harness.open()
        epoch = await store.epoch()
        assert len(epoch) >= 16
        await store.commit([Put(key("a"), {"v": 1})], [ENTRY])
        await store.commit([Put(key("b"), {"v": 2})], [ENTRY])
        restored = await harness.restored()
        assert await restored.epoch() != epoch
        assert await restored.list() == await store.list()
        assert list(await restored.audit()) == list(await store.audit())
        assert await store.epoch() == await other.epoch() == epoch
        assert await restored.commit([Put(key("c"), {})], [ENTRY]) == 3
        assert await store.get(key("c")) is None
        assert verify_chain(await whole_audit(restored)).seq == 3
        again = await harness.restored()
        assert len({epoch, await restored.epoch(), await again.epoch()}) == 3
        await restored.close()
        await again.close()

    # Audit

    async def test_the_chain_is_whole_from_the_first_event(self, two: tuple[Store, Store]) -> None:
        entries = [
            AuditEntry(i / 7, f"actor {i}", "put", "K", "m", "n", "ü\U0001f600", {"i": [i, 1e22]})
            for i in range(60)
        ]
        await asyncio.gather(
            *(two[i % 2].commit([], entries[i : i + 2]) for i in range(0, len(entries), 2))
        )
        events = await whole_audit(two[0])
        assert [event.seq for event in events] == list(range(1, 61))
        assert events[0].previous == GENESIS
        assert sorted((event.entry for event in events), key=lambda e: e.time_s) == entries
        head = verify_chain(events)
        assert head == ChainHead(60, events[-1].hash)
        half = verify_chain(events[:30])
        assert verify_chain(events[30:], half) == head
        verify_head(head, head)

    @pytest.mark.parametrize("time_s", [0, 5, -0.0, 1e22, 1700000000.123456])
    async def test_a_time_is_hashed_as_it_is_read(self, store: Store, time_s: float) -> None:
        await store.commit([], [AuditEntry(time_s, *"abcdef")])
        assert verify_chain(await store.audit()).seq == 1

    async def test_the_head_of_the_chain_is_its_last_event(self, two: tuple[Store, Store]) -> None:
        store, other = two
        assert await store.audit_head() == (0, GENESIS)
        await store.commit([], [ENTRY, ENTRY])
        await other.commit([Put(key("a"), {})], [ENTRY])
        last = (await whole_audit(store))[-1]
        assert await store.audit_head() == await other.audit_head() == (3, last.hash)
        await store.close()
        with pytest.raises(Unavailable):
            await store.audit_head()

    async def test_audit_is_read_in_pages(self, store: Store) -> None:
        await store.commit([], [ENTRY] * 10)
        assert [event.seq for event in await store.audit(3, 4)] == [4, 5, 6, 7]
        assert [event.seq for event in await store.audit(8)] == [9, 10]
        assert list(await store.audit(10)) == []
        assert len(await store.audit(-5, 10**9)) == 10
        for limit in (0, -1):
            with pytest.raises(InvalidInput):
                await store.audit(0, limit)

    @pytest.mark.parametrize("seq", [1, 4, 9])
    async def test_a_changed_event_is_found(self, harness: Harness, seq: int) -> None:
        store, _ = await harness.open()
        for _ in range(9):
            await store.commit([], [ENTRY])
        await harness.tamper(seq)
        with pytest.raises(Untrusted, match=rf"event {seq} ") as caught:
            verify_chain(await whole_audit(store))
        assert caught.value.code == "audit-tampered"

    # Cancellation and closing

    async def test_a_cancelled_commit_is_whole_or_absent(self, two: tuple[Store, Store]) -> None:
        for i in range(40):
            task = asyncio.ensure_future(
                two[i % 2].commit([Put(key(f"a{i}"), {}), Put(key(f"b{i}"), {})], [ENTRY])
            )
            for _ in range(i % 4):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])  # cancelled, or done before it could be
        last = await two[0].commit([Put(key("last"), {})], [ENTRY])
        records, revision = await two[1].list()
        assert revision == last
        names = {record.key.name for record in records}
        assert all((f"a{i}" in names) == (f"b{i}" in names) for i in range(40))
        assert len(names) == 2 * (last - 1) + 1
        assert verify_chain(await whole_audit(two[0])).seq == last

    async def test_closing_ends_the_watches(self, two: tuple[Store, Store]) -> None:
        await two[0].commit([Put(key("a"), {})], [])

        async def until_end(watch: AsyncIterator[Sequence[Change]]) -> int:
            return len([batch async for batch in watch])

        watches = [asyncio.ensure_future(until_end(store.watch(0))) for store in two]
        idle = [asyncio.ensure_future(until_end(store.watch(1))) for store in two]
        while (await two[0].get(key("a"))) is None:
            pass
        for _ in range(20):
            await two[0].get(key("a"))
        for store in two:
            await store.close()
        async with asyncio.timeout(PATIENCE_S):
            assert set(await asyncio.gather(*watches)) <= {0, 1}
            assert await asyncio.gather(*idle) == [0, 0]

    async def test_a_closed_store_refuses(self, two: tuple[Store, Store]) -> None:
        await two[0].commit([Put(key("a"), {})], [])
        for store in two:
            await store.close()
            await store.close()
        store = two[0]
        with pytest.raises(Unavailable):
            await store.commit([Put(key("a"), {})], [])
        with pytest.raises(Unavailable):
            await store.get(key("a"))
        with pytest.raises(Unavailable):
            await store.list()
        with pytest.raises(Unavailable):
            await store.audit()
        with pytest.raises(Unavailable):
            await store.epoch()
        assert [batch async for batch in store.watch(0)] == []

    async def test_commits_in_flight_are_finished_before_closing(self, store: Store) -> None:
        tasks = [
            asyncio.ensure_future(store.commit([Put(key(f"r{i}"), {})], [])) for i in range(30)
        ]
        await asyncio.sleep(0)
        await store.close()
        async with asyncio.timeout(PATIENCE_S):
            assert await asyncio.gather(*tasks) == list(range(1, 31))
