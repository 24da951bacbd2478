"""The strict reader against anything at all: only its own refusals come out."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.tokens import corpus
from tests.core.tokens.signing import b64, ec_key, jwk, rsa_key, sign

from limen.core.tokens.encoding import (
    Malformed,
    decode_base64url,
    encode_base64url,
    parse_json,
)
from limen.core.tokens.jwks import parse_jwks
from limen.core.tokens.reader import read_claims, read_compact
from limen.core.tokens.verify import IssuerRules, verify_token
from limen.errors import InvalidInput, Untrusted

NOW = 1_800_000_000
KEYS = parse_jwks(json.dumps(corpus.published()))
RULES = IssuerRules(corpus.ISSUER, KEYS, audiences=(corpus.AUDIENCE,))
GOOD = corpus.Maker(NOW).token()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
registered = st.sampled_from(
    ("alg", "kid", "typ", "crit", "b64", "zip", "enc", "iss", "sub", "aud", "exp", "nbf", "iat")
)
objects = st.dictionaries(registered | st.text(max_size=6), json_values, max_size=6)


def refused(token: str | bytes) -> str:
    with pytest.raises(Untrusted) as caught:
        verify_token(token, RULES, NOW)
    return caught.value.code


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_any_bytes_are_refused_cleanly(token: str | bytes) -> None:
    assert refused(token)


@given(st.text(string.ascii_letters + string.digits + '-_.={}" ', max_size=300))
def test_any_text_like_a_token_is_refused_cleanly(token: str) -> None:
    assert refused(token)


@given(objects, objects)
def test_any_signed_objects_are_read_or_refused(header: object, claims: object) -> None:
    """With a good signature, so that the claims are looked at too."""
    full = {"alg": "ES256", **header} if isinstance(header, dict) else header
    token = sign(json.dumps(full).encode(), json.dumps(claims).encode(), ec_key(), "ES256")
    with pytest.raises(Untrusted):  # no random object names the issuer
        verify_token(token, RULES, NOW)


@given(objects)
def test_random_claims_over_good_ones_are_read_or_refused(changes: dict[str, object]) -> None:
    good = corpus.Maker(NOW).claims
    raw = json.dumps(good | changes).encode()
    token = sign({"alg": "ES256", "kid": "ec"}, raw, ec_key(), "ES256")
    try:
        verified = verify_token(token, RULES, NOW)
    except Untrusted:
        return
    assert verified.issuer == corpus.ISSUER
    assert verified.claims["iss"] == corpus.ISSUER
    assert verified.expires_s > NOW - 60
    assert isinstance(verified.subject, str)


@given(st.integers(0, len(GOOD) - 1), st.sampled_from(string.printable))
def test_a_token_with_one_character_changed_is_refused(at: int, letter: str) -> None:
    """Each token has one spelling: no other text of the same length passes."""
    changed = GOOD[:at] + letter + GOOD[at + 1 :]
    if changed != GOOD:
        assert refused(changed)


@given(st.binary(max_size=60))
def test_base64url_has_one_text_for_one_value(data: bytes) -> None:
    assert decode_base64url(encode_base64url(data)) == data


@given(st.text(string.ascii_letters + string.digits + "-_=+/ \n", max_size=12))
def test_what_is_not_canonical_base64url_is_refused(text: str) -> None:
    try:
        assert encode_base64url(decode_base64url(text)) == text
    except Malformed:
        return


def parsed(raw: bytes, *, max_depth: int = 8, max_items: int = 100) -> object:
    return parse_json(raw, max_depth=max_depth, max_items=max_items)


@given(json_values)
def test_strict_json_agrees_with_the_standard_library_where_it_reads(value: object) -> None:
    raw = json.dumps(value).encode()
    try:
        found = parsed(raw, max_depth=20, max_items=10_000)
    except Malformed:
        return
    assert found == json.loads(raw)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"a":1,"a":1}', "twice"),
        (b'{"a":{"b":1,"b":2}}', "twice"),
        (b'{"a":NaN}', "NaN"),
        (b"[-Infinity]", "NaN"),
        (b"1e999", "finite"),
        (b"0." + b"1" * 80, "finite"),
        (b"9223372036854775808", "64 bits"),
        (b"9" * 5000, "64 bits"),
        (b"[" * 9, "deeper"),
        (b'{"a":' * 9, "deeper"),
        (b"[" * 100_000, "deeper"),
        (b"[" + b"1," * 200 + b"1]", "more than 100"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udfff":1}', "surrogate"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b'"\xff"', "UTF-8"),
        (b"\xef\xbb\xbf1", "not JSON"),
        (b"", "not JSON"),
        (b'"\n"', "not JSON"),
        (b"[1,]", "not JSON"),
        (b"nan", "not JSON"),
    ],
)
def test_json_that_is_not_strict_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        parsed(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'"\\ud83d\\ude00"',
        b'{"[[[[[[[[[[[[":"]]]{{{\\"[["}',
        b"-9223372036854775807",
        b'" \\\\"',
        b"[1.5e3,true,false,null]",
    ],
)
def test_json_that_is_strict_is_read(raw: bytes) -> None:
    assert parsed(raw) == json.loads(raw)


@pytest.mark.parametrize("letter", [b'"', b'\\"', b"\\", b"[", b",", b'\\"[', b'\\\\"'])
def test_a_hostile_text_costs_linear_time(letter: bytes) -> None:
    """A quarter of a megabyte: quadratic work would take minutes, and this run would show it."""
    raw = b'{"a":"' + letter * (256 * 1024 // len(letter))
    with pytest.raises(Malformed):
        parse_json(raw, max_depth=6, max_items=4096)


def test_the_limits_are_the_ones_that_are_said() -> None:
    assert read_compact(GOOD).kid == "ec"
    head, _, seal = GOOD.split(".")
    size = 16 * 1024 - len(head) - len(seal) - 2
    fill = "A" * (size - size % 4)
    assert len(read_compact(f"{head}.{fill}.{seal}").payload) == len(fill) * 3 // 4
    with pytest.raises(Untrusted) as caught:
        read_compact(f"{head}.{fill}AAAA.{seal}")
    assert caught.value.code == "token-too-large"
    assert len(read_claims(json.dumps({str(n): n for n in range(256)}).encode())) == 256


def test_bytes_and_text_are_read_alike() -> None:
    assert verify_token(GOOD.encode(), RULES, NOW) == verify_token(GOOD, RULES, NOW)


def test_nothing_of_a_token_is_in_a_refusal_or_in_repr() -> None:
    token = corpus.Maker(NOW).token(sub="someone-private", exp=1)
    with pytest.raises(Untrusted) as caught:
        verify_token(token, RULES, NOW)
    assert "someone-private" not in str(caught.value)
    assert "private" not in repr(read_compact(token))
    assert "items:read" not in repr(verify_token(GOOD, RULES, NOW))


# --- key sets


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_any_bytes_as_a_key_set_are_refused_cleanly(raw: bytes | str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_jwks(raw)
    assert caught.value.code == "jwks-malformed"


members = st.sampled_from(
    ("kty", "use", "key_ops", "alg", "kid", "crv", "x", "y", "n", "e", "k", "d", "x5c")
)
texts = st.sampled_from(
    ("EC", "RSA", "OKP", "oct", "sig", "enc", "verify", "ES256", "RS256", "P-256", "AQAB", "AA")
) | st.text(max_size=8)


@given(
    st.lists(st.dictionaries(members, texts | json_values, max_size=8), max_size=4),
    st.sampled_from((0, 1)),
)
def test_any_members_in_a_key_are_read_or_refused(
    keys: list[dict[str, object]], kind: object
) -> None:
    try:
        found = parse_jwks(json.dumps({"keys": keys}), symmetric=bool(kind))
    except InvalidInput:
        return
    assert len(found.keys) + len(found.dropped) <= len(keys)


@given(members, json_values)
def test_one_member_changed_never_crashes(name: str, value: object) -> None:
    for key in (jwk(ec_key(), kid="a", alg="ES256"), jwk(rsa_key(), kid="a", alg="RS256")):
        try:
            parse_jwks(json.dumps({"keys": [key | {name: value}]}))
        except InvalidInput:
            continue


def test_a_header_is_not_believed_about_its_key() -> None:
    """`jwk` in the header of a token that names no key of the set."""
    mine = ec_key(number=77)
    header = {"alg": "ES256", "jwk": jwk(mine), "x5c": [b64(b"x")], "jku": "https://evil.example"}
    token = sign(header, corpus.Maker(NOW).claims, mine, "ES256")
    assert refused(token) == "signature-invalid"
