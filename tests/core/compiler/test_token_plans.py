"""RequestAuthentication: the plans of a port, where its keys come from, what becomes of tokens."""

from __future__ import annotations

import json

import pytest
from tests.core.compiler import build as b
from tests.core.compiler.istio import ask, istio_is_on, policy, tokens

from limen.core.compiler.graph import MeshGraph
from limen.core.compiler.token_plans import KeySource
from limen.core.model.request_authentication import ClaimHeader, TokenHeader

pytestmark = pytest.mark.usefixtures("istio_is_on")
__all__ = ["istio_is_on"]

X = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"
Y = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
"""RFC 7517, appendix A.1 has their like: RFC 7515, appendix A.3."""
KEY = {"kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": "k1", "alg": "ES256", "use": "sig"}
JWKS = json.dumps({"keys": [KEY]})
ONE = "{jwtRules: [{issuer: one, jwksUri: 'https://one.example/keys'}]}"
ALL = "{rules: [{}]}"


def graph(*documents, keys=None) -> MeshGraph:
    return MeshGraph("default", [b.dataplane("items"), *documents], keys)


def plans(found: MeshGraph):
    return found.plan(b.instance("items")).inbounds[0].tokens


def test_every_field_arrives():
    spec = """{jwtRules: [{issuer: one, audiences: [a, b], jwksUri: 'https://one.example/keys',
      fromHeaders: [{name: x-jwt, prefix: 'T '}], fromParams: [t], fromCookies: [c],
      outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x-sub, claim: sub}],
      forwardOriginalToken: true}]}"""
    (plan,) = plans(graph(tokens(spec)))
    assert (plan.issuer, plan.audiences, plan.jwks) == ("one", ("a", "b"), "")
    assert plan.from_headers == (TokenHeader("x-jwt", "T "),)
    assert (plan.from_params, plan.from_cookies) == (("t",), ("c",))
    assert plan.output_payload_to_header == "x-payload"
    assert plan.output_claims == (ClaimHeader("x-sub", "sub"),)
    assert plan.forward
    assert not plan.required
    assert plan.space_delimited == ("permission", "scope")


def test_several_documents_add_up_sorted_by_issuer():
    def issuers(*names: str) -> str:
        rules = [f"{{issuer: {n}, jwksUri: 'https://x.example/k'}}" for n in names]
        return f"{{jwtRules: [{', '.join(rules)}]}}"

    found = plans(
        graph(
            tokens(issuers("z", "a"), "one"),
            tokens(issuers("m"), "two", namespace="istio-system"),
            tokens(issuers("x"), "three", namespace="bank"),
        )
    )
    assert [plan.issuer for plan in found] == ["a", "m", "z"]


def test_unknown_keys_are_no_keys_and_unfit_ones_are_left_out():
    assert plans(graph(tokens(ONE)))[0].jwks == ""
    unfit = {**KEY, "use": "enc", "kid": "k2"}
    published = json.dumps({"keys": [KEY, unfit]})
    kept = plans(graph(tokens(ONE), keys={"https://one.example/keys": published}))[0].jwks
    assert [key["kid"] for key in json.loads(kept)["keys"]] == ["k1"]
    for broken in ("", "{", "[]", json.dumps({"keys": [unfit]})):
        assert plans(graph(tokens(ONE), keys={"https://one.example/keys": broken}))[0].jwks == ""


def test_keys_in_the_document_need_no_fetching():
    spec = json.dumps({"jwtRules": [{"issuer": "one", "jwks": JWKS}]})
    found = graph(tokens(spec), keys={"one": "{}"})
    assert found.key_sources() == frozenset()
    assert json.loads(plans(found)[0].jwks)["keys"][0]["kid"] == "k1"


def test_where_keys_are_published():
    spec = "{jwtRules: [{issuer: 'https://two.example', timeout: 2s}]}"
    found = graph(tokens(ONE), tokens(spec, "two"))
    assert found.key_sources() == {
        KeySource("one", "https://one.example/keys", 5.0),
        KeySource("https://two.example", "", 2.0),
    }
    keyed = graph(tokens(spec), keys={"https://two.example": JWKS})
    assert plans(keyed)[0].jwks


def test_new_keys_dirty_only_who_reads_them_and_take_no_right_away():
    found = graph(
        b.dataplane("users"),
        tokens("{selector: {matchLabels: {app: items}}, " + ONE[1:]),
        policy(ALL),
    )
    dirty = found.set_keys({"https://one.example/keys": JWKS})
    assert dirty.instances == {b.instance("items")}
    assert not dirty.narrowed
    assert plans(found)[0].jwks
    assert not found.set_keys({"https://one.example/keys": JWKS}).instances
    fresh = graph(
        tokens("{selector: {matchLabels: {app: items}}, " + ONE[1:]),
        keys={"https://one.example/keys": JWKS},
    )
    assert plans(found) == plans(fresh)
    found.update([b.settings(default_allow=True)])
    assert plans(found)[0].jwks
    assert found.set_keys({}).instances == {b.instance("items")}
    assert plans(found)[0].jwks == ""


def test_a_change_of_issuers_may_take_a_right_away():
    found = graph(policy(ALL))
    assert found.preview([tokens(ONE)]).narrowed
    assert graph(policy(ALL), tokens(ONE)).preview([tokens(ONE).key]).narrowed


def test_absent_passes_unknown_issuer_and_wrong_audience_do_not():
    spec = "{jwtRules: [{issuer: one, audiences: [shop], jwksUri: 'https://x.example/k'}]}"
    rules = policy(ALL), tokens(spec)
    assert ask(*rules).allowed
    assert ask(*rules, claims={"iss": "one", "aud": ["web", "shop"]}).allowed
    other = ask(*rules, claims={"iss": "two", "aud": "shop"})
    assert (other.allowed, other.status) == (False, 401)
    assert "issuer 'two'" in other.reason
    missing = ask(*rules, claims={"iss": "one"})
    assert (missing.allowed, missing.status) == (False, 401)


def test_partial_issuer_is_another_issuer():
    rules = policy(ALL), tokens("{jwtRules: [{issuer: 'https://id.example'}]}")
    for issuer in ("https://id.example/", "https://id.exampl", "https://ID.example", None, 7):
        assert ask(*rules, claims={"iss": issuer}).status == 401


def test_a_required_token():
    notes = '{limen.dev/token-required: "true"}'
    other = "{jwtRules: [{issuer: two, jwksUri: 'https://x.example/k'}]}"
    rules = policy(ALL), tokens(ONE, notes=notes), tokens(other, "b")
    assert ask(*rules).status == 401
    assert ask(*rules, claims={"iss": "two"}).status == 401
    assert ask(*rules, claims={"iss": "one"}).allowed


def test_claims_without_a_reader_count_for_nothing():
    answer = ask(
        policy("{rules: [{when: [{key: 'request.auth.claims[iss]', values: [one]}]}]}"),
        claims={"iss": "one"},
    )
    assert not answer.allowed
    assert any("reads the claims" in note for note in answer.notes)
    assert answer.near_misses[0].seen == "(no token)"


def test_space_delimited_claims_are_lists_of_words():
    spec = ONE.replace("issuer: one", "issuer: one, spaceDelimitedClaims: [roles]")
    rule = policy("{rules: [{when: [{key: 'request.auth.claims[roles]', values: [b]}]}]}")
    claims = {"iss": "one", "roles": "a b"}
    assert ask(rule, tokens(spec), claims=claims).allowed
    assert not ask(rule, tokens(ONE), claims=claims).allowed


def test_words_are_split_at_spaces_only():
    rule = policy("{rules: [{when: [{key: 'request.auth.claims[scope]', values: [b]}]}]}")
    assert ask(rule, tokens(ONE), claims={"iss": "one", "scope": " a  b"}).allowed
    assert not ask(rule, tokens(ONE), claims={"iss": "one", "scope": "a\tb"}).allowed
