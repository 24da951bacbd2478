"""What every store does with a commit before and after it is kept; no I/O.

`prepare_commit` turns the caller's values into text once, so that nothing that is invalid or
changed later reaches a transaction. `check_expected` is the compare of compare-and-set.
`Announcer` wakes the watches of one process.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.adapters.store import AuditEntry, Check, Put
from limen.core.audit import canonical_json, entry_json
from limen.errors import Conflict, InvalidInput, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from limen.adapters.store import JsonValue, Write
    from limen.core.model.resource import ResourceKey

MAX_BODY_BYTES = 16 * 1024 * 1024
"""A body or audit entry larger than this is refused: no document comes near it."""

MAX_PAGE = 10_000
"""Most audit events that one call returns."""


@dataclass(frozen=True, slots=True)
class PreparedWrite:
    """A valid write; `body` is canonical JSON, None deletes. `expected` as in `store.Put`."""

    key: ResourceKey
    body: str | None
    expected: int | None


@dataclass(frozen=True, slots=True)
class PreparedCommit:
    """A valid commit: each key at most once; `entries` are audit entries as canonical JSON."""

    writes: tuple[PreparedWrite, ...]
    entries: tuple[str, ...]
    checks: tuple[Check, ...] = ()

    def compared(self) -> tuple[PreparedWrite | Check, ...]:
        """Everything that expects something."""
        return (*self.checks, *self.writes)


def prepare_commit(parts: Sequence[Write], audit: Sequence[AuditEntry]) -> PreparedCommit:
    """Encode a commit. Raises InvalidInput (`invalid-json`, `too-large`, `invalid-commit`)."""
    writes = [part for part in parts if not isinstance(part, Check)]
    if not writes and not audit:
        raise InvalidInput("a commit with no write and no audit entry", code="invalid-commit")
    seen: set[ResourceKey] = set()
    for write in writes:
        if write.key in seen:
            raise InvalidInput(f"{write.key} is written twice in one commit", code="invalid-commit")
        seen.add(write.key)
        _check_text(f"{write.key.kind}{write.key.mesh}{write.key.namespace}{write.key.name}")
    return PreparedCommit(
        tuple(
            PreparedWrite(w.key, _encode(w.body) if isinstance(w, Put) else None, w.expected)
            for w in writes
        ),
        tuple(_encode(entry_json(entry)) for entry in audit),
        tuple(part for part in parts if isinstance(part, Check)),
    )


def check_expected(write: PreparedWrite | Check, current: int) -> None:
    """Compare: `current` is the record's revision, 0 if absent. Raises Conflict, NotFound."""
    if isinstance(write, PreparedWrite) and write.body is None and current == 0:
        raise NotFound(f"{write.key} does not exist")
    if write.expected is None or write.expected == current:
        return
    if current == 0:
        found = "does not exist"
    elif write.expected == 0:
        found = "exists already"
    else:
        found = f"was changed: it is at revision {current}, not {write.expected}"
    raise Conflict(f"{write.key} {found}", hint="read it again and retry")


def audit_event_text(seq: int, revision: int, entry: str) -> str:
    """Canonical JSON of an event whose entry is canonical JSON; keys in order, as hashed."""
    return f'{{"entry":{entry},"revision":{revision},"seq":{seq}}}'


def decode_body(text: str) -> Mapping[str, JsonValue]:
    """A body as it was committed, a fresh value for each reader."""
    body: Mapping[str, JsonValue] = json.loads(text)
    return body


def decode_entry(text: str) -> AuditEntry:
    """An audit entry as it was committed."""
    return AuditEntry(**json.loads(text))


def check_page(limit: int) -> int:
    """How many audit events to read. Raises InvalidInput if `limit` is not 1 or more."""
    if limit < 1:
        raise InvalidInput(f"a limit of {limit} events", hint="ask for 1 or more")
    return min(limit, MAX_PAGE)


def store_closed() -> Unavailable:
    """The error of every call after `close`."""
    return Unavailable("the store is closed", code="store-closed", hint="the server is stopping")


class Announcer:
    """The newest revision of a history, and a way to wait for a newer one. One event loop."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self._closed = False
        self._event = asyncio.Event()

    def announce(self, revision: int) -> None:
        """Wake every waiter: `revision` is committed."""
        if revision > self.revision:
            self.revision = revision
            self._wake()

    def close(self) -> None:
        """Wake every waiter for the last time."""
        self._closed = True
        self._wake()

    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def newer_than(self, revision: int) -> bool:
        """Wait until there is something after `revision`: True; False when the store is closed."""
        while not self._closed and self.revision <= revision:
            await self._event.wait()
        return not self._closed

    def _wake(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("a name holds half a character", code="invalid-json") from error


def _encode(value: object) -> str:
    text = canonical_json(value)
    if len(text) > MAX_BODY_BYTES:
        raise InvalidInput(
            f"a document of {len(text)} characters",
            code="too-large",
            hint=f"{MAX_BODY_BYTES} at most",
        )
    return text
