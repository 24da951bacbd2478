"""Secrets: what is read of them, what is refused, and that nothing of a key is ever shown."""

from __future__ import annotations

import datetime as dt
from base64 import b64encode
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_pem_x509_certificates
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.core.dialects.documents import one, read
from tests.core.dialects.gateway_documents import (
    NOW,
    certificate,
    edge_is_on,
    key,
    pem,
    secret,
)

from limen.core.dialects import expired, parse_documents
from limen.core.model.secret import Secret

pytestmark = pytest.mark.usefixtures(edge_is_on.__name__)

ROOT, MIDDLE, LEAF, OTHER = key(1), key(2), key(3), key(4)
ROOT_CERT = certificate(ROOT, ca=True, subject="root", names=())
MIDDLE_CERT = certificate(MIDDLE, ROOT, ca=True, subject="middle", names=())
LEAF_CERT = certificate(LEAF, MIDDLE, ("MyApp.mycompany.de", "*.b.example"), signed_by="middle")
CHAIN = pem(LEAF_CERT, MIDDLE_CERT, ROOT_CERT)
PAIR = {"tls.crt": CHAIN, "tls.key": pem(LEAF)}


def spec(text: str) -> Secret:
    found = one(text).spec
    assert isinstance(found, Secret)
    return found


def test_pair_of_a_server() -> None:
    pair = spec(secret(PAIR)).pair
    assert pair is not None
    assert pair.names == ("myapp.mycompany.de", "*.b.example")
    assert (pair.key_kind, pair.fingerprint) == ("EC", LEAF_CERT.fingerprint(hash_of()).hex())
    assert pair.not_after_s == int((NOW + dt.timedelta(days=30)).timestamp())
    assert load_pem_x509_certificates(pair.chain_pem) == [LEAF_CERT, MIDDLE_CERT, ROOT_CERT]
    revealed = load_pem_private_key(pair.key.reveal(), None)
    assert isinstance(revealed, ec.EllipticCurvePrivateKey)
    assert revealed.private_numbers() == LEAF.private_numbers()


def hash_of() -> object:
    algorithm = LEAF_CERT.signature_hash_algorithm
    assert algorithm is not None
    return algorithm


def test_the_validity_of_a_chain_is_that_of_its_shortest_certificate() -> None:
    short = certificate(MIDDLE, ROOT, ca=True, subject="middle", names=(), days=(-3, 2))
    pair = spec(secret({"tls.crt": pem(LEAF_CERT, short), "tls.key": pem(LEAF)})).pair
    assert pair is not None
    assert pair.not_after_s == int((NOW + dt.timedelta(days=2)).timestamp())
    assert pair.not_before_s == int((NOW - dt.timedelta(days=1)).timestamp())


def test_authorities_alone_and_beside_a_pair() -> None:
    alone = spec(secret({"ca.crt": pem(ROOT_CERT, MIDDLE_CERT)}, "Opaque"))
    both = spec(secret({**PAIR, "ca.crt": pem(ROOT_CERT)}))
    assert alone.pair is None
    assert alone.authorities is not None
    assert load_pem_x509_certificates(alone.authorities.bundle_pem) == [ROOT_CERT, MIDDLE_CERT]
    assert both.pair is not None
    assert both.authorities is not None


def test_names_of_istios_generic_secret_mean_the_same() -> None:
    generic = {"cert": CHAIN, "key": pem(LEAF), "cacert": pem(ROOT_CERT)}
    full = {**PAIR, "ca.crt": pem(ROOT_CERT)}
    assert spec(secret(generic, "Opaque")) == spec(secret(full, "Opaque"))


def test_values_may_be_written_as_they_are() -> None:
    indented = pem(LEAF).decode().replace("\n", "\n    ")
    text = secret({"tls.crt": CHAIN}) + f"stringData:\n  tls.key: |\n    {indented}\n"
    assert spec(text) == spec(secret(PAIR))


def test_base64_may_be_broken_over_lines() -> None:
    lines = b64encode(CHAIN).decode()
    folded = "\n".join(f"    {lines[at : at + 76]}" for at in range(0, len(lines), 76))
    text = secret({"tls.key": pem(LEAF)}) + f"  tls.crt: |\n{folded}\n"
    assert spec(text) == spec(secret(PAIR))


@pytest.mark.parametrize("size", [2048, 3072])
def test_rsa_key_is_read(size: int) -> None:
    own = rsa.generate_private_key(65537, size)
    pair = spec(secret({"tls.crt": pem(certificate(own)), "tls.key": pem(own)})).pair
    assert pair is not None
    assert pair.key_kind == "RSA"


def test_traditional_form_of_a_key_is_read() -> None:
    old = LEAF.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert spec(secret({**PAIR, "tls.key": old})) == spec(secret(PAIR))


SMALL = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it must be refused
ED = ed25519.Ed25519PrivateKey.generate()
ODD = ec.generate_private_key(ec.SECP256K1())
ENCRYPTED = LEAF.private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2")
)
CLIENT = certificate(LEAF, ROOT, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
TLS, OPAQUE = "kubernetes.io/tls", "Opaque"


def pkcs8(own: object) -> bytes:
    assert isinstance(own, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey)
    return own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


REFUSED = [
    ({}, TLS, ["missing-field", "missing-field"], "the entry tls.crt is missing"),
    ({}, OPAQUE, ["missing-field"], "there is no entry"),
    ({"tls.crt": CHAIN}, TLS, ["missing-field"], "the entry tls.key is missing"),
    ({"tls.key": pem(LEAF)}, OPAQUE, ["missing-field"], "the entry tls.crt is missing"),
    ({"ca.crt": pem(ROOT_CERT)}, TLS, ["missing-field"] * 2, "the entry tls.crt is missing"),
    ({"password": b"x"}, OPAQUE, ["unknown-field"], "an entry has an unknown name"),
    ({**PAIR, "crl": b"x"}, OPAQUE, ["refused-field"], "crl is not supported"),
    ({**PAIR, "ca.crl": b"x"}, TLS, ["refused-field"], "ca.crl is not supported"),
    ({**PAIR, "tls.ocsp-staple": b"x"}, TLS, ["refused-field"], "tls.ocsp-staple is not supported"),
    (
        {"cert": CHAIN, "key": pem(LEAF)},
        TLS,
        ["conflicting-fields"] * 2,
        "cert cannot be used with kubernetes.io/tls",
    ),
    ({**PAIR, "key": pem(LEAF)}, OPAQUE, ["conflicting-fields"], "key cannot be used with tls.key"),
    ({**PAIR, "tls.key": "!"}, TLS, ["bad-value"], "the value is not base64"),
    ({**PAIR, "tls.key": "QQ"}, TLS, ["bad-value"], "the value is not base64"),
    ({**PAIR, "tls.key": "QQ=="}, TLS, ["bad-private-key"], "there is not exactly one private key"),
    (
        {**PAIR, "tls.crt": b"x" * 300_000},
        TLS,
        ["bad-value"],
        "the value has 300000 bytes; at most 262144 are read",
    ),
    (
        {**PAIR, "tls.key": pem(OTHER)},
        TLS,
        ["key-mismatch"],
        "the key does not belong to the certificate",
    ),
    (
        {**PAIR, "tls.crt": pem(MIDDLE_CERT, LEAF_CERT)},
        TLS,
        ["bad-chain"],
        "the server's certificate is not the first one",
    ),
    (
        {**PAIR, "tls.crt": pem(LEAF_CERT, ROOT_CERT)},
        TLS,
        ["bad-chain"],
        "certificate 1 is not issued by certificate 2",
    ),
    (
        {**PAIR, "tls.crt": pem(LEAF_CERT, MIDDLE_CERT, MIDDLE_CERT)},
        TLS,
        ["bad-chain"],
        "certificate 2 is not issued by certificate 3",
    ),
    (
        {**PAIR, "tls.crt": pem(LEAF_CERT, *[MIDDLE_CERT] * 10)},
        TLS,
        ["bad-certificate"],
        "there are more than 10 certificates",
    ),
    (
        {"tls.crt": pem(MIDDLE_CERT, ROOT_CERT), "tls.key": pem(MIDDLE)},
        TLS,
        ["bad-chain"],
        "the first certificate is an authority's",
    ),
    (
        {**PAIR, "tls.crt": pem(CLIENT)},
        TLS,
        ["bad-certificate"],
        "the certificate is not for servers (no serverAuth among its usages)",
    ),
    (
        {**PAIR, "tls.crt": pem(certificate(LEAF, ROOT, ()))},
        TLS,
        ["bad-certificate"],
        "the certificate names no host (subjectAltName), so no client accepts it",
    ),
    ({**PAIR, "tls.crt": b"hello"}, TLS, ["bad-certificate"], "there is no certificate"),
    (
        {**PAIR, "tls.crt": pem(LEAF)},
        TLS,
        ["bad-certificate"],
        "there is a private key among the certificates",
    ),
    (
        {**PAIR, "tls.crt": CHAIN.replace(b"CERTIFICATE", b"PKCS7")},
        TLS,
        ["bad-certificate"],
        "there is something other than certificates",
    ),
    (
        {**PAIR, "tls.crt": CHAIN[:200] + b"AAAA" + CHAIN[204:]},
        TLS,
        ["bad-certificate"],
        "a certificate cannot be read",
    ),
    (
        {**PAIR, "tls.crt": CHAIN + b"-----BEGIN CERTIFICATE-----\n"},
        TLS,
        ["bad-certificate"],
        None,
    ),
    (
        {**PAIR, "tls.key": ENCRYPTED},
        TLS,
        ["bad-private-key"],
        "the key is encrypted; nobody can enter its password",
    ),
    (
        {**PAIR, "tls.key": pem(LEAF) + pem(OTHER)},
        TLS,
        ["bad-private-key"],
        "there is not exactly one private key",
    ),
    (
        {**PAIR, "tls.key": pem(LEAF)[:60] + b"AAAA" + pem(LEAF)[64:]},
        TLS,
        ["bad-private-key"],
        "the private key cannot be read",
    ),
    (
        {**PAIR, "tls.key": pem(SMALL)},
        TLS,
        ["bad-private-key"],
        "the key is of a kind that the proxies do not serve with",
    ),
    (
        {**PAIR, "tls.key": pkcs8(ED)},
        TLS,
        ["bad-private-key"],
        "the key is of a kind that the proxies do not serve with",
    ),
    (
        {**PAIR, "tls.key": pkcs8(ODD)},
        TLS,
        ["bad-private-key"],
        "the key is of a kind that the proxies do not serve with",
    ),
    (
        {"ca.crt": pem(LEAF_CERT)},
        OPAQUE,
        ["bad-certificate"],
        "certificate 1 is no authority: clients' certificates cannot be judged by it",
    ),
    (
        {"ca.crt": pem(ROOT_CERT, LEAF_CERT)},
        OPAQUE,
        ["bad-certificate"],
        "certificate 2 is no authority: clients' certificates cannot be judged by it",
    ),
    ({**PAIR}, "kubernetes.io/ssh-auth", ["refused-value"], None),
    ({**PAIR}, "kubernetes.io/TLS", ["unknown-value"], None),
]


@pytest.mark.parametrize(("entries", "kind", "codes", "message"), REFUSED)
def test_secret_is_refused(
    entries: dict[str, bytes | str], kind: str, codes: list[str], message: str | None
) -> None:
    resources, diagnostics = read(secret(entries, kind))
    assert not resources
    assert [d.code for d in diagnostics] == codes
    assert message is None or diagnostics[0].message == message
    assert all(d.hint for d in diagnostics)
    nothing_is_shown(" ".join(map(str, diagnostics)))


HEAD = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n"
HIDDEN = b64encode(pem(LEAF)).decode()


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        (f"data: {HIDDEN}\n", "wrong-type"),
        (f"stringData: [{HIDDEN}]\n", "wrong-type"),
        (f"data: {{tls.key: [{HIDDEN}]}}\n", "wrong-type"),
        ("data: {tls.key: 1234567890}\n", "wrong-type"),
        ("data: {tls.key: ''}\n", "wrong-type"),
        ("data: {tls.key: }\n", "wrong-type"),
        ("data:\n", "wrong-type"),
        (f"data: {{{HIDDEN}: x}}\n", "unknown-field"),
        (f"data: {{tls.key: '{HIDDEN}!'}}\n", "bad-value"),
        (f"spec: {{tls.key: {HIDDEN}}}\n", "unknown-field"),
        (f"tls.key: {HIDDEN}\n", "unknown-field"),
        (f"data: {{tls.key: {HIDDEN}}}\nimmutable: true\n", "refused-value"),
    ],
)
def test_nothing_of_a_misplaced_key_is_shown(rest: str, code: str) -> None:
    resources, diagnostics = read(HEAD + rest)
    assert not resources
    assert code in [d.code for d in diagnostics]
    nothing_is_shown(" ".join(map(str, diagnostics)))


def nothing_is_shown(text: str) -> None:
    """No eight characters of a key stand in `text`, in any of its forms."""
    body = "".join(pem(LEAF).decode().splitlines()[1:-1])
    for form in (body, HIDDEN, "1234567890"):
        assert not any(form[at : at + 8] in text for at in range(len(form) - 7))


def test_no_repr_shows_a_key() -> None:
    resource = one(secret(PAIR))
    (document,), _ = parse_documents(secret(PAIR).encode())
    nothing_is_shown(f"{resource} {resource!r} {resource.spec} {document!r} {document}")
    assert isinstance(resource.spec, Secret)
    pair = resource.spec.pair
    assert pair is not None
    nothing_is_shown(f"{pair.key} {pair.key!r} {replace(pair)!r}")
    assert repr(pair.key) == str(pair.key) == "PrivateKeyPem(hidden)"


DAY = 86400
START, END = (int((NOW + dt.timedelta(days=d)).timestamp()) for d in (-1, 30))


@pytest.mark.parametrize(
    ("now_s", "messages"),
    [
        (START, []),
        (END - 1, []),
        (END, ["a certificate expired at 2026-12-22T00:00:00Z"]),
        (END + 900 * DAY, ["a certificate expired at 2026-12-22T00:00:00Z"]),
        (START - 1, ["a certificate is valid only from 2026-11-21T00:00:00Z"]),
    ],
)
def test_certificate_out_of_time_is_an_error(now_s: int, messages: list[str]) -> None:
    found = list(expired([one(secret(PAIR))], now_s))
    prefix = "Secret default:istio-system/mytls-credential: "
    assert [d.message for d in found] == [prefix + message for message in messages]
    assert all(d.code == "expired-certificate" for d in found)
    assert all((d.file, d.line) == ("f.yaml", 1) for d in found)


def test_authorities_that_all_expired_are_an_error() -> None:
    old = certificate(ROOT, ca=True, subject="root", names=(), days=(-9, -2))
    text = secret({"ca.crt": pem(old, ROOT_CERT)}, "Opaque")
    assert not list(expired([one(text)], NOW.timestamp()))
    (finding,) = expired([one(secret({"ca.crt": pem(old)}, "Opaque"))], NOW.timestamp())
    assert "every authority expired, the last at 2026-11-20T00:00:00Z" in finding.message
