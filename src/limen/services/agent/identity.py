"""A workload's or node's certificate and key: asked for, checked on arrival, timed for renewal.

Keys are ECDSA P-256, made here, and held in memory. The authority sees requests only.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from limen.core.model.names import parse_spiffe_id
from limen.core.pki.chain import verify_workload_chain
from limen.core.pki.pem import parse_certificates
from limen.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Svid:
    """An X.509-SVID with its key. Times are seconds since the epoch. The key is never printed."""

    spiffe_id: str
    certificate_pem: str
    bundle_pem: str
    not_after_s: float
    renew_at_s: float
    key_pem: str = field(repr=False)

    @property
    def outage_budget_s(self) -> float:
        """How long the server may be away, from the moment of renewal, without any effect."""
        return max(0.0, self.not_after_s - self.renew_at_s)

    def expired(self, now_s: float) -> bool:
        """An expired certificate is never used."""
        return now_s >= self.not_after_s


def make_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """PKCS #8, not encrypted: for memory, SDS and sealed files only."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def build_request(
    key: ec.EllipticCurvePrivateKey, spiffe_id: str = "", dns_names: Sequence[str] = ()
) -> str:
    """PEM certificate request. With `spiffe_id`: exactly one URI SAN, and the DNS names."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if spiffe_id:
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id)]
        names += [x509.DNSName(name) for name in dns_names]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    request = builder.sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def accept_svid(
    key: ec.EllipticCurvePrivateKey,
    spiffe_id: str,
    certificate_pem: str,
    bundle_pem: str,
    times_s: tuple[float, float],
) -> Svid:
    """Check what the authority returned, and keep it. `times_s`: not after, renew at.

    Raises Untrusted when the leaf is for another key, carries another identity, is expired, or
    does not chain to the bundle. The certificate's own end wins over what was said beside it.
    """
    wanted = parse_spiffe_id(spiffe_id)
    chain = parse_certificates(certificate_pem)
    roots = parse_certificates(bundle_pem)
    identity, leaf = verify_workload_chain(chain, roots, wanted.trust_domain, time.time())
    if identity != wanted:
        raise Untrusted(f"the server's certificate is not for {spiffe_id}", code="bad-svid")
    if x509.load_der_x509_certificate(leaf.der).public_key() != key.public_key():
        raise Untrusted("the server certified another key", code="bad-svid")
    not_after_s, renew_at_s = times_s
    not_after_s = min(not_after_s, float(leaf.not_after_s))
    renew_at_s = min(renew_at_s, not_after_s)
    return Svid(spiffe_id, certificate_pem, bundle_pem, not_after_s, renew_at_s, key_to_pem(key))


def pem_to_der(pem: str) -> bytes:
    """Certificates one after another, DER."""
    return b"".join(parse_certificates(pem))


def key_to_der(pem: str) -> bytes:
    """PKCS #8 DER of a PEM key."""
    key = serialization.load_pem_private_key(pem.encode(), None)
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate_times(pem: str) -> tuple[float, float]:
    """Not before and not after of the first certificate, seconds since the epoch."""
    leaf = x509.load_pem_x509_certificates(pem.encode())[0]
    return leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()


async def sleep_until(wall_s: float) -> None:
    """Sleep until that time of the wall clock, in steps: it may be set, and the host suspended."""
    while (left := wall_s - time.time()) > 0:  # noqa: ASYNC110 - time is what is waited for
        await asyncio.sleep(min(left, 30.0))
