"""Is this chain good, for this purpose, at this time? For workloads, nodes and servers.

RFC 5280, section 6, cut down to the chains that Limen makes: the leaf first, each certificate
issued by the next, the last one issued by (or being) a trusted root. `cryptography`'s verifier
knows no URI name constraints and refuses them; here they are enforced.

What is returned comes from the leaf that was verified and from nothing else in the chain.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from limen.core.model.names import parse_spiffe_id
from limen.core.pki.profile import is_ip_text, parse_node_uri
from limen.core.pki.reading import UNREADABLE, load_certificate, strict_reading
from limen.errors import InvalidInput, Untrusted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.core.model.names import SpiffeId

MAX_CHAIN = 4
MAX_HOST = 253
MAX_CERTIFICATE_BYTES = 8192
_HINT = "ask the authority for a new certificate, or check whose trust bundle this is"
_CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
_SERVER = ExtendedKeyUsageOID.SERVER_AUTH
_E = TypeVar("_E", bound=x509.ExtensionType)
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
    }
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A verified leaf: its names, and the exact certificate (DER) that was verified."""

    der: bytes = field(repr=False)
    serial: int
    uris: tuple[str, ...]
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    not_before_s: int
    not_after_s: int


def verify_workload_chain(
    chain: Sequence[bytes], roots: Sequence[bytes], trust_domain: str, at_s: float
) -> tuple[SpiffeId, Leaf]:
    """A mesh peer's identity. `chain` DER, leaf first; `roots` DER. Raises Untrusted."""
    leaf = _verify_path(chain, roots, at_s, {_CLIENT, _SERVER})
    identity = parse_identity(leaf)
    if identity.trust_domain != trust_domain:
        raise _untrusted(f"the identity {identity} is not of trust domain {trust_domain}")
    return identity, leaf


def verify_node_chain(
    chain: Sequence[bytes], roots: Sequence[bytes], at_s: float
) -> tuple[str, Leaf]:
    """A node's id. Raises Untrusted."""
    leaf = _verify_path(chain, roots, at_s, {_CLIENT})
    if len(leaf.uris) != 1:
        raise _untrusted(f"the certificate has {len(leaf.uris)} URI names instead of one")
    try:
        return parse_node_uri(leaf.uris[0]), leaf
    except InvalidInput as error:
        raise _untrusted(error.message) from error


def verify_server_chain(
    chain: Sequence[bytes], roots: Sequence[bytes], host: str, at_s: float
) -> Leaf:
    """A server that answers for `host` (DNS name or IP address, no port). Raises Untrusted."""
    leaf = _verify_path(chain, roots, at_s, {_SERVER})
    names = leaf.ip_addresses if is_ip_text(host) else leaf.dns_names
    if _canonical_host(host) not in names:
        raise _untrusted(f"the server's certificate is not for {host[:MAX_HOST]!a}")
    return leaf


def parse_leaf(der: bytes) -> Leaf:
    """The names in a certificate that somebody else has verified (a finished TLS handshake).

    Raises Untrusted if it cannot be read.
    """
    try:
        with strict_reading():
            return _to_leaf(der, _load(der))
    except UNREADABLE:
        raise _untrusted("the certificate cannot be read") from None


def parse_identity(leaf: Leaf) -> SpiffeId:
    """The one SPIFFE ID of a workload's leaf. Raises Untrusted: none, several, malformed."""
    if len(leaf.uris) != 1:
        raise _untrusted(f"the certificate has {len(leaf.uris)} URI names instead of one")
    try:
        return parse_spiffe_id(leaf.uris[0])
    except InvalidInput as error:
        raise _untrusted(error.message) from error


def _canonical_host(host: str) -> str:
    if not is_ip_text(host):
        return host.lower().removesuffix(".")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise _untrusted(f"{host[:MAX_HOST]!a} is not an address") from None


def _verify_path(
    chain: Sequence[bytes],
    roots: Sequence[bytes],
    at_s: float,
    usages: set[x509.ObjectIdentifier],
) -> Leaf:
    if not 1 <= len(chain) <= MAX_CHAIN:
        raise _untrusted(f"the chain has {len(chain)} certificates, not 1 to {MAX_CHAIN}")
    try:
        with strict_reading():
            return _verify_readable(chain, roots, at_s, usages)
    except UNREADABLE:
        raise _untrusted("a certificate in the chain cannot be read") from None


def _verify_readable(
    chain: Sequence[bytes],
    roots: Sequence[bytes],
    at_s: float,
    usages: set[x509.ObjectIdentifier],
) -> Leaf:
    presented = [_load(der) for der in chain]
    path = _to_anchor(presented, [_load(der) for der in roots], at_s)
    if len(path) == 1:
        raise _untrusted("a root is not a leaf")
    _check_leaf(path[0], usages)
    for below, authority in enumerate(path[1:]):
        _check_authority(authority, below)
    for certificate in path:
        _check_common(certificate, at_s)
    for issued, issuer in pairwise(path):
        _check_signature(issued, issuer)
    for position, authority in enumerate(path[1:], 1):
        for issued in path[:position]:
            _check_constraints(issued, authority)
    return _to_leaf(chain[0], path[0])


def _to_anchor(
    presented: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], at_s: float
) -> list[x509.Certificate]:
    """`presented` up to and including a trusted root; what stands above the root is dropped."""
    for length, certificate in enumerate(presented, 1):
        if certificate in roots:
            return list(presented[:length])
    last = presented[-1]
    anchors = [r for r in roots if r.subject == last.issuer and _signed(last, r)]
    anchors.sort(key=lambda r: not _valid_at(r, at_s))
    if not anchors:
        raise _untrusted("no trusted root has issued this chain")
    return [*presented, anchors[0]]


def _check_leaf(leaf: x509.Certificate, usages: set[x509.ObjectIdentifier]) -> None:
    constraints = _extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise _untrusted("the leaf is an authority's certificate")
    usage = _extension(leaf, x509.KeyUsage)
    if usage is None or not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
        raise _untrusted("the leaf's key usage is not digital signature alone")
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if extended is None or not usages <= set(extended):
        raise _untrusted("the leaf may not be used for this (extended key usage)")


def _check_authority(authority: x509.Certificate, authorities_below: int) -> None:
    constraints = _extension(authority, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise _untrusted("a certificate in the chain is not an authority's")
    if constraints.path_length is not None and constraints.path_length < authorities_below:
        raise _untrusted("the chain is longer than its authority allows")
    usage = _extension(authority, x509.KeyUsage)
    if usage is None or not usage.key_cert_sign:
        raise _untrusted("an authority in the chain may not sign certificates")


def _check_common(certificate: x509.Certificate, at_s: float) -> None:
    if not _valid_at(certificate, at_s):
        start, end = _validity(certificate)
        problem = "has expired" if at_s >= end else f"is not valid before {start}"
        raise _untrusted(f"a certificate in the chain {problem} (now {at_s:.0f}, until {end})")
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise _untrusted(f"unknown critical extension {extension.oid.dotted_string}")


def _check_signature(issued: x509.Certificate, issuer: x509.Certificate) -> None:
    if not isinstance(issued.signature_hash_algorithm, hashes.SHA256):
        raise _untrusted("a certificate in the chain is not signed with SHA-256")
    if not _signed(issued, issuer):
        raise _untrusted("a certificate in the chain was not issued by the next one")
    held = _extension(issuer, x509.SubjectKeyIdentifier)
    named = _extension(issued, x509.AuthorityKeyIdentifier)
    if held is not None and named is not None and named.key_identifier != held.digest:
        raise _untrusted("a certificate in the chain names another issuer key")


def _check_constraints(issued: x509.Certificate, authority: x509.Certificate) -> None:
    constraints = _extension(authority, x509.NameConstraints)
    names = _extension(issued, x509.SubjectAlternativeName)
    if constraints is None or names is None:
        return
    for name in names:
        permitted = [t for t in constraints.permitted_subtrees or () if type(t) is type(name)]
        excluded = [t for t in constraints.excluded_subtrees or () if type(t) is type(name)]
        if permitted and not any(_within(name, tree) for tree in permitted):
            raise _untrusted("a name in the chain lies outside what its authority is confined to")
        if any(_within(name, tree) for tree in excluded):
            raise _untrusted("a name in the chain is one that its authority may not give")


def _within(name: x509.GeneralName, tree: x509.GeneralName) -> bool:
    """RFC 5280, 4.2.1.10. An unknown form raises: it cannot be judged."""
    if isinstance(name, x509.UniformResourceIdentifier):
        host = name.value.partition("://")[2].partition("/")[0].partition(":")[0].lower()
        base = str(tree.value).lower()
        return host.endswith(base) if base.startswith(".") else host == base
    if isinstance(name, x509.DNSName):
        base = str(tree.value).lower()
        return name.value.lower() == base or name.value.lower().endswith(f".{base}")
    if isinstance(name, x509.IPAddress):
        return name.value in tree.value
    raise _untrusted(f"a name of kind {type(name).__name__} cannot be judged")


def _signed(issued: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        issued.verify_directly_issued_by(issuer)
    except InvalidSignature:
        return False
    except UNREADABLE:  # the issuer's name or key is of another kind
        return False
    return True


def _load(der: bytes) -> x509.Certificate:
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise _untrusted(f"a certificate is longer than {MAX_CERTIFICATE_BYTES} bytes")
    return load_certificate(der)


def _extension(certificate: x509.Certificate, kind: type[_E]) -> _E | None:
    for extension in certificate.extensions:
        if isinstance(extension.value, kind):
            return extension.value
    return None


def _validity(certificate: x509.Certificate) -> tuple[int, int]:
    return (
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
    )


def _valid_at(certificate: x509.Certificate, at_s: float) -> bool:
    start, end = _validity(certificate)
    return start <= at_s < end


def _to_leaf(der: bytes, certificate: x509.Certificate) -> Leaf:
    names = _extension(certificate, x509.SubjectAlternativeName)
    start, end = _validity(certificate)
    return Leaf(
        der=der,
        serial=certificate.serial_number,
        uris=_values(names, x509.UniformResourceIdentifier),
        dns_names=_values(names, x509.DNSName),
        ip_addresses=_values(names, x509.IPAddress),
        not_before_s=start,
        not_after_s=end,
    )


def _values(
    names: x509.SubjectAlternativeName | None, kind: type[x509.GeneralName]
) -> tuple[str, ...]:
    return tuple(str(n.value) for n in names if isinstance(n, kind)) if names else ()


def _untrusted(message: str) -> Untrusted:
    return Untrusted(message, code="certificate-untrusted", hint=_HINT)
