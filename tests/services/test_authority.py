import asyncio
import base64
import json
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.pki.material import csr_builder, csr_pem, new_key, spki
from tests.services.authority_parts import (
    DAY,
    DNS,
    INSTANCE,
    KEK_BYTES,
    SPIFFE_ID,
    CountingStore,
    Parts,
)

from limen.adapters.clock import SystemClock
from limen.adapters.keys import MemoryKek
from limen.adapters.store import AuditEntry, Put
from limen.adapters.store_memory import MemoryStore
from limen.adapters.store_sqlite import open_store
from limen.core.model.mesh import BuiltinAuthority, Mesh, MeshSettings
from limen.core.model.names import InstanceName, SpiffeId, WorkloadName
from limen.core.model.resource import ResourceKey
from limen.core.pki.chain import parse_leaf, verify_workload_chain
from limen.core.pki.join_token import fingerprint_of, verify_pinned_chain
from limen.core.pki.pem import parse_certificates
from limen.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    LimenError,
    NotFound,
    Unavailable,
    Untrusted,
)
from limen.services.server import authority_making
from limen.services.server.authority import Authority
from limen.services.server.authority_making import INTERMEDIATE_LIFETIME_S
from limen.services.server.authority_records import (
    AUTHORITY,
    CERTIFICATE,
    authority_key,
    from_record,
    key_to_der,
    open_root_key,
)
from limen.services.server.group_commit import GroupCommit

URI = x509.UniformResourceIdentifier


def csr(key=None) -> str:
    return csr_pem(csr_builder(), key)


async def issue(authority, *, text=None, lifetime_s=DAY, spiffe_id=SPIFFE_ID, dns=DNS):
    return await authority.issue_workload(
        INSTANCE, spiffe_id, dns, text or csr(), lifetime_s, "node:n1", node="n1"
    )


def leaf_of(issued):
    return parse_leaf(parse_certificates(issued.chain_pem)[0])


async def refusal(call, kind=LimenError) -> str:
    with pytest.raises(kind) as caught:
        await call
    return caught.value.code


# --- what is issued -------------------------------------------------------------------------------


async def test_a_workload_gets_what_was_authorised_and_nothing_else():
    parts = Parts()
    authority = await parts.authority()
    key, now = new_key(), parts.clock.now_s()
    issued = await issue(authority, text=csr(key))
    chain, roots = parse_certificates(issued.chain_pem), parse_certificates(issued.bundle_pem)
    identity, leaf = verify_workload_chain(chain, roots, "default.mesh.local", now)
    assert identity == SPIFFE_ID
    assert leaf.uris == (str(SPIFFE_ID),)
    assert leaf.dns_names == DNS
    assert (leaf.not_before_s, leaf.not_after_s) == (now - 10, now + DAY)
    assert issued.not_after_s == leaf.not_after_s
    public = x509.load_der_x509_certificate(chain[0]).public_key()
    assert public == key.public_key()
    assert issued.bundle_pem == await authority.bundle_pem("default")


async def test_every_certificate_is_recorded_with_its_audit_event():
    parts = Parts()
    authority = await parts.authority()
    issued = await issue(authority)
    key = ResourceKey(CERTIFICATE, "default", "default", issued.serial)
    record = await parts.store.get(key)
    assert record.body["spiffe_id"] == str(SPIFFE_ID)
    assert record.body["not_after_s"] == issued.not_after_s
    assert record.body["issuer_key_id"] == issued.issuer_key_id
    assert (record.body["node"], record.body["instance"]) == ("n1", "default/items/1")
    assert record.body["sha256"] == fingerprint_of(parse_certificates(issued.chain_pem)[0])
    event = (await parts.store.audit())[-1]
    assert (event.entry.verb, event.entry.actor, event.entry.name) == (
        "issue",
        "node:n1",
        issued.serial,
    )
    assert event.revision == record.revision


async def test_roots_and_intermediates_are_recorded_too():
    parts = Parts()
    await parts.authority()
    records, _ = await parts.store.list(CERTIFICATE)
    profiles = {r.body["profile"] for r in records}
    assert profiles == {"control-root", "control-intermediate", "mesh-root", "mesh-intermediate"}


async def test_nothing_is_handed_out_before_it_is_durable():
    parts = Parts()
    authority = await parts.authority()
    parts.store.gate = asyncio.Event()
    task = asyncio.create_task(issue(authority))
    done, _ = await asyncio.wait({task}, timeout=0.05)
    assert not done
    parts.store.gate.set()
    await task


async def test_nothing_is_handed_out_when_the_store_cannot_write():
    parts = Parts()
    authority = await parts.authority()
    before = await parts.state()
    parts.store.error = Unavailable("the disk is full")
    await refusal(issue(authority), Unavailable)
    assert await parts.state() == before


async def test_a_builder_that_went_wrong_is_stopped_by_the_judge(monkeypatch):
    parts = Parts()
    authority = await parts.authority()
    before = await parts.state()
    honest = authority_making.build_certificate

    def wicked(request, key):
        good = x509.load_der_x509_certificate(honest(request, key))
        builder = x509.CertificateBuilder(
            good.issuer,
            good.subject,
            good.public_key(),
            good.serial_number,
            good.not_valid_before_utc.replace(tzinfo=None),
            good.not_valid_after_utc.replace(tzinfo=None),
        )
        for extension in good.extensions:
            value = extension.value
            if isinstance(value, x509.BasicConstraints):
                value = x509.BasicConstraints(ca=True, path_length=None)
            builder = builder.add_extension(value, extension.critical)
        return builder.sign(key, good.signature_hash_algorithm).public_bytes(Encoding.DER)

    monkeypatch.setattr(authority_making, "build_certificate", wicked)
    assert await refusal(issue(authority), Untrusted) == "certificate-misissued"
    assert await parts.state() == before


async def test_renewal_falls_at_40_to_50_percent_and_is_spread():
    parts = Parts()
    authority = await parts.authority()
    now = parts.clock.now_s()
    shares = [((await issue(authority)).renew_at_s - now) / DAY for _ in range(40)]
    assert all(0.4 <= share <= 0.5 for share in shares)
    assert max(shares) - min(shares) > 0.05


async def test_the_same_seed_gives_the_same_serials_and_times():
    one, two = [await issue(await Parts().authority(seed=7)) for _ in range(2)]
    assert (one.serial, one.renew_at_s) == (two.serial, two.renew_at_s)
    other = await issue(await Parts().authority(seed=8))
    assert other.serial != one.serial


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ([URI(str(SPIFFE_ID)), URI(str(SPIFFE_ID))], "csr-several-uris"),
        ([URI(str(SPIFFE_ID) + "x")], "csr-name-mismatch"),
        ([x509.DNSName("users.default.mesh")], "csr-name-mismatch"),
        ([x509.DNSName("items\0.default.mesh")], "csr-name"),
    ],
)
async def test_a_request_for_other_names_is_refused_and_leaves_no_trace(names, code):
    parts = Parts()
    authority = await parts.authority()
    before = await parts.state()
    assert await refusal(issue(authority, text=csr_pem(csr_builder(*names))), InvalidInput) == code
    assert await parts.state() == before


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([str(SPIFFE_ID), *DNS]),
            st.text(st.characters(min_codepoint=0, max_codepoint=127), min_size=1, max_size=40),
        ),
        max_size=3,
    )
)
def test_whatever_names_a_request_has_the_certificate_has_the_authorised_ones(texts):
    names = [URI(t) if "://" in t else x509.DNSName(t) for t in texts]
    text = csr_pem(csr_builder(*names))

    async def run() -> None:
        authority = await Parts().authority()
        try:
            issued = await issue(authority, text=text)
        except InvalidInput:
            assert set(texts) - {str(SPIFFE_ID), *DNS} or len(set(texts)) != len(texts)
            return
        leaf = leaf_of(issued)
        assert (leaf.uris, leaf.dns_names) == ((str(SPIFFE_ID),), DNS)

    asyncio.run(run())


async def test_an_identity_of_another_mesh_is_refused():
    """Zone or mesh speaks for another."""
    parts = Parts()
    authority = await parts.authority()
    await authority.ensure_mesh(Mesh("other"))
    foreign = SpiffeId("other.mesh.local", "default", "items")
    assert await refusal(issue(authority, spiffe_id=foreign), Forbidden) == "foreign-trust-domain"
    control = SpiffeId("limen.control", "default", "items")
    assert await refusal(issue(authority, spiffe_id=control), Forbidden) == "foreign-trust-domain"


async def test_a_mesh_without_authority_is_not_found():
    authority = await Parts().authority(mesh=None)
    assert await refusal(issue(authority), NotFound) == "no-authority"
    assert await refusal(authority.bundle_pem("default"), NotFound) == "no-authority"


async def test_meshes_do_not_trust_each_other():
    parts = Parts()
    authority = await parts.authority()
    await authority.ensure_mesh(Mesh("other"))
    issued = await issue(authority)
    foreign_roots = parse_certificates(await authority.bundle_pem("other"))
    control_roots = parse_certificates(authority.control_bundle_pem)
    for roots in (foreign_roots, control_roots):
        with pytest.raises(Untrusted):
            verify_workload_chain(
                parse_certificates(issued.chain_pem),
                roots,
                "default.mesh.local",
                parts.clock.now_s(),
            )


# --- lifetimes and clocks -------------------------------------------------------------------------


async def test_lifetimes_of_minutes_work():
    parts = Parts()
    authority = await parts.authority()
    for lifetime_s in (10, 60, 300):
        issued = await issue(authority, lifetime_s=lifetime_s)
        assert issued.not_after_s == parts.clock.now_s() + lifetime_s


@pytest.mark.parametrize("lifetime_s", [9, 0, -1, 366 * DAY])
async def test_lifetimes_that_make_no_sense_are_refused(lifetime_s):
    authority = await Parts().authority()
    error = await refusal(issue(authority, lifetime_s=lifetime_s), InvalidInput)
    assert error == "invalid-lifetime"


async def test_a_lifetime_longer_than_the_intermediates_gets_a_longer_intermediate():
    parts = Parts()
    authority = await parts.authority()
    first = await issue(authority)
    long = await issue(authority, lifetime_s=365 * DAY)
    assert long.not_after_s == leaf_of(long).not_after_s == parts.clock.now_s() + 365 * DAY
    assert long.issuer_key_id != first.issuer_key_id
    again = await issue(authority, lifetime_s=365 * DAY)
    assert again.issuer_key_id == long.issuer_key_id


async def test_a_lifetime_longer_than_the_roots_is_cut_and_said():
    parts = Parts()
    mesh = Mesh("default", authority=BuiltinAuthority(ca_lifetime_s=30 * DAY))
    authority = await parts.authority(mesh=mesh)
    for _ in range(2):
        issued = await issue(authority, lifetime_s=60 * DAY)
        assert issued.not_after_s == leaf_of(issued).not_after_s
        assert issued.not_after_s == parts.clock.now_s() + 30 * DAY
    records, _ = await parts.store.list(CERTIFICATE, "default")
    assert [r.body["profile"] for r in records].count("mesh-intermediate") == 1


async def test_an_intermediate_is_replaced_at_half_life_below_the_same_root():
    parts = Parts()
    authority = await parts.authority()
    first = await issue(authority)
    parts.clock.advance(INTERMEDIATE_LIFETIME_S / 2 - 60)
    assert (await issue(authority)).issuer_key_id == first.issuer_key_id
    parts.clock.advance(120)
    second = await issue(authority)
    assert second.issuer_key_id != first.issuer_key_id
    assert second.bundle_pem == first.bundle_pem
    verify_workload_chain(
        parse_certificates(second.chain_pem),
        parse_certificates(first.bundle_pem),
        "default.mesh.local",
        parts.clock.now_s(),
    )


async def test_the_roots_key_is_opened_for_an_intermediate_only():
    parts = Parts()
    authority = await parts.authority()
    made = parts.kek.asked_for_root_keys()
    for _ in range(5):
        await issue(authority)
    assert parts.kek.asked_for_root_keys() == made
    parts.clock.advance(INTERMEDIATE_LIFETIME_S / 2 + 60)
    await asyncio.gather(*(issue(authority) for _ in range(20)))
    assert parts.kek.asked_for_root_keys() == made + 1
    root_key = await open_root_key(parts.kek, await parts.store.get(authority_key("default")))
    open_now = authority._keeper.opened("default")
    assert open_now.intermediate_key != root_key


async def test_while_the_kek_is_away_the_old_intermediate_goes_on_until_it_ends():
    parts = Parts()
    authority = await parts.authority()
    parts.clock.advance(INTERMEDIATE_LIFETIME_S / 2 + 60)

    async def gone(context: bytes) -> bytes:
        raise Unavailable("not mounted", code="kek-unavailable")

    parts.kek.key_for = gone
    issued = await issue(authority)
    assert issued.not_after_s <= parts.clock.now_s() + DAY
    parts.clock.advance(INTERMEDIATE_LIFETIME_S)
    assert await refusal(issue(authority), Unavailable) == "kek-unavailable"


async def test_a_clock_set_back_before_the_authority_is_refused_and_heals():
    parts = Parts()
    authority = await parts.authority()
    now = parts.clock.now_s()
    parts.clock.set_s(now - 3600)
    assert await refusal(issue(authority), Unavailable) == "clock-backwards"
    parts.clock.set_s(now)
    await issue(authority)


async def test_a_clock_that_ran_ahead_and_came_back_gets_a_new_intermediate():
    parts = Parts()
    authority = await parts.authority()
    now = parts.clock.now_s()
    parts.clock.set_s(now + 400 * DAY)
    ahead = await issue(authority)
    parts.clock.set_s(now + 1)
    back = await issue(authority)
    assert back.issuer_key_id != ahead.issuer_key_id
    verify_workload_chain(
        parse_certificates(back.chain_pem),
        parse_certificates(back.bundle_pem),
        "default.mesh.local",
        now + 1,
    )


async def test_a_clock_set_back_by_seconds_changes_nothing():
    parts = Parts()
    authority = await parts.authority()
    now = parts.clock.now_s()
    parts.clock.set_s(now - 5)
    leaf = leaf_of(await issue(authority))
    assert leaf.not_before_s == now - 10  # not before its issuer
    assert leaf.not_after_s == now - 5 + DAY


async def test_an_authority_that_ended_says_so():
    parts = Parts()
    mesh = Mesh("default", authority=BuiltinAuthority(ca_lifetime_s=7200))
    authority = await parts.authority(mesh=mesh)
    parts.clock.advance(7000)
    issued = await issue(authority)
    assert issued.not_after_s - parts.clock.now_s() <= 200
    parts.clock.advance(180)
    assert await refusal(issue(authority), Unavailable) == "authority-expired"


async def test_an_authority_that_would_live_minutes_is_refused():
    authority = await Parts().authority(mesh=None)
    mesh = Mesh("default", authority=BuiltinAuthority(ca_lifetime_s=60))
    assert await refusal(authority.ensure_mesh(mesh), InvalidInput) == "lifetime-too-short"


@pytest.mark.parametrize("bits", [512, 1024, 2047, 16384])
async def test_rsa_keys_of_other_sizes_are_refused(bits):
    authority = await Parts().authority(mesh=None)
    mesh = Mesh("default", authority=BuiltinAuthority(ca_rsa_bits=bits))
    assert await refusal(authority.ensure_mesh(mesh), InvalidInput) == "invalid-rsa-bits"


# --- keys at rest ---------------------------------------------------------------------------------


async def test_a_second_start_opens_the_same_authorities():
    parts = Parts()
    one = await parts.authority()
    two = await parts.authority(seed=2)
    assert one.control_fingerprint == two.control_fingerprint
    assert await one.bundle_pem("default") == await two.bundle_pem("default")


async def test_a_wrong_kek_is_refused_and_nothing_is_overwritten():
    parts = Parts()
    await parts.authority()
    before = await parts.state()
    other = Authority(parts.store, MemoryKek(b"j" * 32), parts.clock)
    assert await refusal(other.start(), Untrusted) == "wrong-kek"
    assert await parts.state() == before
    await parts.authority()


async def test_no_private_key_lies_open_in_the_store_or_the_audit_log():
    parts = Parts()
    await parts.authority()
    records, _ = await parts.store.list()
    events = await parts.store.audit()
    text = json.dumps([dict(r.body) for r in records]) + str(events)
    for mesh in ("", "default"):
        record = await parts.store.get(authority_key(mesh))
        state = await from_record(parts.kek, record)
        for key in (state.intermediate_key, await open_root_key(parts.kek, record)):
            der = key_to_der(key)
            assert base64.b64encode(der).decode()[:40] not in text
            assert der.hex() not in text
            secret = key.private_numbers().private_value
            assert str(secret) not in text
    assert "PRIVATE" not in text


@pytest.mark.parametrize("field", ["state", "root_key"])
async def test_an_authority_moved_to_another_mesh_is_refused(field):
    parts = Parts()
    authority = await parts.authority()
    await authority.ensure_mesh(Mesh("other"))
    mine = await parts.store.get(authority_key("default"))
    theirs = await parts.store.get(authority_key("other"))
    swapped = {**mine.body, field: theirs.body[field]}
    await parts.store.commit([Put(mine.key, swapped)], [])
    fresh = await parts.authority(mesh=None)
    parts.clock.advance(INTERMEDIATE_LIFETIME_S * 2)
    assert await refusal(issue(fresh), Untrusted) == "sealed-broken"


# --- meshes and trust domains ---------------------------------------------------------------------


async def test_two_servers_that_race_make_one_authority():
    parts = Parts()
    one, two = [Authority(parts.store, parts.kek, parts.clock) for _ in range(2)]
    await asyncio.gather(one.start(), two.start())
    assert one.control_fingerprint == two.control_fingerprint
    await asyncio.gather(*(a.ensure_mesh(Mesh("default")) for a in (one, two, one, two)))
    assert await one.bundle_pem("default") == await two.bundle_pem("default")
    assert len((await parts.store.list(AUTHORITY))[0]) == 2
    parts.clock.advance(INTERMEDIATE_LIFETIME_S / 2 + 60)
    issued = await asyncio.gather(*(issue(a) for a in (one, two, one, two)))
    assert len({i.issuer_key_id for i in issued}) == 1


async def test_two_authorities_on_a_real_file_agree_and_a_third_reads_them(tmp_path):
    store = await open_store(tmp_path / "store" / "limen.db")
    both = [Authority(store, MemoryKek(KEK_BYTES), SystemClock()) for _ in range(2)]
    try:
        await asyncio.gather(*(a.start() for a in both))
        await asyncio.gather(*(a.ensure_mesh(Mesh("default")) for a in both))
        await asyncio.gather(*(issue(a) for a in both for _ in range(20)))
    finally:
        await store.close()
    store = await open_store(tmp_path / "store" / "limen.db")
    try:
        third = Authority(store, MemoryKek(KEK_BYTES), SystemClock())
        await third.start()
        assert {a.control_fingerprint for a in (*both, third)} == {both[0].control_fingerprint}
        bundles = {await a.bundle_pem("default") for a in (*both, third)}
        assert len(bundles) == 1
        assert len((await store.list(CERTIFICATE, "default"))[0]) == 42
    finally:
        await store.close()


async def test_a_trust_domain_belongs_to_one_mesh():
    parts = Parts()
    authority = await parts.authority()
    thief = MeshSettings(trust_domain="default.mesh.local")
    assert await refusal(authority.check_mesh(Mesh("b"), thief), Conflict) == "trust-domain-taken"
    assert await refusal(authority.ensure_mesh(Mesh("b"), thief), Conflict) == "trust-domain-taken"
    assert await refusal(authority.bundle_pem("b"), NotFound) == "no-authority"
    alias = MeshSettings(trust_domain_aliases=("default.mesh.local",))
    assert await refusal(authority.check_mesh(Mesh("b"), alias), Conflict) == "trust-domain-taken"
    others = {"a": ["b.mesh.local"]}
    assert await refusal(authority.check_mesh(Mesh("b"), None, others)) == "trust-domain-taken"
    await authority.check_mesh(Mesh("b"), None, {"b": ["b.mesh.local"]})


async def test_the_control_trust_domain_is_nobodys():
    authority = await Parts().authority()
    for settings_ in (
        MeshSettings(trust_domain="limen.control"),
        MeshSettings(trust_domain_aliases=("limen.control",)),
    ):
        call = authority.check_mesh(Mesh("b"), settings_)
        assert await refusal(call, Conflict) == "trust-domain-taken"


async def test_two_meshes_that_race_for_one_trust_domain_do_not_share_it():
    parts = Parts()
    authority = await parts.authority(mesh=None)
    same = MeshSettings(trust_domain="shared")
    results = await asyncio.gather(
        *(authority.ensure_mesh(Mesh(name), same) for name in ("a", "b")), return_exceptions=True
    )
    assert sorted(type(r).__name__ for r in results) == ["Conflict", "NoneType"]


async def test_a_trust_domain_never_changes_once_its_authority_exists():
    authority = await Parts().authority()
    moved = MeshSettings(trust_domain="new.example")
    call = authority.check_mesh(Mesh("default"), moved)
    assert await refusal(call, Conflict) == "trust-domain-fixed"
    call = authority.ensure_mesh(Mesh("default"), moved)
    assert await refusal(call, Conflict) == "trust-domain-fixed"
    await authority.check_mesh(Mesh("fresh"), moved)


async def test_other_authority_keys_are_refused_rather_than_ignored():
    authority = await Parts().authority()
    for changed in (BuiltinAuthority(ca_rsa_bits=2048), BuiltinAuthority(ca_lifetime_s=DAY)):
        call = authority.check_mesh(Mesh("default", authority=changed), None)
        assert await refusal(call, Conflict) == "authority-fixed"
    await authority.check_mesh(
        Mesh("default", authority=BuiltinAuthority(leaf_lifetime_s=60)), None
    )


async def test_rsa_is_used_for_root_and_intermediate_when_asked_for():
    parts = Parts()
    mesh = Mesh("default", authority=BuiltinAuthority(ca_rsa_bits=2048))
    issued = await issue(await parts.authority(mesh=mesh))
    leaf, intermediate = parse_certificates(issued.chain_pem)
    (root,) = parse_certificates(issued.bundle_pem)
    for der in (intermediate, root):
        key = x509.load_der_x509_certificate(der).public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == 2048
    assert not isinstance(x509.load_der_x509_certificate(leaf).public_key(), rsa.RSAPublicKey)


# --- servers and nodes ----------------------------------------------------------------------------


async def test_the_servers_chain_satisfies_a_pinned_first_contact():
    parts = Parts()
    authority = await parts.authority()
    issued = await authority.issue_server(["limen.example"], ["127.0.0.1", "::1"])
    chain = parse_certificates(issued.chain_pem)
    now = parts.clock.now_s()
    for host in ("limen.example", "127.0.0.1", "::1"):
        verify_pinned_chain(chain, authority.control_fingerprint, host, now)
    assert issued.key_pem not in repr(issued)


async def test_a_server_without_names_is_not_certified():
    authority = await Parts().authority()
    assert await refusal(authority.issue_server([], []), Untrusted) == "certificate-misissued"


async def test_a_node_is_named_by_the_server_only():
    parts = Parts()
    authority = await parts.authority()
    issued = await authority.issue_node("abcdef0123456789", csr(), "default", "token:t")
    assert leaf_of(issued).uris == ("spiffe://limen.control/node/abcdef0123456789",)
    claims = csr_pem(csr_builder(URI("spiffe://limen.control/node/other00000")))
    call = authority.issue_node("abcdef0123456789", claims, "default", "token:t")
    assert await refusal(call, InvalidInput) == "csr-name-mismatch"


# --- TLS with OpenSSL -----------------------------------------------------------------------------


def context(side, issued, key, roots, tmp_path) -> ssl.SSLContext:
    result = ssl.SSLContext(side)
    result.minimum_version = ssl.TLSVersion.TLSv1_3
    result.check_hostname = False
    result.verify_mode = ssl.CERT_REQUIRED
    result.verify_flags |= ssl.VERIFY_X509_STRICT
    result.load_verify_locations(cadata=roots)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    file = tmp_path / f"{issued.serial}.pem"
    file.write_text(pem + issued.chain_pem)
    result.load_cert_chain(file)
    return result


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[bytes, bytes]:
    """Who each side saw (DER). Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = [True, True]
    for _ in range(10):
        for index, end in enumerate(ends):
            try:
                end.do_handshake()
                waiting[index] = False
            except ssl.SSLWantReadError:
                continue
        if not any(waiting):
            return ends[1].getpeercert(True), ends[0].getpeercert(True)
    raise AssertionError("the handshake does not end")


@pytest.mark.parametrize("rsa_bits", [None, 2048])
async def test_two_workloads_shake_hands_and_a_foreign_one_is_refused(tmp_path, rsa_bits):
    authority = Authority(MemoryStore(), MemoryKek(KEK_BYTES), SystemClock())
    await authority.start()
    await authority.ensure_mesh(Mesh("default", authority=BuiltinAuthority(ca_rsa_bits=rsa_bits)))
    await authority.ensure_mesh(Mesh("other"))
    users = WorkloadName("default", "default", "users")
    keys = [new_key() for _ in range(3)]
    items = await issue(authority, text=csr(keys[0]))
    caller = await authority.issue_workload(
        InstanceName(users, "1"),
        SpiffeId("default.mesh.local", "default", "users"),
        (users.dns_san,),
        csr(keys[1]),
        DAY,
        "node:n1",
    )
    stranger = await authority.issue_workload(
        InstanceName(WorkloadName("other", "default", "users"), "1"),
        SpiffeId("other.mesh.local", "default", "users"),
        ("users.default.mesh",),
        csr(keys[2]),
        DAY,
        "node:n1",
    )
    roots = items.bundle_pem
    server = context(ssl.PROTOCOL_TLS_SERVER, items, keys[0], roots, tmp_path)
    client = context(ssl.PROTOCOL_TLS_CLIENT, caller, keys[1], roots, tmp_path)
    seen_by_server, seen_by_client = handshake(server, client)
    assert parse_leaf(seen_by_server).uris == ("spiffe://default.mesh.local/ns/default/sa/users",)
    assert parse_leaf(seen_by_client).uris == (str(SPIFFE_ID),)
    foreign = context(ssl.PROTOCOL_TLS_CLIENT, stranger, keys[2], roots, tmp_path)
    with pytest.raises(ssl.SSLError):
        handshake(server, foreign)


# --- storms ---------------------------------------------------------------------------------------


async def test_a_storm_of_requests_shares_few_commits():
    parts = Parts()
    authority = await parts.authority()
    before, text = parts.store.commits, csr()
    issued = await asyncio.gather(*(issue(authority, text=text) for _ in range(300)))
    assert len({i.serial for i in issued}) == 300
    assert parts.store.commits - before <= 10
    stored = {r.key.name for r in (await parts.store.list(CERTIFICATE, "default"))[0]}
    assert {i.serial for i in issued} <= stored


def put(name: str, expected: int | None = 0) -> Put:
    return Put(ResourceKey("test/Thing", "", "", name), {"name": name}, expected)


def entry(name: str) -> AuditEntry:
    return AuditEntry(0.0, "test", "put", "test/Thing", "", "", name)


async def test_in_a_group_the_conflict_of_one_is_not_the_others():
    store = CountingStore()
    await store.commit([put("taken")], [])
    group = GroupCommit(store)
    names = ["a", "taken", "b", "b", "c"]
    results = await asyncio.gather(
        *(group.commit([put(n)], [entry(n)]) for n in names), return_exceptions=True
    )
    assert [isinstance(r, Conflict) for r in results] == [False, True, False, True, False]
    assert [e.entry.name for e in await store.audit()] == ["a", "b", "c"]


async def test_in_a_group_a_full_disk_is_everybodys_and_passes():
    store = CountingStore()
    group = GroupCommit(store)
    store.error = Unavailable("full")
    results = await asyncio.gather(
        *(group.commit([put(str(i))], []) for i in range(5)), return_exceptions=True
    )
    assert all(isinstance(r, Unavailable) for r in results)
    store.error = None
    assert await group.commit([put("a")], []) == 1


async def test_a_cancelled_caller_does_not_cancel_the_others():
    store = CountingStore()
    store.gate = asyncio.Event()
    group = GroupCommit(store)
    tasks = [asyncio.create_task(group.commit([put(str(i))], [])) for i in range(3)]
    await asyncio.wait(tasks, timeout=0.01)
    tasks[0].cancel()
    store.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [1, 1]


async def test_a_flush_that_is_stopped_leaves_nobody_waiting():
    store = CountingStore()
    store.gate = asyncio.Event()
    group = GroupCommit(store, max_group=2)
    tasks = [asyncio.create_task(group.commit([put(str(i))], [])) for i in range(5)]
    await asyncio.wait(tasks, timeout=0.01)
    group._flushing.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(r, Unavailable) for r in results)
    store.gate = None
    assert await group.commit([put("a")], []) == 1


async def test_old_certificates_are_forgotten_and_live_ones_are_not():
    parts = Parts()
    authority = await parts.authority()
    old = await issue(authority)
    parts.clock.advance(32 * DAY)
    young = await issue(authority)
    assert await authority.prune_certificates() == 1
    left = {r.key.name for r in (await parts.store.list(CERTIFICATE, "default"))[0]}
    assert young.serial in left
    assert old.serial not in left
    assert (await parts.store.audit())[-1].entry.verb == "prune"


def test_a_key_survives_its_encoding():
    key = new_key()
    assert spki(authority_making.make_key(None)) != spki(key)
