"""`io.jwt` as OPA has it, which the engine lacks: decode, verify, and both with constraints.

What a token may say in the mesh is judged elsewhere (`core/tokens`); these functions do what
policies written for OPA expect, with the algorithms that OPA lists and no others.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Mapping

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_CURVES = {"256": "secp256r1", "384": "secp384r1", "512": "secp521r1"}
ALGORITHMS = tuple(f"{kind}{size}" for kind in ("HS", "RS", "PS", "ES") for size in _HASHES)
_MAX_TOKEN = 64 * 1024
_CONSTRAINTS = frozenset({"cert", "secret", "alg", "iss", "aud", "time"})


def functions(now: Callable[[], dt.datetime]) -> dict[str, tuple[int, Callable[..., Any]]]:
    """Function name to the number of its arguments and what it does. A ValueError: undecidable."""
    found: dict[str, tuple[int, Callable[..., Any]]] = {
        "io.jwt.decode": (1, decode),
        "io.jwt.decode_verify": (2, lambda token, wanted: decode_verify(token, wanted, now())),
    }
    for algorithm in ALGORITHMS:
        name = f"io.jwt.verify_{algorithm.lower()}"
        found[name] = (2, lambda token, key, a=algorithm: verify(token, key, a))
    return found


def decode(token: str) -> list[Any]:
    """Header, payload and the signature in hex, nothing verified. Raises ValueError."""
    header, payload, signature = _parts(token)
    return [_object(header), _object(payload), signature.hex()]


def verify(token: str, key: str, algorithm: str) -> bool:
    """Whether `key` (PEM certificate or public key, JWK set, or secret) signed the token."""
    _parts(token)
    signed, _, encoded = token.rpartition(".")
    signature = _base64(encoded)
    if algorithm.startswith("HS"):
        made = hmac.new(key.encode(), signed.encode(), f"sha{algorithm[2:]}").digest()
        return hmac.compare_digest(made, signature)
    return any(_verify(k, signed.encode(), signature, algorithm) for k in _keys(key))


def decode_verify(token: str, wanted: Mapping[str, Any], now: dt.datetime) -> list[Any]:
    """`[valid, header, payload]`; the last two are empty unless the token meets `wanted`."""
    unknown = set(wanted) - _CONSTRAINTS
    if unknown or ("cert" in wanted) == ("secret" in wanted):
        raise ValueError("io.jwt.decode_verify takes cert or secret, and alg, iss, aud, time")
    refused: list[Any] = [False, {}, {}]
    try:
        header, payload, _ = decode(token)
    except ValueError:
        return refused
    algorithm = header.get("alg")
    symmetric = "secret" in wanted
    if algorithm not in ALGORITHMS or algorithm.startswith("HS") != symmetric or "crit" in header:
        return refused
    if "alg" in wanted and wanted["alg"] != algorithm:
        return refused
    if not verify(token, wanted["secret" if symmetric else "cert"], algorithm):
        return refused
    return [True, header, payload] if _claims_hold(payload, wanted, now) else refused


def _claims_hold(payload: Mapping[str, Any], wanted: Mapping[str, Any], now: dt.datetime) -> bool:
    at = float(wanted.get("time", now.timestamp() * 1e9)) / 1e9
    for name in ("exp", "nbf"):
        value = payload.get(name, at + 1 if name == "exp" else at)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if (name == "exp" and at >= value) or (name == "nbf" and at < value):
            return False
    if "iss" in wanted and payload.get("iss") != wanted["iss"]:
        return False
    audience = payload.get("aud")
    if "aud" not in wanted:
        return audience is None
    return wanted["aud"] in (audience if isinstance(audience, list) else [audience])


def _parts(token: str) -> tuple[bytes, bytes, bytes]:
    if not isinstance(token, str) or len(token) > _MAX_TOKEN or token.count(".") != 2:
        raise ValueError("not a signed token of three parts")
    header, payload, signature = token.split(".")
    return _base64(header), _base64(payload), _base64(signature)


def _base64(text: str) -> bytes:
    try:
        padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
        return base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("a part of the token is not base64url") from error


def _object(document: bytes) -> dict[str, Any]:
    try:
        found = json.loads(document, object_pairs_hook=_unique)
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError("a part of the token is not JSON") from error
    if not isinstance(found, dict):
        raise ValueError("a part of the token is not an object")  # noqa: TRY004 - text from outside
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a claim occurs twice")
    return found


def _keys(text: str) -> list[rsa.RSAPublicKey | ec.EllipticCurvePublicKey]:
    """The public keys of a PEM document or of a JWK set."""
    try:
        if text.lstrip().startswith("{"):
            keys = json.loads(text)
            return [_jwk(key) for key in keys.get("keys", [keys]) if key.get("kty") != "oct"]
        document = text.encode("ascii")
        if b"BEGIN CERTIFICATE" in document:
            found: Any = x509.load_pem_x509_certificate(document).public_key()
        else:
            found = serialization.load_pem_public_key(document)
    except (AttributeError, KeyError, TypeError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError("the key of io.jwt is neither PEM nor a JWK set") from error
    return [found]


def _jwk(key: Mapping[str, str]) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    def number(name: str) -> int:
        return int.from_bytes(_base64(key[name]), "big")

    if key["kty"] == "RSA":
        return rsa.RSAPublicNumbers(number("e"), number("n")).public_key()
    curves: dict[str, ec.EllipticCurve] = {
        "P-256": ec.SECP256R1(),
        "P-384": ec.SECP384R1(),
        "P-521": ec.SECP521R1(),
    }
    curve = curves[key["crv"]]
    return ec.EllipticCurvePublicNumbers(number("x"), number("y"), curve).public_key()


def _verify(key: Any, signed: bytes, signature: bytes, algorithm: str) -> bool:
    kind, size = algorithm[:2], algorithm[2:]
    digest = _HASHES[size]
    try:
        if kind == "ES" and isinstance(key, ec.EllipticCurvePublicKey):
            width = (key.curve.key_size + 7) // 8
            if key.curve.name != _CURVES[size] or len(signature) != 2 * width:
                return False
            r, s = (int.from_bytes(half, "big") for half in (signature[:width], signature[width:]))
            key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))
            return True
        if kind in ("RS", "PS") and isinstance(key, rsa.RSAPublicKey):
            length = hashlib.new(f"sha{size}").digest_size
            pss = padding.PSS(padding.MGF1(digest), length)
            key.verify(signature, signed, pss if kind == "PS" else padding.PKCS1v15(), digest)
            return True
    except InvalidSignature:
        return False
    return False
