"""Key sets: what is fit, what is left out and why, what is refused as a whole, what Envoy gets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.core.tokens import corpus
from tests.core.tokens.signing import b64, ec_key, ed_key, integer, jwk, rsa_key, sign

from limen.core.tokens.algorithms import ALGORITHMS, DEFAULT
from limen.core.tokens.jwks import KeySet, fit_for_envoy, parse_jwks
from limen.core.tokens.roca import has_roca_fingerprint
from limen.core.tokens.signature import verify_signature
from limen.errors import InvalidInput, Untrusted

EC = jwk(ec_key(), kid="a", alg="ES256")
RSA = jwk(rsa_key(), kid="a", alg="RS256")


def read(*keys: object, symmetric: bool = False) -> KeySet:
    return parse_jwks(json.dumps({"keys": keys}), symmetric=symmetric)


def why(key: dict[str, Any]) -> str:
    found = read(key)
    assert not found.keys
    (dropped,) = found.dropped
    return dropped.why


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use": "enc"}, "use"),
        ({"use": ""}, "use"),
        ({"use": "SIG"}, "use"),
        ({"key_ops": ["encrypt"]}, "key_ops"),
        ({"key_ops": ["sign"]}, "key_ops"),
        ({"key_ops": []}, "key_ops"),
        ({"d": "AAAA"}, "private"),
        ({"kty": "EC2"}, "kty"),
        ({"kty": "ec"}, "kty"),
        ({"kty": "oct", "k": "A" * 64}, "mix"),
        ({"kty": "RSA"}, "no n"),
        ({"crv": "P-384"}, "coordinates"),
        ({"crv": "secp256k1"}, "curve"),
        ({"crv": "p-256"}, "curve"),
        ({"x": ""}, "coordinates"),
        ({"x": EC["x"][:-3]}, "coordinates"),
        ({"x": b64(b"\0" * 32)}, "no valid public key"),
        ({"x": EC["y"], "y": EC["x"]}, "no valid public key"),
        ({"y": EC["y"] + "="}, "alphabet"),
        ({"y": f" {EC['y']}"}, "alphabet"),
        ({"alg": "RS256"}, "alg"),
        ({"alg": "ES384"}, "alg"),
        ({"alg": "HS256"}, "alg"),
        ({"alg": "none"}, "alg"),
        ({"alg": "ECDH-ES"}, "alg"),
    ],
)
def test_an_unfit_ec_key_is_left_out_with_a_reason(change: dict[str, Any], reason: str) -> None:
    assert reason in why(EC | change)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n": jwk(rsa_key(1024))["n"]}, "2048"),
        ({"n": integer(2**9000 + 1)}, "8192"),
        ({"n": "AA"}, "2048"),
        ({"n": ""}, "2048"),
        ({"e": "AQ"}, "exponent"),
        ({"e": "AA"}, "exponent"),
        ({"e": ""}, "exponent"),
        ({"e": "Ag"}, "exponent"),
        ({"e": integer(2**40 + 1)}, "exponent"),
        ({"n": integer(2**2047 + 2)}, "factored"),
        ({"p": "AA"}, "private"),
        ({"qi": "AA"}, "private"),
        ({"oth": []}, "private"),
        ({"alg": "RSA-OAEP"}, "alg"),
        ({"alg": "RSA1_5"}, "alg"),
        ({"alg": "ES256"}, "alg"),
    ],
)
def test_an_unfit_rsa_key_is_left_out_with_a_reason(change: dict[str, Any], reason: str) -> None:
    assert reason in why(RSA | change)


def test_a_roca_modulus_is_known_and_good_ones_are_not() -> None:
    """CVE-2017-15361: the vectors hold a real one; this one is made by the flaw's recipe."""
    primorial = 1
    for prime in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79):
        primorial *= prime
    for prime in (83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167):
        primorial *= prime
    weak = pow(65537, 12345, primorial) + primorial * 2**1000
    assert has_roca_fingerprint(weak)
    for number in range(3):
        assert not has_roca_fingerprint(rsa_key(2048, number).public_key().public_numbers().n)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", '"keys"', "1", "{}", '{"keys":null}', '{"keys":{}}', '{"keys":"x"}',
        '{"keys":[null]}', '{"keys":[1]}', '{"keys":["x"]}', '{"keys":[[]]}', '{"keys":[{}]}',
        '{"keys":[{"kty":1}]}', '{"keys":[{"kty":null}]}', '{"keys":[{"kty":["EC"]}]}',
        '{"keys":[{"kty":"EC","kid":1}]}', '{"keys":[{"kty":"EC","kid":null}]}',
        '{"keys":[{"kty":"EC","kid":{"a":1}}]}', '{"keys":[{"kty":"EC","kid":""}]}',
        '{"keys":[{"kty":"EC","kid":"' + "k" * 257 + '"}]}',
        '{"keys":[{"kty":"RSA","n":1,"e":"AQAB"}]}', '{"keys":[{"kty":"RSA","e":65537}]}',
        '{"keys":[{"kty":"EC","alg":false}]}', '{"keys":[{"kty":"EC","use":["sig"]}]}',
        '{"keys":[{"kty":"EC","key_ops":"verify"}]}', '{"keys":[{"kty":"EC","key_ops":[1]}]}',
        '{"keys":[],"keys":[]}', '{"keys":[{"kty":"EC","kty":"RSA"}]}', '{"keys":[]} x',
        '{"keys":[{"kty":"EC","x":NaN}]}', '{"keys":' + "[" * 5000, "<html></html>",
        '{"keys":[{"kty":"EC","x":"\\ud800"}]}', '\ufeff{"keys":[]}', '{"error":"no"}',
    ],
)  # fmt: skip
def test_a_set_of_wrong_types_is_refused_as_a_whole(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_jwks(text)
    assert caught.value.code == "jwks-malformed"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"keys": [EC | {"kid": str(n)} for n in range(65)]}),
        '{"keys":[]}' + " " * 256 * 1024,
        " " * 10_000_000,
    ],
)
def test_a_huge_set_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_jwks(text)
    assert caught.value.code == "jwks-too-large"


def test_what_is_not_understood_beside_the_keys_is_ignored() -> None:
    """RFC 7517, section 5: more members, and keys of kinds that nobody knows yet."""
    text = json.dumps({"keys": [EC, {"kty": "AKP", "pub": "x"}], "issuer": "x", "cache": [1]})
    found = parse_jwks(text)
    assert [key.kid for key in found.keys] == ["a"]
    assert [(d.index, d.why) for d in found.dropped] == [(1, "its kty is not supported")]


def test_two_keys_under_one_kid_are_both_left_out() -> None:
    found = read(EC, jwk(ec_key(number=2), kid="a"), jwk(ec_key(number=3), kid="b"))
    assert [key.kid for key in found.keys] == ["b"]
    assert len(found.dropped) == 2
    broken = EC | {"x": "AA"}
    assert read(EC, broken).keys == ()
    assert read(broken, EC).keys == ()


def test_the_same_key_twice_is_one_key_and_one_for_another_purpose_is_in_nobodys_way() -> None:
    assert len(read(EC, EC).keys) == 1
    assert len(read(EC, jwk(rsa_key(), kid="a", use="enc")).keys) == 1
    assert len(read(RSA, RSA | {"alg": "RS512"}).keys) == 2


def test_leading_zeros_of_a_modulus_change_nothing() -> None:
    number = rsa_key().public_key().public_numbers().n
    long = RSA | {"n": b64(b"\0" + number.to_bytes(256, "big"))}
    assert read(long) == read(RSA)


def test_shared_secrets_and_public_keys_do_not_mix() -> None:
    secret = jwk(b"s" * 64, kid="s", alg="HS256")
    assert [key.kid for key in read(secret, EC).keys] == ["a"]
    assert len(read(secret, symmetric=True).keys) == 1
    with pytest.raises(InvalidInput) as caught:
        read(secret, EC, symmetric=True)
    assert caught.value.code == "jwks-mixed"
    assert "sss" not in repr(read(secret, symmetric=True))


@pytest.mark.parametrize(("alg", "size"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_shorter_than_its_hash_is_unfit(alg: str, size: int) -> None:
    """RFC 7518, section 3.2."""
    token = sign({"alg": alg}, b"x", b"s" * size, alg)
    keys = read(jwk(b"s" * size), symmetric=True)
    assert verify_signature(token, keys, {alg}) == b"x"
    short = read(jwk(b"s" * (size - 1), alg=alg), symmetric=True)
    assert short.keys == ()
    with pytest.raises(Untrusted):
        verify_signature(sign({"alg": alg}, b"x", b"s" * (size - 1), alg), short, {alg})


# --- what Envoy gets


def entries(keys: KeySet, algorithms: frozenset[str] = DEFAULT) -> list[dict[str, str]]:
    found = json.loads(fit_for_envoy(keys, algorithms))
    assert list(found) == ["keys"]
    return list(found["keys"])


def test_envoy_gets_fit_keys_with_public_members_only() -> None:
    published = parse_jwks(json.dumps(corpus.published()))
    found = entries(published)
    assert {key["kid"] for key in found} == {"ec", "ec384", "ec521", "rsa", "ps"}
    allowed = {"kty", "kid", "alg", "crv", "x", "y", "n", "e"}
    assert all(set(key) <= allowed for key in found)
    assert all(key["alg"] in DEFAULT for key in found)


def test_every_key_says_its_algorithm() -> None:
    """A key without `alg` verifies tokens of any algorithm in Envoy."""
    found = entries(read(jwk(rsa_key(), kid="r")), frozenset(("RS256", "PS256", "ES256")))
    assert sorted(key["alg"] for key in found) == ["PS256", "RS256"]
    (key,) = entries(read(jwk(ec_key("384"))))
    assert key["alg"] == "ES384"
    assert "kid" not in key


def test_only_pinned_algorithms_reach_envoy() -> None:
    keys = parse_jwks(json.dumps(corpus.published()))
    assert {k["kid"] for k in entries(keys, frozenset({"RS256"}))} == {"rsa"}
    assert {k["kid"] for k in entries(keys, frozenset({"EdDSA"}))} == {"ed"}
    assert entries(keys, frozenset({"HS256", "none", "ES256K"})) == []
    secrets = read(jwk(b"s" * 64, kid="s"), symmetric=True)
    assert entries(secrets, frozenset(ALGORITHMS)) == []


def test_the_text_depends_on_the_keys_alone() -> None:
    keys = corpus.published()["keys"]
    one = fit_for_envoy(read(*keys), DEFAULT)
    assert one == fit_for_envoy(read(*reversed(keys)), DEFAULT)
    shuffled = [dict(reversed(key.items())) | {"x5c": ["x"], "note": 1} for key in keys]
    assert one == fit_for_envoy(read(*shuffled), DEFAULT)
    assert one == fit_for_envoy(parse_jwks(one), DEFAULT)


def test_an_empty_set_stays_empty() -> None:
    """JWKS unavailable leads to no default key (CVE-2026-31837)."""
    assert fit_for_envoy(KeySet(), DEFAULT) == '{"keys":[]}'
    assert fit_for_envoy(read(EC | {"use": "enc"}), DEFAULT) == '{"keys":[]}'
    with pytest.raises(Untrusted) as caught:
        verify_signature(corpus.Maker(1).token(), parse_jwks('{"keys":[]}'), DEFAULT)
    assert caught.value.code == "key-unknown"


def test_a_key_without_kid_may_be_the_one_that_a_token_names() -> None:
    token = sign({"alg": "ES256", "kid": "x"}, b"1", ec_key(), "ES256")
    assert verify_signature(token, read(jwk(ec_key())), DEFAULT) == b"1"


def test_ed25519_verifies_where_it_is_asked_for() -> None:
    keys = read(jwk(ed_key(), kid="ed"))
    token = sign({"alg": "EdDSA", "kid": "ed"}, b"1", ed_key(), "EdDSA")
    assert verify_signature(token, keys, {"EdDSA"}) == b"1"
    for algorithms in (DEFAULT, {"ES256"}, set()):
        with pytest.raises(Untrusted):
            verify_signature(token, keys, algorithms)
    assert why(jwk(ed_key()) | {"x": "AAAA"}) == "its members make no valid public key"
    assert "curve" in why(jwk(ed_key()) | {"crv": "X25519"})
