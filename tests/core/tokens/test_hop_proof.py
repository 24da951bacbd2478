"""Hop proofs: one use, for one request, over one connection."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tests.core.tokens.signing import ec_key, sign

from limen.core.tokens.hop_proof import (
    LEEWAY_S,
    LIFETIME_S,
    MAX_JTI_CHARS,
    TYP,
    HopRequest,
    Peer,
    sign_hop_proof,
    verify_hop_proof,
)
from limen.core.tokens.replay import Seen
from limen.errors import InvalidInput, Untrusted

NOW = 1_800_000_000.0
CALLER = "spiffe://default.mesh.local/ns/default/sa/orders"
CALLEE = "spiffe://default.mesh.local/ns/default/sa/items"
KEY = ec_key()
PEER = Peer(CALLER, "thumb-1", KEY.public_key())
REQUEST = HopRequest(CALLEE, "POST", "items.mesh", "/items?x=1", "a.b.c")


def proof(request: HopRequest = REQUEST, jti: str = "j1", now: float = NOW) -> str:
    return sign_hop_proof(request, PEER, KEY, now, jti)


def claims(**changes: Any) -> dict[str, Any]:
    said = {
        "iss": CALLER,
        "aud": CALLEE,
        "htm": "POST",
        "htu": "https://items.mesh/items?x=1",
        "ath": REQUEST.token_hash,
        "cnf": {"x5t#S256": "thumb-1"},
        "jti": "j1",
        "iat": int(NOW),
        "exp": int(NOW) + LIFETIME_S,
    }
    return {name: value for name, value in {**said, **changes}.items() if value is not ...}


def made(header: Any = None, key: Any = KEY, **changes: Any) -> str:
    head = {"alg": "ES256", "typ": TYP} if header is None else header
    return sign(head, claims(**changes), key, head.get("alg", "ES256"))


def refusal(text: str, **changes: Any) -> str:
    values: dict[str, Any] = {"request": REQUEST, "peer": PEER, "memory": Seen(), "now_s": NOW}
    with pytest.raises(Untrusted) as caught:
        verify_hop_proof(text, **{**values, **changes})
    return caught.value.code


def test_a_proof_is_accepted_once() -> None:
    memory, text = Seen(), proof()
    verify_hop_proof(text, REQUEST, PEER, memory, NOW)
    assert refusal(text, memory=memory) == "proof-replayed"
    assert refusal(text, memory=memory, now_s=NOW + LIFETIME_S) == "proof-replayed"
    verify_hop_proof(proof(jti="j2"), REQUEST, PEER, memory, NOW)


def test_a_proof_is_forgotten_only_when_nobody_accepts_it_any_more() -> None:
    memory, text = Seen(), proof()
    verify_hop_proof(text, REQUEST, PEER, memory, NOW)
    last = NOW + LIFETIME_S + LEEWAY_S
    assert refusal(text, memory=memory, now_s=last - 0.001) == "proof-replayed"
    assert refusal(text, memory=memory, now_s=last) == "token-expired"
    memory.note("other", last + 1, last)
    assert len(memory) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"method": "GET"},
        {"authority": "orders.mesh"},
        {"authority": "items.mesh:8080"},
        {"path": "/items?x=2"},
        {"path": "/items"},
        {"path": "/items/../admin?x=1"},
        {"token": "a.b.d"},
        {"token": ""},
        {"callee": "spiffe://default.mesh.local/ns/default/sa/stock"},
    ],
)
def test_a_proof_for_one_request_fits_no_other(change: dict[str, str]) -> None:
    assert refusal(proof(), request=dataclasses.replace(REQUEST, **change)) == "proof-request"


@pytest.mark.parametrize(
    ("authority", "path"),
    [("items", ".mesh/a"), ("items.mesh/a", "/b"), ("", "/a"), ("items.mesh", "")],
)
def test_authority_and_path_are_divided_in_one_way_only(authority: str, path: str) -> None:
    with pytest.raises(InvalidInput):
        HopRequest(CALLEE, "GET", authority, path, "t")


def test_a_stolen_proof_is_useless_over_another_connection() -> None:
    thief = Peer(CALLER, "thumb-2", ec_key(number=2).public_key())
    assert refusal(proof(), peer=thief) == "signature-invalid"
    renewed = Peer(CALLER, "thumb-2", KEY.public_key())
    assert refusal(proof(), peer=renewed) == "proof-certificate"
    named = dataclasses.replace(PEER, spiffe_id=CALLEE)
    assert refusal(proof(), peer=named) == "proof-certificate"


def test_a_key_in_the_header_is_not_believed() -> None:
    from tests.core.tokens.signing import jwk  # noqa: PLC0415

    thief = ec_key(number=2)
    header = {"alg": "ES256", "typ": TYP, "jwk": jwk(thief)}
    assert refusal(made(header, thief)) == "proof-malformed"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (made({"alg": "ES256"}), "proof-malformed"),
        (made({"alg": "ES256", "typ": "dpop+jwt"}), "proof-malformed"),
        (made({"alg": "ES256", "typ": TYP, "kid": "k"}), "proof-malformed"),
        (made({"alg": "ES384", "typ": TYP}, ec_key("384")), "proof-malformed"),
        (made(aud=...), "proof-malformed"),
        (made(aud=[CALLEE]), "proof-malformed"),
        (made(jti=""), "proof-malformed"),
        (made(jti="x" * (MAX_JTI_CHARS + 1)), "proof-malformed"),
        (made(scope="admin"), "proof-malformed"),
        (made(iat=...), "proof-malformed"),
        (made(htm=None), "proof-malformed"),
        (made(cnf={"x5t#S256": "thumb-1", "jkt": "x"}), "proof-certificate"),
        (made(cnf={"jkt": "thumb-1"}), "proof-certificate"),
        (made(exp=int(NOW) + LIFETIME_S + 1), "proof-lifetime"),
        (made(exp=int(NOW), iat=int(NOW)), "proof-lifetime"),
        (made(iat=int(NOW) + 60, exp=int(NOW) + 80), "token-future"),
        (made(iat=int(NOW) - 90, exp=int(NOW) - 60), "token-expired"),
        (made(exp=1e99), "claim-exp"),
    ],
)
def test_what_is_no_proof(text: str, code: str) -> None:
    assert refusal(text) == code


def test_a_proof_that_is_refused_takes_no_room_in_the_memory() -> None:
    memory = Seen()
    refusal(proof(), request=dataclasses.replace(REQUEST, method="GET"), memory=memory)
    refusal(made(key=ec_key(number=2)), memory=memory)
    assert len(memory) == 0


def test_a_full_memory_refuses_instead_of_forgetting() -> None:
    memory = Seen(capacity=1)
    verify_hop_proof(proof(), REQUEST, PEER, memory, NOW)
    assert refusal(proof(jti="j2"), memory=memory) == "proof-replayed"
    later = NOW + LIFETIME_S + LEEWAY_S
    verify_hop_proof(proof(jti="j3", now=later), REQUEST, PEER, memory, later)


def test_two_callers_may_use_the_same_jti() -> None:
    memory = Seen()
    verify_hop_proof(proof(), REQUEST, PEER, memory, NOW)
    other = Peer(CALLEE, "thumb-2", ec_key(number=2).public_key())
    text = sign_hop_proof(REQUEST, other, ec_key(number=2), NOW, "j1")
    verify_hop_proof(text, REQUEST, other, memory, NOW)
