"""Wycheproof's malformed PKCS #1 signatures, made anew around JSON claims with a key of ours.

The public key opens a vector's signature to its padded hash; with the hash of another text put in
place of its own, and nothing else changed, our key closes it again. So the mutation stays.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from tests.core.tokens.signing import b64, dumps, rsa_key
from tests.core.tokens.vectors import load

from limen.core.tokens.encoding import decode_base64url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.core.tokens.vectors import Vector

BITS = 2048


def resigned(claims: dict[str, Any], kid: str) -> Iterator[tuple[Vector, str]]:
    """Each RSA vector with its token around `claims`, by `rsa_key()` under `kid`."""
    for vector in load("json_web_signature_test.json"):
        parts = vector.token.split(".")
        (key, *others) = vector.jwks["keys"]
        if len(parts) != 3 or others or key.get("kty") != "RSA" or not all(parts):
            continue
        try:
            alg = json.loads(decode_base64url(parts[0]))["alg"]
            seal = decode_base64url(parts[2])
            modulus, exponent = (int.from_bytes(decode_base64url(key[n]), "big") for n in "ne")
        except (ValueError, KeyError):
            continue
        if key.get("alg", alg) != alg or key.get("use") == "enc" or "key_ops" in key:
            continue  # the key is at fault, not the signature
        opened = pow(int.from_bytes(seal, "big"), exponent, modulus).to_bytes(BITS // 8, "big") \
            if modulus.bit_length() == BITS else b""  # fmt: skip
        if alg.startswith("RS") and opened and len(seal) == BITS // 8:
            yield vector, _closed(opened, alg, ".".join(parts[:2]), claims, kid)


def _closed(opened: bytes, alg: str, old: str, claims: dict[str, Any], kid: str) -> str:
    text = f"{b64(dumps({'alg': alg, 'kid': kid}))}.{b64(dumps(claims))}"
    name = f"sha{alg[2:]}"
    before, after = (hashlib.new(name, t.encode()).digest() for t in (old, text))
    number = int.from_bytes(opened.replace(before, after), "big")
    private = rsa_key().private_numbers()
    modulus = private.public_numbers.n
    seal = pow(number % modulus, private.d, modulus).to_bytes(BITS // 8, "big")
    return f"{text}.{b64(seal)}"
