"""A disk under SQLite that remembers every operation, can lose what was not synced, and can fail.

`Disk.vfs()` registers an SQLite VFS over the real files. `images()` replays what it wrote and says
what a power failure after any operation could have left: each write since the file's last sync is
there, not there, or torn between sectors, in any combination and order.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECTOR = 512


@dataclass(frozen=True)
class Write:
    file: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    file: str
    size: int


@dataclass(frozen=True)
class Sync:
    file: str


@dataclass(frozen=True)
class Remove:
    file: str


@dataclass(frozen=True)
class Acknowledged:
    """Not an operation: up to here, this revision was promised to be durable."""

    revision: int


Operation = Write | Truncate | Sync | Remove | Acknowledged


@dataclass
class Disk:
    """`fault` is asked before each operation, by name; it may raise an apsw error."""

    log: list[Operation] = field(default_factory=list)
    fault: Callable[[str], None] | None = None
    operations: int = 0

    def vfs(self, name: str) -> apsw.VFS:
        """Keep the result; the VFS is unregistered with it."""
        return _Vfs(name, self)

    def before(self, operation: str) -> None:
        self.operations += 1
        if self.fault is not None:
            self.fault(operation)


class _Vfs(apsw.VFS):
    def __init__(self, name: str, disk: Disk) -> None:
        self.disk = disk
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        return _File(name, flags, self.disk)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802, FBT001 - as above
        self.disk.before("delete")
        super().xDelete(filename, syncdir)
        self.disk.log.append(Remove(Path(filename).name))


class _File(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int], disk: Disk) -> None:
        text = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.name = Path(text).name if text else ""
        self.disk = disk
        disk.before("open")
        super().__init__("", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - SQLite's name
        self.disk.before("read")
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - as above
        self.disk.before("write")
        super().xWrite(data, offset)
        self.disk.log.append(Write(self.name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - as above
        self.disk.before("truncate")
        super().xTruncate(newsize)
        self.disk.log.append(Truncate(self.name, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802 - as above
        self.disk.before("sync")
        super().xSync(flags)
        self.disk.log.append(Sync(self.name))


class Platter:
    """What is durable of each file, and what was done to it since its last sync."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.durable: dict[str, bytes | None] = dict(files)
        self.pending: dict[str, list[Operation]] = {}

    def apply(self, operation: Operation) -> None:
        if isinstance(operation, Acknowledged):
            return
        pending = self.pending.setdefault(operation.file, [])
        if isinstance(operation, Sync):
            self.durable[operation.file] = _replayed(
                self.durable.get(operation.file), pending, lambda _: True
            )
            pending.clear()
        else:
            pending.append(operation)

    def after_crash(self, keep: Callable[[Operation], bool]) -> dict[str, bytes]:
        """The files, if of the unsynced sectors just those had arrived that `keep` says."""
        found: dict[str, bytes] = {}
        for name in {*self.durable, *self.pending}:
            content = _replayed(self.durable.get(name), self.pending.get(name, []), keep)
            if content is not None:
                found[name] = content
        return found


def _replayed(
    content: bytes | None, operations: list[Operation], keep: Callable[[Operation], bool]
) -> bytes | None:
    for operation in operations:
        for part in _sectors(operation):
            if keep(part):
                content = _done(content, part)
    return content


def _done(content: bytes | None, operation: Operation) -> bytes | None:
    if isinstance(operation, Remove):
        return None
    buffer = bytearray(content or b"")
    if isinstance(operation, Truncate):
        del buffer[operation.size :]
        buffer.extend(bytes(operation.size - len(buffer)))
    elif isinstance(operation, Write):
        end = operation.offset + len(operation.data)
        buffer.extend(bytes(max(0, end - len(buffer))))
        buffer[operation.offset : end] = operation.data
    return bytes(buffer)


def _sectors(operation: Operation) -> Iterator[Operation]:
    if not isinstance(operation, Write):
        yield operation
        return
    start, end = operation.offset, operation.offset + len(operation.data)
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        begin = start - operation.offset
        yield Write(operation.file, start, operation.data[begin : begin + stop - start])
        start = stop


def images(
    files: dict[str, bytes], log: list[Operation], seed: int
) -> Iterator[tuple[int, str, int, dict[str, bytes]]]:
    """For a crash after each operation: ordinal, what was lost, last promised revision, files."""
    platter = Platter(files)
    promised = 0
    for ordinal, operation in enumerate([Acknowledged(0), *log]):
        platter.apply(operation)
        if isinstance(operation, Acknowledged):
            promised = operation.revision
        chance = random.Random(f"{seed} {ordinal}")  # noqa: S311 - repeatable, not secret
        policies: dict[str, Callable[[Operation], bool]] = {
            "nothing": lambda _: True,
            "all": lambda _: False,
            "some": lambda _, chance=chance: chance.random() < 0.5,  # type: ignore[misc]
            "little": lambda _, chance=chance: chance.random() < 0.9,  # type: ignore[misc]
        }
        seen: list[dict[str, bytes]] = []
        for lost, keep in policies.items():
            image = platter.after_crash(keep)
            if image not in seen:
                seen.append(image)
                yield ordinal, lost, promised, image
