"""Making a compact token (RFC 7515, section 7.1) with a P-256 key.

Only what Limen itself issues is made here, so ES256 is the one algorithm. What the claims may say
is decided elsewhere; the reader (`reader`) accepts every token that this writes.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from limen.core.tokens.encoding import encode_base64url

if TYPE_CHECKING:
    from collections.abc import Mapping

ALGORITHM = "ES256"
_HALF = 32
_WRITER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def sign_token(
    header: Mapping[str, Any], claims: Mapping[str, Any], key: ec.EllipticCurvePrivateKey
) -> str:
    """`claims` signed with ES256. `header` is written behind `alg`, which it must not hold."""
    written = {"alg": ALGORITHM, **header}
    signed = f"{_encoded(written)}.{_encoded(claims)}"
    r, s = decode_dss_signature(key.sign(signed.encode("ascii"), ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")
    return f"{signed}.{encode_base64url(signature)}"


def public_members(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The members that make a P-256 key (RFC 7518, section 6.2.1)."""
    numbers = key.public_numbers()
    x, y = (encode_base64url(v.to_bytes(_HALF, "big")) for v in (numbers.x, numbers.y))
    return {"crv": "P-256", "kty": "EC", "x": x, "y": y}


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """The key's JWK thumbprint (RFC 7638): the same wherever it is computed."""
    text = json.dumps(public_members(key), sort_keys=True, separators=(",", ":"))
    return sha256_base64url(text.encode("ascii"))


def sha256_base64url(data: bytes) -> str:
    """As `x5t#S256`, `ath` and thumbprints are written."""
    return encode_base64url(hashlib.sha256(data).digest())


def _encoded(value: Mapping[str, Any]) -> str:
    return encode_base64url(_WRITER.encode(value).encode("utf-8"))
