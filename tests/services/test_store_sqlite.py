"""What only the SQLite store promises: its file, its lock, damage, full disks, backups."""

from __future__ import annotations

import asyncio
import os
import resource
import stat
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from limen.adapters.store import AuditEntry, Change, Put
from limen.adapters.store_commit import prepare_commit
from limen.adapters.store_sqlite import (
    SqliteStore,
    StoreOptions,
    backup,
    open_store,
    restore,
    schema,
)
from limen.adapters.store_sqlite import store as store_module
from limen.adapters.store_sqlite import writer as writer_module
from limen.adapters.store_sqlite.reader import list_records, read_changes
from limen.adapters.store_sqlite.writer import write_batch
from limen.core.audit import verify_chain
from limen.core.model.resource import ResourceKey
from limen.errors import Conflict, LimenError, Unavailable, Untrusted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

ENTRY = AuditEntry(1.5, "admin", "apply", "Mesh", "m", "n", "x")
QUICK = StoreOptions(busy_s=0.05)


def key(name: str) -> ResourceKey:
    return ResourceKey("kuma.io/Mesh", "m", "n", name)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def in_another_process(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.strip()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await open_store(path, options=QUICK)
    yield store
    await store.close()


async def refused(path: Path, code: str, kind: type[LimenError] = Unavailable) -> LimenError:
    """Opening fails, says what to do, and changes nothing."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(kind) as caught:
        await open_store(path, options=QUICK)
    assert caught.value.code == code
    assert caught.value.hint
    assert (path.read_bytes() if path.is_file() else None) == before
    return caught.value


async def filled(path: Path, count: int = 50) -> None:
    store = await open_store(path)
    for i in range(count):
        await store.commit([Put(key(f"r{i}"), {"text": "x" * 500})], [ENTRY])
    await store.close()


# Durability


async def test_everything_is_there_after_reopening(path: Path) -> None:
    store = await open_store(path)
    epoch = await store.epoch()
    await store.commit([Put(key("a"), {"v": 1})], [ENTRY])
    await store.commit([Put(key("b"), {"v": 2})], [ENTRY])
    before = (await store.list(), await store.audit())
    await store.close()
    store = await open_store(path)
    assert (await store.list(), await store.audit()) == before
    assert await store.epoch() == epoch
    watch = store.watch(1)
    assert await anext(watch) == [Change(2, key("b"), {"v": 2})]
    await watch.aclose()
    assert await store.commit([Put(key("c"), {})], [ENTRY]) == 3
    await store.close()


async def test_every_acknowledged_commit_survives_a_killed_process(path: Path) -> None:
    code = """
        import asyncio, sys
        from pathlib import Path
        from limen.adapters.store import AuditEntry, Put
        from limen.adapters.store_sqlite import open_store
        from limen.core.model.resource import ResourceKey

        async def main():
            store = await open_store(Path(sys.argv[1]))
            async def one(i):
                print(await store.commit([Put(ResourceKey("k", "m", "n", str(i)), {"i": i})],
                    [AuditEntry(i, *"abcdef")]), i, flush=True)
            for start in range(0, 10**6, 8):
                await asyncio.gather(*(one(i) for i in range(start, start + 8)))

        asyncio.run(main())
    """
    process = subprocess.Popen(  # noqa: ASYNC220 - a short test program
        [sys.executable, "-c", textwrap.dedent(code), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(200)]
    process.kill()
    lines += process.stdout.read().splitlines()
    process.stdout.close()
    process.wait()
    store = await open_store(path)
    promised = {int(line.split()[1]): int(line.split()[0]) for line in lines if " " in line.strip()}
    for i, revision in promised.items():
        found = await store.get(ResourceKey("k", "m", "n", str(i)))
        assert found is not None
        assert (found.body, found.revision) == ({"i": i}, revision)
    _, revision = await store.list()
    assert revision >= len(promised) >= 200
    await store.close()


async def test_commits_that_wait_share_one_transaction(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def counting(connection: Any, commits: Any, keep: int) -> Any:
        sizes.append(len(commits))
        return write_batch(connection, commits, keep)

    monkeypatch.setattr(store_module, "write_batch", counting)
    done = await asyncio.gather(
        *(store.commit([Put(key(f"r{i}"), {"i": i})], [ENTRY]) for i in range(1000))
    )
    assert done == list(range(1, 1001))
    assert sum(sizes) == 1000
    assert len(sizes) < 50
    assert verify_chain(await store.audit(0, 1000)).seq == 1000


async def test_a_flood_beyond_measure_is_refused_not_hoarded(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_WAITING", 10)
    outcomes = await asyncio.gather(
        *(store.commit([Put(key(f"r{i}"), {})], []) for i in range(300)), return_exceptions=True
    )
    done = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert all(isinstance(o, int) or (isinstance(o, Unavailable) and o.hint) for o in outcomes)
    assert 10 <= len(done) < 300
    assert await store.commit([Put(key("after"), {})], []) == len(done) + 1


async def test_a_defect_in_a_transaction_reaches_its_callers_and_leaves_nothing(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_connection: Any, _keep: int) -> None:
        raise RuntimeError("defect")

    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "_compact", broken)
        with pytest.raises(RuntimeError, match="defect"):
            await store.commit([Put(key("a"), {})], [ENTRY])
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE; ROLLBACK")  # it holds no lock
    other.close()
    assert await store.commit([Put(key("b"), {})], [ENTRY]) == 1
    assert len(await store.audit()) == 1


# Readers do not wait


async def test_readers_see_the_last_commit_while_a_writer_is_at_work(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.commit([Put(key("a"), {"v": 1})], [ENTRY])
    inside, go_on = threading.Event(), threading.Event()

    def slow(connection: Any, commits: Any, keep: int) -> Any:
        with connection:
            connection.execute("UPDATE records SET body = '{}'")
            inside.set()
            assert go_on.wait(20)
            raise apsw.IOError("given up")

    monkeypatch.setattr(store_module, "write_batch", slow)
    writing = asyncio.ensure_future(store.commit([Put(key("a"), {"v": 2})], [ENTRY]))
    assert await asyncio.to_thread(inside.wait, 20)
    found = await store.get(key("a"))
    assert found is not None
    assert found.body == {"v": 1}
    assert len((await store.list())[0]) == 1
    assert not writing.done()
    go_on.set()
    with pytest.raises(Unavailable):
        await writing


async def test_a_locked_file_refuses_writes_and_goes_on_reading(
    store: SqliteStore, path: Path
) -> None:
    await store.commit([Put(key("a"), {"v": 1})], [ENTRY])
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable) as caught:
        await store.commit([Put(key("a"), {"v": 2})], [ENTRY])
    assert caught.value.code == "store-locked"
    assert caught.value.hint
    found = await store.get(key("a"))
    assert found is not None
    assert found.body == {"v": 1}
    other.execute("ROLLBACK")
    other.close()
    assert await store.commit([Put(key("a"), {"v": 2})], [ENTRY]) == 2


async def test_a_short_lock_is_waited_for_and_the_loop_runs_on(path: Path) -> None:
    store = await open_store(path, options=StoreOptions(busy_s=20))
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    task = asyncio.ensure_future(store.commit([Put(key("a"), {})], []))
    for _ in range(20):
        assert await store.get(key("a")) is None
    assert not task.done()
    other.execute("ROLLBACK")
    other.close()
    assert await task == 1
    await store.close()


async def test_a_list_and_its_revision_are_of_one_moment(path: Path) -> None:
    await filled(path, 1)
    reading, writing = (schema.connect(path) for _ in range(2))
    late = prepare_commit([Put(key("late"), {})], [ENTRY])

    def race(_cursor: Any, statement: str, _values: Any) -> bool:
        if "FROM records" in statement or "FROM changes" in statement:
            write_batch(writing, [late], 100)
        return True

    reading.set_exec_trace(race)
    records, revision = list_records(reading, None, None, None)
    assert ([record.key.name for record in records], revision) == (["r0"], 1)
    commits, upto = read_changes(reading, 1)
    assert ([c[0].revision for c in commits], upto) == ([2], 2)
    reading.close()
    writing.close()


async def test_a_commit_cancelled_in_flight_leaves_the_others_of_its_transaction_alone(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Semaphore(0), threading.Semaphore(0)

    def held(connection: Any, commits: Any, keep: int) -> Any:
        inside.release()
        assert go_on.acquire(timeout=20)
        return write_batch(connection, commits, keep)

    monkeypatch.setattr(store_module, "write_batch", held)

    def start(i: int) -> asyncio.Future[int]:
        return asyncio.ensure_future(store.commit([Put(key(f"r{i}"), {})], []))

    tasks = [start(0)]
    assert await asyncio.to_thread(inside.acquire, timeout=20)
    tasks += [start(i) for i in range(1, 5)]
    await asyncio.sleep(0)
    tasks[1].cancel()  # it still waits: it is never made
    await asyncio.sleep(0)
    go_on.release()
    assert await asyncio.to_thread(inside.acquire, timeout=20)  # the others together
    tasks[2].cancel()  # too late: it is made, and its caller is gone
    go_on.release()
    async with asyncio.timeout(20):
        await asyncio.wait(tasks)
        assert [t.cancelled() for t in tasks] == [False, True, True, False, False]
        assert [tasks[i].result() for i in (0, 3, 4)] == [1, 3, 4]
    assert [r.key.name for r in (await store.list())[0]] == ["r0", "r2", "r3", "r4"]


async def test_a_file_locked_by_another_program_is_not_opened(path: Path) -> None:
    await filled(path, 1)
    other = apsw.Connection(str(path))
    other.pragma("locking_mode", "exclusive")
    other.execute("BEGIN EXCLUSIVE")
    await refused(path, "store-locked")
    other.close()
    await (await open_store(path)).close()


# A full disk


async def test_a_full_store_refuses_and_goes_on_when_there_is_room(
    store: SqliteStore, path: Path
) -> None:
    await store.commit([Put(key("a"), {"v": 1})], [ENTRY])
    before = (await store.list(), await store.audit())
    pages = store._writer.connection.pragma("page_count")
    store._writer.connection.pragma("max_page_count", pages)
    with pytest.raises(Unavailable) as caught:
        await store.commit([Put(key("b"), {"text": "x" * 100_000})], [ENTRY])
    assert caught.value.code == "store-disk-full"
    assert caught.value.hint
    assert (await store.list(), await store.audit()) == before
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE; ROLLBACK")  # the failed commit holds no lock
    other.close()
    store._writer.connection.pragma("max_page_count", 1 << 30)
    assert await store.commit([Put(key("b"), {"text": "x" * 100_000})], [ENTRY]) == 2


async def test_the_systems_limit_on_files_is_a_full_disk(store: SqliteStore, path: Path) -> None:
    await store.commit([Put(key("a"), {"v": 1})], [ENTRY])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = path.with_name("store.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5000, limits[1]))
    try:
        with pytest.raises(Unavailable) as caught:
            await store.commit([Put(key("b"), {"text": "x" * 100_000})], [ENTRY])
        assert (await store.list())[1] == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code == "store-disk-full"
    assert await store.commit([Put(key("b"), {"text": "x" * 100_000})], [ENTRY]) == 2
    assert len(await store.audit()) == 2


ON_A_SMALL_DISK = """
    import asyncio, os, sys
    from pathlib import Path
    from limen.adapters.store import AuditEntry, Put
    from limen.adapters.store_sqlite import backup, open_store
    from limen.core.audit import verify_chain
    from limen.core.model.resource import ResourceKey
    from limen.errors import Unavailable

    async def main(directory):
        store = await open_store(directory / "store.db")
        async def write(i):
            body = {"text": "x" * 20_000, "i": i}
            return await store.commit(
                [Put(ResourceKey("k", "m", "n", str(i)), body, 0)], [AuditEntry(i, *"abcdef")])
        ballast = directory / "ballast"
        ballast.write_bytes(bytes(1_000_000))
        done, codes = 0, set()
        for i in range(150):
            try:
                done = await write(i)
            except Unavailable as error:
                codes.add(error.code)
                assert len((await store.list())[0]) == done
        assert 0 < done < 150
        try:
            await backup(store, directory / "copy.db")
        except Unavailable as error:
            codes.add(error.code)
        assert not (directory / "copy.db").exists()
        ballast.unlink()
        assert await write("after") == done + 1
        assert verify_chain(await store.audit()).seq == done + 1
        await store.close()
        store = await open_store(directory / "store.db")
        assert (await store.list())[1] == done + 1
        await store.close()
        print(*codes)

    asyncio.run(main(Path(sys.argv[1])))
"""


async def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(ON_A_SMALL_DISK))
    mount = f"mount -t tmpfs -o size=3m,mode=0700 none {tmp_path}/disk"
    (tmp_path / "disk").mkdir()
    isolate = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*isolate, mount], check=True, capture_output=True)  # noqa: ASYNC221
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets no user mount a small disk")
    run = f"{mount} && exec {sys.executable} {script} {tmp_path}/disk"
    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs on this loop
        [*isolate, run], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "store-disk-full\n"), done.stderr


# Who may open the file


async def test_files_are_private(store: SqliteStore, path: Path) -> None:
    await store.commit([Put(key("a"), {})], [ENTRY])
    names = {p.name for p in path.parent.iterdir()}
    assert names == {"store.db", "store.db-wal", "store.db-shm", "store.db.lock"}
    assert {mode(p) for p in path.parent.iterdir()} == {0o600}


async def test_files_are_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        store = await open_store(path.parent / "data" / "store.db")
        await store.commit([Put(key("a"), {})], [ENTRY])
        await backup(store, path)
        assert {mode(p) for p in store.path.parent.iterdir()} == {0o600}
        assert mode(store.path.parent) == 0o700
        assert mode(path) == 0o600
        await store.close()
    finally:
        os.umask(before)


@pytest.mark.parametrize("bits", [0o604, 0o640, 0o666])
async def test_a_file_that_others_may_open_is_refused(path: Path, bits: int) -> None:
    await filled(path, 1)
    path.chmod(bits)
    error = await refused(path, "store-exposed")
    assert "chmod 600" in error.hint


async def test_a_directory_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    await refused(tmp_path / "store.db", "store-exposed")
    tmp_path.chmod(0o1777)
    await refused(tmp_path / "store.db", "store-exposed")
    assert list(tmp_path.iterdir()) == []
    tmp_path.chmod(0o700)


async def test_what_is_no_file_is_refused(path: Path) -> None:
    path.mkdir()
    await refused(path, "store-exposed")
    path.rmdir()
    path.symlink_to("nowhere")
    await refused(path, "store-exists", Conflict)


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = await refused(tmp_path / "file" / "store.db", "store-io")
    assert str(tmp_path / "file") in error.message


async def test_a_second_server_is_told_who_has_the_store(store: SqliteStore, path: Path) -> None:
    error = await refused(path, "store-locked", Conflict)
    assert str(os.getpid()) in error.message
    code = """
        import asyncio, sys
        from pathlib import Path
        from limen.adapters.store_sqlite import open_store
        try:
            asyncio.run(open_store(Path(sys.argv[1])))
        except Exception as error:
            print(type(error).__name__, error.code)
    """
    assert await asyncio.to_thread(in_another_process, code, path) == "Conflict store-locked"
    assert await store.commit([Put(key("a"), {})], []) == 1


async def test_a_store_is_free_again_after_its_process_died(path: Path) -> None:
    code = """
        import asyncio, os, sys
        from pathlib import Path
        from limen.adapters.store_sqlite import open_store
        async def main():
            await open_store(Path(sys.argv[1]))
            os._exit(0)
        asyncio.run(main())
    """
    await asyncio.to_thread(in_another_process, code, path)
    await (await open_store(path)).close()


async def test_a_failed_opening_frees_the_store(path: Path) -> None:
    await filled(path, 1)
    path.chmod(0o644)
    await refused(path, "store-exposed")
    path.chmod(0o600)
    await (await open_store(path)).close()


# Damage


def overwritten(at: int, length: int = 2000) -> Callable[[bytes], bytes]:
    return lambda old: old[:at] + b"\xa5" * length + old[at + length :]


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda _: b"", "store-foreign"),
        (lambda _: b"hello, this is text\n" * 500, "store-corrupt"),
        (lambda old: old[:100], "store-corrupt"),
        (lambda old: old[:8192], "store-corrupt"),
        (lambda old: old[:-4096], "store-corrupt"),
        (overwritten(0), "store-corrupt"),
        (overwritten(4096), "store-corrupt"),
        (overwritten(3 * 4096), "store-corrupt"),
        (lambda old: bytes(len(old)), "store-corrupt"),
    ],
    ids=["empty", "text", "stub", "two-pages", "last-page", "header", "page-1", "page-3", "zeros"],
)
async def test_a_damaged_file_is_refused_and_left_alone(
    path: Path, damage: Callable[[bytes], bytes], code: str
) -> None:
    await filled(path)
    path.write_bytes(damage(path.read_bytes()))
    error = await refused(path, code)
    assert str(path) in error.message
    assert "backup" in error.hint


async def test_a_lost_file_whose_log_is_left_is_not_made_anew(path: Path) -> None:
    await filled(path, 1)
    path.rename(path.with_name("away.db"))
    path.with_name("store.db-wal").write_bytes(b"the rest of another store")
    await refused(path, "store-exists", Conflict)
    assert not path.exists()


async def test_another_programs_database_is_refused(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    path.chmod(0o600)
    await refused(path, "store-foreign")


async def test_a_newer_store_is_refused(path: Path) -> None:
    await filled(path, 1)
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", 2)
    connection.close()
    error = await refused(path, "store-version")
    assert "version 2" in error.message


async def test_damage_found_while_running_is_named(store: SqliteStore, path: Path) -> None:
    await store.commit([Put(key("a"), {"v": 1}), Put(key("b"), {"v": 1})], [ENTRY])
    other = apsw.Connection(str(path))
    other.execute("UPDATE records SET body = 'no JSON' WHERE name = 'a'")
    other.close()
    with pytest.raises(Unavailable) as caught:
        await store.get(key("a"))
    assert caught.value.code == "store-corrupt"
    with pytest.raises(Unavailable):
        await store.list()
    found = await store.get(key("b"))
    assert found is not None
    assert await store.commit([Put(key("a"), {"v": 2})], [ENTRY]) == 2
    assert len((await store.list())[0]) == 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET entry = '{}'",
        "DELETE FROM audit WHERE seq = 1",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit VALUES (1, 1, '{}', '', '')",
        "INSERT INTO audit VALUES (9, 1, '{}', '', '')",
        "INSERT INTO audit VALUES (3, 1, '{}', 'other', 'x')",
    ],
)
async def test_the_audit_table_only_grows(store: SqliteStore, path: Path, statement: str) -> None:
    await store.commit([], [ENTRY, ENTRY])
    other = apsw.Connection(str(path))
    with pytest.raises(apsw.ConstraintError, match="audit events"):
        other.execute(statement)
    other.close()
    assert verify_chain(await store.audit()).seq == 2


# Backup and restore


async def test_a_backup_is_one_moment_of_a_busy_store(store: SqliteStore, tmp_path: Path) -> None:
    async def write() -> None:
        for i in range(150):
            await store.commit([Put(key("a"), {"i": i}), Put(key("b"), {"i": i})], [ENTRY])

    writing = asyncio.ensure_future(write())
    async for changes in store.watch(0):
        if changes[0].revision == 10:
            break
    revision = await backup(store, tmp_path / "copy.db")
    await writing
    assert [p.name for p in tmp_path.iterdir() if "copy" in p.name] == ["copy.db"]
    await restore(tmp_path / "copy.db", tmp_path / "restored.db")
    restored = await open_store(tmp_path / "restored.db")
    records, seen = await restored.list()
    assert seen == revision
    assert 10 <= revision <= 150
    assert [record.body for record in records] == [{"i": revision - 1}] * 2
    assert verify_chain(await restored.audit()).seq == revision
    await restored.close()


async def test_a_backup_replaces_nothing(store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("precious")
    with pytest.raises(Conflict):
        await backup(store, tmp_path / "copy.db")
    with pytest.raises(Conflict):
        await backup(store, store.path)
    assert (tmp_path / "copy.db").read_text() == "precious"


async def test_a_backup_of_a_closed_store_is_possible(path: Path, tmp_path: Path) -> None:
    store = await open_store(path)
    await store.commit([Put(key("a"), {})], [ENTRY])
    await store.close()
    assert await backup(store, tmp_path / "copy.db") == 1


async def test_a_restore_replaces_nothing(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    await store.commit([Put(key("a"), {})], [ENTRY])
    await backup(store, tmp_path / "copy.db")
    with pytest.raises(Conflict) as caught:
        await restore(tmp_path / "copy.db", path)
    assert caught.value.code == "store-locked"
    await store.close()
    with pytest.raises(Conflict) as caught:
        await restore(tmp_path / "copy.db", path)
    assert caught.value.code == "store-exists"
    path.unlink()
    path.with_name("store.db-wal").write_text("left over")
    with pytest.raises(Conflict):
        await restore(tmp_path / "copy.db", path)
    assert not path.exists()


async def test_a_restore_says_so_in_the_audit(store: SqliteStore, tmp_path: Path) -> None:
    await store.commit([Put(key("a"), {})], [ENTRY])
    await backup(store, tmp_path / "copy.db")
    entry = AuditEntry(2.0, "root", "restore", "Store", "", "", "")
    epoch = await restore(tmp_path / "copy.db", tmp_path / "new.db", [entry])
    restored = await open_store(tmp_path / "new.db")
    assert await restored.epoch() == epoch
    events = await restored.audit()
    assert verify_chain(events).seq == 2
    assert events[-1].entry == entry
    assert (await restored.list())[1] == 2
    await restored.close()


@pytest.mark.parametrize("what", ["audit", "page", "foreign", "missing"])
async def test_a_bad_backup_is_refused_whole(store: SqliteStore, tmp_path: Path, what: str) -> None:
    for i in range(50):
        await store.commit([Put(key(f"r{i}"), {"text": "x" * 500})], [ENTRY])
    copy = tmp_path / "copy.db"
    await backup(store, copy)
    if what == "audit":
        connection = apsw.Connection(str(copy))
        connection.execute("DROP TRIGGER audit_no_delete; DELETE FROM audit WHERE seq = 7")
        connection.close()
    elif what == "page":
        copy.write_bytes(overwritten(5 * 4096)(copy.read_bytes()))
    elif what == "foreign":
        copy.unlink()
        apsw.Connection(str(copy)).execute("CREATE TABLE t (x)")
    else:
        copy.unlink()
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(Untrusted if what == "audit" else Unavailable) as caught:
        await restore(copy, tmp_path / "new.db")
    assert caught.value.hint
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "new.db.lock"])
