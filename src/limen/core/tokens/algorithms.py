"""Signature algorithms (RFC 7518, section 3; RFC 8037): what each needs, and whether one holds.

`cryptography` does the arithmetic. What kind of key an algorithm takes stands in this table, so a
public key can never serve as an HMAC secret.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import constant_time, hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | Ed25519PublicKey | bytes
"""What verifies; `bytes` is an HMAC secret."""
HashAlgorithm = hashes.SHA256 | hashes.SHA384 | hashes.SHA512


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One `alg`. `crv` is empty where the key has no curve; `pss` is for RSA only."""

    name: str
    kty: str
    crv: str
    hash: HashAlgorithm
    pss: bool = False


_SHA256, _SHA384, _SHA512 = hashes.SHA256(), hashes.SHA384(), hashes.SHA512()
ALGORITHMS = {
    a.name: a
    for a in (
        Algorithm("ES256", "EC", "P-256", _SHA256),
        Algorithm("ES384", "EC", "P-384", _SHA384),
        Algorithm("ES512", "EC", "P-521", _SHA512),
        Algorithm("RS256", "RSA", "", _SHA256),
        Algorithm("RS384", "RSA", "", _SHA384),
        Algorithm("RS512", "RSA", "", _SHA512),
        Algorithm("PS256", "RSA", "", _SHA256, pss=True),
        Algorithm("PS384", "RSA", "", _SHA384, pss=True),
        Algorithm("PS512", "RSA", "", _SHA512, pss=True),
        Algorithm("EdDSA", "OKP", "Ed25519", _SHA512),
        Algorithm("HS256", "oct", "", _SHA256),
        Algorithm("HS384", "oct", "", _SHA384),
        Algorithm("HS512", "oct", "", _SHA512),
    )
}
SYMMETRIC = frozenset(a.name for a in ALGORITHMS.values() if a.kty == "oct")
DEFAULT = frozenset(ALGORITHMS) - SYMMETRIC - {"EdDSA"}
"""What an issuer may sign with unless its rules say otherwise."""


def is_valid(algorithm: Algorithm, key: PublicKey, signature: bytes, signed: bytes) -> bool:
    """Whether `signature` over `signed` was made with `key`. A key of another kind: False."""
    match key:
        case bytes() if algorithm.kty == "oct":
            mac = hmac.HMAC(key, algorithm.hash)
            mac.update(signed)
            return constant_time.bytes_eq(mac.finalize(), signature)
        case ec.EllipticCurvePublicKey() if algorithm.kty == "EC":
            return _verify_ecdsa(algorithm, key, signature, signed)
        case rsa.RSAPublicKey() if algorithm.kty == "RSA":
            return _verify_rsa(algorithm, key, signature, signed)
        case Ed25519PublicKey() if algorithm.kty == "OKP":
            return _verify_ed25519(key, signature, signed)
        case _:
            return False


def _verify_ecdsa(
    algorithm: Algorithm, key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes
) -> bool:
    """RFC 7518, section 3.4: R and S, each as long as the curve's order. Never DER."""
    half = (key.curve.key_size + 7) // 8
    if len(signature) != 2 * half:
        return False
    r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
    if not r or not s:
        return False
    try:
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(algorithm.hash))
    except InvalidSignature:
        return False
    return True


def _verify_rsa(
    algorithm: Algorithm, key: rsa.RSAPublicKey, signature: bytes, signed: bytes
) -> bool:
    """RFC 7518, sections 3.3 and 3.5: the salt of PSS is as long as the hash."""
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    if algorithm.pss:
        scheme = padding.PSS(padding.MGF1(algorithm.hash), algorithm.hash.digest_size)
    if len(signature) != (key.key_size + 7) // 8:
        return False
    try:
        key.verify(signature, signed, scheme, algorithm.hash)
    except InvalidSignature:
        return False
    return True


def _verify_ed25519(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True
