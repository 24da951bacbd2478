"""`io.jwt` in policies: what is verified, and what is never taken for verified."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc import jwk, jws

from limen.core.policy.rego.engine import load_rego
from limen.core.policy.rego.source import RegoModule
from limen.core.policy.rego.tokens import decode, decode_verify, verify

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SECRET = "s" * 64
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
EC = {name: ec.generate_private_key(curve) for name, curve in CURVES.items()}
ALL = ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", *CURVES]


def private(algorithm: str) -> Any:
    return RSA if algorithm[:2] in ("RS", "PS") else EC[algorithm]


def public(algorithm: str) -> str:
    if algorithm.startswith("HS"):
        return SECRET
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private(algorithm).public_key().public_bytes(*form).decode()


def signed(claims: Any, algorithm: str = "ES256", **header: Any) -> str:
    if algorithm.startswith("HS"):
        key: Any = jwk.OctKey.import_key(SECRET)
    else:
        pem = private(algorithm).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        key = (jwk.ECKey if algorithm.startswith("E") else jwk.RSAKey).import_key(pem)
    text = json.dumps(claims)
    return jws.serialize_compact({"alg": algorithm, **header}, text, key, algorithms=[algorithm])


@pytest.mark.parametrize("algorithm", ALL)
def test_signature_is_verified_and_another_is_not(algorithm: str):
    token, key = signed({"sub": "ann"}, algorithm), public(algorithm)
    assert verify(token, key, algorithm)
    other = "A" if token[-10] != "A" else "B"
    assert not verify(token[:-10] + other + token[-9:], key, algorithm)
    wanted = {"secret": key} if algorithm.startswith("HS") else {"cert": key}
    assert decode_verify(token, wanted, NOW)[0] is True
    assert decode_verify(token, wanted, NOW)[2] == {"sub": "ann"}


def test_key_set_is_read():
    keys = {"keys": [jwk.ECKey.import_key(public("ES256")).as_dict(private=False)]}
    assert decode_verify(signed({}), {"cert": json.dumps(keys)}, NOW)[0] is True


@pytest.mark.parametrize(
    ("claims", "wanted"),
    [
        ({"exp": 1}, {}),
        ({"exp": "9999999999"}, {}),
        ({"exp": True}, {}),
        ({"nbf": 9_999_999_999}, {}),
        ({"iss": "a"}, {"iss": "b"}),
        ({}, {"iss": "b"}),
        ({"aud": "a"}, {"aud": "b"}),
        ({"aud": "a"}, {}),
        ({}, {"aud": "a"}),
        ({}, {"alg": "RS256"}),
    ],
)
def test_claim_that_does_not_hold_makes_a_token_invalid(claims: Any, wanted: Any):
    found = decode_verify(signed(claims), {"cert": public("ES256"), **wanted}, NOW)
    assert found == [False, {}, {}]


def test_time_may_be_given():
    wanted = {"cert": public("ES256"), "time": 5 * 10**9}
    assert decode_verify(signed({"exp": 6, "nbf": 5}), wanted, NOW)[0] is True
    assert decode_verify(signed({"exp": 5}), wanted, NOW)[0] is False


def test_public_key_is_never_taken_for_a_secret():
    forged = signed({"sub": "eve"}, "HS256")
    assert decode_verify(forged, {"cert": public("ES256")}, NOW)[0] is False
    assert decode_verify(forged, {"cert": SECRET}, NOW)[0] is False


def test_critical_header_and_unsigned_token_are_refused():
    token = signed({}, "ES256", crit=["b64"], b64=True)
    assert decode_verify(token, {"cert": public("ES256")}, NOW)[0] is False
    assert decode_verify("eyJhbGciOiJub25lIn0.e30.", {"cert": public("ES256")}, NOW)[0] is False


@pytest.mark.parametrize("wanted", [{}, {"cert": "a", "secret": "b"}, {"secret": "b", "crv": 1}])
def test_constraints_that_are_not_understood_are_an_error(wanted: Any):
    with pytest.raises(ValueError, match=r"decode_verify takes"):
        decode_verify(signed({}), wanted, NOW)


@pytest.mark.parametrize(
    "token",
    ["", "a.b", "a.b.c.d", "e30.!.e30", "e30.W10.e30", "a" * 100_000, "eyJhIjoxLCJhIjoyfQ.e30."],
)
def test_what_is_no_token_is_an_error(token: str):
    with pytest.raises(ValueError, match=r"."):
        decode(token)


def test_policy_of_the_envoy_tutorial_runs_unchanged():
    text = """package envoy.authz
import input.attributes.request.http
default allow = false
allow { is_token_valid; token.payload.role == "guest"; http.method == "GET" }
is_token_valid {
    token.valid
    now := time.now_ns() / 1000000000
    token.payload.nbf <= now
    now < token.payload.exp
}
token := {"valid": valid, "payload": payload} {
    [_, encoded] := split(http.headers.authorization, " ")
    [valid, _, payload] := io.jwt.decode_verify(encoded, {"secret": "%s"})
}"""
    engine = load_rego([RegoModule("a.rego", text % SECRET)])

    def allowed(claims: Any) -> Any:
        token = signed({"nbf": 1, "exp": 9_999_999_999, **claims}, "HS256")
        http = {"method": "GET", "headers": {"authorization": f"Bearer {token}"}}
        return engine.evaluate({"attributes": {"request": {"http": http}}}, NOW)

    assert allowed({"role": "guest"}) is True
    assert allowed({"role": "other"}) is False
    assert allowed({"role": "guest", "exp": 5}) is False
