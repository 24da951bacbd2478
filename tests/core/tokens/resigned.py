"""Wycheproof's malformed RSA signatures, made anew around JSON claims with a key of ours.

The public key opens a vector's signature to its padded hash; with the hash of another text put in
place of its own, and nothing else changed, our key closes it again. So the mutation stays. Of PSS
(RFC 8017, section 9.1) hash, padding, salt and trailer are opened and closed likewise.
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

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from tests.core.tokens.vectors import Vector

BITS = 2048
_SIZE = BITS // 8


def resigned(claims: dict[str, Any], kid: str) -> Iterator[tuple[Vector, str]]:
    """Each PKCS #1 vector with its token around `claims`, by `rsa_key()` under `kid`."""
    for vector, alg, opened in _opened("RS"):
        old, text = _texts(vector, alg, claims, kid)
        before, after = (hashlib.new(f"sha{alg[2:]}", t.encode()).digest() for t in (old, text))
        yield vector, _closed(text, opened.replace(before, after), rsa_key())


def resigned_pss(claims: dict[str, Any], kid: str) -> Iterator[tuple[Vector, str]]:
    """Each PS256 vector that can be opened, by `rsa_key(2048, 2)` under `kid`."""
    for vector, alg, opened in _opened("PS"):
        if alg != "PS256":
            continue
        old, text = _texts(vector, alg, claims, kid)
        found = _pss(opened, old, text)
        if found:
            yield vector, _closed(text, found, rsa_key(2048, 2))


def _opened(family: str) -> Iterator[tuple[Vector, str, bytes]]:
    """The vectors whose signature, not whose key, is at fault; and what its padding holds."""
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
            continue
        if alg.startswith(family) and modulus.bit_length() == BITS and len(seal) == _SIZE:
            number = pow(int.from_bytes(seal, "big"), exponent, modulus)
            yield vector, alg, number.to_bytes(_SIZE, "big")


def _texts(vector: Vector, alg: str, claims: dict[str, Any], kid: str) -> tuple[str, str]:
    """What was signed, and what is to be."""
    text = f"{b64(dumps({'alg': alg, 'kid': kid}))}.{b64(dumps(claims))}"
    return vector.token.rpartition(".")[0], text


def _closed(text: str, opened: bytes, key: RSAPrivateKey) -> str:
    private = key.private_numbers()
    modulus = private.public_numbers.n
    seal = pow(int.from_bytes(opened, "big") % modulus, private.d, modulus)
    return f"{text}.{b64(seal.to_bytes(_SIZE, 'big'))}"


def _pss(opened: bytes, old: str, text: str) -> bytes:
    """The padding around the hash of another text; b"" where no salt can be seen."""
    length = hashlib.sha256().digest_size
    masked, sealed, trailer = opened[: -length - 1], opened[-length - 1 : -1], opened[-1:]
    data = _xor(masked, _mask(sealed, len(masked)))
    plain = bytes([data[0] & 0x7F]) + data[1:]  # the highest bit of the padding is never there
    salt = plain.lstrip(b"\0")[1:]
    if not plain.lstrip(b"\0").startswith(b"\1") or len(salt) > len(masked) - 2:
        return b""
    good, new = (
        hashlib.sha256(bytes(8) + hashlib.sha256(t.encode()).digest() + salt).digest()
        for t in (old, text)
    )
    hashed = _xor(new, _xor(good, sealed))  # what was wrong with the hash stays wrong
    again = _xor(data, _mask(hashed, len(data)))
    top = (masked[0] & 0x80) | (again[0] & 0x7F)
    return bytes([top]) + again[1:] + hashed + trailer


def _mask(seed: bytes, length: int) -> bytes:
    """MGF1 (RFC 8017, appendix B.2.1)."""
    parts = (hashlib.sha256(seed + n.to_bytes(4, "big")).digest() for n in range(length // 32 + 1))
    return b"".join(parts)[:length]


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
