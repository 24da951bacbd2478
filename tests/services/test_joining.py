import asyncio

import pytest
from cryptography import x509
from tests.core.pki.material import (
    control_authority,
    csr_builder,
    csr_pem,
    mesh_authority,
    new_key,
    server,
    workload,
)
from tests.core.pki.material import node as node_certificate
from tests.services.authority_parts import DAY, Parts

from limen.core.pki.chain import parse_leaf, verify_node_chain
from limen.core.pki.join_token import parse_join_token
from limen.core.pki.pem import parse_certificates
from limen.errors import Forbidden, InvalidInput, LimenError, NotFound, Unauthenticated, Unavailable
from limen.services.server.authority_records import CERTIFICATE
from limen.services.server.joining import (
    MAX_TTL_S,
    Entitlement,
    Joined,
    Joining,
)
from limen.services.server.joining_records import NODE, node_key, token_key
from limen.services.server.joining_refusals import REFUSALS_PER_MINUTE

URL = "https://127.0.0.1:7443"
ITEMS = Entitlement("items", tags=(("version", "1"),))


class World(Parts):
    """A server's joining, and an operator."""

    async def start(self) -> "World":
        self.authority_ = await self.authority()
        self.joining = Joining(self.store, self.authority_, self.clock)
        return self

    async def token(self, *workloads: Entitlement, ttl_s: float = 600):
        created = await self.joining.create_token(
            "default", workloads or (ITEMS,), server_url=URL, actor="admin", ttl_s=ttl_s
        )
        return parse_join_token(created.text)

    async def redeem(self, token, *, secret=None, text=None, **about) -> Joined:
        return await self.joining.redeem(
            token.token_id, secret or token.secret, text or csr(), **about
        )

    async def verbs(self) -> list[str]:
        return [e.entry.verb for e in await self.store.audit()]


@pytest.fixture
async def world() -> World:
    return await World().start()


def csr() -> str:
    return csr_pem(csr_builder())


def leaf_der(issued) -> bytes:
    return parse_certificates(issued.chain_pem)[0]


async def refused(call, kind=LimenError) -> LimenError:
    with pytest.raises(kind) as caught:
        await call
    return caught.value


# --- tokens ---------------------------------------------------------------------------------------


async def test_a_token_names_the_server_and_its_authority(world):
    token = await world.token()
    assert token.server == URL
    assert token.fingerprint == world.authority_.control_fingerprint


async def test_the_secret_is_nowhere_but_in_the_token(world):
    created = await world.joining.create_token("default", [ITEMS], server_url=URL, actor="admin")
    token = parse_join_token(created.text)
    stored = await world.store.get(token_key(token.token_id))
    listed = await world.joining.list_tokens()
    seen = f"{dict(stored.body)}{await world.store.audit()}{listed}{created!r}"
    assert token.secret not in seen
    assert listed[0].secret_hash == ""


async def test_tokens_are_listed_by_mesh(world):
    await world.token()
    assert len(await world.joining.list_tokens("default")) == 1
    assert await world.joining.list_tokens("other") == []


@pytest.mark.parametrize(
    "workloads",
    [
        (),
        (Entitlement("items"), Entitlement("items", service_account="other")),
        (Entitlement("It\u00e4ms"),),
        (Entitlement("../x"),),
        (Entitlement("items", namespace="A"),),
        (Entitlement("items", service_account="a/b"),),
        (Entitlement("items", tags=(("kuma.io/service", "users"),)),),
        (Entitlement("items", tags=(("a", "1"), ("a", "2"))),),
        (Entitlement("items", tags=(("a\n", "1"),)),),
        (Entitlement("items", tags=(("a", "\u00e4"),)),),
        tuple(Entitlement(f"s{i}") for i in range(300)),
    ],
)
async def test_entitlements_that_make_no_sense_are_refused(world, workloads):
    call = world.joining.create_token("default", workloads, server_url=URL, actor="admin")
    await refused(call, InvalidInput)
    assert await world.joining.list_tokens() == []


@pytest.mark.parametrize("ttl_s", [0, -1, MAX_TTL_S + 1, float("nan"), float("inf")])
async def test_lives_that_make_no_sense_are_refused(world, ttl_s):
    call = world.joining.create_token("default", [ITEMS], server_url=URL, actor="a", ttl_s=ttl_s)
    assert (await refused(call, InvalidInput)).code == "invalid-ttl"


# --- redeeming ------------------------------------------------------------------------------------


async def test_a_redeemed_token_is_a_node_with_a_certificate(world):
    joined = await world.redeem(await world.token(), hostname="vm-7", versions={"agent": "1"})
    node, issued = joined.node, joined.issued
    chain = parse_certificates(issued.chain_pem)
    roots = parse_certificates(issued.bundle_pem)
    assert verify_node_chain(chain, roots, world.clock.now_s())[0] == node.node_id
    assert (node.mesh, node.hostname, node.versions) == ("default", "vm-7", (("agent", "1"),))
    assert issued.bundle_pem == world.authority_.control_bundle_pem
    stored = await world.joining.authenticate(leaf_der(issued))
    assert stored.entitlements == node.entitlements
    assert "join" in await world.verbs()


async def test_node_token_and_certificate_are_one_transaction(world):
    token = await world.token()
    joined = await world.redeem(token)
    records = [
        await world.store.get(node_key(joined.node.node_id)),
        await world.store.get(token_key(token.token_id)),
        *[r for r in (await world.store.list(CERTIFICATE))[0] if r.body.get("node")],
    ]
    assert len({r.revision for r in records}) == 1


async def test_the_server_sets_the_tags_and_the_service(world):
    joined = await world.redeem(await world.token())
    entitlement = await world.joining.authorize(joined.node.node_id, "items", "default")
    assert entitlement.service_account == "items"
    assert entitlement.tags == (("kuma.io/service", "items"), ("version", "1"))


async def test_join_token_used_twice_in_a_race_gives_one_node(world):
    token = await world.token()
    results = await asyncio.gather(
        *(world.redeem(token) for _ in range(10)), return_exceptions=True
    )
    assert sum(isinstance(r, Joined) for r in results) == 1
    assert sum(isinstance(r, Unauthenticated) for r in results) == 9
    assert len(await world.joining.list_nodes()) == 1
    assert len([r for r in (await world.store.list(CERTIFICATE))[0] if r.body.get("node")]) == 1


async def test_join_token_used_twice_in_a_race_at_two_servers_gives_one_node(world):
    token = await world.token()
    second = Joining(world.store, await world.authority(seed=2), world.clock)
    results = await asyncio.gather(
        *(
            joining.redeem(token.token_id, token.secret, csr())
            for joining in (world.joining, second, world.joining, second)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(r, Joined) for r in results) == 1
    assert len(await world.joining.list_nodes()) == 1


async def test_a_used_token_is_refused(world):
    token = await world.token()
    await world.redeem(token)
    await refused(world.redeem(token), Unauthenticated)
    assert (await world.verbs())[-1] == "join-refused-used"


async def test_every_refusal_reads_the_same_and_is_told_apart_in_the_log(world):
    used, expired, revoked, wrong = [await world.token() for _ in range(4)]
    await world.redeem(used)
    await world.joining.revoke_token(revoked.token_id, "admin")
    errors = [
        await refused(world.redeem(used), Unauthenticated),
        await refused(world.redeem(revoked), Unauthenticated),
        await refused(world.redeem(wrong, secret="x" * 43), Unauthenticated),
        await refused(world.joining.redeem("0" * 16, "x" * 43, csr()), Unauthenticated),
        await refused(world.joining.redeem("../../etc\n", "x", csr()), Unauthenticated),
    ]
    world.clock.advance(600)
    errors.append(await refused(world.redeem(expired), Unauthenticated))
    assert len({(str(e), e.code, e.hint) for e in errors}) == 1
    events = [e.entry for e in await world.store.audit() if "refused" in e.entry.verb]
    assert [e.verb.removeprefix("join-refused-") for e in events] == [
        "used",
        "revoked",
        "wrong-secret",
        "unknown",
        "unknown",
        "expired",
    ]
    assert events[4].name == "malformed"


async def test_a_wrong_secret_does_not_use_the_token_up(world):
    token = await world.token()
    for secret in ("x" * 43, token.secret[:-1], token.secret + "x", "", "\ud800", "\u00e4"):
        await refused(world.joining.redeem(token.token_id, secret, csr()), Unauthenticated)
    await world.redeem(token)


async def test_a_secret_of_one_token_does_not_open_another(world):
    one, two = await world.token(), await world.token()
    await refused(world.redeem(one, secret=two.secret), Unauthenticated)


async def test_a_token_expires_to_the_second_and_is_not_used_before_it_was_made(world):
    token = await world.token(ttl_s=60)
    world.clock.advance(59.9)
    early = await world.token(ttl_s=60)
    await world.redeem(token)
    world.clock.advance(60.1)
    await refused(world.redeem(early), Unauthenticated)
    later = await world.token()
    world.clock.set_s(world.clock.now_s() - 3600)
    await refused(world.redeem(later), Unauthenticated)


@pytest.mark.parametrize(
    "names",
    [
        [x509.UniformResourceIdentifier("spiffe://limen.control/node/somebody0")],
        [
            x509.UniformResourceIdentifier("spiffe://a"),
            x509.UniformResourceIdentifier("spiffe://b"),
        ],
        [x509.DNSName("localhost")],
    ],
)
async def test_a_bad_request_is_refused_and_the_token_stays_good(world, names):
    token = await world.token()
    await refused(world.redeem(token, text=csr_pem(csr_builder(*names))), InvalidInput)
    await world.redeem(token)


@pytest.mark.parametrize(
    "about",
    [
        {"hostname": "a\nb"},
        {"hostname": "x" * 300},
        {"versions": {"a": "\x1b[0m"}},
        {"versions": {str(i): "1" for i in range(20)}},
    ],
)
async def test_what_a_node_says_of_itself_is_checked(world, about):
    token = await world.token()
    await refused(world.redeem(token, **about), InvalidInput)
    assert await world.joining.list_nodes() == []
    await world.redeem(token)


async def test_a_full_disk_uses_no_token_up(world):
    token = await world.token()
    world.store.error = Unavailable("full")
    await refused(world.redeem(token), Unavailable)
    world.store.error = None
    await world.redeem(token)


async def test_guessing_does_not_fill_the_audit_log(world):
    for _ in range(REFUSALS_PER_MINUTE + 40):
        await refused(world.joining.redeem("0" * 16, "x" * 43, csr()), Unauthenticated)
    assert (await world.verbs()).count("join-refused-unknown") == REFUSALS_PER_MINUTE
    world.clock.advance(61)
    await refused(world.joining.redeem("0" * 16, "x" * 43, csr()), Unauthenticated)
    assert (await world.store.audit())[-1].entry.detail == {"refusals_not_listed": 40}


async def test_a_revoked_token_is_refused_and_an_unknown_one_is_not_revoked(world):
    token = await world.token()
    await world.joining.revoke_token(token.token_id, "admin")
    await refused(world.redeem(token), Unauthenticated)
    await refused(world.joining.revoke_token("0" * 16, "admin"), NotFound)


# --- living as a node -----------------------------------------------------------------------------


async def test_a_node_may_run_what_its_token_named_and_nothing_else(world):
    """Kuma 2026-18677: labels chosen by the client become its identity."""
    token = await world.token(ITEMS, Entitlement("users", "shop"))
    node_id = (await world.redeem(token)).node.node_id
    await world.joining.authorize(node_id, "items", "default")
    await world.joining.authorize(node_id, "users", "shop")
    for service, namespace in (("users", "default"), ("items", "shop"), ("", ""), ("*", "*")):
        error = await refused(world.joining.authorize(node_id, service, namespace), Forbidden)
        assert error.code == "not-entitled"


async def test_one_more_token_lets_a_node_run_one_more_service_once(world):
    node_id = (await world.redeem(await world.token())).node.node_id
    token = await world.token(
        Entitlement("users", "shop"), Entitlement("items", tags=(("v", "2"),))
    )
    wider = await world.joining.entitle(node_id, token.token_id, token.secret)
    assert {(e.namespace, e.service) for e in wider.entitlements} == {
        ("shop", "users"),
        ("default", "items"),
    }
    now = await world.joining.authorize(node_id, "items", "default")
    assert dict(now.tags)["v"] == "2"  # the newer token says what it is
    again = world.joining.entitle(node_id, token.token_id, token.secret)
    assert (await refused(again, Unauthenticated)).code == "join-refused"
    assert (await world.verbs()).count("entitle") == 1


async def test_one_more_token_in_a_race_of_two_nodes_goes_to_one(world):
    first = (await world.redeem(await world.token())).node.node_id
    second = (await world.redeem(await world.token())).node.node_id
    token = await world.token(Entitlement("users"))
    results = await asyncio.gather(
        *(world.joining.entitle(n, token.token_id, token.secret) for n in (first, second)),
        return_exceptions=True,
    )
    assert sorted(type(r).__name__ for r in results) == ["Node", "Unauthenticated"]


async def test_one_more_token_must_be_good_and_of_the_nodes_mesh(world):
    node_id = (await world.redeem(await world.token())).node.node_id
    token = await world.token(Entitlement("users"))
    wrong = world.joining.entitle(node_id, token.token_id, "x" * 43)
    assert (await refused(wrong, Unauthenticated)).code == "join-refused"
    created = await world.joining.create_token(
        "other", (Entitlement("users"),), server_url=URL, actor="admin"
    )
    other = parse_join_token(created.text)
    foreign = world.joining.entitle(node_id, other.token_id, other.secret)
    assert (await refused(foreign, Forbidden)).code == "wrong-mesh"
    await world.joining.revoke_node(node_id, "admin")
    late = world.joining.entitle(node_id, token.token_id, token.secret)
    assert (await refused(late, Forbidden)).code == "node-revoked"
    await world.redeem(token)  # nothing of this used it up


async def test_a_renewed_node_keeps_its_entitlements(world):
    joined = await world.redeem(await world.token())
    world.clock.advance(3 * DAY)
    issued = await world.joining.renew(joined.node.node_id, csr())
    node = await world.joining.authenticate(leaf_der(issued))
    assert node.entitlements == joined.node.entitlements
    assert node.renewed_s == world.clock.now_s()
    assert len(node.certificates) == 2
    assert parse_leaf(leaf_der(issued)).not_after_s == world.clock.now_s() + 7 * DAY


async def test_a_renewal_cannot_change_the_identity(world):
    joined = await world.redeem(await world.token())
    other = x509.UniformResourceIdentifier("spiffe://limen.control/node/somebody0")
    call = world.joining.renew(joined.node.node_id, csr_pem(csr_builder(other)))
    assert (await refused(call, InvalidInput)).code == "csr-name-mismatch"


@pytest.mark.parametrize("how", ["delete_node", "revoke_node"])
async def test_a_deleted_or_revoked_node_is_refused_and_does_not_renew(world, how):
    """Renewed child of a compromised certificate survives revocation."""
    joined = await world.redeem(await world.token())
    node_id = joined.node.node_id
    renewed = await world.joining.renew(node_id, csr())
    await getattr(world.joining, how)(node_id, "admin")
    calls = [
        world.joining.renew(node_id, csr()),
        world.joining.authorize(node_id, "items", "default"),
        world.joining.authenticate(leaf_der(joined.issued)),
        world.joining.authenticate(leaf_der(renewed)),
    ]
    for call in calls:
        assert (await refused(call, Forbidden)).code == "node-revoked"


async def test_a_deletion_during_a_renewal_wins(world):
    joined = await world.redeem(await world.token())
    node_id = joined.node.node_id
    before = len((await world.store.list(CERTIFICATE))[0])
    world.store.gate = asyncio.Event()
    renewal = asyncio.create_task(world.joining.renew(node_id, csr()))
    await asyncio.wait({renewal}, timeout=0.05)  # it has read the record and waits to commit
    gate, world.store.gate = world.store.gate, None
    await world.joining.delete_node(node_id, "admin")
    gate.set()
    assert (await refused(renewal, Forbidden)).code == "node-revoked"
    assert (await world.store.list(NODE))[0] == []
    assert len((await world.store.list(CERTIFICATE))[0]) == before


async def test_two_renewals_at_once_both_succeed_and_both_are_known(world):
    joined = await world.redeem(await world.token())
    issued = await asyncio.gather(
        *(world.joining.renew(joined.node.node_id, csr()) for _ in range(3))
    )
    for one in issued:
        await world.joining.authenticate(leaf_der(one))


async def test_only_the_newest_certificates_of_a_node_are_accepted(world):
    joined = await world.redeem(await world.token())
    for _ in range(8):
        last = await world.joining.renew(joined.node.node_id, csr())
    await world.joining.authenticate(leaf_der(last))
    await refused(world.joining.authenticate(leaf_der(joined.issued)), Forbidden)


async def test_a_certificate_that_was_never_recorded_is_refused(world):
    """Certificate verified is not the certificate used: the right name is not enough."""
    joined = await world.redeem(await world.token())
    forged = node_certificate(control_authority(), joined.node.node_id)
    assert (await refused(world.joining.authenticate(forged), Forbidden)).code == "node-revoked"
    unrecorded = await world.authority_.prepare_node(
        joined.node.node_id, csr(), "default", "nobody"
    )
    await refused(world.joining.authenticate(leaf_der(unrecorded.issued)), Forbidden)


async def test_what_is_not_a_nodes_certificate_is_not_a_node(world):
    control = control_authority()
    for der in (server(control), workload(mesh_authority()), control.root, b"garbage"):
        with pytest.raises(LimenError) as caught:
            await world.joining.authenticate(der)
        assert caught.value.code in {"unauthenticated", "certificate-untrusted"}


@pytest.mark.parametrize("node_id", ["", "0" * 16, "../x", "\u00e4" * 10, "x" * 1000])
async def test_an_unknown_node_is_refused(world, node_id):
    await refused(world.joining.node(node_id), Forbidden)
    await refused(world.joining.renew(node_id, csr()), Forbidden)
    await refused(world.joining.delete_node(node_id, "admin"), NotFound)


async def test_nodes_are_listed_by_mesh(world):
    joined = await world.redeem(await world.token())
    assert [n.node_id for n in await world.joining.list_nodes("default")] == [joined.node.node_id]
    assert await world.joining.list_nodes("other") == []


async def test_old_tokens_are_forgotten(world):
    await world.token(ttl_s=60)
    world.clock.advance(8 * DAY)
    fresh = await world.token()
    assert await world.joining.prune_tokens() == 1
    assert [t.token_id for t in await world.joining.list_tokens()] == [fresh.token_id]


async def test_a_storm_of_joins_shares_few_commits(world):
    tokens = [await world.token() for _ in range(100)]
    before, key = world.store.commits, new_key()
    text = csr_pem(csr_builder(), key)
    joined = await asyncio.gather(*(world.redeem(t, text=text) for t in tokens))
    assert len({j.node.node_id for j in joined}) == 100
    assert world.store.commits - before <= 10
