"""Builds a certificate from an authorised request. What it builds, `judge.py` checks apart.

Extensions per profile, in the order of the certificate. Keys come as arguments; an ECDSA signature
draws its nonce inside `cryptography`.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_der_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from limen.core.model.names import MESH_DOMAIN
from limen.core.pki.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.pki.profile import Request

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""What an authority signs with: ECDSA P-256 or RSA, SHA-256 in both cases."""

_ORGANISATION = "Limen"
_PATH_LENGTH = {
    Profile.CONTROL_ROOT: 1,
    Profile.CONTROL_INTERMEDIATE: 0,
    Profile.MESH_ROOT: 1,
    Profile.MESH_INTERMEDIATE: 0,
}
_SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
_CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
_EXTENDED_USAGE = {
    Profile.SERVER: (_SERVER_AUTH,),
    Profile.NODE: (_CLIENT_AUTH,),
    Profile.WORKLOAD: (_SERVER_AUTH, _CLIENT_AUTH),
}


def build_certificate(request: Request, issuer_key: SigningKey) -> bytes:
    """The signed certificate (DER).

    `issuer_key` belongs to `request.issuer`, or to the subject if that is empty (a root). Nothing
    is checked here beyond what X.509 can express: the judge does that.
    """
    subject = _subject(request)
    issuer = _load_issuer(request.issuer) if request.issuer else None
    public_key = load_der_public_key(request.public_key)
    key_id = x509.SubjectKeyIdentifier.from_public_key(public_key)  # type: ignore[arg-type]  # below
    builder = x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer.subject if issuer else subject,
        public_key=public_key,  # type: ignore[arg-type]  # the judge refuses other key kinds
        serial_number=request.serial,
        not_valid_before=_moment(request.not_before_s),
        not_valid_after=_moment(request.not_after_s),
    )
    for extension, critical in _extensions(request, issuer, key_id):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)


@lru_cache(maxsize=32)
def _load_issuer(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


def _subject(request: Request) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION)]
    if request.common_name:
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, request.common_name))
    return x509.Name(attributes)


def _extensions(
    request: Request, issuer: x509.Certificate | None, key_id: x509.SubjectKeyIdentifier
) -> Iterator[tuple[x509.ExtensionType, bool]]:
    path_length = _PATH_LENGTH.get(request.profile)
    is_authority = path_length is not None
    yield x509.BasicConstraints(ca=is_authority, path_length=path_length), True
    yield _key_usage(is_authority=is_authority), True
    usage = _EXTENDED_USAGE.get(request.profile)
    if usage is not None:
        yield x509.ExtendedKeyUsage(usage), False
    yield key_id, False
    if issuer is not None:
        held = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        yield x509.AuthorityKeyIdentifier(held.digest, None, None), False
    names = _subject_names(request)
    if names:
        yield x509.SubjectAlternativeName(names), False
    if request.profile is Profile.MESH_INTERMEDIATE:
        yield _confined_to(request.trust_domain), True


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _subject_names(request: Request) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    if request.uri:
        names.append(x509.UniformResourceIdentifier(request.uri))
    names += [x509.DNSName(name) for name in request.dns_names]
    names += [x509.IPAddress(ipaddress.ip_address(text)) for text in request.ip_addresses]
    return names


def _confined_to(trust_domain: str) -> x509.NameConstraints:
    """RFC 5280, 4.2.1.10: below it only its own trust domain, mesh names, no addresses."""
    return x509.NameConstraints(
        permitted_subtrees=[
            x509.UniformResourceIdentifier(trust_domain),
            x509.DNSName(MESH_DOMAIN),
        ],
        excluded_subtrees=[
            x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
            x509.IPAddress(ipaddress.ip_network("::/0")),
        ],
    )
