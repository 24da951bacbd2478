import ipaddress
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.pki.material import (
    DAY,
    NOW,
    SPIFFE_ID,
    TRUST_DOMAIN,
    control_authority,
    mesh_authority,
    new_key,
    node,
    request_for,
    server,
    workload,
)

from limen.core.pki.builder import build_certificate
from limen.core.pki.chain import (
    parse_identity,
    parse_leaf,
    verify_node_chain,
    verify_server_chain,
    verify_workload_chain,
)
from limen.core.pki.pem import certificates_to_pem
from limen.core.pki.profile import Profile
from limen.errors import Untrusted

MESH = mesh_authority()
OTHER = mesh_authority("other.mesh.local")
CONTROL = control_authority()
KEY = new_key()
LEAF = workload(MESH, KEY)
CHAIN = (LEAF, MESH.intermediate)


def refused(chain, roots=(MESH.root,), domain=TRUST_DOMAIN, at=NOW) -> str:
    with pytest.raises(Untrusted) as caught:
        verify_workload_chain(chain, roots, domain, at)
    assert caught.value.code == "certificate-untrusted"
    return caught.value.message


def wild(issuer_der: bytes, issuer_key, subject_key, extensions, *, days=1, digest=None) -> bytes:
    """A certificate that our authority would never make, signed by it all the same."""
    issuer = x509.load_der_x509_certificate(issuer_der)
    start = datetime.fromtimestamp(NOW, UTC).replace(tzinfo=None)
    builder = x509.CertificateBuilder(
        issuer.subject,
        x509.Name([]),
        subject_key.public_key(),
        7,
        start,
        start + timedelta(days=days),
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(issuer_key, digest or hashes.SHA256()).public_bytes(Encoding.DER)


def parts(*, drop=None, **changes):
    """The extensions of a good leaf, some replaced or dropped."""
    found = []
    for extension in x509.load_der_x509_certificate(LEAF).extensions:
        name = type(extension.value).__name__
        if name != drop:
            found.append((changes.get(name, extension.value), extension.critical))
    return found


def san(*names) -> dict:
    return {"SubjectAlternativeName": x509.SubjectAlternativeName(names)}


@pytest.mark.parametrize("use_rsa", [False, True])
def test_a_good_chain_gives_the_identity_and_the_verified_leaf(use_rsa):
    mesh = mesh_authority(use_rsa=use_rsa)
    leaf = workload(mesh)
    identity, verified = verify_workload_chain(
        (leaf, mesh.intermediate), (mesh.root,), TRUST_DOMAIN, NOW
    )
    assert str(identity) == SPIFFE_ID
    assert verified.der == leaf
    assert verified.not_after_s == NOW + DAY


def test_a_root_sent_along_is_harmless():
    verify_workload_chain((*CHAIN, MESH.root), (OTHER.root, MESH.root), TRUST_DOMAIN, NOW)


def test_any_of_two_roots_serves_during_a_rotation():
    verify_workload_chain(CHAIN, (mesh_authority().root, MESH.root), TRUST_DOMAIN, NOW)


def test_another_authority_is_refused():
    assert "no trusted root" in refused(CHAIN, roots=(mesh_authority().root,))
    assert "no trusted root" in refused(CHAIN, roots=())


def test_a_certificate_of_another_mesh_is_refused():
    """Zone or mesh speaks for another."""
    leaf = OTHER.sign(Profile.WORKLOAD, uri="spiffe://other.mesh.local/ns/default/sa/items")
    chain = (leaf, OTHER.intermediate)
    assert "no trusted root" in refused(chain)
    assert "not of trust domain" in refused(chain, roots=(OTHER.root, MESH.root))


def test_an_intermediate_cannot_leave_its_trust_domain():
    """A stolen key of one mesh's intermediate cannot name another mesh's workloads."""
    leaf = wild(
        OTHER.intermediate,
        OTHER.key,
        new_key(),
        parts(**san(x509.UniformResourceIdentifier(SPIFFE_ID)), drop="AuthorityKeyIdentifier"),
    )
    assert "outside" in refused((leaf, OTHER.intermediate), roots=(OTHER.root, MESH.root))


@pytest.mark.parametrize(
    "name", [x509.DNSName("example.com"), x509.IPAddress(ipaddress.ip_address("10.0.0.1"))]
)
def test_an_intermediate_cannot_name_the_outside_world(name):
    leaf = wild(
        MESH.intermediate,
        MESH.key,
        new_key(),
        parts(**san(x509.UniformResourceIdentifier(SPIFFE_ID), name)),
    )
    assert refused((leaf, MESH.intermediate))


@pytest.mark.parametrize("at", [NOW - 11, NOW + DAY, NOW + 10 * DAY, NOW + 4000 * DAY])
def test_outside_its_time_a_chain_is_refused(at):
    assert refused(CHAIN, at=at)


def test_the_last_second_counts_and_the_next_does_not():
    verify_workload_chain(CHAIN, (MESH.root,), TRUST_DOMAIN, NOW + DAY - 1)
    assert "expired" in refused(CHAIN, at=NOW + DAY)


def test_an_expired_intermediate_is_refused():
    leaf = wild(MESH.intermediate, MESH.key, KEY, parts(), days=200)
    assert "expired" in refused((leaf, MESH.intermediate), at=NOW + 95 * DAY)


@pytest.mark.parametrize(
    "chain",
    [
        (),
        (LEAF,),
        (MESH.intermediate,),
        (MESH.root,),
        (MESH.intermediate, LEAF),
        (LEAF, OTHER.intermediate),
        (LEAF, LEAF, MESH.intermediate),
        (LEAF, MESH.intermediate, MESH.intermediate),
        (LEAF, *[MESH.intermediate] * 10),
        (b"", MESH.intermediate),
        (LEAF, b"\x30\x03\x02\x01\x05"),
        (b"0" * 9000, MESH.intermediate),
    ],
)
def test_other_shapes_of_chains_are_refused(chain):
    refused(chain)


def test_the_certificate_verified_is_the_certificate_used():
    """A good certificate behind a foreign one lends it nothing."""
    foreign = workload(mesh_authority())
    assert refused((foreign, LEAF, MESH.intermediate))
    _, verified = verify_workload_chain(
        (*CHAIN, MESH.root, foreign), (MESH.root,), TRUST_DOMAIN, NOW
    )
    assert verified.der == LEAF


def test_a_leaf_cannot_issue():
    child = wild(LEAF, KEY, new_key(), parts(drop="AuthorityKeyIdentifier"))
    assert "not an authority" in refused((child, LEAF, MESH.intermediate))


def test_an_intermediate_cannot_make_authorities():
    below = new_key()
    sub = wild(
        MESH.intermediate,
        MESH.key,
        below,
        [
            (x509.BasicConstraints(True, 0), True),
            (x509.KeyUsage(*[False] * 5, True, True, False, False), True),
        ],
    )
    child = wild(sub, below, new_key(), parts(drop="AuthorityKeyIdentifier"))
    assert "longer" in refused((child, sub, MESH.intermediate))


@pytest.mark.parametrize(
    "change",
    [
        {"drop": "KeyUsage"},
        {"drop": "ExtendedKeyUsage"},
        {"drop": "SubjectAlternativeName"},
        {"BasicConstraints": x509.BasicConstraints(True, None)},
        {"AuthorityKeyIdentifier": x509.AuthorityKeyIdentifier(b"x" * 20, None, None)},
        san(
            x509.UniformResourceIdentifier(SPIFFE_ID),
            x509.UniformResourceIdentifier(SPIFFE_ID + "x"),
        ),
        san(x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}")),
        san(x509.UniformResourceIdentifier(SPIFFE_ID + "\0")),
        san(x509.DNSName("items.default.mesh")),
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_leaf_with_a_flaw_is_refused(change):
    leaf = wild(MESH.intermediate, MESH.key, new_key(), parts(**change))
    assert refused((leaf, MESH.intermediate))


def test_an_unknown_critical_extension_is_refused():
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\0")
    leaf = wild(MESH.intermediate, MESH.key, KEY, [*parts(), (unknown, True)])
    assert "unknown critical" in refused((leaf, MESH.intermediate))
    fine = wild(MESH.intermediate, MESH.key, KEY, [*parts(), (unknown, False)])
    verify_workload_chain((fine, MESH.intermediate), (MESH.root,), TRUST_DOMAIN, NOW)


def test_another_digest_is_refused():
    leaf = wild(MESH.intermediate, MESH.key, KEY, parts(), digest=hashes.SHA384())
    assert "SHA-256" in refused((leaf, MESH.intermediate))


def test_a_node_is_known_by_its_id_and_a_server_is_not_a_node():
    chain = (node(CONTROL), CONTROL.intermediate)
    assert verify_node_chain(chain, (CONTROL.root,), NOW)[0] == "abcdef0123456789"
    with pytest.raises(Untrusted):
        verify_node_chain((server(CONTROL), CONTROL.intermediate), (CONTROL.root,), NOW)


def test_a_workload_is_not_a_node_and_a_node_is_not_a_workload():
    """The control authority is not a mesh authority."""
    with pytest.raises(Untrusted):
        verify_node_chain(CHAIN, (MESH.root,), NOW)
    with pytest.raises(Untrusted):
        verify_node_chain(CHAIN, (CONTROL.root,), NOW)
    chain = (node(CONTROL), CONTROL.intermediate)
    assert refused(chain, roots=(CONTROL.root,), domain="limen.control")


def test_a_workload_is_not_a_server():
    with pytest.raises(Untrusted):
        verify_server_chain(CHAIN, (CONTROL.root,), "items.default.mesh", NOW)


@pytest.mark.parametrize("host", ["999.1.1.1", "::::", "1.2.3.4.5", "*.example", "\u00e4"])
def test_a_host_that_is_none_is_refused(host):
    with pytest.raises(Untrusted):
        verify_server_chain((server(CONTROL), CONTROL.intermediate), (CONTROL.root,), host, NOW)


def test_an_identity_of_another_shape_is_not_a_node():
    leaf = wild(
        CONTROL.intermediate,
        CONTROL.key,
        KEY,
        parts(drop="AuthorityKeyIdentifier", **san(x509.UniformResourceIdentifier(SPIFFE_ID))),
    )
    with pytest.raises(Untrusted):
        verify_node_chain((leaf, CONTROL.intermediate), (CONTROL.root,), NOW)


def test_a_mesh_root_beside_the_control_root_does_not_make_nodes():
    with pytest.raises(Untrusted):
        verify_node_chain(CHAIN, (CONTROL.root, MESH.root), NOW)


def test_a_leaf_is_read_and_garbage_is_not():
    assert str(parse_identity(parse_leaf(LEAF))) == SPIFFE_ID
    with pytest.raises(Untrusted):
        parse_leaf(b"garbage")


# --- what others say about the same chains --------------------------------------------------------


def openssl(tmp_path, chain, root, *options: str) -> bool:
    for name, ders in (("leaf", chain[:1]), ("rest", chain[1:]), ("root", (root,))):
        (tmp_path / name).write_text(certificates_to_pem(ders))
    done = subprocess.run(
        [
            *("openssl", "verify", "-x509_strict", "-attime", str(NOW)),
            *("-CAfile", str(tmp_path / "root"), "-untrusted", str(tmp_path / "rest")),
            *options,
            str(tmp_path / "leaf"),
        ],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@pytest.mark.parametrize("use_rsa", [False, True])
def test_openssl_agrees_on_good_and_bad_chains(tmp_path, use_rsa):
    mesh = mesh_authority(use_rsa=use_rsa)
    leaf = workload(mesh)
    assert openssl(tmp_path, (leaf, mesh.intermediate), mesh.root, "-purpose", "sslserver")
    assert openssl(tmp_path, (leaf, mesh.intermediate), mesh.root, "-purpose", "sslclient")
    assert not openssl(tmp_path, (leaf, mesh.intermediate), OTHER.root)
    foreign = replace(
        request_for(Profile.WORKLOAD, new_key(), mesh.intermediate),
        uri="spiffe://other.mesh.local/ns/default/sa/items",
    )
    outside = build_certificate(foreign, mesh.key)
    assert not openssl(tmp_path, (outside, mesh.intermediate), mesh.root)


def test_cryptography_agrees_on_control_chains():
    load = x509.load_der_x509_certificate
    policy = PolicyBuilder().store(Store([load(CONTROL.root)]))
    policy = policy.time(datetime.fromtimestamp(NOW, UTC))
    verifier = policy.build_server_verifier(x509.DNSName("limen.example"))
    verifier.verify(load(server(CONTROL)), [load(CONTROL.intermediate)])
    policy.build_client_verifier().verify(load(node(CONTROL)), [load(CONTROL.intermediate)])
    assert verify_server_chain(
        (server(CONTROL), CONTROL.intermediate), (CONTROL.root,), "limen.example", NOW
    )


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1), st.integers(0, len(MESH.intermediate) - 1), st.integers(1, 255))
def test_any_changed_byte_breaks_the_chain(which, position, mask):
    chain = [bytearray(der) for der in CHAIN]
    chain[which][position % len(chain[which])] ^= mask
    refused(tuple(bytes(der) for der in chain))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_are_refused_cleanly(chain):
    refused(chain)
