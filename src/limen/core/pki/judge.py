"""The judge of certificates: what was authorised, and nothing else.

It shares no code with the builder, only the request. It parses the DER that will leave the
authority and compares every property, collects every violation, and raises once. A builder that
is wrong, or was made wrong, is noticed here.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, SignatureAlgorithmOID

from limen.core.model.names import parse_spiffe_id
from limen.core.pki.profile import (
    MAX_SERIAL_BITS,
    MAX_URI,
    Profile,
    parse_dns_name,
    parse_node_uri,
)
from limen.core.pki.reading import UNREADABLE, load_certificate, strict_reading
from limen.errors import InvalidInput, Untrusted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from limen.core.pki.profile import Request

MAX_CERTIFICATE_BYTES = 8192
_AUTHORITY_DEPTH = {
    Profile.CONTROL_ROOT: 1,
    Profile.MESH_ROOT: 1,
    Profile.CONTROL_INTERMEDIATE: 0,
    Profile.MESH_INTERMEDIATE: 0,
}
_ROOTS = {Profile.CONTROL_ROOT, Profile.MESH_ROOT}
_CONTROL = {Profile.CONTROL_INTERMEDIATE, Profile.SERVER, Profile.NODE}
_USES = {
    Profile.SERVER: {ExtendedKeyUsageOID.SERVER_AUTH},
    Profile.NODE: {ExtendedKeyUsageOID.CLIENT_AUTH},
    Profile.WORKLOAD: {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH},
}
_SIGNATURES = {SignatureAlgorithmOID.ECDSA_WITH_SHA256, SignatureAlgorithmOID.RSA_WITH_SHA256}
_VISIBLE = re.compile(r"[!-~]+", re.ASCII)
_RSA_BITS = range(2048, 8193)


def verify_issued(certificate_der: bytes, request: Request) -> None:
    """Raise Untrusted (`certificate-misissued`), listing all violations, unless all is as asked."""
    try:
        with strict_reading():
            certificate = load_certificate(certificate_der)
            violations = [*_violations(certificate, request)]
            violations += _encoding(certificate, certificate_der)
    except UNREADABLE as error:
        violations = [f"it cannot be read: {type(error).__name__}"]
    if violations:
        raise Untrusted(
            f"a {request.profile.value} certificate is not what was authorised: "
            + "; ".join(violations),
            code="certificate-misissued",
            hint="it was not handed out; this is a fault of the server: report it",
        )


@lru_cache(maxsize=32)
def _read_issuer(der: bytes) -> x509.Certificate:
    """One issuer judges thousands of leaves: it keeps what it has parsed."""
    return load_certificate(der)


def _violations(certificate: x509.Certificate, request: Request) -> Iterator[str]:
    issuer = _read_issuer(request.issuer) if request.issuer else None
    yield from _request_itself(request, issuer)
    if issuer is not None:
        yield from _issuer(issuer, request)
    yield from _body(certificate, request)
    yield from _subject_key(certificate, request)
    yield from _signature(certificate, issuer or certificate)
    yield from _validity(certificate, request, issuer)
    yield from _extension_set(certificate, request)
    yield from _basic_constraints(certificate, request)
    yield from _key_usage(certificate, request)
    yield from _key_identifiers(certificate, issuer)
    yield from _names(certificate, request)
    yield from _confinement(certificate, request)


def _encoding(certificate: x509.Certificate, der: bytes) -> Iterator[str]:
    if certificate.public_bytes(Encoding.DER) != der:
        yield "its encoding is not canonical"
    if len(der) > MAX_CERTIFICATE_BYTES:
        yield f"it is longer than {MAX_CERTIFICATE_BYTES} bytes"
    if certificate.version is not x509.Version.v3:
        yield "it is not version 3"


def _request_itself(request: Request, issuer: x509.Certificate | None) -> Iterator[str]:
    """A request that no caller may make, whatever the builder does with it."""
    profile = request.profile
    if (issuer is None) != (profile in _ROOTS):
        yield "only a root has no issuer"
    if profile is Profile.WORKLOAD:
        yield from _readable(request.uri, parse_spiffe_id)
    elif profile is Profile.NODE:
        yield from _readable(request.uri, parse_node_uri)
    elif profile is Profile.SERVER:
        if request.uri or not (request.dns_names or request.ip_addresses):
            yield "a server has DNS names or addresses, and no URI"
    elif not request.common_name:
        yield "an authority has a name"
    elif profile in {Profile.MESH_ROOT, Profile.MESH_INTERMEDIATE} and (
        not request.trust_domain or request.uri != f"spiffe://{request.trust_domain}"
    ):
        yield "a mesh authority carries its trust domain"
    if profile is Profile.NODE and request.dns_names:
        yield "a node has no DNS name"
    if profile is not Profile.SERVER and request.ip_addresses:
        yield "only a server has addresses"
    for name in request.dns_names:
        yield from _readable(name, parse_dns_name)


def _readable(text: str, parse: Callable[[str], object]) -> Iterator[str]:
    try:
        parse(text)
    except InvalidInput as error:
        yield error.message


def _issuer(issuer: x509.Certificate, request: Request) -> Iterator[str]:
    """The issuer is an authority of the right floor and, for workloads, of the right mesh."""
    wanted = 0 if request.profile in _USES else 1
    depths = [
        e.value.path_length
        for e in issuer.extensions
        if type(e.value) is x509.BasicConstraints and e.value.ca
    ]
    if depths != [wanted]:
        yield "its issuer is not the authority for this kind of certificate"
    names = [
        str(name.value)
        for e in issuer.extensions
        if type(e.value) is x509.SubjectAlternativeName
        for name in e.value
    ]
    domain = "" if request.profile in _CONTROL else "/".join(request.uri.split("/")[:3])
    if names != ([domain] if domain else []):
        yield "its issuer is the authority of another trust domain"


def _body(certificate: x509.Certificate, request: Request) -> Iterator[str]:
    serial = certificate.serial_number
    if serial != request.serial:
        yield "another serial number"
    if not 0 < serial < 1 << MAX_SERIAL_BITS:
        yield "the serial number is not positive, or too long"
    found = [(a.oid, a.value) for a in certificate.subject]
    wanted = [(NameOID.ORGANIZATION_NAME, "Limen")]
    if request.common_name:
        wanted.append((NameOID.COMMON_NAME, request.common_name))
    if found != wanted:
        yield "another subject"


def _subject_key(certificate: x509.Certificate, request: Request) -> Iterator[str]:
    key = certificate.public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if spki != request.public_key:
        yield "another public key"
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, ec.SECP256R1):
            yield "the curve is not P-256"
    elif isinstance(key, rsa.RSAPublicKey):
        if request.profile not in _AUTHORITY_DEPTH:
            yield "a leaf's key is not P-256"
        if key.key_size not in _RSA_BITS:
            yield f"an RSA key of {key.key_size} bits"
    else:
        yield "the key is neither P-256 nor RSA"


def _signature(certificate: x509.Certificate, issuer: x509.Certificate) -> Iterator[str]:
    if certificate.signature_algorithm_oid not in _SIGNATURES:
        yield "it is not signed with SHA-256 by ECDSA or RSA"
    if certificate.issuer != issuer.subject:
        yield "another issuer"
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        yield "the signature is not the issuer's"


def _validity(
    certificate: x509.Certificate, request: Request, issuer: x509.Certificate | None
) -> Iterator[str]:
    start = int(certificate.not_valid_before_utc.timestamp())
    end = int(certificate.not_valid_after_utc.timestamp())
    if start != request.not_before_s:
        yield "another start of validity"
    if end != request.not_after_s:
        yield "another end of validity"
    if end <= start:
        yield "it is never valid"
    if issuer is not None:
        if end > int(issuer.not_valid_after_utc.timestamp()):
            yield "it outlives its issuer"
        if start < int(issuer.not_valid_before_utc.timestamp()):
            yield "it starts before its issuer"


def _extension_set(certificate: x509.Certificate, request: Request) -> Iterator[str]:
    """Exactly the extensions of the profile, with the criticality that RFC 5280 asks for."""
    wanted: dict[type[x509.ExtensionType], bool] = {
        x509.BasicConstraints: True,
        x509.KeyUsage: True,
        x509.SubjectKeyIdentifier: False,
    }
    if request.profile in _USES:
        wanted[x509.ExtendedKeyUsage] = False
    if request.profile not in _ROOTS:
        wanted[x509.AuthorityKeyIdentifier] = False
    if request.uri or request.dns_names or request.ip_addresses:
        wanted[x509.SubjectAlternativeName] = False
    if request.profile is Profile.MESH_INTERMEDIATE:
        wanted[x509.NameConstraints] = True
    found = {type(e.value): e.critical for e in certificate.extensions}
    for kind in wanted.keys() - found.keys():
        yield f"{kind.__name__} is missing"
    for kind in found.keys() - wanted.keys():
        yield f"{kind.__name__} was not asked for"
    for kind in found.keys() & wanted.keys():
        if found[kind] is not wanted[kind]:
            yield f"{kind.__name__} has the wrong criticality"


def _basic_constraints(certificate: x509.Certificate, request: Request) -> Iterator[str]:
    depth = _AUTHORITY_DEPTH.get(request.profile)
    for extension in certificate.extensions:
        if type(extension.value) is x509.BasicConstraints:
            if extension.value.ca is not (depth is not None):
                yield "the authority bit is wrong"
            if extension.value.path_length != depth:
                yield "the path length is wrong"


def _key_usage(certificate: x509.Certificate, request: Request) -> Iterator[str]:
    allowed = {"key_cert_sign", "crl_sign"}
    if request.profile not in _AUTHORITY_DEPTH:
        allowed = {"digital_signature"}
    for extension in certificate.extensions:
        value = extension.value
        if type(value) is x509.KeyUsage and _usages(value) != allowed:
            yield "the key usage is wrong"
        if type(value) is x509.ExtendedKeyUsage:
            uses = list(value)
            if set(uses) != _USES.get(request.profile, set()) or len(set(uses)) != len(uses):
                yield "the extended key usage is wrong"


def _usages(usage: x509.KeyUsage) -> set[str]:
    names = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
    ]
    if usage.key_agreement:
        names += ["encipher_only", "decipher_only"]
    return {name for name in names if getattr(usage, name)}


def _key_identifiers(
    certificate: x509.Certificate, issuer: x509.Certificate | None
) -> Iterator[str]:
    own = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
    for extension in certificate.extensions:
        value = extension.value
        if type(value) is x509.SubjectKeyIdentifier and value.digest != own:
            yield "the subject key identifier is not the key's"
        if type(value) is x509.AuthorityKeyIdentifier and issuer is not None:
            held = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key()).digest
            if value != x509.AuthorityKeyIdentifier(held, None, None):
                yield "the authority key identifier is not the issuer's"
    if issuer is not None and issuer.public_key() == certificate.public_key():
        yield "its key is its issuer's"


def _names(certificate: x509.Certificate, request: Request) -> Iterator[str]:
    """Every name, in every form, neither more nor fewer, and nothing that a C string would cut."""
    found: list[tuple[str, str]] = []
    for extension in certificate.extensions:
        if type(extension.value) is x509.SubjectAlternativeName:
            found += [(type(name).__name__, str(name.value)) for name in extension.value]
    wanted = [("UniformResourceIdentifier", request.uri)] if request.uri else []
    wanted += [("DNSName", name) for name in request.dns_names]
    wanted += [("IPAddress", str(ipaddress.ip_address(a))) for a in request.ip_addresses]
    if sorted(found) != sorted(wanted):
        yield "other names than those authorised"
    for _, text in found:
        if len(text) > MAX_URI or not _VISIBLE.fullmatch(text):
            yield "a name is too long or has characters that are not printable ASCII"


def _confinement(certificate: x509.Certificate, request: Request) -> Iterator[str]:
    if request.profile is not Profile.MESH_INTERMEDIATE:
        return
    for extension in certificate.extensions:
        value = extension.value
        if type(value) is x509.NameConstraints:
            permitted = {(type(n).__name__, n.value) for n in value.permitted_subtrees or ()}
            excluded = {(type(n).__name__, str(n.value)) for n in value.excluded_subtrees or ()}
            if permitted != {
                ("UniformResourceIdentifier", request.trust_domain),
                ("DNSName", "mesh"),
            }:
                yield "it is not confined to its trust domain"
            if excluded != {("IPAddress", "0.0.0.0/0"), ("IPAddress", "::/0")}:
                yield "it may give addresses"
