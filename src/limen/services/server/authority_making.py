"""Making authorities: a root, an intermediate below it, and every certificate past the judge.

`certify` is the only place where a certificate is signed. It hands out nothing that the judge has
not compared with what was authorised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from limen.core.pki.builder import build_certificate
from limen.core.pki.judge import verify_issued
from limen.core.pki.profile import BACKDATE_S, Profile, Request
from limen.errors import Unavailable
from limen.services.server.authority_records import CONTROL, validity_of

if TYPE_CHECKING:
    import random

    from limen.core.pki.builder import SigningKey
    from limen.services.server.authority_records import AuthoritySpec

CA_LIFETIME_S = 10 * 365 * 86400
INTERMEDIATE_LIFETIME_S = 90 * 86400
"""Or twice the leaf's life, if that is longer: an intermediate is replaced at half of it."""
MIN_REMAINING_S = 60
_SERIAL_BITS = 127


def certify(request: Request, issuer_key: SigningKey) -> bytes:
    """Sign and judge; the certificate (DER). Raises Untrusted (`certificate-misissued`)."""
    certificate = build_certificate(request, issuer_key)
    verify_issued(certificate, request)
    return certificate


def new_serial(rng: random.Random) -> int:
    """126 random bits, always the same length (RFC 5280, 4.1.2.2)."""
    return 1 << (_SERIAL_BITS - 1) | rng.getrandbits(_SERIAL_BITS - 1)


def make_key(rsa_bits: int | None) -> SigningKey:
    """A fresh authority key. RSA takes up to seconds: call it in a thread."""
    if rsa_bits is None:
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, rsa_bits)


def spki_of(key: SigningKey) -> bytes:
    """SubjectPublicKeyInfo (DER)."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def make_root(
    spec: AuthoritySpec, key: SigningKey, now_s: int, serial: int
) -> tuple[bytes, Request]:
    """A self-signed root (DER) and its request."""
    control = spec.mesh == CONTROL
    profile = Profile.CONTROL_ROOT if control else Profile.MESH_ROOT
    request = Request(
        profile,
        spki_of(key),
        b"",
        serial,
        now_s - BACKDATE_S,
        now_s + spec.lifetime_s,
        common_name=_common_name(profile, serial),
        uri="" if control else f"spiffe://{spec.trust_domain}",
        trust_domain="" if control else spec.trust_domain,
    )
    return certify(request, key), request


def make_intermediate(
    spec: AuthoritySpec,
    root: tuple[bytes, SigningKey],
    public_key: bytes,
    times_s: tuple[int, int],
    serial: int,
) -> tuple[bytes, Request]:
    """An intermediate for `public_key` below `root` (certificate and key), and its request.

    `times_s`: now, and how long a leaf shall be able to live.

    Raises Unavailable (`authority-expired`, `clock-backwards`) if the root cannot sign now.
    """
    root_certificate, root_key = root
    now_s, need_s = times_s
    start, end = validity_of(root_certificate)
    check_open(spec.mesh, start, end, now_s)
    control = spec.mesh == CONTROL
    profile = Profile.CONTROL_INTERMEDIATE if control else Profile.MESH_INTERMEDIATE
    request = Request(
        profile,
        public_key,
        root_certificate,
        serial,
        max(now_s - BACKDATE_S, start),
        min(now_s + max(INTERMEDIATE_LIFETIME_S, 2 * need_s), end),
        common_name=_common_name(profile, serial),
        uri="" if control else f"spiffe://{spec.trust_domain}",
        trust_domain="" if control else spec.trust_domain,
    )
    return certify(request, root_key), request


def is_due(root: bytes, intermediate: bytes, now_s: int, need_s: int) -> bool:
    """Whether a new intermediate is needed for a leaf that shall live `need_s`.

    Half of its life is over, the clock is before it, or a longer one could serve the leaf.
    """
    start, end = validity_of(intermediate)
    in_first_half = start <= now_s < start + (end - start) // 2
    too_short = now_s + need_s > end and end < validity_of(root)[1]
    return not in_first_half or too_short


def check_open(mesh: str, start_s: int, end_s: int, now_s: int) -> None:
    """Raise Unavailable if an authority valid from `start_s` to `end_s` cannot sign at `now_s`."""
    name = f"the authority of mesh {mesh}" if mesh else "the control authority"
    if now_s < start_s:
        raise Unavailable(
            f"{name} is valid from {start_s}, but the clock says {now_s}",
            code="clock-backwards",
            hint="the server's clock was set back: correct it",
        )
    if now_s + MIN_REMAINING_S > end_s:
        raise Unavailable(
            f"{name} ended at {end_s}, the clock says {now_s}",
            code="authority-expired",
            hint="check the clock; if it is right, make a new mesh and move the workloads",
        )


def _common_name(profile: Profile, serial: int) -> str:
    """Unique per certificate, so that path builders never mix up two of one kind."""
    return f"{profile.value.replace('-', ' ')} {serial & 0xFFFFFFFF:08x}"
