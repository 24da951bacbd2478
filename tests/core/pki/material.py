"""Small authorities for tests: real keys, the real builder, every certificate past the judge."""

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from limen.core.pki.builder import SigningKey, build_certificate
from limen.core.pki.judge import verify_issued
from limen.core.pki.profile import BACKDATE_S, Profile, Request, node_uri

NOW = 1_800_000_000
DAY = 86400
TRUST_DOMAIN = "default.mesh.local"
SPIFFE_ID = f"spiffe://{TRUST_DOMAIN}/ns/default/sa/items"
_SERIAL = iter(range(1 << 100, 1 << 101))


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


RSA_KEYS = [rsa.generate_private_key(65537, 2048) for _ in range(2)]


def spki(key: SigningKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def request_for(profile: Profile, key: SigningKey, issuer: bytes = b"", **fields) -> Request:
    defaults = {
        "serial": next(_SERIAL),
        "not_before_s": NOW - BACKDATE_S,
        "not_after_s": NOW + DAY,
    }
    return Request(profile=profile, public_key=spki(key), issuer=issuer, **{**defaults, **fields})


def issue(request: Request, key: SigningKey) -> bytes:
    certificate = build_certificate(request, key)
    verify_issued(certificate, request)
    return certificate


@dataclass(frozen=True)
class Authority:
    root: bytes
    root_key: SigningKey
    intermediate: bytes
    key: SigningKey

    def sign(self, profile: Profile, key: SigningKey | None = None, **fields) -> bytes:
        return issue(request_for(profile, key or new_key(), self.intermediate, **fields), self.key)


def mesh_authority(
    trust_domain: str = TRUST_DOMAIN, *, use_rsa: bool = False, now: int = NOW
) -> Authority:
    root_key, key = RSA_KEYS if use_rsa else (new_key(), new_key())
    fields = {"uri": f"spiffe://{trust_domain}", "trust_domain": trust_domain}
    times = {"not_before_s": now - BACKDATE_S}
    root = issue(
        request_for(
            Profile.MESH_ROOT,
            root_key,
            common_name="mesh root 1",
            not_after_s=now + 3650 * DAY,
            **times,
            **fields,
        ),
        root_key,
    )
    intermediate = issue(
        request_for(
            Profile.MESH_INTERMEDIATE,
            key,
            root,
            common_name="mesh intermediate 1",
            not_after_s=now + 90 * DAY,
            **times,
            **fields,
        ),
        root_key,
    )
    return Authority(root, root_key, intermediate, key)


def control_authority(now: int = NOW) -> Authority:
    root_key, key = new_key(), new_key()
    times = {"not_before_s": now - BACKDATE_S}
    root = issue(
        request_for(
            Profile.CONTROL_ROOT,
            root_key,
            common_name="control root 1",
            not_after_s=now + 3650 * DAY,
            **times,
        ),
        root_key,
    )
    intermediate = issue(
        request_for(
            Profile.CONTROL_INTERMEDIATE,
            key,
            root,
            common_name="control intermediate 1",
            not_after_s=now + 90 * DAY,
            **times,
        ),
        root_key,
    )
    return Authority(root, root_key, intermediate, key)


def workload(authority: Authority, key: SigningKey | None = None, **fields) -> bytes:
    return authority.sign(
        Profile.WORKLOAD,
        key,
        **{"uri": SPIFFE_ID, "dns_names": ("items.default.mesh",), **fields},
    )


def node(authority: Authority, node_id: str = "abcdef0123456789", **fields) -> bytes:
    return authority.sign(Profile.NODE, uri=node_uri(node_id), **fields)


def server(authority: Authority, **fields) -> bytes:
    names = {"dns_names": ("limen.example", "localhost"), "ip_addresses": ("127.0.0.1", "::1")}
    return authority.sign(Profile.SERVER, **{**names, **fields})


def csr_builder(*names: x509.GeneralName) -> x509.CertificateSigningRequestBuilder:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder


def csr_pem(builder: x509.CertificateSigningRequestBuilder, key=None, digest=None) -> str:
    request = builder.sign(key or new_key(), digest or hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode("ascii")
