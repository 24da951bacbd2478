"""Certificates and keys of a Secret: parsed and held against each other.

No message here repeats what was read.

Source: RFC 5280 section 4.2.1.9, RFC 7468; kubernetes `pkg/apis/core/validation` ValidateSecret;
Envoy accepts RSA from 2048 bits and the curves P-256, P-384 and P-521 for a server.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from itertools import pairwise
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import MD5, SHA1, SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from limen.core.model.secret import Authorities, KeyPair, PrivateKeyPem
from limen.errors import InvalidInput

MAX_BYTES = 256 * 1024
MAX_CHAIN = 10
MAX_AUTHORITIES = 100
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_PARSE_ERRORS = (ValueError, TypeError, OverflowError, UnsupportedAlgorithm)

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def _bad(message: str, hint: str, *, code: str = "") -> InvalidInput:
    return InvalidInput(message, code=code or "bad-certificate", hint=hint)


def decode(text: str) -> bytes:
    """Standard base64, broken over lines or not. Raises InvalidInput (code `bad-value`)."""
    try:
        found = b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        raise _bad(
            "the value is not base64",
            "encode it with `base64 -w0`, or write it as it is under stringData",
            code="bad-value",
        ) from None
    if len(found) > MAX_BYTES:
        message = f"the value has {len(found)} bytes; at most {MAX_BYTES} are read"
        raise _bad(message, "a certificate or key is smaller", code="bad-value")
    return found


def parse_pair(chain: bytes, key: bytes) -> KeyPair:
    """A server's certificate with its key.

    Raises InvalidInput (`bad-certificate`, `bad-chain`, `bad-private-key`, `key-mismatch`).
    """
    certificates = _certificates(chain, MAX_CHAIN)
    leaf, private = certificates[0], _private_key(key)
    if _public_bytes(leaf) != private.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    ):
        others = any(_is_key_of(one, private) for one in certificates[1:])
        raise _bad(
            "the server's certificate is not the first one"
            if others
            else "the key does not belong to the certificate",
            "put the server's certificate first, then the one that issued it"
            if others
            else "put the two that were made together into the Secret",
            code="bad-chain" if others else "key-mismatch",
        )
    _check_server(leaf, several=len(certificates) > 1)
    _check_chain(certificates)
    return KeyPair(
        chain_pem=b"".join(one.public_bytes(Encoding.PEM) for one in certificates),
        key=PrivateKeyPem(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
        names=_names(leaf),
        key_kind="RSA" if isinstance(private, rsa.RSAPrivateKey) else "EC",
        not_before_s=max(int(one.not_valid_before_utc.timestamp()) for one in certificates),
        not_after_s=min(int(one.not_valid_after_utc.timestamp()) for one in certificates),
        fingerprint=leaf.fingerprint(SHA256()).hex(),
    )


def parse_authorities(bundle: bytes) -> Authorities:
    """CA certificates. Raises InvalidInput (code `bad-certificate`)."""
    certificates = _certificates(bundle, MAX_AUTHORITIES)
    for index, one in enumerate(certificates):
        if not _is_authority(one):
            raise _bad(
                f"certificate {index + 1} is no authority: clients' certificates cannot be judged "
                "by it",
                "put the certificate of the authority there, with CA:TRUE",
            )
    return Authorities(
        bundle_pem=b"".join(one.public_bytes(Encoding.PEM) for one in certificates),
        not_after_s=max(int(one.not_valid_after_utc.timestamp()) for one in certificates),
    )


def _certificates(pem: bytes, maximum: int) -> list[x509.Certificate]:
    labels = {found[1] for found in _BLOCK.finditer(pem)}
    if any(b"PRIVATE KEY" in label for label in labels):
        raise _bad(
            "there is a private key among the certificates",
            "keep it in tls.key only, and replace it if this was shown to anybody",
        )
    if labels != {b"CERTIFICATE"}:
        raise _bad(
            "there is something other than certificates" if labels else "there is no certificate",
            "put -----BEGIN CERTIFICATE----- blocks there",
        )
    if len(_BLOCK.findall(pem)) > maximum:
        message = f"there are more than {maximum} certificates"
        raise _bad(message, "keep those that are needed")
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        for one in certificates:
            _ = one.extensions, one.issuer, one.subject, one.signature_hash_algorithm
            _ = one.not_valid_before_utc.timestamp(), one.not_valid_after_utc.timestamp()
    except (*_PARSE_ERRORS, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        message = "a certificate cannot be read"
        raise _bad(message, "export it again as PEM") from None
    if len(certificates) != len(_BLOCK.findall(pem)):
        raise _bad("a certificate has no end", "export it again as PEM")
    return certificates


def _private_key(pem: bytes) -> PrivateKey:
    if b"ENCRYPTED" in pem:
        message = "the key is encrypted; nobody can enter its password"
        raise _bad(message, "decrypt it: openssl pkey -in FILE -out FILE", code="bad-private-key")
    if len([found for found in _BLOCK.findall(pem) if found.endswith(b"PRIVATE KEY")]) != 1:
        message = "there is not exactly one private key"
        raise _bad(
            message, "put one -----BEGIN PRIVATE KEY----- block there", code="bad-private-key"
        )
    try:
        key = load_pem_private_key(pem, None)
    except _PARSE_ERRORS:
        message = "the private key cannot be read"
        raise _bad(message, "export it again as PKCS #8 in PEM", code="bad-private-key") from None
    if isinstance(key, rsa.RSAPrivateKey) and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return key
    raise _bad(
        "the key is of a kind that the proxies do not serve with",
        f"use EC P-256, P-384 or P-521, or RSA with {MIN_RSA_BITS} to {MAX_RSA_BITS} bits",
        code="bad-private-key",
    )


def _public_bytes(certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
    except _PARSE_ERRORS:
        message = "a certificate has a key of an unknown kind"
        raise _bad(message, "use an EC or RSA key") from None


def _is_key_of(certificate: x509.Certificate, key: PrivateKey) -> bool:
    own = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _public_bytes(certificate) == own


def _check_server(leaf: x509.Certificate, *, several: bool) -> None:
    if isinstance(leaf.signature_hash_algorithm, SHA1 | MD5):
        message = "the certificate is signed with SHA-1 or MD5, which no client accepts"
        raise _bad(message, "have it issued again with SHA-256")
    if several and _is_authority(leaf):
        raise _bad(
            "the first certificate is an authority's",
            "put the server's certificate first, then the one that issued it",
            code="bad-chain",
        )
    usages = _usages(leaf)
    if usages and not usages & {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    }:
        message = "the certificate is not for servers (no serverAuth among its usages)"
        raise _bad(message, "have it issued for a TLS server")
    if not _names(leaf):
        message = "the certificate names no host (subjectAltName), so no client accepts it"
        raise _bad(message, "have it issued with the names that it serves")


def _check_chain(certificates: list[x509.Certificate]) -> None:
    for index, (issued, issuer) in enumerate(pairwise(certificates)):
        try:
            issued.verify_directly_issued_by(issuer)
            good = _is_authority(issuer)
        except (*_PARSE_ERRORS, InvalidSignature):
            good = False
        if not good:
            raise _bad(
                f"certificate {index + 1} is not issued by certificate {index + 2}",
                "order them: the server's, then each one's issuer; leave out what does not belong",
                code="bad-chain",
            )


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _usages(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return set()


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (
        *(name.lower() for name in names.get_values_for_type(x509.DNSName)),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    )
