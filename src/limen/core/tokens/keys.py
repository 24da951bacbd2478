"""One JSON Web Key (RFC 7517, RFC 7518 section 6, RFC 8037): understood in full, or unfit.

A key is fit if it verifies signatures and does so safely. What a set's publisher got wrong in one
key makes that key unfit and says why; it never makes another key fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from limen.core.tokens.algorithms import ALGORITHMS
from limen.core.tokens.encoding import Malformed, decode_base64url, encode_base64url
from limen.core.tokens.roca import has_roca_fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.tokens.algorithms import Algorithm, PublicKey

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
MAX_EXPONENT_BITS = 33
"""BoringSSL, and so Envoy, takes no larger one."""
_CURVES: Mapping[str, tuple[ec.EllipticCurve, int]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-384": (ec.SECP384R1(), 48),
    "P-521": (ec.SECP521R1(), 66),
}
_PRIVATE = frozenset(("d", "p", "q", "dp", "dq", "qi", "oth"))
_KINDS = frozenset(("EC", "RSA", "OKP", "oct"))


class Unfit(ValueError):
    """This key verifies no signature of ours. The message says why."""


class OtherPurpose(Unfit):
    """It is well made, but not for signatures that we verify: it lays no claim to its `kid`."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that is fit to verify. `kid` and `alg` are empty if the set does not say them.

    `members` are the public ones that make the key (`x`, `n`, …), canonical, sorted by name; `crv`
    is empty for kinds that have no curve.
    """

    kty: str
    crv: str
    kid: str
    alg: str
    members: tuple[tuple[str, str], ...] = field(repr=False)
    public: PublicKey = field(repr=False, compare=False)
    secret: bytes = field(default=b"", repr=False)
    """The octets of an HMAC key: compared instead of members."""

    def fits(self, algorithm: Algorithm, kid: str) -> bool:
        """Whether a token with this algorithm and key id (empty: none) may be of this key.

        RFC 7515, section 4.1.4: `kid` is a hint; a key without one can be any.
        """
        return (
            self.kty == algorithm.kty
            and self.crv == algorithm.crv
            and self.alg in ("", algorithm.name)
            and (not kid or not self.kid or kid == self.kid)
            and (self.kty != "oct" or len(self.secret) >= algorithm.hash.digest_size)
        )

    @property
    def material(self) -> tuple[object, ...]:
        """What makes two keys the same key, whatever they are called."""
        return (self.kty, self.crv, self.members, self.secret)


def parse_key(fields: Mapping[str, Any], *, symmetric: bool) -> Key:
    """A key of a set. `symmetric`: only HMAC secrets are fit, otherwise none is. Raises Unfit.

    Texts where the RFCs want texts have been checked before (`jwks.parse_jwks`).
    """
    kty = fields["kty"]
    if kty not in _KINDS:
        raise OtherPurpose("its kty is not supported")
    if (kty == "oct") != symmetric:
        raise OtherPurpose("shared secrets and public keys do not mix")
    if not _PRIVATE.isdisjoint(fields):
        raise Unfit("its private part is published: nobody can trust it")
    _check_purpose(fields)
    public, members = _load(kty, fields)
    key = Key(
        kty,
        _text(fields, "crv") if kty in ("EC", "OKP") else "",
        fields.get("kid", ""),
        fields.get("alg", ""),
        tuple(sorted(members.items())),
        public,
        public if isinstance(public, bytes) else b"",
    )
    if not any(key.fits(algorithm, "") for algorithm in ALGORITHMS.values()):
        raise OtherPurpose("its alg is unknown, or not one for a key of this kind and size")
    return key


def _check_purpose(fields: Mapping[str, Any]) -> None:
    if fields.get("use", "sig") != "sig":
        raise OtherPurpose("its use is not sig")
    operations = fields.get("key_ops")
    if operations is not None and "verify" not in operations:
        raise OtherPurpose("its key_ops lack verify")


def _load(kty: str, fields: Mapping[str, Any]) -> tuple[PublicKey, dict[str, str]]:
    """The key, and its members as they are written canonically."""
    try:
        if kty == "oct":
            return decode_base64url(_text(fields, "k")), {}
        if kty == "EC":
            return _load_ec(fields)
        if kty == "RSA":
            return _load_rsa(fields)
        return _load_okp(fields)
    except Unfit:
        raise
    except Malformed as error:
        raise Unfit(f"a member has {error}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Unfit("its members make no valid public key") from None


def _load_ec(fields: Mapping[str, Any]) -> tuple[PublicKey, dict[str, str]]:
    """RFC 7518, section 6.2.1: coordinates as long as the curve's field; the point on the curve."""
    crv = _text(fields, "crv")
    if crv not in _CURVES:
        raise Unfit("its curve is not supported")
    curve, size = _CURVES[crv]
    x, y = (decode_base64url(_text(fields, name)) for name in ("x", "y"))
    if len(x) != size or len(y) != size:
        raise Unfit("its coordinates are not as long as its curve wants")
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve
    )
    members = {"x": encode_base64url(x), "y": encode_base64url(y)}
    return numbers.public_key(), members


def _load_rsa(fields: Mapping[str, Any]) -> tuple[PublicKey, dict[str, str]]:
    """Leading zero octets, which RFC 7518 warns of, change nothing and are left out."""
    n, e = (int.from_bytes(decode_base64url(_text(fields, m)), "big") for m in ("n", "e"))
    if not MIN_RSA_BITS <= n.bit_length() <= MAX_RSA_BITS:
        raise Unfit(f"its modulus has not {MIN_RSA_BITS} to {MAX_RSA_BITS} bits")
    if e < 3 or not e & 1 or e.bit_length() > MAX_EXPONENT_BITS:
        raise Unfit("its exponent is not an odd number from 3 to 33 bits")
    if not n & 1 or has_roca_fingerprint(n):
        raise Unfit("its modulus can be factored (CVE-2017-15361, or even)")
    members = {"n": _integer(n), "e": _integer(e)}
    return rsa.RSAPublicNumbers(e, n).public_key(), members


def _load_okp(fields: Mapping[str, Any]) -> tuple[PublicKey, dict[str, str]]:
    if _text(fields, "crv") != "Ed25519":
        raise Unfit("its curve is not supported")
    x = decode_base64url(_text(fields, "x"))
    return Ed25519PublicKey.from_public_bytes(x), {"x": encode_base64url(x)}


def _integer(value: int) -> str:
    return encode_base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise Unfit(f"it has no {name}")
    return value
