"""The audit chain: canonical JSON, the hash that ties each event to the one before, the check.

Pure. What an event means and where it is kept is not known here. Anybody can check a chain with
SHA-256 alone: `hash` = SHA-256 of `previous`, a line feed, and the event as canonical JSON.

A chain shows that nothing inside was changed, removed or put in between. It cannot show that
its end was cut off, or that all of it was written anew: keep a `ChainHead` somewhere else.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from limen.errors import InvalidInput, Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterable

GENESIS = "0" * 64
"""`previous` of the first event."""

MAX_DEPTH = 100
"""Levels of nesting beyond which a value is refused."""


_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)
_SCALARS = frozenset({str, int, bool, type(None)})


class Entry(Protocol):
    """What an event says (`adapters.store.AuditEntry`)."""

    @property
    def time_s(self) -> float:
        """Seconds since 1970."""
        ...

    @property
    def actor(self) -> str:
        """Who did it."""
        ...

    @property
    def verb(self) -> str:
        """What was done."""
        ...

    @property
    def kind(self) -> str:
        """Kind of the thing it was done to."""
        ...

    @property
    def mesh(self) -> str:
        """Mesh of that thing."""
        ...

    @property
    def namespace(self) -> str:
        """Namespace of that thing."""
        ...

    @property
    def name(self) -> str:
        """Name of that thing."""
        ...

    @property
    def detail(self) -> Mapping[str, object]:
        """What else there is to say."""
        ...


class Event(Protocol):
    """An entry in the chain (`adapters.store.AuditEvent`)."""

    @property
    def seq(self) -> int:
        """Number in the chain, from 1."""
        ...

    @property
    def revision(self) -> int:
        """The commit that wrote it."""
        ...

    @property
    def entry(self) -> Entry:
        """What it says."""
        ...

    @property
    def previous(self) -> str:
        """Hash of the event before."""
        ...

    @property
    def hash(self) -> str:
        """Its own hash."""
        ...


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The last event that was checked: its number (0 = none yet) and its hash."""

    seq: int = 0
    hash: str = GENESIS


def canonical_json(value: object) -> str:
    """One text per value: keys sorted by code point, no blanks, non-ASCII as it is.

    Floats have Python's shortest form that reads back equal. Raises InvalidInput (`invalid-json`)
    for what JSON cannot say: NaN, infinities, keys that are not text, lone surrogates, other types,
    and for more than `MAX_DEPTH` levels.
    """
    try:
        text = _ENCODER.encode(_plain(value, MAX_DEPTH))
        text.encode()
    except ValueError as error:  # UnicodeEncodeError too, and an integer of too many digits
        raise _invalid("it holds text or a number that cannot be written") from error
    return text


def chain_hash(previous: str, seq: int, revision: int, entry: Entry) -> str:
    """The hash of event `seq`, as 64 hexadecimal digits. Raises InvalidInput (`invalid-json`)."""
    event = canonical_json({"entry": entry_json(entry), "revision": revision, "seq": seq})
    return hash_event(previous, event)


def hash_event(previous: str, event: str) -> str:
    """`chain_hash` of an event whose canonical JSON is at hand."""
    return hashlib.sha256(f"{previous}\n{event}".encode()).hexdigest()


def entry_json(entry: Entry) -> dict[str, object]:
    """The fields of `entry` that are hashed: all of them."""
    return {
        "actor": entry.actor,
        "detail": entry.detail,
        "kind": entry.kind,
        "mesh": entry.mesh,
        "name": entry.name,
        "namespace": entry.namespace,
        "time_s": entry.time_s,
        "verb": entry.verb,
    }


def verify_chain(events: Iterable[Event], after: ChainHead | None = None) -> ChainHead:
    """Check that `events` follow `after` (default: the beginning) without gap; the new head.

    Long chains are checked page by page, each from the head of the page before. Raises Untrusted
    (`audit-tampered`) at the first event that does not fit, by number.
    """
    head = after or ChainHead()
    for event in events:
        if event.seq != head.seq + 1:
            raise _tampered(head.seq + 1, f"is missing: event {event.seq} follows {head.seq}")
        if event.previous != head.hash:
            raise _tampered(event.seq, "does not continue the event before it")
        if event.hash != _expected_hash(event):
            raise _tampered(event.seq, "was changed after it was written")
        head = ChainHead(event.seq, event.hash)
    return head


def verify_head(head: ChainHead, kept: ChainHead) -> None:
    """Check a chain's `head` against one `kept` elsewhere at the same time: the end is not cut off.

    Raises Untrusted (`audit-tampered`).
    """
    if head != kept:
        raise _tampered(kept.seq, f"should be the last; the chain ends with event {head.seq}")


def _expected_hash(event: Event) -> str:
    try:
        return chain_hash(event.previous, event.seq, event.revision, event.entry)
    except InvalidInput:  # it could never have been written like this
        return ""


def _tampered(seq: int, what: str) -> Untrusted:
    return Untrusted(
        f"audit event {seq} {what}",
        code="audit-tampered",
        hint="keep this file as evidence and compare it with a backup",
    )


def _invalid(why: str) -> InvalidInput:
    return InvalidInput(f"this value is not JSON: {why}", code="invalid-json")


def _plain(value: object, depth: int) -> object:
    """`value` made of dict, list and scalars only. Raises InvalidInput."""
    if type(value) in _SCALARS:
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _invalid("a number is not finite")
        return value
    if depth == 0:
        raise _invalid(f"more than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise _invalid("a key is not text")
        return {key: _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, str | int):  # an enumeration's member, as its value
        return str.__str__(value) if isinstance(value, str) else int(value)
    raise _invalid(f"{type(value).__name__} has no form in JSON")
