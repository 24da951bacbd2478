"""Commits per second of the SQLite store, one by one and in a flood, against bare apsw.

All four run in turns in the same process on the same disk, so that a busy machine hits them alike.
A commit is one document of 600 bytes and one audit event. The bare baseline does the same four
statements by hand on one connection, without compare-and-set, canonical JSON, hash chain, threads
or event loop: what SQLite and the disk cost alone. Usage: `python bench/store.py [--short]
[--directory DIR]`; prints medians and ratios, and JSON with `--json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import apsw

from limen.adapters.store import AuditEntry, Put
from limen.adapters.store_memory import MemoryStore
from limen.adapters.store_sqlite import open_store
from limen.core.model.resource import ResourceKey

if TYPE_CHECKING:
    from limen.adapters.store import Store

BODY = {"kind": "MeshTrafficPermission", "spec": {"text": "x" * 560}}
ENTRY = AuditEntry(1.5, "admin", "apply", "MeshTrafficPermission", "default", "default", "items")
KEYS = [ResourceKey("kuma.io/MeshTrafficPermission", "m", "n", f"p{i}") for i in range(500)]

TABLES = """
PRAGMA journal_mode = wal; PRAGMA synchronous = FULL;
CREATE TABLE meta (revision INTEGER);
INSERT INTO meta VALUES (0);
CREATE TABLE records (name TEXT PRIMARY KEY, revision INTEGER, body TEXT);
CREATE TABLE changes (seq INTEGER PRIMARY KEY, revision INTEGER, name TEXT, body TEXT);
CREATE TABLE audit (seq INTEGER PRIMARY KEY, entry TEXT);
"""


class Bare:
    """The statements of a commit, and nothing else."""

    def __init__(self, path: Path) -> None:
        self.connection = apsw.Connection(str(path))
        self.connection.execute(TABLES).fetchall()  # to the end: a pragma answers with a row
        self.revision = 0
        self.body = json.dumps(BODY)
        self.entry = json.dumps({"actor": ENTRY.actor, "verb": ENTRY.verb, "name": ENTRY.name})

    def write(self, count: int, at_once: int) -> None:
        """Make `count` commits, `at_once` in a transaction."""
        execute = self.connection.execute
        for start in range(0, count, at_once):
            execute("BEGIN IMMEDIATE")
            for i in range(start, min(start + at_once, count)):
                self.revision += 1
                name = KEYS[i % len(KEYS)].name
                row = (name, self.revision, self.body)
                execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", row)
                execute("INSERT INTO changes VALUES (NULL, ?2, ?1, ?3)", row)
                execute("INSERT INTO audit VALUES (NULL, ?)", (self.entry,))
            execute("UPDATE meta SET revision = ?", (self.revision,))
            execute("COMMIT")


async def one_by_one(store: Store, count: int) -> None:
    """Each commit waits for the one before."""
    for i in range(count):
        await store.commit([Put(KEYS[i % len(KEYS)], BODY)], [ENTRY])


async def flood(store: Store, count: int) -> None:
    """All commits at once."""
    await asyncio.gather(
        *(store.commit([Put(KEYS[i % len(KEYS)], BODY)], [ENTRY]) for i in range(count))
    )


async def measure(directory: Path, rounds: int, count: int) -> dict[str, list[float]]:
    """Commits per second of each way, a list over rounds; latencies in microseconds."""
    store = await open_store(directory / "store.db")
    memory = MemoryStore()
    bare = Bare(directory / "bare.db")
    seen: dict[str, list[float]] = {}

    def note(name: str, started: float, commits: int) -> None:
        seen.setdefault(name, []).append(commits / (time.perf_counter() - started))

    for _ in range(rounds):
        started = time.perf_counter()
        bare.write(count, 1)
        note("bare apsw, one by one", started, count)
        started = time.perf_counter()
        await one_by_one(store, count)
        note("store, one by one", started, count)
        started = time.perf_counter()
        bare.write(1000, 256)
        note("bare apsw, 256 a transaction", started, 1000)
        started = time.perf_counter()
        await flood(store, 1000)
        note("store, flood of 1,000", started, 1000)
        started = time.perf_counter()
        await flood(memory, 1000)
        note("memory, flood of 1,000", started, 1000)
        started = time.perf_counter()
        for key in KEYS:
            await store.get(key)
        note("store, get", started, len(KEYS))
        started = time.perf_counter()
        await store.list()
        note("store, list of 500", started, len(KEYS))
    await store.close()
    bare.connection.close()
    return seen


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a quick look, for CI")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--directory", type=Path, help="on the disk to measure")
    given = parser.parse_args()
    rounds, count = (3, 100) if given.short else (7, 500)
    with tempfile.TemporaryDirectory(dir=given.directory) as directory:
        seen = asyncio.run(measure(Path(directory), rounds, count))
    medians = {name: statistics.median(values) for name, values in seen.items()}
    pairs = (
        ("store, one by one", "bare apsw, one by one"),
        ("store, flood of 1,000", "bare apsw, 256 a transaction"),
        ("store, flood of 1,000", "store, one by one"),
    )
    ratios = {f"{a} / {b}": medians[a] / medians[b] for a, b in pairs}
    if given.json:
        print(json.dumps({"rounds": rounds, "per_second": medians, "ratios": ratios}))
        return
    for name, value in medians.items():
        low, high = min(seen[name]), max(seen[name])
        print(f"{name:32} {value:10,.0f} /s   ({low:,.0f} to {high:,.0f} in {rounds} rounds)")
    for name, value in ratios.items():
        print(f"{name:60} {value:6.2f}")


if __name__ == "__main__":
    main()
