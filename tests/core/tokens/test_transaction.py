"""Transaction tokens: what begins one, what a replacement may change, what an attacker tries."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.tokens.signing import ec_key, jwk, sign

from limen.core.tokens.exchange import Issued, Refused
from limen.core.tokens.jwks import parse_jwks
from limen.core.tokens.signing import sign_token
from limen.core.tokens.transaction import (
    MAX_CHAIN,
    MAX_CONTEXT_CHARS,
    TOKEN_TYPE,
    TYP,
    TransactionGrant,
    TransactionRequest,
    TransactionService,
    decide_transaction,
    transaction_rules,
    verify_transaction,
)
from limen.core.tokens.verify import VerifiedToken, verify_token
from limen.errors import Untrusted

NOW = 1_800_000_000.0
DOMAIN = "default.mesh.local"
SERVICE = TransactionService("https://tokens.mesh", DOMAIN)
LOGIN = "https://login.example"
GATEWAY = f"spiffe://{DOMAIN}/ns/default/sa/gateway"
ORDERS = f"spiffe://{DOMAIN}/ns/default/sa/orders"
KEY = ec_key()
KEYS = parse_jwks(f'{{"keys": [{__import__("json").dumps(jwk(KEY))}]}}')
GRANT = TransactionGrant(
    frozenset([GATEWAY, ORDERS]),
    frozenset([LOGIN, SERVICE.issuer]),
    frozenset(["pay", "read"]),
    details=frozenset(["action", "amount"]),
    context=frozenset(["req_ip"]),
)


def outside(**changes: Any) -> VerifiedToken:
    claims = {"aud": [GATEWAY], "scope": "pay read admin", **changes.pop("claims", {})}
    values = {"issuer": LOGIN, "subject": "ann", "expires_s": NOW + 600, **changes}
    return VerifiedToken({}, claims, request_principal="", **values)


def ask(grants: Any = (GRANT,), now: float = NOW, **changes: Any) -> Issued | Refused:
    values: dict[str, Any] = {
        "client": GATEWAY,
        "subject": outside(),
        "scopes": frozenset(["pay"]),
        "audience": DOMAIN,
        "txn": "t1",
        **changes,
    }
    return decide_transaction(TransactionRequest(**values), grants, SERVICE, now)


def begun(**changes: Any) -> dict[str, Any]:
    found = ask(**changes)
    assert isinstance(found, Issued), found
    return dict(found.claims)


def error(**changes: Any) -> str:
    found = ask(**changes)
    assert isinstance(found, Refused), found
    return found.error


def as_subject(claims: dict[str, Any]) -> VerifiedToken:
    """The token as its service reads it again: signed and verified for real."""
    token = sign_token({"typ": TYP}, claims, KEY)
    return verify_token(token, transaction_rules(KEYS, SERVICE), NOW)


def replaced(claims: dict[str, Any], **changes: Any) -> Issued | Refused:
    values = {"client": ORDERS, "subject": as_subject(claims), "txn": "other", **changes}
    return ask(**values)


def test_a_transaction_says_who_for_what_and_by_whom() -> None:
    claims = begun(details={"action": "buy"}, context={"req_ip": "192.0.2.7"})
    assert claims == {
        "iss": "https://tokens.mesh",
        "aud": DOMAIN,
        "txn": "t1",
        "sub": "https://login.example/ann",
        "sub_id": {"format": "iss_sub", "iss": LOGIN, "sub": "ann"},
        "scope": "pay",
        "req_wl": GATEWAY,
        "call_chain": [GATEWAY],
        "tctx": {"action": "buy"},
        "rctx": {"req_ip": "192.0.2.7"},
        "iat": int(NOW),
        "exp": int(NOW) + 120,
    }
    found = ask()
    assert isinstance(found, Issued)
    assert (found.issued_type, TYP) == (TOKEN_TYPE, "txntoken+jwt")


def test_what_is_issued_is_accepted_by_its_verifier() -> None:
    token = sign_token({"typ": TYP}, begun(details={"action": "buy"}), KEY)
    found = verify_transaction(token, KEYS, SERVICE, NOW)
    assert (found.txn, found.subject, found.chain) == ("t1", f"{LOGIN}/ann", (GATEWAY,))
    assert found.scopes == {"pay"}
    assert found.details == {"action": "buy"}


def test_the_subject_is_one_user_in_the_whole_trust_domain() -> None:
    grant = dataclasses.replace(GRANT, subject_issuers=frozenset(["https://a", "https://a/b"]))
    one = begun(grants=[grant], subject=outside(issuer="https://a", subject="b/c"))
    other = begun(grants=[grant], subject=outside(issuer="https://a/b", subject="c"))
    assert one["sub"] == "https://a/b%2Fc"
    assert one["sub"] != other["sub"]


def test_a_replacement_keeps_the_transaction_and_names_who_asked() -> None:
    first = begun(details={"action": "buy"}, scopes=frozenset(["pay", "read"]))
    found = replaced(first, scopes=frozenset(["read"]), details={"amount": 5})
    assert isinstance(found, Issued)
    same = ("iss", "aud", "txn", "sub", "sub_id")
    assert {name: found.claims[name] for name in same} == {name: first[name] for name in same}
    assert found.claims["req_wl"] == ORDERS
    assert found.claims["call_chain"] == [GATEWAY, ORDERS]
    assert found.claims["tctx"] == {"action": "buy", "amount": 5}
    assert found.claims["scope"] == "read"


def test_a_replacement_changes_nothing_that_was_said() -> None:
    first = begun(details={"action": "buy", "amount": 1}, context={"req_ip": "192.0.2.7"})
    for change in (
        {"details": {"amount": 2}},
        {"details": {"amount": True}},
        {"details": {"action": None}},
        {"context": {"req_ip": "192.0.2.8"}},
    ):
        found = replaced(first, **change)
        assert isinstance(found, Refused), change
        assert found.error == "invalid_request"
    again = replaced(first, details={"amount": 1})
    assert isinstance(again, Issued)
    assert again.claims["tctx"] == first["tctx"]


def test_a_replacement_never_widens_the_scope() -> None:
    first = begun(scopes=frozenset(["read"]))
    found = replaced(first, scopes=frozenset(["pay"]))
    assert isinstance(found, Refused)
    assert found.error == "invalid_scope"


def test_a_chain_of_replacements_never_lives_longer() -> None:
    first = begun()
    later = replaced(first, now=NOW + 100)
    assert isinstance(later, Issued)
    assert later.claims["exp"] == first["exp"]


def test_an_expired_transaction_is_not_replaced() -> None:
    first = begun()
    assert error(subject=as_subject(first), now=NOW + 121) == "invalid_request"


def test_a_chain_has_an_end() -> None:
    full = {**begun(), "call_chain": [GATEWAY] * (MAX_CHAIN - 1) + [GATEWAY]}
    found = replaced(full)
    assert isinstance(found, Refused)
    assert found.error == "invalid_request"


def test_the_workloads_that_exchanged_before_stand_in_the_chain() -> None:
    act = {"sub": ORDERS, "act": {"sub": GATEWAY}}
    claims = {"aud": [ORDERS], "act": act, "scope": "pay"}
    inside = outside(issuer=SERVICE.issuer, claims=claims)
    assert begun(client=ORDERS, subject=inside)["call_chain"] == [GATEWAY, ORDERS]


def test_an_outside_issuer_writes_no_history() -> None:
    forged = outside(claims={"act": {"sub": ORDERS}, "sub_id": {"iss": "x", "sub": "root"}})
    claims = begun(subject=forged)
    assert claims["call_chain"] == [GATEWAY]
    assert claims["sub"] == "https://login.example/ann"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"grants": ()}, "unauthorized_client"),
        ({"client": f"spiffe://{DOMAIN}/ns/default/sa/other"}, "unauthorized_client"),
        ({"audience": "other.mesh.local"}, "invalid_target"),
        ({"audience": ""}, "invalid_target"),
        ({"scopes": frozenset()}, "invalid_scope"),
        ({"scopes": frozenset(["admin"])}, "invalid_scope"),
        ({"scopes": frozenset(["pay", "root"])}, "invalid_scope"),
        ({"subject": outside(subject="")}, "invalid_request"),
        ({"subject": outside(expires_s=NOW)}, "invalid_request"),
        ({"subject": outside(issuer="https://evil.example")}, "invalid_request"),
        ({"subject": outside(claims={"aud": ["somebody"]})}, "invalid_request"),
        ({"subject": outside(claims={"aud": []})}, "invalid_request"),
        ({"subject": outside(claims={"may_act": {"sub": ORDERS}})}, "invalid_request"),
        ({"subject": outside(claims={"cnf": {"x5t#S256": "other"}})}, "invalid_request"),
        ({"subject": outside(claims={"scope": ["pay"]})}, "invalid_scope"),
        ({"details": {"price": 0}}, "invalid_request"),
        ({"context": {"role": "admin"}}, "invalid_request"),
        ({"details": {"action": "x" * MAX_CONTEXT_CHARS}}, "invalid_request"),
    ],
)
def test_what_begins_no_transaction(change: dict[str, Any], code: str) -> None:
    assert error(**change) == code


def test_a_subject_token_without_scope_is_not_taken_for_one_with_every_scope() -> None:
    subject = outside()
    bare = dataclasses.replace(subject, claims={"aud": [GATEWAY]})
    assert error(subject=bare) == "invalid_scope"


def test_an_access_token_with_a_transactions_claims_is_no_transaction() -> None:
    """Its claims would make it a replacement; its kind says that it is not one."""
    claims = {**begun(), "aud": [GATEWAY]}
    posing = VerifiedToken({"typ": "at+jwt"}, claims, LOGIN, "ann", "", NOW + 600)
    assert begun(subject=posing)["txn"] == "t1"
    assert begun(subject=posing, txn="t2")["txn"] == "t2"


def test_an_outside_issuers_transaction_is_not_continued() -> None:
    claims = {**begun(), "iss": LOGIN}
    foreign = VerifiedToken({"typ": TYP}, claims, LOGIN, claims["sub"], "", NOW + 600)
    assert error(subject=foreign, client=ORDERS) == "invalid_request"


@pytest.mark.parametrize(
    ("header", "changes", "code"),
    [
        ({"typ": "at+jwt"}, {}, "header-typ"),
        ({"typ": "JWT"}, {}, "header-typ"),
        ({}, {}, "header-typ"),
        ({"typ": TYP}, {"aud": "other.mesh.local"}, "audience-other"),
        ({"typ": TYP}, {"aud": [DOMAIN, "other.mesh.local"]}, "claim-aud"),
        ({"typ": TYP}, {"iss": LOGIN}, "issuer-unknown"),
        ({"typ": TYP}, {"txn": ""}, "claim-txn"),
        ({"typ": TYP}, {"txn": 7}, "claim-txn"),
        ({"typ": TYP}, {"req_wl": None}, "claim-txn"),
        ({"typ": TYP}, {"scope": ["pay"]}, "claim-txn"),
        ({"typ": TYP}, {"tctx": "buy"}, "claim-txn"),
        ({"typ": TYP}, {"rctx": []}, "claim-txn"),
        ({"typ": TYP}, {"call_chain": None}, "claim-txn"),
        ({"typ": TYP}, {"call_chain": [ORDERS]}, "claim-txn"),
        ({"typ": TYP}, {"exp": NOW - 61}, "token-expired"),
        ({"typ": TYP}, {"sub": ""}, "claim-sub"),
    ],
)
def test_what_is_no_transaction_token(header: Any, changes: Any, code: str) -> None:
    token = sign({"alg": "ES256", **header}, {**begun(), **changes}, KEY, "ES256")
    with pytest.raises(Untrusted) as caught:
        verify_transaction(token, KEYS, SERVICE, NOW)
    assert caught.value.code == code


def test_only_es256_signs_a_transaction() -> None:
    token = sign({"alg": "ES384", "typ": TYP}, begun(), ec_key("384"), "ES384")
    with pytest.raises(Untrusted) as caught:
        verify_transaction(token, KEYS, SERVICE, NOW)
    assert caught.value.code == "alg-not-pinned"


_SCOPES = st.frozensets(st.sampled_from(["pay", "read", "admin", "root"]))


@given(st.lists(st.tuples(st.sampled_from([GATEWAY, ORDERS]), _SCOPES), max_size=6))
def test_no_sequence_of_requests_gains_anything(steps: list[tuple[str, frozenset[str]]]) -> None:
    held = begun(scopes=frozenset(["pay", "read"]), details={"amount": 1})
    first = held
    for client, scopes in steps:
        found = replaced(held, client=client, scopes=scopes)
        if isinstance(found, Issued):
            before, held = held, dict(found.claims)
            assert set(held["scope"].split()) <= set(before["scope"].split())
            assert held["exp"] <= before["exp"]
            assert held["call_chain"][: len(before["call_chain"])] == before["call_chain"]
    for name in ("txn", "sub", "aud", "tctx", "rctx"):
        assert held[name] == first[name]
