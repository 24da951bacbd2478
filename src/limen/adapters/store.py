"""The store's contract. `store_sqlite` and `store_memory` fulfil it; one suite tests both.

Laws (tests/services/store_contract.py):
- A commit is all or nothing: records, audit events and the new revision together, durable when
  `commit` returns. Revisions are consecutive and follow commit order.
- A watch from revision R yields every change after R once, in order, without gaps; if R is older
  than what is kept, or no revision of this history, it raises `Compacted` and the reader lists
  again. A commit of audit events alone has a revision and no batch.
- A commit writes a key once at most; a `Check` is no write. What is not JSON is refused with
  InvalidInput beforehand.
- `epoch` changes when a backup is restored, and only then.
- Audit events form one hash chain from the first (`core` function `chain_hash`).
- A full disk or a locked file raises `Unavailable`; reads go on. No reader sees a commit that
  raised `Unavailable` or was cancelled before it was made; where its outcome is in doubt (the
  process died, the connection broke) it is there whole or not at all.
- A closed store raises `Unavailable`; its watches end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from limen.errors import LimenError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from limen.core.model.resource import ResourceKey

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


class Compacted(LimenError):
    """The watch's starting revision is no longer kept: list again, then watch from there."""

    code = "compacted"


@dataclass(frozen=True, slots=True)
class Record:
    """A stored document. `revision` is that of its last write. `body` is JSON, never mutated."""

    key: ResourceKey
    body: Mapping[str, JsonValue]
    revision: int


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What a write says about itself. `detail` holds no secret. Time is given by the caller."""

    time_s: float
    actor: str
    verb: str
    kind: str
    mesh: str
    namespace: str
    name: str
    detail: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """An entry in the chain: `hash` = SHA-256 of previous and canonical JSON."""

    seq: int
    revision: int
    entry: AuditEntry
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Put:
    """Write `body`. `expected`: revision it must have now, 0 = must not exist, None = any."""

    key: ResourceKey
    body: Mapping[str, JsonValue]
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the record. `expected` as in `Put`; removing what is absent raises `NotFound`."""

    key: ResourceKey
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """Write nothing; refuse the commit unless the record is at revision `expected` (0: none)."""

    key: ResourceKey
    expected: int


Write = Put | Delete | Check
"""One part of a commit."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change in the order of commits; `body` None is a deletion."""

    revision: int
    key: ResourceKey
    body: Mapping[str, JsonValue] | None


class Store(Protocol):
    """See the module's laws. All calls are safe from many tasks of one event loop."""

    async def epoch(self) -> str:
        """A random text that identifies this history."""
        ...

    async def get(self, key: ResourceKey) -> Record | None:
        """The record, or None."""
        ...

    async def list(
        self, kind: str | None = None, mesh: str | None = None, namespace: str | None = None
    ) -> tuple[Sequence[Record], int]:
        """Records in key order, and the revision at which this list is true."""
        ...

    async def commit(self, writes: Sequence[Write], audit: Sequence[AuditEntry]) -> int:
        """Apply all or none; the new revision. Conflict, NotFound, Unavailable."""
        ...

    def watch(self, after: int) -> AsyncIterator[Sequence[Change]]:
        """Batches of changes after revision `after`, one batch per commit; waits for more."""
        ...

    async def audit(self, after_seq: int = 0, limit: int = 1000) -> Sequence[AuditEvent]:
        """Audit events in order."""
        ...

    async def audit_head(self) -> tuple[int, str]:
        """Number and hash of the last audit event; 0 and `GENESIS` (`core.audit`) if none."""
        ...

    async def close(self) -> None:
        """Release the file or connection. Watches end."""
        ...
