import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.pki.material import SPIFFE_ID, csr_builder, csr_pem, new_key, spki

from limen.core.pki.csr import MAX_CSR_CHARS, parse_csr, verify_names
from limen.core.pki.pem import to_pem
from limen.errors import InvalidInput

URI = x509.UniformResourceIdentifier
GOOD_KEY = new_key()
GOOD = csr_pem(csr_builder(URI(SPIFFE_ID), x509.DNSName("items.default.mesh")), GOOD_KEY)
GOOD_DER = x509.load_pem_x509_csr(GOOD.encode()).public_bytes(Encoding.DER)


def code_of(text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        parse_csr(text)
    return caught.value.code


def with_extension(extension: x509.ExtensionType) -> str:
    return csr_pem(csr_builder().add_extension(extension, critical=False))


def usage(**on: bool) -> x509.KeyUsage:
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
    return x509.KeyUsage(**{name: on.get(name, False) for name in names})


def test_good_request_gives_its_key_and_names():
    request = parse_csr(GOOD)
    assert request.public_key == spki(GOOD_KEY)
    assert (request.uri, request.dns_names) == (SPIFFE_ID, ("items.default.mesh",))


def test_request_without_names_is_enough():
    assert parse_csr(csr_pem(csr_builder())).uri == ""


def test_several_uri_sans_in_one_csr_are_refused():
    two = csr_builder(URI(SPIFFE_ID), URI(SPIFFE_ID.replace("items", "users")))
    assert code_of(csr_pem(two)) == "csr-several-uris"


def test_same_uri_twice_is_refused():
    assert code_of(csr_pem(csr_builder(URI(SPIFFE_ID), URI(SPIFFE_ID)))) == "csr-several-uris"


@pytest.mark.parametrize("name", [URI("spiffe://a\0.b/ns"), x509.DNSName("items\0.evil.mesh")])
def test_nul_in_a_san_is_refused(name):
    """CVE-2025-66220, CVE-2026-47778: what a C string would cut."""
    assert code_of(csr_pem(csr_builder(name))) == "csr-name"


@pytest.mark.parametrize("text", ["a b", "a\tb", "a\x7fb", " items", "items\n"])
def test_unprintable_names_are_refused(text):
    assert code_of(csr_pem(csr_builder(x509.DNSName(text)))) == "csr-name"


def test_non_ascii_san_is_refused():
    der = GOOD_DER.replace(b"items.default.mesh", b"\xc3\xa4ems.default.mesh")
    assert der != GOOD_DER
    assert code_of(to_pem("CERTIFICATE REQUEST", der)).startswith("csr-")


def test_address_or_mail_san_is_refused():
    assert code_of(csr_pem(csr_builder(x509.RFC822Name("a@b.c")))) == "csr-name"


def test_ca_bit_requested_is_refused():
    assert code_of(with_extension(x509.BasicConstraints(True, None))) == "csr-authority"


@pytest.mark.parametrize("bit", ["key_cert_sign", "crl_sign"])
def test_signing_usage_requested_is_refused(bit):
    assert code_of(with_extension(usage(digital_signature=True, **{bit: True}))) == "csr-authority"


@pytest.mark.parametrize(
    "extension",
    [
        x509.NameConstraints([URI("evil")], None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
        x509.TLSFeature([x509.TLSFeatureType.status_request]),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
        usage(key_encipherment=True),
    ],
)
def test_unexpected_extension_is_refused(extension):
    assert code_of(with_extension(extension)) == "csr-extension"


def test_tls_usages_and_leaf_constraint_are_accepted():
    parse_csr(with_extension(x509.BasicConstraints(False, None)))
    parse_csr(with_extension(usage(digital_signature=True)))
    parse_csr(with_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])))


def test_challenge_password_is_refused():
    builder = csr_builder().add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"secret")
    assert code_of(csr_pem(builder)) == "csr-extension"


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(65537, 2048),
    ],
)
def test_other_keys_than_p256_are_refused(key):
    assert code_of(csr_pem(csr_builder(), key)) == "csr-key"


def test_ed25519_key_is_refused():
    request = csr_builder().sign(ed25519.Ed25519PrivateKey.generate(), None)
    assert code_of(request.public_bytes(Encoding.PEM).decode()) == "csr-key"


def test_request_not_signed_by_its_key_is_refused():
    forged = GOOD_DER[:-1] + bytes([GOOD_DER[-1] ^ 1])
    assert code_of(to_pem("CERTIFICATE REQUEST", forged)) == "csr-signature"


def test_someone_elses_key_in_the_request_is_refused():
    theirs = spki(new_key())
    forged = GOOD_DER.replace(spki(GOOD_KEY), theirs)
    assert code_of(to_pem("CERTIFICATE REQUEST", forged)) == "csr-signature"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        GOOD + GOOD,
        "Subject: items\n" + GOOD,
        GOOD.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        GOOD.replace("M", "\u041c", 1),
        to_pem("CERTIFICATE REQUEST", GOOD_DER + b"\0"),
        to_pem("CERTIFICATE REQUEST", GOOD_DER[:-5]),
        to_pem("CERTIFICATE REQUEST", b""),
        GOOD + " " * MAX_CSR_CHARS,
        to_pem("CERTIFICATE REQUEST", b"0" * 100_000),
    ],
)
def test_malformed_text_is_refused(text):
    assert code_of(text) in {"invalid-pem", "csr-malformed"}


def test_sha1_signature_is_refused():
    with pytest.raises(Exception, match=r"(?i)hash|algorithm|sha1"):
        csr_pem(csr_builder(), digest=hashes.SHA1())  # noqa: S303 - what must not pass


@pytest.mark.parametrize(
    ("uri", "names"),
    [
        (SPIFFE_ID.replace("items", "users"), ()),
        (SPIFFE_ID + "x", ()),
        ("", ("users.default.mesh",)),
        (SPIFFE_ID, ("items.default.mesh", "users.default.mesh")),
    ],
)
def test_names_that_were_not_authorised_are_refused(uri, names):
    sans = [x509.DNSName(n) for n in names] + ([URI(uri)] if uri else [])
    request = parse_csr(csr_pem(csr_builder(*sans)))
    with pytest.raises(InvalidInput) as caught:
        verify_names(request, SPIFFE_ID, ["items.default.mesh"])
    assert caught.value.code == "csr-name-mismatch"


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD_DER) - 1), st.integers(1, 255))
def test_a_changed_byte_never_changes_what_is_read(position, mask):
    mutated = bytearray(GOOD_DER)
    mutated[position] ^= mask
    try:
        request = parse_csr(to_pem("CERTIFICATE REQUEST", bytes(mutated)))
    except InvalidInput:
        return
    assert request == parse_csr(GOOD)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_cleanly(data):
    with pytest.raises(InvalidInput):
        parse_csr(to_pem("CERTIFICATE REQUEST", data))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400))
def test_any_text_is_refused_cleanly(text):
    with pytest.raises(InvalidInput):
        parse_csr(text)


def test_pem_body_with_padding_inside_is_refused():
    body = base64.b64encode(b"abcd").decode()
    text = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}{body}\n-----END CERTIFICATE REQUEST-----\n"
    assert code_of(text) in {"invalid-pem", "csr-malformed"}
