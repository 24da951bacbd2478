"""What the authority keeps in the store: itself (sealed), trust domain claims, certificates issued.

An authority's record has two sealed bodies: `state` (certificates, intermediate key), opened while
the server runs, and `root_key`, opened for the moment in which it signs an intermediate. The clear
part is for people and never read back.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from limen.adapters.keys import seal, unseal
from limen.adapters.store import AuditEntry, Put
from limen.core.model.resource import ResourceKey
from limen.core.pki.join_token import fingerprint_of
from limen.core.pki.profile import CONTROL_TRUST_DOMAIN
from limen.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.keys import KeyEncryption
    from limen.adapters.store import JsonValue, Record
    from limen.core.pki.builder import SigningKey
    from limen.core.pki.profile import Request

AUTHORITY = "limen.dev/Authority"
TRUST_DOMAIN = "limen.dev/TrustDomain"
CERTIFICATE = "limen.dev/Certificate"
CONTROL = ""
"""The control authority's place among meshes: none has this name."""
_STATE = "state"
_ROOT_KEY = "root-key"


@dataclass(frozen=True, slots=True)
class AuthoritySpec:
    """What an authority is made for and of. It stays as it was made."""

    mesh: str
    trust_domain: str
    rsa_bits: int | None
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class AuthorityState:
    """An authority that is open for work: everything but its root's key. Certificates are DER."""

    spec: AuthoritySpec
    root: bytes
    intermediate: bytes
    intermediate_key: SigningKey = field(repr=False)
    revision: int = 0
    """The record's; 0 if it is not stored yet."""

    @property
    def issuer_key_id(self) -> str:
        """Subject key identifier of the intermediate, hex."""
        return key_id_of(self.intermediate)


def authority_key(mesh: str) -> ResourceKey:
    """Where the authority of a mesh (or `CONTROL`) is stored."""
    return ResourceKey(AUTHORITY, mesh, "", "mesh" if mesh else "control")


def trust_domain_key(trust_domain: str) -> ResourceKey:
    """Where the claim on a trust domain is stored: one record, so one owner."""
    return ResourceKey(TRUST_DOMAIN, "", "", trust_domain)


@lru_cache(maxsize=64)
def key_id_of(certificate_der: bytes) -> str:
    """Subject key identifier of an authority's certificate, hex."""
    certificate = x509.load_der_x509_certificate(certificate_der)
    held = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return held.value.digest.hex()


@lru_cache(maxsize=64)
def validity_of(certificate_der: bytes) -> tuple[int, int]:
    """Not before and not after, seconds since 1970."""
    certificate = x509.load_der_x509_certificate(certificate_der)
    return (
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
    )


async def to_body(
    kek: KeyEncryption, state: AuthorityState, sealed_root_key: JsonValue
) -> dict[str, JsonValue]:
    """The record's body. `sealed_root_key` is passed on as it was: the root's key stays closed."""
    spec = state.spec
    secret = {
        "mesh": spec.mesh,
        "trust_domain": spec.trust_domain,
        "rsa_bits": spec.rsa_bits,
        "lifetime_s": spec.lifetime_s,
        "root": _text(state.root),
        "intermediate": _text(state.intermediate),
        "intermediate_key": _text(key_to_der(state.intermediate_key)),
    }
    name = str(authority_key(spec.mesh))
    return {
        "trust_domain": spec.trust_domain,
        "root_sha256": fingerprint_of(state.root),
        "root_not_after_s": validity_of(state.root)[1],
        "intermediate_key_id": state.issuer_key_id,
        "intermediate_not_after_s": validity_of(state.intermediate)[1],
        "state": await seal(kek, name, _STATE, json.dumps(secret).encode()),
        "root_key": sealed_root_key,
    }


async def from_record(kek: KeyEncryption, record: Record) -> AuthorityState:
    """Open a stored authority. Raises Untrusted (`wrong-kek`, `sealed-broken`)."""
    secret = json.loads(await unseal(kek, str(record.key), _STATE, _sealed(record, "state")))
    if secret["mesh"] != record.key.mesh:
        raise Untrusted(f"{record.key} holds another mesh's authority", code="sealed-broken")
    return AuthorityState(
        AuthoritySpec(
            secret["mesh"], secret["trust_domain"], secret["rsa_bits"], secret["lifetime_s"]
        ),
        _bytes(secret["root"]),
        _bytes(secret["intermediate"]),
        key_from_der(_bytes(secret["intermediate_key"])),
        record.revision,
    )


async def seal_root_key(kek: KeyEncryption, mesh: str, key: SigningKey) -> JsonValue:
    """The root's key as it is stored."""
    return await seal(kek, str(authority_key(mesh)), _ROOT_KEY, key_to_der(key))


async def open_root_key(kek: KeyEncryption, record: Record) -> SigningKey:
    """The root's key, for one signature: do not keep it. Raises Untrusted."""
    der = await unseal(kek, str(record.key), _ROOT_KEY, _sealed(record, "root_key"))
    return key_from_der(der)


def key_to_der(key: SigningKey) -> bytes:
    """PKCS #8, not encrypted: seal it before it goes anywhere."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def key_from_der(der: bytes) -> SigningKey:
    """Read `key_to_der`'s result. Raises Untrusted for any other kind of key."""
    key = load_der_private_key(der, None)
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise Untrusted("an authority's key is neither ECDSA nor RSA", code="sealed-broken")
    return key


def certificate_writes(
    request: Request,
    certificate_der: bytes,
    *,
    mesh: str,
    namespace: str,
    about: Mapping[str, JsonValue],
    actor: str,
    time_s: float,
) -> tuple[Put, AuditEntry]:
    """The record of an issued certificate, and the audit entry that goes with it.

    `about` says for whom: instance, node.
    """
    serial = f"{request.serial:x}"
    body: dict[str, JsonValue] = {
        "profile": request.profile.value,
        "serial": serial,
        "issuer_key_id": key_id_of(request.issuer) if request.issuer else "",
        "spiffe_id": request.uri,
        "dns_names": list(request.dns_names),
        "not_before_s": request.not_before_s,
        "not_after_s": request.not_after_s,
        "sha256": fingerprint_of(certificate_der),
        **about,
    }
    key = ResourceKey(CERTIFICATE, mesh, namespace, serial)
    entry = AuditEntry(time_s, actor, "issue", CERTIFICATE, mesh, namespace, serial, body)
    return Put(key, body, expected=0), entry


def control_spec(lifetime_s: int) -> AuthoritySpec:
    """The control authority: P-256, its own trust domain."""
    return AuthoritySpec(CONTROL, CONTROL_TRUST_DOMAIN, None, lifetime_s)


def _sealed(record: Record, name: str) -> Mapping[str, JsonValue]:
    sealed = record.body.get(name)
    if not isinstance(sealed, dict):
        raise Untrusted(f"{record.key} has no sealed {name}", code="sealed-broken")
    return sealed


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
