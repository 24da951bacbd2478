"""A JSON Web Key Set that stands in a document: strict, public keys only.

Source: RFC 7517, RFC 7518 section 6, RFC 8037 section 2.
"""

from __future__ import annotations

import json
import re

from limen.core.dialects.document import JsonObject, JsonValue, show
from limen.errors import InvalidInput

MAX_BYTES = 64 * 1024
MAX_KEYS = 100
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
_HINT = "paste what the issuer's jwks_uri answers"
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
_CURVES = {"P-256": 32, "P-384": 48, "P-521": 66}
"""Curve to the octets of a coordinate."""


def _bad(message: str, hint: str = _HINT) -> InvalidInput:
    return InvalidInput(message, code="bad-jwks", hint=hint)


def check_jwks(text: str) -> None:
    """Raises InvalidInput (code `bad-jwks`) unless `text` is a key set that can verify a token."""
    keys = _keys(text)
    seen: set[str] = set()
    usable = False
    for index, key in enumerate(keys):
        if not isinstance(key, dict):
            raise _bad(f"key {index} is not an object")
        usable = _check_key(key, index) or usable
        kid = key.get("kid")
        if isinstance(kid, str):
            if kid in seen:
                raise _bad(f"two keys have the kid {show(kid)}", "give each a kid of its own")
            seen.add(kid)
    if not usable:
        raise _bad("no key of the set is for verifying signatures")


def _keys(text: str) -> list[JsonValue]:
    if len(text.encode()) > MAX_BYTES:
        raise _bad(f"the key set has more than {MAX_BYTES} bytes", "keep the keys that are in use")
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        message = error.args[0] if isinstance(error, _Twice) else "the key set is not valid JSON"
        raise _bad(message) from None
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list) or not keys:
        raise _bad("the key set has no list of keys", 'write {"keys": [...]}')
    if len(keys) > MAX_KEYS:
        raise _bad(f"the key set has more than {MAX_KEYS} keys", "keep the keys that are in use")
    return keys


class _Twice(ValueError):
    """A name stands twice in one object."""


def _once(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    found: JsonObject = {}
    for name, value in pairs:
        if name in found:
            raise _Twice(f"the name {show(name)} stands twice in one object of the key set")
        found[name] = value
    return found


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _check_key(key: JsonObject, index: int) -> bool:
    """Whether the key can verify signatures; one for encryption cannot, and that is no fault."""
    private = [name for name in _PRIVATE if name in key]
    if key.get("kty") == "oct" or private:
        raise _bad(
            f"key {index} is secret; whoever reads this document could sign with it",
            "publish the public key only, and replace this one: it is no longer secret",
        )
    for name in ("kid", "use", "alg"):
        if name in key and not isinstance(key[name], str):
            raise _bad(f"{name} of key {index} is not a text")
    match key.get("kty"):
        case "RSA":
            bits = _length(key, "n", index) * 8
            _length(key, "e", index)
            if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
                raise _bad(
                    f"key {index} has {bits} bits",
                    f"RSA keys have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits",
                )
        case "EC":
            _check_point(key, index, _CURVES, ("x", "y"))
        case "OKP":
            _check_point(key, index, {"Ed25519": 32}, ("x",))
        case other:
            raise _bad(f"key {index} has the type {show(other)}", "use RSA, EC or OKP keys")
    operations = key.get("key_ops", ["verify"])
    return (
        key.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    )


def _check_point(
    key: JsonObject, index: int, curves: dict[str, int], coordinates: tuple[str, ...]
) -> None:
    curve = key.get("crv")
    if not isinstance(curve, str) or curve not in curves:
        raise _bad(f"key {index} has the curve {show(curve)}", f"use {', '.join(curves)}")
    for name in coordinates:
        if _length(key, name, index) != curves[curve]:
            raise _bad(f"{name} of key {index} has not the length that {curve} has")


def _length(key: JsonObject, name: str, index: int) -> int:
    """Octets of an unpadded base64url member."""
    value = key.get(name)
    if not isinstance(value, str) or not _BASE64URL.fullmatch(value) or len(value) % 4 == 1:
        raise _bad(f"{name} of key {index} is not base64url without padding")
    return len(value) * 3 // 4
