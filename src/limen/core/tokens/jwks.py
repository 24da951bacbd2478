"""A JSON Web Key Set (RFC 7517, section 5): from untrusted text, and to what Envoy gets.

A set that is not strict JSON, too large, or whose standard members have wrong types is refused as
a whole: whoever keeps the last good one goes on with that. A key that is well formed and not fit
(another use, too weak, an unknown kind) is left out, and says why. A set without a fit key is a
set: it verifies nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limen.core.tokens.algorithms import ALGORITHMS, SYMMETRIC
from limen.core.tokens.encoding import Malformed, parse_json
from limen.core.tokens.keys import Key, OtherPurpose, Unfit, parse_key
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from limen.core.tokens.algorithms import Algorithm

MAX_JWKS_BYTES = 256 * 1024
MAX_KEYS = 64
MAX_KID_CHARS = 256
MAX_DEPTH = 6
MAX_ITEMS = 4096
_TEXTS = ("kty", "use", "alg", "kid", "crv", "x", "y", "n", "e", "k", "d", "p", "q")
_PUBLISHED = frozenset(ALGORITHMS) - SYMMETRIC


@dataclass(frozen=True, slots=True)
class DroppedKey:
    """A key that is left out of a set. `index` counts from 0 in the set as it was published."""

    index: int
    kid: str
    why: str


@dataclass(frozen=True, slots=True)
class KeySet:
    """The fit keys of one publisher, sorted; equal sets are equal, however they were written."""

    keys: tuple[Key, ...] = ()
    dropped: tuple[DroppedKey, ...] = ()

    def candidates(self, algorithm: Algorithm, kid: str) -> tuple[Key, ...]:
        """Keys that may have signed a token with this `alg` and `kid` (empty: none given)."""
        return tuple(key for key in self.keys if key.fits(algorithm, kid))


@dataclass(frozen=True, slots=True)
class _Usable:
    index: int
    key: Key


@dataclass(frozen=True, slots=True)
class _Unusable:
    dropped: DroppedKey
    claims_kid: bool


def parse_jwks(text: str | bytes, *, symmetric: bool = False) -> KeySet:
    """Read a key set; with `symmetric`, a set of HMAC secrets and of nothing else.

    Different keys under one `kid` are all left out: nobody can say which is meant. Raises
    InvalidInput (`jwks-too-large`, `jwks-malformed`, `jwks-mixed`).
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    entries = _read_entries(raw)
    if symmetric and any(fields["kty"] != "oct" for fields in entries):
        raise _malformed("it mixes shared secrets with public keys", "jwks-mixed")
    found = [_read_key(index, fields, symmetric=symmetric) for index, fields in enumerate(entries)]
    ambiguous = _ambiguous_kids(found)
    keys, dropped = set(), []
    for entry in found:
        if isinstance(entry, _Unusable):
            dropped.append(entry.dropped)
        elif entry.key.kid in ambiguous:
            why = "another key has the same kid"
            dropped.append(DroppedKey(entry.index, entry.key.kid, why))
        else:
            keys.add(entry.key)
    return KeySet(tuple(sorted(keys, key=_order)), tuple(dropped))


def fit_for_envoy(keys: KeySet, algorithms: Iterable[str]) -> str:
    """A JWKS of those keys that verify one of `algorithms`, with their public members only.

    Every key says its `alg`: Envoy lets a key without one verify tokens of any algorithm, even of
    another kind of key. An RSA key that says none is written once per allowed algorithm. The text
    depends on nothing but the keys and the algorithms. Without a fit key it is an empty set.
    """
    allowed = sorted(_PUBLISHED.intersection(algorithms))
    entries = [
        {**_named(key), "alg": name, **dict(key.members)}
        for key in keys.keys
        for name in allowed
        if key.fits(ALGORITHMS[name], "")
    ]
    return json.dumps({"keys": entries}, sort_keys=True, separators=(",", ":"))


def format_jwks(keys: KeySet) -> str:
    """A JWKS that `parse_jwks` reads as the same public keys. What was dropped is not in it."""
    entries = [
        {**_named(key), **({"alg": key.alg} if key.alg else {}), **dict(key.members)}
        for key in keys.keys
        if not key.secret
    ]
    return json.dumps({"keys": entries}, sort_keys=True, separators=(",", ":"))


def _named(key: Key) -> dict[str, str]:
    named = {"kty": key.kty, "crv": key.crv, "kid": key.kid}
    return {name: value for name, value in named.items() if value}


def _order(key: Key) -> tuple[object, ...]:
    return (key.kid, key.kty, key.alg, key.crv, key.members, key.secret)


def _read_key(index: int, fields: Mapping[str, Any], *, symmetric: bool) -> _Usable | _Unusable:
    try:
        return _Usable(index, parse_key(fields, symmetric=symmetric))
    except Unfit as error:
        dropped = DroppedKey(index, fields.get("kid", ""), str(error))
        return _Unusable(dropped, claims_kid=not isinstance(error, OtherPurpose))


def _ambiguous_kids(found: Iterable[_Usable | _Unusable]) -> frozenset[str]:
    """Names under which there are different keys for signatures, broken ones counted."""
    material: dict[str, object] = {}
    ambiguous = set()
    for entry in found:
        if isinstance(entry, _Unusable):
            kid, mine = entry.dropped.kid, object()
            if not entry.claims_kid:
                continue
        else:
            kid, mine = entry.key.kid, entry.key.material
        if kid and material.setdefault(kid, mine) != mine:
            ambiguous.add(kid)
    return frozenset(ambiguous)


def _read_entries(raw: bytes) -> Sequence[Mapping[str, Any]]:
    if len(raw) > MAX_JWKS_BYTES:
        raise _malformed(f"it has more than {MAX_JWKS_BYTES} bytes", "jwks-too-large")
    try:
        value = parse_json(raw, max_depth=MAX_DEPTH, max_items=MAX_ITEMS)
    except Malformed as error:
        raise _malformed(str(error)) from None
    entries = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise _malformed("it is not an object with a list of keys")
    if len(entries) > MAX_KEYS:
        raise _malformed(f"it has more than {MAX_KEYS} keys", "jwks-too-large")
    for index, fields in enumerate(entries):
        _check_types(index, fields)
    return entries


def _check_types(index: int, fields: object) -> None:
    """What RFC 7517 calls a text is a text, in a key of any kind."""
    if not isinstance(fields, dict) or not isinstance(fields.get("kty"), str):
        raise _malformed(f"key {index} is not an object with a kty")
    wrong = [n for n in _TEXTS if n in fields and not isinstance(fields[n], str)]
    operations = fields.get("key_ops", [])
    if not isinstance(operations, list) or not all(isinstance(o, str) for o in operations):
        wrong.append("key_ops")
    if wrong:
        raise _malformed(f"key {index} has {wrong[0]} of a wrong type")
    if "kid" in fields and not 0 < len(fields["kid"]) <= MAX_KID_CHARS:
        raise _malformed(f"key {index} has a kid that is empty or too long")


def _malformed(problem: str, code: str = "jwks-malformed") -> InvalidInput:
    return InvalidInput(
        f"this is not a key set that can be used: {problem}",
        code=code,
        hint="the set's publisher has to mend it; the last good one stays in use for a time",
    )
