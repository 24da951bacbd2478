"""Documents of edge and routing for tests: the kinds switched on, documents around a spec."""

from __future__ import annotations

import datetime as dt
from base64 import b64encode
from functools import cache
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.core.dialects.documents import read

from limen.core.dialects import kinds

if TYPE_CHECKING:
    from limen.core.model.diagnostic import Diagnostic

ISTIO, API = "networking.istio.io/v1", "gateway.networking.k8s.io/v1"
KINDS = {
    "IG": (ISTIO, "Gateway"),
    "VS": (ISTIO, "VirtualService"),
    "DR": (ISTIO, "DestinationRule"),
    "KG": (API, "Gateway"),
    "HR": (API, "HTTPRoute"),
    "GR": (API, "GRPCRoute"),
    "TR": (API, "TLSRoute"),
    "RG": (API, "ReferenceGrant"),
}
NOW = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)


@pytest.fixture
def edge_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kinds are read as they will be once they are enforced."""
    for kind in kinds.EDGE:
        monkeypatch.setitem(kinds.BY_NAME, kind.name, kind)


def document(kind: str, spec: str, version: str = "") -> str:
    """One document of four lines, of namespace `shop`; `kind` is one of `KINDS`."""
    api, name = KINDS[kind]
    return (
        f"apiVersion: {version or api}\nkind: {name}\nmetadata: {{name: p, namespace: shop}}\n"
        f"spec: {spec}\n"
    )


def spec_of(kind: str, spec: str) -> object:
    """What a document that has no finding means."""
    resources, diagnostics = read(document(kind, spec))
    assert not diagnostics, [str(d) for d in diagnostics]
    return resources[0].spec


def found(kind: str, spec: str) -> tuple[Diagnostic, ...]:
    """All findings about a document."""
    return read(document(kind, spec))[1]


Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@cache
def key(number: int = 0) -> Key:
    """A key; the same number gives the same one."""
    del number
    return ec.generate_private_key(ec.SECP256R1())


def certificate(  # noqa: PLR0917 - a table of what differs between the cases
    own: Key,
    issuer: Key | None = None,
    names: tuple[str, ...] = ("myapp.mycompany.de",),
    ca: bool = False,  # noqa: FBT001, FBT002 - as above
    days: tuple[int, int] = (-1, 30),
    subject: str = "leaf",
    signed_by: str = "root",
    usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.SERVER_AUTH,
    algorithm: hashes.HashAlgorithm | None = None,
) -> x509.Certificate:
    """A certificate of `own`, issued by `issuer` (itself if None); `days` from now."""

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(signed_by if issuer else subject))
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + dt.timedelta(days=days[0]))
        .not_valid_after(NOW + dt.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        sans = x509.SubjectAlternativeName([x509.DNSName(n) for n in names])
        builder = builder.add_extension(sans, critical=False)
    if usage is not None and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(issuer or own, algorithm or hashes.SHA256())


def pem(*parts: x509.Certificate | Key) -> bytes:
    """All parts, one after the other."""
    return b"".join(
        part.public_bytes(Encoding.PEM)
        if isinstance(part, x509.Certificate)
        else part.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for part in parts
    )


def secret(entries: dict[str, bytes | str], kind: str = "kubernetes.io/tls") -> str:
    """A Secret whose values are encoded, unless they are texts already."""
    lines = [
        "apiVersion: v1",
        "kind: Secret",
        "metadata: {name: mytls-credential, namespace: istio-system}",
        f"type: {kind}",
        "data:" if entries else "data: {}",
    ]
    for name, value in entries.items():
        text = value if isinstance(value, str) else b64encode(value).decode()
        lines.append(f"  {name}: {text!r}")
    return "\n".join(lines) + "\n"
