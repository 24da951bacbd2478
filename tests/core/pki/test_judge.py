import ipaddress
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.pki.material import (
    DAY,
    NOW,
    RSA_KEYS,
    SPIFFE_ID,
    control_authority,
    mesh_authority,
    new_key,
    node,
    request_for,
    server,
    spki,
    workload,
)

from limen.core.pki import judge
from limen.core.pki.builder import build_certificate
from limen.core.pki.judge import verify_issued
from limen.core.pki.profile import Profile, node_uri
from limen.errors import Untrusted

MESH = mesh_authority()
CONTROL = control_authority()
KEY = new_key()
REQUEST = request_for(
    Profile.WORKLOAD, KEY, MESH.intermediate, uri=SPIFFE_ID, dns_names=("items.default.mesh",)
)
GOOD = build_certificate(REQUEST, MESH.key)
URI = x509.UniformResourceIdentifier


def violations(certificate: bytes, request=REQUEST) -> str:
    with pytest.raises(Untrusted) as caught:
        verify_issued(certificate, request)
    assert caught.value.code == "certificate-misissued"
    return caught.value.message


def remade(
    *,
    change=None,
    drop=(),
    add=(),
    flip=(),
    key=MESH.key,
    digest=None,
    of=GOOD,
    **fields,
) -> bytes:
    """The certificate `of`, signed again with some of it changed."""
    old = x509.load_der_x509_certificate(of)
    values = {
        "issuer_name": old.issuer,
        "subject_name": old.subject,
        "public_key": old.public_key(),
        "serial_number": old.serial_number,
        "not_valid_before": old.not_valid_before_utc.replace(tzinfo=None),
        "not_valid_after": old.not_valid_after_utc.replace(tzinfo=None),
        **fields,
    }
    builder = x509.CertificateBuilder(**values)
    for extension in old.extensions:
        kind = type(extension.value)
        if kind in drop:
            continue
        value = (change or {}).get(kind, extension.value)
        builder = builder.add_extension(value, extension.critical is not (kind in flip))
    for value in add:
        builder = builder.add_extension(value, critical=False)
    return builder.sign(key, digest or hashes.SHA256()).public_bytes(Encoding.DER)


def sans(*names: x509.GeneralName) -> dict:
    return {x509.SubjectAlternativeName: x509.SubjectAlternativeName(names)}


def usage(*on: str) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in on for name in names})


def name_of(organisation: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation)])


def test_what_was_authorised_passes():
    verify_issued(GOOD, REQUEST)
    verify_issued(remade(), REQUEST)


@pytest.mark.parametrize("use_rsa", [False, True])
def test_every_profile_passes_its_own_judge(use_rsa):
    workload(mesh_authority(use_rsa=use_rsa))
    node(CONTROL)
    server(CONTROL)


OTHER = mesh_authority("other.mesh.local")
ITEMS = (URI(SPIFFE_ID), x509.DNSName("items.default.mesh"))
MUTANTS = {
    "CA bit": {"change": {x509.BasicConstraints: x509.BasicConstraints(True, None)}},
    "CA bit, no depth": {"change": {x509.BasicConstraints: x509.BasicConstraints(True, 0)}},
    "second URI": {"change": sans(*ITEMS, URI(SPIFFE_ID + "x"))},
    "another URI": {"change": sans(URI(SPIFFE_ID + "x"), ITEMS[1])},
    "no URI": {"change": sans(ITEMS[1])},
    "another DNS name": {"change": sans(ITEMS[0], x509.DNSName("users.default.mesh"))},
    "extra DNS name": {"change": sans(*ITEMS, x509.DNSName("users.default.mesh"))},
    "wildcard": {"change": sans(*ITEMS, x509.DNSName("*.default.mesh"))},
    "name twice": {"change": sans(*ITEMS, ITEMS[1])},
    "address": {"change": sans(*ITEMS, x509.IPAddress(ipaddress.ip_address("10.0.0.1")))},
    "mail": {"change": sans(*ITEMS, x509.RFC822Name("a@b.c"))},
    "NUL": {"change": sans(URI(SPIFFE_ID + "\0"), ITEMS[1])},
    "signing usage": {"change": {x509.KeyUsage: usage("digital_signature", "key_cert_sign")}},
    "more usage": {"change": {x509.KeyUsage: usage("digital_signature", "key_encipherment")}},
    "encipher only": {
        "change": {x509.KeyUsage: usage("digital_signature", "key_agreement", "encipher_only")}
    },
    "any extended usage": {
        "change": {
            x509.ExtendedKeyUsage: x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]
            )
        }
    },
    "less extended usage": {
        "change": {x509.ExtendedKeyUsage: x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])}
    },
    "another SKI": {"change": {x509.SubjectKeyIdentifier: x509.SubjectKeyIdentifier(b"x" * 20)}},
    "another AKI": {
        "change": {x509.AuthorityKeyIdentifier: x509.AuthorityKeyIdentifier(b"x" * 20, None, None)}
    },
    "no SAN": {"drop": (x509.SubjectAlternativeName,)},
    "no usage": {"drop": (x509.KeyUsage,)},
    "no extended usage": {"drop": (x509.ExtendedKeyUsage,)},
    "no constraints": {"drop": (x509.BasicConstraints,)},
    "no AKI": {"drop": (x509.AuthorityKeyIdentifier,)},
    "no SKI": {"drop": (x509.SubjectKeyIdentifier,)},
    "extra extension": {"add": (x509.TLSFeature([x509.TLSFeatureType.status_request]),)},
    "unknown extension": {
        "add": (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\0"),)
    },
    "uncritical usage": {"flip": (x509.KeyUsage,)},
    "uncritical constraints": {"flip": (x509.BasicConstraints,)},
    "critical SAN": {"flip": (x509.SubjectAlternativeName,)},
    "another key": {"public_key": new_key().public_key()},
    "another curve": {"public_key": ec.generate_private_key(ec.SECP384R1()).public_key()},
    "RSA leaf": {"public_key": RSA_KEYS[0].public_key()},
    "issuer's key": {"public_key": MESH.key.public_key()},
    "another serial": {"serial_number": 4711},
    "another subject": {"subject_name": name_of("Evil")},
    "another issuer name": {"issuer_name": name_of("Evil")},
    "another issuer key": {"key": OTHER.key},
    "root's key": {"key": MESH.root_key},
    "SHA-384": {"digest": hashes.SHA384()},
}


@pytest.mark.parametrize("how", MUTANTS.values(), ids=MUTANTS.keys())
def test_a_changed_certificate_is_noticed(how):
    assert violations(remade(**how))


@pytest.mark.parametrize("seconds", [-DAY, -1, 1, DAY])
@pytest.mark.parametrize("end", ["not_valid_before", "not_valid_after"])
def test_shifted_dates_are_noticed(end, seconds):
    old = x509.load_der_x509_certificate(GOOD)
    moment = getattr(old, f"{end}_utc").replace(tzinfo=None) + timedelta(seconds=seconds)
    assert "validity" in violations(remade(**{end: moment}))


def test_all_violations_are_listed_at_once():
    message = violations(
        remade(
            change={x509.BasicConstraints: x509.BasicConstraints(True, None), **sans(ITEMS[1])},
            serial_number=4711,
            public_key=new_key().public_key(),
        )
    )
    for part in ("serial", "authority bit", "names", "public key"):
        assert part in message


@settings(max_examples=400, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(position, mask):
    mutated = bytearray(GOOD)
    mutated[position] ^= mask
    violations(bytes(mutated))


def test_unused_bits_in_the_signature_are_refused():
    """One signature, two encodings: found by the test above."""
    signature = x509.load_der_x509_certificate(GOOD).signature
    for bits in (1, 7):
        mutated = GOOD[: -len(signature) - 1] + bytes([bits]) + signature
        violations(mutated[:-1] + bytes([mutated[-1] >> bits << bits]))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_is_refused(data):
    violations(data)


def test_trailing_bytes_are_refused():
    violations(GOOD + b"\0")


# --- requests that nobody may make, even if the builder obeys -------------------------------------


def built(request, key=MESH.key) -> str:
    return violations(build_certificate(request, key), request)


def test_an_identity_of_another_trust_domain_is_refused():
    """Zone or mesh speaks for another (Kuma 2026-18674)."""
    foreign = SPIFFE_ID.replace("default.mesh.local", "other.mesh.local")
    assert "another trust domain" in built(replace(REQUEST, uri=foreign))
    lookalike = SPIFFE_ID.replace("default.mesh.local", "default.mesh.local.evil")
    assert "another trust domain" in built(replace(REQUEST, uri=lookalike))


@pytest.mark.parametrize(
    "uri", ["", "spiffe://default.mesh.local", "spiffe://default.mesh.local/ns/a/sa/../b", "x"]
)
def test_an_identity_of_another_shape_is_refused(uri):
    assert built(replace(REQUEST, uri=uri))


@pytest.mark.parametrize("name", ["*.default.mesh", "UPPER.mesh", "a..b", "-", "a b", "10.0.0.1\0"])
def test_a_dns_name_of_another_shape_is_refused(name):
    assert built(replace(REQUEST, dns_names=(name,)))


def test_a_leaf_that_outlives_or_predates_its_issuer_is_refused():
    assert "outlives" in built(replace(REQUEST, not_after_s=NOW + 91 * DAY))
    assert "before its issuer" in built(replace(REQUEST, not_before_s=NOW - DAY))


def test_a_leaf_that_is_never_valid_is_refused():
    assert "never valid" in violations(
        remade(
            not_valid_after=x509.load_der_x509_certificate(GOOD).not_valid_before_utc.replace(
                tzinfo=None
            )
        ),
        replace(REQUEST, not_after_s=REQUEST.not_before_s),
    )


def test_a_workload_is_not_issued_by_a_root_nor_by_the_control_authority():
    assert "authority for this kind" in built(replace(REQUEST, issuer=MESH.root), MESH.root_key)
    assert "another trust domain" in built(
        replace(REQUEST, issuer=CONTROL.intermediate), CONTROL.key
    )


def test_a_node_is_not_issued_by_a_mesh():
    request = request_for(Profile.NODE, KEY, MESH.intermediate, uri=node_uri("abcdefgh"))
    assert "another trust domain" in built(request)


def test_a_node_or_server_gets_only_its_own_kind_of_names():
    key = CONTROL.key
    base = request_for(Profile.NODE, KEY, CONTROL.intermediate, uri=node_uri("abcdefgh"))
    assert "DNS" in built(replace(base, dns_names=("limen.example",)), key)
    assert "addresses" in built(replace(base, ip_addresses=("127.0.0.1",)), key)
    assert built(replace(base, uri="spiffe://limen.control/server/x"), key)
    both = replace(base, profile=Profile.SERVER, dns_names=("limen.example",))
    assert "no URI" in built(both, key)


def test_an_authority_is_named_and_carries_its_own_trust_domain():
    key = new_key()
    base = request_for(Profile.MESH_ROOT, key, common_name="r", uri="spiffe://a", trust_domain="a")
    verify_issued(build_certificate(base, key), base)
    assert "has a name" in built(replace(base, common_name=""), key)
    assert "carries its trust domain" in built(replace(base, trust_domain=""), key)
    assert "carries its trust domain" in built(replace(base, uri="spiffe://b"), key)
    assert "only a root" in built(replace(base, issuer=MESH.root), MESH.root_key)


def test_a_certificate_that_is_too_long_is_refused():
    names = tuple(f"{'x' * 60}{i}.default.mesh" for i in range(200))
    assert "longer than" in built(replace(REQUEST, dns_names=names))


def test_a_leaf_key_that_is_not_p256_is_refused_even_if_authorised():
    for key in (RSA_KEYS[0], ec.generate_private_key(ec.SECP384R1())):
        assert "P-256" in built(replace(REQUEST, public_key=spki(key)))


def test_a_weak_authority_key_is_refused():
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 - what must not pass
    request = request_for(Profile.CONTROL_ROOT, weak, common_name="root")
    assert "1024" in built(request, weak)


def test_an_intermediate_that_is_not_confined_is_refused():
    key = new_key()
    uri = "spiffe://default.mesh.local"
    request = request_for(
        Profile.MESH_INTERMEDIATE,
        key,
        MESH.root,
        common_name="i",
        uri=uri,
        trust_domain="default.mesh.local",
    )
    good = build_certificate(request, MESH.root_key)
    verify_issued(good, request)
    wide = x509.NameConstraints([URI("mesh.local"), x509.DNSName("mesh")], None)
    for how in (
        {"drop": (x509.NameConstraints,)},
        {"change": {x509.NameConstraints: wide}},
        {"flip": (x509.NameConstraints,)},
        {"change": {x509.BasicConstraints: x509.BasicConstraints(True, 1)}},
        {"change": {x509.BasicConstraints: x509.BasicConstraints(False, None)}},
    ):
        assert violations(remade(of=good, key=MESH.root_key, **how), request)


def test_a_serial_out_of_bounds_is_refused():
    wide = remade(serial_number=(1 << 159) - 1)
    zero = wide.replace(((1 << 159) - 1).to_bytes(20, "big"), bytes(20))
    assert zero != wide
    assert "cannot be read" in violations(zero)
    negative = wide.replace(((1 << 159) - 1).to_bytes(20, "big"), b"\xff" * 20)
    assert "cannot be read" in violations(negative)


def test_the_judge_does_not_import_the_builder():
    source = judge.__loader__.get_source(judge.__name__)
    assert "pki.builder" not in source
    assert load_der_public_key(REQUEST.public_key) == KEY.public_key()
