"""Token exchange: what is given, what is refused with which code, and the laws for all inputs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limen.core.tokens.exchange import (
    ACCESS_TOKEN,
    JWT,
    MAX_ACTORS,
    TYP,
    ExchangeGrant,
    ExchangeRequest,
    Issued,
    Refused,
    decide_client_credentials,
    decide_exchange,
)
from limen.core.tokens.verify import VerifiedToken

NOW = 1_800_000_000.0
ISSUER = "https://tokens.mesh"
LOGIN = "https://login.example"
SHOP = "spiffe://default.mesh.local/ns/default/sa/shop"
OTHER = "spiffe://default.mesh.local/ns/default/sa/other"
GRANT = ExchangeGrant(
    frozenset([SHOP]), frozenset([LOGIN, ISSUER]), ("items", "*.example.com"), frozenset(["r", "w"])
)


def token(issuer: str = LOGIN, subject: str = "ann", exp: float = NOW + 60, **claims: Any) -> Any:
    said = {"aud": [SHOP], "scope": "r admin", **claims}
    return VerifiedToken({}, said, issuer, subject, f"{issuer}/{subject}", exp)


def ask(grant: ExchangeGrant | None = GRANT, **changes: Any) -> Issued | Refused:
    own = getattr(changes.get("subject"), "issuer", LOGIN) == ISSUER
    named = {"issuer_name": "" if own else "login"}
    values = {"client": SHOP, "subject": token(), "audiences": ("items",), **named, **changes}
    return decide_exchange(ExchangeRequest(**values), [grant] if grant else [], ISSUER, NOW, "j1")


def claims(**changes: Any) -> dict[str, Any]:
    found = ask(**changes)
    assert isinstance(found, Issued), found
    return dict(found.claims)


def error(**changes: Any) -> str:
    found = ask(**changes)
    assert isinstance(found, Refused), found
    return found.error


def changed(**fields: Any) -> ExchangeGrant:
    return dataclasses.replace(GRANT, **fields)


def test_a_delegated_token_says_who_for_whom_and_by_whom() -> None:
    assert claims() == {
        "iss": ISSUER,
        "sub": "login:ann",
        "sub_id": {"format": "iss_sub", "iss": LOGIN, "sub": "ann"},
        "aud": ["items"],
        "client_id": SHOP,
        "iat": int(NOW),
        "exp": int(NOW) + 60,
        "jti": "j1",
        "scope": "r",
        "act": {"sub": SHOP},
    }
    assert TYP == "at+jwt"


def test_without_a_grant_nothing_is_exchanged() -> None:
    assert error(grant=None) == "unauthorized_client"
    assert error(client=OTHER) == "unauthorized_client"


def test_a_token_of_one_client_is_not_exchanged_by_another() -> None:
    both = changed(clients=frozenset([SHOP, OTHER]))
    assert error(grant=both, client=OTHER) == "invalid_request"
    assert error(subject=token(aud=[])) == "invalid_request"
    shared = changed(subject_audiences=("web",))
    assert claims(grant=shared, subject=token(aud="web"))["sub"] == "login:ann"


def test_the_audience_comes_from_the_grant_alone() -> None:
    assert claims(audiences=("api.example.com",))["aud"] == ["api.example.com"]
    for wrong in ((), ("orders",), ("items", "orders"), ("*.example.com",), ("a.b.example.com",)):
        assert error(audiences=wrong) == "invalid_target", wrong


@pytest.mark.parametrize("text", ["items", "https://x/#f", "https://x/#", "/p", "https://[x"])
def test_a_resource_is_an_absolute_uri_without_a_fragment(text: str) -> None:
    wide = changed(audiences=(text,))
    assert error(grant=wide, audiences=(), resources=(text,)) == "invalid_target"


def test_a_resource_is_granted_as_an_audience_is() -> None:
    wide = changed(audiences=("https://x/a",))
    assert claims(grant=wide, audiences=(), resources=("https://x/a",))["aud"] == ["https://x/a"]
    assert error(audiences=(), resources=("https://x/a",)) == "invalid_target"


def test_scope_is_not_widened_by_exchange() -> None:
    assert claims(scopes=frozenset())["scope"] == ""
    for wrong in ("w", "admin", "x", "r w"):
        assert error(scopes=frozenset([wrong])) == "invalid_scope", wrong
    assert error(subject=token(scope=["r"])) == "invalid_request"


def test_only_token_types_that_are_issued_are_promised() -> None:
    found = ask(requested_type=JWT)
    assert isinstance(found, Issued)
    assert found.issued_type == JWT
    wrong = "urn:ietf:params:oauth:token-type:refresh_token"
    assert error(requested_type=wrong) == "invalid_request"


def test_an_actor_token_without_may_act_is_refused() -> None:
    actor = token(issuer=ISSUER, subject="robot")
    assert error(actor=actor) == "invalid_request"
    may = {"iss": ISSUER, "sub": "robot"}
    act = claims(actor=actor, subject=token(may_act=may))["act"]
    assert act == {"iss": ISSUER, "sub": "robot"}


@pytest.mark.parametrize(
    "may_act",
    [
        *({}, {"sub": "robot"}, {"sub": "robot", "iss": LOGIN}, {"iss": ISSUER}, "robot", []),
        *({"sub": "robot", "iss": ISSUER, "aud": "x"}, {"sub": "x", "iss": ISSUER}),
    ],
)
def test_may_act_has_to_name_the_actor_in_full(may_act: Any) -> None:
    actor = token(issuer=ISSUER, subject="robot")
    assert error(actor=actor, subject=token(may_act=may_act)) == "invalid_request"


def test_may_act_binds_the_client_too_impersonating_or_not() -> None:
    for grant in (GRANT, changed(impersonate=True)):
        assert error(grant=grant, subject=token(may_act={"sub": OTHER})) == "invalid_request"
        assert claims(grant=grant, subject=token(may_act={"sub": SHOP}))["sub"] == "login:ann"


def test_an_actor_token_is_the_clients_and_of_one_who_acts_for_itself() -> None:
    subject = token(may_act={"iss": ISSUER, "sub": "robot"})
    for wrong in ({"aud": [OTHER]}, {"act": {"sub": "x"}}):
        actor = token(issuer=ISSUER, subject="robot", **wrong)
        assert error(actor=actor, subject=subject) == "invalid_request", wrong


def test_impersonation_adds_nobody_and_removes_nobody() -> None:
    assert "act" not in claims(grant=changed(impersonate=True))
    before = {"sub": OTHER}
    kept = claims(grant=changed(impersonate=True), subject=token(act=before))["act"]
    assert kept == {**before, "iss": LOGIN}


def test_a_token_bound_to_another_key_is_refused() -> None:
    bound = token(cnf={"x5t#S256": "abc"})
    assert claims(subject=bound, certificate_sha256="abc")["sub"] == "login:ann"
    assert error(subject=bound) == "invalid_request"
    assert error(subject=bound, certificate_sha256="abd") == "invalid_request"
    for cnf in ({"jkt": "abc"}, {"x5t#S256": ""}, {}, None):
        assert error(subject=token(cnf=cnf)) == "invalid_request", cnf


def test_the_end_is_never_beyond_any_tokens_end() -> None:
    assert claims(grant=changed(lifetime_s=10))["exp"] == NOW + 10
    subject = token(may_act={"iss": ISSUER, "sub": "robot"})
    actor = token(issuer=ISSUER, subject="robot", exp=NOW + 5.9)
    assert claims(subject=subject, actor=actor)["exp"] == NOW + 5
    assert error(subject=token(exp=NOW)) == "invalid_request"
    assert error(subject=token(exp=NOW + 0.5)) == "invalid_request"
    assert error(grant=changed(lifetime_s=0)) == "invalid_request"


def test_the_user_stays_the_pair_of_issuer_and_subject_over_several_hops() -> None:
    first = claims()
    assert (
        claims(subject=token(issuer=ISSUER, **first | {"aud": SHOP}))["sub_id"] == first["sub_id"]
    )
    forged = token(sub_id={"format": "iss_sub", "iss": "https://other", "sub": "eve"})
    assert claims(subject=forged)["sub_id"] == first["sub_id"]


def test_two_users_never_have_one_sub_and_so_no_one_principal() -> None:
    other = token(issuer="https://other.example")
    wide = changed(subject_issuers=frozenset([LOGIN, "https://other.example"]))
    one, two = claims(), claims(grant=wide, subject=other, issuer_name="other")
    assert (one["sub"], two["sub"]) == ("login:ann", "other:ann")
    assert one["iss"] == two["iss"]


@given(*(st.text("ab:./", min_size=1, max_size=6) for _ in range(2)))
def test_no_subject_of_an_issuer_outside_looks_like_another_ones(one: str, two: str) -> None:
    """A name has no colon, so the first colon ends it."""
    said = {
        claims(issuer_name=n, subject=token(subject=s))["sub"] for n in "ab" for s in (one, two)
    }
    assert len(said) == 2 * len({one, two})


def test_an_issuer_without_a_name_has_no_users_here() -> None:
    assert error(issuer_name="") == "invalid_request"


def test_what_is_known_of_the_user_travels_on_and_overwrites_nothing() -> None:
    known = {"email": "a@b", "sub": "root", "act": {"sub": "x"}, "scope": "admin", "iss": "y"}
    first = claims(user_claims=known)
    assert (first["email"], first["sub"], first["scope"]) == ("a@b", "login:ann", "r")
    assert first["act"] == {"sub": SHOP}
    again = claims(subject=token(issuer=ISSUER, subject="login:ann", **first | {"aud": SHOP}))
    assert (again["email"], again["sub"], again["sub_id"]) == (
        "a@b", "login:ann", first["sub_id"],
    )  # fmt: skip
    assert again["act"] == {"sub": SHOP, "act": {"sub": SHOP}}


def test_an_issuer_outside_cannot_say_that_a_workload_of_ours_has_acted() -> None:
    forged = token(act={"sub": OTHER, "iss": ISSUER, "act": {"sub": "robot"}})
    assert claims(subject=forged)["act"] == {
        "sub": SHOP,
        "act": {"sub": OTHER, "iss": LOGIN, "act": {"sub": "robot", "iss": LOGIN}},
    }


def test_the_client_may_ask_for_less_time_and_not_for_more() -> None:
    assert claims(lifetime_s=20)["exp"] == int(NOW) + 20
    assert claims(lifetime_s=9999)["exp"] == int(NOW) + 60


def test_a_client_speaks_for_itself_only_where_a_grant_says_so() -> None:
    grant = changed(for_itself=True, name="p")

    def own(client: str = SHOP, target: str = "items", scopes: frozenset[str] | None = None) -> Any:
        return decide_client_credentials(client, [target], scopes, [GRANT, grant], ISSUER, NOW, "j")

    given_ = own()
    assert isinstance(given_, Issued)
    assert given_.claims == {
        "iss": ISSUER, "sub": SHOP, "aud": ["items"], "client_id": SHOP, "iat": int(NOW),
        "exp": int(NOW) + 300, "jti": "j", "scope": "r w",
    }  # fmt: skip
    assert own(OTHER).error == "unauthorized_client"
    assert own(target="orders").error == "invalid_target"
    assert own(target="*.example.com").error == "invalid_target"
    assert own(scopes=frozenset(["x"])).error == "invalid_scope"
    assert decide_client_credentials(SHOP, ["items"], None, [GRANT], ISSUER, NOW, "j") == Refused(
        "unauthorized_client", "no policy lets this client have tokens for itself"
    )


def test_a_chain_that_is_malformed_or_too_long_is_refused() -> None:
    long: Any = None
    for _ in range(MAX_ACTORS):
        long = {"sub": "x"} | ({"act": long} if long else {})
    for wrong in (long, {"sub": "x", "act": long}, {}, "x", {"sub": 1}, {"sub": "x", "act": []}):
        assert error(subject=token(act=wrong)) == "invalid_request", wrong


def test_rights_of_two_grants_are_not_added_up() -> None:
    grants = [changed(scopes=frozenset(["r"])), changed(audiences=("orders",))]
    subject = token(scope="r w")
    wish = ExchangeRequest(SHOP, subject, "login", audiences=("items",), scopes=frozenset(["w"]))
    assert isinstance(decide_exchange(wish, grants, ISSUER, NOW, "j"), Refused)
    wish = dataclasses.replace(wish, audiences=("orders",))
    assert isinstance(decide_exchange(wish, grants, ISSUER, NOW, "j"), Issued)


SCOPES = st.frozensets(st.sampled_from("abcd"))
NAMES = st.sampled_from(["items", "orders", "api.example.com", "*.example.com", ""])
KEYS = st.sampled_from(["sub", "iss", "act", "x5t#S256", SHOP])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | KEYS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
)
CHAINS = st.lists(st.sampled_from("xyz"), max_size=3)


def chain(act: Any) -> list[str]:
    return [act["sub"], *chain(act.get("act"))] if act else []


@given(
    had=SCOPES,
    granted=SCOPES,
    asked=st.none() | SCOPES,
    audiences=st.lists(NAMES, max_size=3),
    before=CHAINS,
    impersonate=st.booleans(),
)
def test_scope_never_widens_the_chain_only_grows_and_audiences_are_granted(
    *,
    had: frozenset[str],
    granted: frozenset[str],
    asked: frozenset[str] | None,
    audiences: list[str],
    before: list[str],
    impersonate: bool,
) -> None:
    act: Any = None
    for one in reversed(before):
        act = {"sub": one} | ({"act": act} if act else {})
    subject = token(scope=" ".join(had), **({"act": act} if act else {}))
    grant = changed(scopes=granted, impersonate=impersonate)
    found = ask(grant=grant, subject=subject, audiences=tuple(audiences), scopes=asked)
    if isinstance(found, Refused):
        bad = not audiences or not set(audiences) <= {"items", "api.example.com"}
        assert bad or not (asked or frozenset()) <= had & granted
        return
    assert set(found.claims["scope"].split()) == found.scopes <= had & granted
    assert set(found.claims["aud"]) <= {"items", "api.example.com"}
    assert chain(found.claims.get("act")) == ([] if impersonate else [SHOP]) + before


@given(st.floats(NOW - 10, NOW + 1e6), st.floats(NOW - 10, NOW + 1e6), st.integers(-5, 10**6))
def test_the_end_is_never_beyond(subject_exp: float, actor_exp: float, lifetime_s: int) -> None:
    subject = token(exp=subject_exp, may_act={"iss": ISSUER, "sub": "robot"})
    actor = token(issuer=ISSUER, subject="robot", exp=actor_exp)
    found = ask(grant=changed(lifetime_s=lifetime_s), subject=subject, actor=actor)
    end = min(subject_exp, actor_exp, NOW + lifetime_s)
    assert isinstance(found, Issued) == (math.floor(end) > NOW)
    if isinstance(found, Issued):
        assert NOW < found.claims["exp"] == found.expires_s <= end


@given(
    st.dictionaries(st.sampled_from(["aud", "scope", "act", "may_act", "cnf"]), JSON, max_size=2)
)
def test_every_input_is_decided(said: dict[str, Any]) -> None:
    found = ask(subject=token(**said), requested_type=ACCESS_TOKEN)
    assert isinstance(found, Issued | Refused)
