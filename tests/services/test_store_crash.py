"""Power failures and failing disks at every single operation of a workload on the SQLite store."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import pytest
from tests.services.store_disk import Acknowledged, Disk, Platter, images

from limen.adapters.store import AuditEntry, Delete, Put
from limen.adapters.store_sqlite import StoreOptions, lanes, open_store, schema
from limen.adapters.store_sqlite import store as store_module
from limen.adapters.store_sqlite.reader import list_records, read_audit, read_meta
from limen.adapters.store_sqlite.writer import write_batch
from limen.core.audit import verify_chain
from limen.core.model.resource import ResourceKey
from limen.errors import LimenError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NAME = "store.db"
State = dict[ResourceKey, tuple[int, Any]]


def key(i: int) -> ResourceKey:
    return ResourceKey("k", "m", "n", f"r{i}")


def entry(i: int) -> AuditEntry:
    return AuditEntry(i, "admin", "put", "k", "m", "n", f"r{i}", {"i": i})


def workload(rounds: int) -> list[list[tuple[Sequence[Put | Delete], Sequence[AuditEntry]]]]:
    """Rounds of commits that are made together; small, large, several records, deletions."""
    made = []
    for i in range(rounds):
        commits: list[tuple[Sequence[Put | Delete], Sequence[AuditEntry]]] = [
            ([Put(key(i), {"text": "x" * (i * 331 % 9000)}), Put(key(-1), {"i": i})], [entry(i)])
        ]
        if i % 4 == 1:
            commits += [([Put(key(100 * i + j), {"j": j})], [entry(j)]) for j in range(3)]
        if i % 5 == 4:
            commits.append(([Delete(key(i - 2))], [entry(i), entry(i)]))
        made.append(commits)
    return made


def states(rounds: list[Any]) -> list[State]:
    """The records after each revision, from the empty store on."""
    found: list[State] = [{}]
    for writes, _ in (commit for commits in rounds for commit in commits):
        state = dict(found[-1])
        for write in writes:
            if isinstance(write, Put):
                state[write.key] = (len(found), dict(write.body))
            else:
                del state[write.key]
        found.append(state)
    return found


def audits(rounds: list[Any]) -> list[int]:
    """How many audit events there are after each revision."""
    found = [0]
    for _, entries in (commit for commits in rounds for commit in commits):
        found.append(found[-1] + len(entries))
    return found


@pytest.fixture
def fast_directory() -> Iterator[Path]:
    """In memory where possible: thousands of files are written, and their syncs prove nothing."""
    memory = Path("/dev/shm")  # noqa: S108 - a private directory is made in it
    directory = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    yield directory
    shutil.rmtree(directory)


def files_in(directory: Path) -> dict[str, bytes]:
    names = (NAME, NAME + "-wal")
    return {n: (directory / n).read_bytes() for n in names if (directory / n).exists()}


async def record(directory: Path, rounds: list[Any], monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Run the workload on a recording disk; its log notes each promise when it is made."""
    disk = Disk()
    vfs = disk.vfs("limen-record")

    def noting(*arguments: Any) -> Any:
        outcomes, revision = write_batch(*arguments)
        disk.log.append(Acknowledged(revision))
        return outcomes, revision

    monkeypatch.setattr(store_module, "write_batch", noting)
    options = StoreOptions(keep_changes=9, checkpoint_pages=30, vfs="limen-record")
    store = await open_store(directory / NAME, options=options)
    for commits in rounds:
        await asyncio.gather(*(store.commit(*commit) for commit in commits))
    await store.close()
    vfs.unregister()
    return disk


def check_image(directory: Path, image: dict[str, bytes]) -> tuple[int, State, int]:
    """Open what the crash left: revision, records, audit events. Fails if anything is damaged."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    for name, content in image.items():
        (directory / name).write_bytes(content)
        (directory / name).chmod(0o600)
    connection = lanes.open_writer(directory / NAME, StoreOptions(), _NoLock())
    try:
        assert schema.fetch(connection, "PRAGMA integrity_check") == [("ok",)]
        _, revision, compacted = read_meta(connection)
        records, same = list_records(connection, None, None, None)
        assert same == revision
        events = read_audit(connection, 0, 10_000)
        verify_chain(events)
        kept = schema.fetch(connection, "SELECT DISTINCT revision FROM changes ORDER BY seq")
        assert [row[0] for row in kept] == list(range(compacted + 1, revision + 1))
    finally:
        connection.close()
    return revision, {r.key: (r.revision, r.body) for r in records}, len(events)


class _NoLock(lanes.files.FileLock):
    def __init__(self) -> None: ...
    def acquire(self) -> None: ...


async def test_no_power_failure_loses_or_halves_a_commit(
    tmp_path: Path, fast_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = workload(18)
    await (await open_store(tmp_path / NAME)).close()
    base = files_in(tmp_path)
    disk = await record(tmp_path, rounds, monkeypatch)
    expected, events = states(rounds), audits(rounds)
    assert [o for o in disk.log if isinstance(o, Acknowledged)][-1].revision == len(expected) - 1
    count, ahead = 0, 0
    for ordinal, lost, promised, image in images(base, disk.log, seed=1):
        revision, state, seen = check_image(fast_directory / "crash", image)
        where = f"crash after operation {ordinal} of {len(disk.log)}, lost {lost}"
        assert revision >= promised, where
        assert state == expected[revision], where
        assert seen == events[revision], where
        count += 1
        ahead += revision > promised
    assert ahead > 0
    assert count > 2 * len(disk.log)


async def test_a_crash_that_loses_synced_data_is_noticed_by_this_test(
    tmp_path: Path, fast_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof that the test above can fail: a disk that ignores syncs of the log."""
    rounds = workload(6)
    await (await open_store(tmp_path / NAME)).close()
    base = files_in(tmp_path)
    disk = await record(tmp_path, rounds, monkeypatch)
    lying = [o for o in disk.log if type(o).__name__ != "Sync"]
    lost = 0
    for _, _, promised, image in images(base, lying, seed=1):
        try:
            revision, _, _ = check_image(fast_directory / "crash", image)
        except (apsw.Error, LimenError, AssertionError):
            lost += 1
        else:
            lost += revision < promised
    assert lost > 0


async def test_a_new_store_is_on_disk_before_it_has_its_name(tmp_path: Path) -> None:
    disk = Disk()
    vfs = disk.vfs("limen-create")
    lanes.create_store(tmp_path / NAME, "limen-create")
    vfs.unregister()
    platter = Platter({})
    for operation in disk.log:
        platter.apply(operation)
    left = platter.after_crash(lambda _: False)
    (name,) = [name for name in left if name.endswith(str(os.getpid()))]
    assert left[name] == (tmp_path / NAME).read_bytes()


class _Fault:
    """Fail `length` operations from number `first` on."""

    def __init__(self, error: type[apsw.Error], first: int, length: int, only: str = "") -> None:
        self.error, self.first, self.last, self.only = error, first, first + length, only
        self.count = 0
        self.hits = 0

    def __call__(self, operation: str) -> None:
        if self.only and operation not in self.only.split():
            return
        self.count += 1
        if self.first < self.count <= self.last:
            self.hits += 1
            raise self.error(f"injected in {operation}")


async def _survive(path: Path, disk: Disk, vfs: str, fault: _Fault, rounds: list[Any]) -> int:
    """Run the workload under `fault`, retry what is refused, check all; how many were refused."""
    options = StoreOptions(keep_changes=9, checkpoint_pages=6, vfs=vfs)
    store = await open_store(path, options=options)
    disk.fault = fault
    refused = 0
    for commit in (commit for commits in rounds for commit in commits):
        while True:
            try:
                await store.commit(*commit)
            except Unavailable as error:
                refused += bool(error.hint)  # it says what to do
            else:
                break
            assert refused <= fault.hits
    disk.fault = None
    expected = states(rounds)
    records, revision = await store.list()
    assert revision == len(expected) - 1
    assert {r.key: (r.revision, r.body) for r in records} == expected[-1]
    assert verify_chain(await store.audit(0, 10_000)).seq == audits(rounds)[-1]
    await store.close()
    found, state, _ = check_image(path.parent / "reopened", files_in(path.parent))
    assert (found, state) == (revision, expected[-1])
    return refused


@pytest.mark.parametrize(
    ("error", "length", "only"),
    [
        (apsw.IOError, 1, ""),
        (apsw.FullError, 1, "write truncate"),
        (apsw.FullError, 9, "write truncate"),
        (apsw.IOError, 3, "sync"),
    ],
    ids=["io-error", "full-once", "full-for-a-while", "sync-fails"],
)
async def test_a_failing_disk_refuses_and_recovers(
    fast_directory: Path, error: type[apsw.Error], length: int, only: str
) -> None:
    disk = Disk()
    name = "limen-fault"
    vfs = disk.vfs(name)
    rounds = workload(5)
    run = partial(_survive, disk=disk, vfs=name, rounds=rounds)
    first, refusals = 0, 0
    while True:
        directory = fast_directory / str(first)
        directory.mkdir(mode=0o700)
        fault = _Fault(error, first, length, only)
        refusals += await run(directory / NAME, fault=fault)
        shutil.rmtree(directory)
        if not fault.hits:
            break
        first += 1
    vfs.unregister()
    assert first > 10
    assert refusals > first // 2
