"""The public JOSE vectors (Wycheproof) through our cryptographic layer, every one of them.

Everything is pinned that we know, so that the keys alone decide. JWE is out of scope: we decrypt
nothing, so each is refused by name, the valid ones too; `test_the_count` says how many those are.

Eight JWS vectors contradict others or the RFCs; each is named below with its reason, and none else.
"""

from __future__ import annotations

import json

import pytest
from tests.core.tokens.vectors import MISSING, Vector, load

from limen.core.tokens.algorithms import ALGORITHMS
from limen.core.tokens.encoding import decode_base64url
from limen.core.tokens.jwks import parse_jwks
from limen.core.tokens.signature import verify_signature
from limen.errors import LimenError

SIGNATURES = "json_web_signature_test.json"
FILES = (
    SIGNATURES,
    "json_web_key_test.json",
    "json_web_crypto_test.json",
    "json_web_encryption_test.json",
)
VECTORS = [vector for file in FILES for vector in load(file)]
JWS = [v for v in VECTORS if v.form == "jws"]
JWE = [v for v in VECTORS if v.form == "jwe"]

SAME_AS_A_VALID_ONE = {
    (SIGNATURES, 367): "byte for byte vector 357, which is valid: the padding got lost",
    (SIGNATURES, 370): "byte for byte vector 357, which is valid: the padding got lost",
}
NOT_IN_BASE64URL = {
    (SIGNATURES, 372): "has `?` in its header: refused by RFC 7515, section 2",
    (SIGNATURES, 373): "has `?` in its payload: refused by RFC 7515, section 2",
}
KEY_FOR_ANOTHER_ALG = {
    (SIGNATURES, 346): "PS384 with a key whose alg is PS256; vector 338 wants that refused",
    (SIGNATURES, 350): "PS384 with a key whose alg is PS256; vector 338 wants that refused",
    (SIGNATURES, 347): "its key's alg is ES521, which does not exist",
    (SIGNATURES, 351): "its key's alg is ES521, which does not exist",
}
REFUSED_THOUGH_VALID = NOT_IN_BASE64URL | KEY_FOR_ANOTHER_ALG

pytestmark = MISSING


def name(vector: Vector) -> str:
    return f"{vector.file.split('_')[2]}-{vector.number}-{vector.comment}"


def verdict(vector: Vector, jwks: object = None) -> str:
    """Empty if the signature is accepted, else the code."""
    try:
        keys = parse_jwks(json.dumps(jwks or vector.jwks), symmetric=vector.symmetric)
        payload = verify_signature(vector.token, keys, ALGORITHMS)
    except LimenError as error:
        return error.code
    assert payload == decode_base64url(vector.token.split(".")[1])
    return ""


def expected(vector: Vector) -> bool:
    """Whether the signature is to be accepted."""
    place = (vector.file, vector.number)
    return place in SAME_AS_A_VALID_ONE or (
        vector.result == "valid" and place not in REFUSED_THOUGH_VALID
    )


@pytest.mark.parametrize("vector", JWS, ids=name)
def test_a_signature_has_the_right_answer(vector: Vector) -> None:
    assert vector.result in ("valid", "invalid")
    assert (verdict(vector) == "") is expected(vector)


@pytest.mark.parametrize("vector", JWE, ids=name)
def test_an_encrypted_token_is_refused_by_name(vector: Vector) -> None:
    code = verdict(vector)
    assert code
    if vector.result == "valid":
        assert code == "token-encrypted"


def test_the_contradicted_vectors_are_what_they_are_said_to_be() -> None:
    known = {(v.file, v.number): v for v in JWS}
    model = known[SIGNATURES, 357]
    for place in SAME_AS_A_VALID_ONE:
        assert (known[place].token, known[place].jwks) == (model.token, model.jwks)
        assert known[place].result == "invalid"
    for place in NOT_IN_BASE64URL:
        assert "?" in known[place].token
    for place in REFUSED_THOUGH_VALID:
        assert known[place].result == "valid"


@pytest.mark.parametrize("place", sorted(KEY_FOR_ANOTHER_ALG), ids=str)
def test_with_the_key_as_its_rfc_publishes_it_the_figure_verifies(place: tuple[str, int]) -> None:
    """RFC 7520, sections 3.1 and 3.3: these keys have no alg."""
    vector = next(v for v in JWS if (v.file, v.number) == place)
    (key,) = vector.jwks["keys"]
    without = {name: value for name, value in key.items() if name != "alg"}
    assert verdict(vector) == "key-unknown"
    assert verdict(vector, {"keys": [without]}) == ""


@pytest.mark.parametrize("alg", sorted(ALGORITHMS))
def test_a_good_signature_of_an_algorithm_that_is_not_pinned_is_refused(alg: str) -> None:
    for vector in JWS:
        if not expected(vector):
            continue
        header = json.loads(decode_base64url(vector.token.split(".")[0]))
        keys = parse_jwks(json.dumps(vector.jwks), symmetric=vector.symmetric)
        if header["alg"] != alg:
            with pytest.raises(LimenError) as caught:
                verify_signature(vector.token, keys, {alg})
            assert caught.value.code == "alg-not-pinned"


def test_the_count(record_property: pytest.RecordProperty) -> None:
    """What the vectors are, counted where everybody sees it: JWE is 173 of 649."""
    counted = {
        "JWS valid, accepted": sum(v.result == "valid" and not verdict(v) for v in JWS),
        "JWS valid, refused (named)": sum(v.result == "valid" and bool(verdict(v)) for v in JWS),
        "JWS invalid, refused": sum(v.result == "invalid" and bool(verdict(v)) for v in JWS),
        "JWS invalid, accepted (named)": sum(v.result == "invalid" and not verdict(v) for v in JWS),
        "JWE invalid, refused": sum(v.result == "invalid" for v in JWE),
        "JWE valid, refused: out of scope": sum(v.result == "valid" for v in JWE),
    }
    for what, count in counted.items():
        record_property(what, count)
    assert list(counted.values()) == [49, 6, 419, 2, 106, 67]
    assert len(VECTORS) == 649
