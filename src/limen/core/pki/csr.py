"""Certificate signing requests, read strictly (RFC 2986, RFC 5280).

A request proves possession of a key and may repeat the names that the server has authorised; it
decides nothing. Whatever it asks for beyond that is refused rather than left out: an agent that
asks for more than it gets is wrong or an attacker. Its subject carries no meaning here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import (
    AttributeOID,
    ExtendedKeyUsageOID,
    SignatureAlgorithmOID,
)

from limen.core.pki.pem import parse_pem
from limen.core.pki.profile import MAX_URI
from limen.core.pki.reading import UNREADABLE, check_signature_bits, strict_reading
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_CSR_CHARS = 8192
_LABELS = frozenset({"CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"})
_EXTENSION_REQUEST = x509.ObjectIdentifier("1.2.840.113549.1.9.14")
_MAX_NAMES = 16
_SIGNATURES = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    SignatureAlgorithmOID.ECDSA_WITH_SHA512,
}
_USES = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
_HINT = "send a PKCS#10 request for a P-256 key that asks for at most the names it was given"


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """A request whose signature holds: `public_key` is the SubjectPublicKeyInfo (DER), P-256.

    `uri` is "" and `dns_names` empty if it names nothing.
    """

    public_key: bytes
    uri: str = ""
    dns_names: tuple[str, ...] = ()


def parse_csr(text: str) -> SigningRequest:
    """Read one request (PEM). Raises InvalidInput with a code that says which rule it breaks."""
    (der, *more) = parse_pem(text, _LABELS, "certificate request", MAX_CSR_CHARS)
    if more:
        raise _invalid("csr-malformed", "holds several requests")
    try:
        with strict_reading():
            request = x509.load_der_x509_csr(der)
            if request.public_bytes(Encoding.DER) != der:
                raise _invalid("csr-malformed", "is not encoded canonically")
            check_signature_bits(der, request.signature)
            public_key = _read_key(request)
            _check_attributes(request)
            uri, dns_names = _read_extensions(request)
    except UNREADABLE:
        raise _invalid("csr-malformed", "cannot be read") from None
    return SigningRequest(public_key, uri, dns_names)


def verify_names(request: SigningRequest, uri: str, dns_names: Sequence[str]) -> None:
    """Raise InvalidInput (`csr-name-mismatch`) if it names what was not authorised."""
    if request.uri not in {"", uri} or not set(request.dns_names) <= set(dns_names):
        raise InvalidInput(
            "the certificate request names an identity that is not the one it may have",
            code="csr-name-mismatch",
            hint="leave the names out: the server sets them",
        )


def _read_key(request: x509.CertificateSigningRequest) -> bytes:
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _invalid("csr-key", "is for a key that is not ECDSA P-256")
    if request.signature_algorithm_oid not in _SIGNATURES:
        raise _invalid("csr-key", "is not signed by ECDSA with SHA-2")
    if not request.is_signature_valid:
        raise _invalid("csr-signature", "is not signed by the key that it is for")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _check_attributes(request: x509.CertificateSigningRequest) -> None:
    for attribute in request.attributes:
        if attribute.oid != _EXTENSION_REQUEST:
            named = (
                "a challenge password"
                if attribute.oid == AttributeOID.CHALLENGE_PASSWORD
                else (f"attribute {attribute.oid.dotted_string}")
            )
            raise _invalid("csr-extension", f"has {named}")


def _read_extensions(request: x509.CertificateSigningRequest) -> tuple[str, tuple[str, ...]]:
    names: tuple[str, tuple[str, ...]] = ("", ())
    for extension in request.extensions:
        match extension.value:
            case x509.SubjectAlternativeName():
                names = _read_names(extension.value)
            case x509.BasicConstraints(ca=is_authority):
                if is_authority:
                    raise _invalid("csr-authority", "asks to become an authority")
            case x509.KeyUsage():
                _check_key_usage(extension.value)
            case x509.ExtendedKeyUsage():
                if not set(extension.value) <= _USES:
                    raise _invalid("csr-extension", "asks for an extended key usage beyond TLS")
            case _:
                oid = extension.oid.dotted_string
                raise _invalid("csr-extension", f"asks for extension {oid}")
    return names


def _check_key_usage(usage: x509.KeyUsage) -> None:
    if usage.key_cert_sign or usage.crl_sign:
        raise _invalid("csr-authority", "asks to sign certificates")
    if usage.content_commitment or usage.data_encipherment or usage.key_encipherment:
        raise _invalid("csr-extension", "asks for a key usage beyond digital signature")


def _read_names(names: x509.SubjectAlternativeName) -> tuple[str, tuple[str, ...]]:
    uris = [n.value for n in names if isinstance(n, x509.UniformResourceIdentifier)]
    dns_names = [n.value for n in names if isinstance(n, x509.DNSName)]
    if len(uris) > 1:
        raise _invalid("csr-several-uris", f"asks for {len(uris)} URI names, one is the most")
    if len(uris) + len(dns_names) != len(list(names)):
        raise _invalid("csr-name", "asks for a name that is neither URI nor DNS")
    if len(dns_names) > _MAX_NAMES:
        raise _invalid("csr-name", f"asks for more than {_MAX_NAMES} names")
    for text in (*uris, *dns_names):
        if len(text) > MAX_URI or not all("!" <= c <= "~" for c in text):
            raise _invalid("csr-name", "has a name with characters that are not printable ASCII")
    return (uris[0] if uris else ""), tuple(dns_names)


def _invalid(code: str, problem: str) -> InvalidInput:
    return InvalidInput(f"the certificate request {problem}", code=code, hint=_HINT)
