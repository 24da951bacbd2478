"""Keys and signatures for tests: any header, payload and key, also what no issuer would make."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

if TYPE_CHECKING:
    from collections.abc import Mapping

HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
CURVES = {"256": ec.SECP256R1(), "384": ec.SECP384R1(), "521": ec.SECP521R1()}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def dumps(value: object) -> bytes:
    """JSON of a value; bytes stay as they are."""
    return value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()


@cache
def ec_key(bits: str = "256", number: int = 1) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(0x1234567 + number, CURVES[bits])


@cache
def rsa_key(bits: int = 2048, number: int = 1) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def ed_key(number: int = 1) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def jwk(key: Any, **members: Any) -> dict[str, Any]:
    """The public JWK of a private key (or of HMAC octets), with more members."""
    if isinstance(key, bytes):
        return {"kty": "oct", "k": b64(key), **members}
    if isinstance(key, Ed25519PrivateKey):
        return {
            "kty": "OKP", "crv": "Ed25519", "x": b64(key.public_key().public_bytes_raw()), **members
        }  # fmt: skip
    numbers = key.public_key().public_numbers()
    if isinstance(key, rsa.RSAPrivateKey):
        return {"kty": "RSA", "n": integer(numbers.n), "e": integer(numbers.e), **members}
    size = (key.curve.key_size + 7) // 8
    x, y = (b64(v.to_bytes(size, "big")) for v in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": f"P-{key.curve.key_size}", "x": x, "y": y, **members}


def integer(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def signature(alg: str, key: Any, signed: bytes) -> bytes:
    """What the algorithm makes of it, however unsuitable the key's size or curve."""
    if alg == "EdDSA":
        return bytes(key.sign(signed))
    digest = HASHES[alg[2:]]
    if alg.startswith("HS"):
        mac = hmac.HMAC(key, digest)
        mac.update(signed)
        return mac.finalize()
    if alg.startswith("ES"):
        size = (key.curve.key_size + 7) // 8
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(digest)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    scheme = padding.PSS(padding.MGF1(digest), digest.digest_size)
    return bytes(key.sign(signed, padding.PKCS1v15() if alg.startswith("RS") else scheme, digest))


def sign(header: Mapping[str, Any] | bytes, payload: object, key: Any, alg: str) -> str:
    """A compact token. `header` and `payload` may be raw bytes."""
    signed = f"{b64(dumps(header))}.{b64(dumps(payload))}"
    return f"{signed}.{b64(signature(alg, key, signed.encode()))}"
