"""The audit chain without any store."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limen.core.audit import (
    GENESIS,
    MAX_DEPTH,
    ChainHead,
    canonical_json,
    chain_hash,
    entry_json,
    verify_chain,
    verify_head,
)
from limen.errors import InvalidInput, Untrusted

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Entry:
    time_s: float = 1.5
    actor: str = "admin"
    verb: str = "put"
    kind: str = "Mesh"
    mesh: str = "m"
    namespace: str = "n"
    name: str = "ä"
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    seq: int
    revision: int
    entry: Entry
    previous: str
    hash: str


def chain(count: int) -> list[Event]:
    events: list[Event] = []
    previous = GENESIS
    for seq in range(1, count + 1):
        entry = Entry(detail={"seq": seq})
        digest = chain_hash(previous, seq, seq * 2, entry)
        events.append(Event(seq, seq * 2, entry, previous, digest))
        previous = digest
    return events


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


@given(JSON)
def test_canonical_text_reads_back_as_the_value_and_as_the_same_text(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(TEXT, JSON, max_size=8))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


class Verb(StrEnum):
    PUT = "put"


def test_canonical_text_is_what_it_is() -> None:
    value = {"b": (1, 2.0, -0.0), "a": MappingProxyType({"ü": None}), "c": Verb.PUT, "d": 1e300}
    assert canonical_json(value) == '{"a":{"ü":null},"b":[1,2.0,-0.0],"c":"put","d":1e+300}'


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [math.inf],
        {"x": -math.inf},
        {1: 2},
        {None: 2},
        {"\udfff": 1},
        ["\ud800"],
        b"x",
        {1, 2},
        object(),
        [10**5000],
    ],
)
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        canonical_json(value)
    assert caught.value.code == "invalid-json"


def test_nesting_has_an_end() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    canonical_json(value)
    with pytest.raises(InvalidInput):
        canonical_json([value])
    value = []
    value.append(value)
    with pytest.raises(InvalidInput):
        canonical_json(value)


def test_the_hash_can_be_computed_with_sha256_alone() -> None:
    entry = Entry(detail={"b": 1, "a": "é"})
    event = (
        '{"entry":{"actor":"admin","detail":{"a":"é","b":1},"kind":"Mesh","mesh":"m","name":"ä",'
        '"namespace":"n","time_s":1.5,"verb":"put"},"revision":3,"seq":2}'
    )
    expected = hashlib.sha256(("f" * 64 + "\n" + event).encode()).hexdigest()
    assert chain_hash("f" * 64, 2, 3, entry) == expected


@pytest.mark.parametrize("name", sorted(entry_json(Entry())))
def test_every_field_of_an_entry_is_hashed(name: str) -> None:
    other: dict[str, Any] = {"time_s": 2.5, "detail": {"x": 1}}
    changed = replace(Entry(), **{name: other.get(name, "other")})
    assert chain_hash(GENESIS, 1, 1, changed) != chain_hash(GENESIS, 1, 1, Entry())
    assert set(entry_json(Entry())) == set(Entry.__dataclass_fields__)


def test_a_whole_chain_convinces() -> None:
    events = chain(20)
    assert verify_chain([]) == ChainHead(0, GENESIS)
    assert verify_chain(events) == ChainHead(20, events[-1].hash)
    assert verify_chain(events[8:], ChainHead(8, events[7].hash)).seq == 20


@pytest.mark.parametrize(
    "change",
    [
        {"entry": Entry(detail={"seq": 4, "x": 1})},
        {"entry": Entry(detail={"seq": 4}, actor="nobody")},
        {"entry": Entry(detail={"seq": 4}, time_s=2.5)},
        {"entry": Entry(detail={"seq": math.nan})},
        {"revision": 9},
        {"previous": GENESIS},
        {"hash": "0" * 64},
        {"hash": ""},
    ],
)
def test_a_changed_event_is_found_by_number(change: dict[str, Any]) -> None:
    events = chain(8)
    events[3] = replace(events[3], **change)
    with pytest.raises(Untrusted, match="audit event 4") as caught:
        verify_chain(events)
    assert caught.value.code == "audit-tampered"
    assert caught.value.hint


def test_a_changed_event_with_a_hash_made_anew_is_found_at_the_next() -> None:
    events = chain(8)
    entry = Entry(actor="nobody")
    digest = chain_hash(events[3].previous, 4, 8, entry)
    events[3] = replace(events[3], entry=entry, hash=digest)
    with pytest.raises(Untrusted, match="audit event 5"):
        verify_chain(events)


@pytest.mark.parametrize(
    ("order", "number"),
    [
        ([1, 2, 3], 1),
        ([0, 2, 3], 2),
        ([0, 2, 1], 2),
        ([0, 1, 1, 2], 3),
    ],
)
def test_missing_repeated_and_swapped_events_are_found(order: list[int], number: int) -> None:
    events = chain(5)
    with pytest.raises(Untrusted, match=f"audit event {number}"):
        verify_chain([events[i] for i in order])


def test_a_chain_that_was_cut_off_is_found_against_a_kept_head() -> None:
    events = chain(5)
    kept = verify_chain(events)
    verify_head(kept, kept)
    with pytest.raises(Untrusted, match="audit event 5"):
        verify_head(verify_chain(events[:4]), kept)
    with pytest.raises(Untrusted):
        verify_head(replace(kept, hash=GENESIS), kept)
