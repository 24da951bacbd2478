"""Tokens that services sign: by chain, by pushed key, nested; and every way to lie in them."""

from __future__ import annotations

import base64
import json
from functools import partial
from typing import Any

import pytest
from cryptography import x509
from tests.core.pki import material
from tests.core.tokens.signing import ec_key, jwk, sign

from limen.core.pki.signer import chain_verifier
from limen.core.tokens.jwks import parse_jwks
from limen.core.tokens.service import (
    MAX_DEPTH,
    MAX_LIFETIME_S,
    TYP,
    ServiceRules,
    ServiceToken,
    Statement,
    caller_jwks,
    sign_service_token,
    verify_service_token,
)
from limen.core.tokens.verify import IssuerRules
from limen.errors import Untrusted

NOW = float(material.NOW)
MESH = material.mesh_authority()
OTHER_MESH = material.mesh_authority()
USERS = "https://tokens.mesh"
USERS_KEY = ec_key(number=9)


def spiffe(name: str) -> str:
    return f"spiffe://{material.TRUST_DOMAIN}/ns/default/sa/{name}"


class Service:
    """One workload with a certificate of the mesh."""

    def __init__(self, name: str, authority: material.Authority = MESH, **fields: Any) -> None:
        self.id = spiffe(name)
        self.key = material.new_key()
        values = {"uri": self.id, "dns_names": (f"{name}.default.mesh",), **fields}
        leaf = material.workload(authority, self.key, **values)
        self.chain = [leaf, authority.intermediate]

    def sign(self, audience: str, *, x5c: bool = True, now: float = NOW, **changes: Any) -> str:
        values = {"issuer": self.id, "subject": self.id, "expires_s": NOW + 60, **changes}
        statement = Statement(audience=audience, **values)
        return sign_service_token(statement, self.key, now, "j1", self.chain if x5c else ())


ONE, TWO, THREE = Service("one"), Service("two"), Service("three")


def user_token(audience: str = ONE.id, **changes: Any) -> str:
    claims = {
        "iss": USERS,
        "sub": "ann",
        "sub_id": {"format": "iss_sub", "iss": "https://login.example", "sub": "ann"},
        "aud": [audience],
        "scope": "read pay",
        "iat": int(NOW),
        "exp": int(NOW) + 60,
        **changes,
    }
    return sign({"alg": "ES256", "typ": "at+jwt"}, claims, USERS_KEY, "ES256")


OUTSIDE = IssuerRules(
    USERS, parse_jwks(json.dumps({"keys": [jwk(USERS_KEY)]})), frozenset(["ES256"]), typ="at+jwt"
)


def rules(*pushed: Service, callee: Service = TWO, chains: bool = True) -> ServiceRules:
    return ServiceRules(
        (callee.id,),
        {one.id: parse_jwks(caller_jwks([one.key.public_key()])) for one in pushed},
        chain_verifier([MESH.root], material.TRUST_DOMAIN, NOW) if chains else None,
        (OUTSIDE,),
    )


def accepted(token: str, caller: Service = ONE, now: float = NOW, **kind: Any) -> ServiceToken:
    return verify_service_token(token, kind.get("rules") or rules(), caller.id, now)


def refusal(token: str, caller: Service = ONE, now: float = NOW, **kind: Any) -> str:
    with pytest.raises(Untrusted) as caught:
        accepted(token, caller, now, **kind)
    return caught.value.code


def for_ann(previous: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "subject": "ann",
        "subject_id": {"format": "iss_sub", "iss": "https://login.example", "sub": "ann"},
        "previous": previous or user_token(),
        "scopes": frozenset(["read"]),
        **changes,
    }


def raw(service: Service, header: Any = None, key: Any = None, **changes: Any) -> str:
    """Any claims under the service's chain."""
    claims = {
        "iss": service.id,
        "sub": service.id,
        "aud": TWO.id,
        "iat": int(NOW),
        "exp": int(NOW) + 60,
        "jti": "j1",
        "scope": "",
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not ...}
    head = {"alg": "ES256", "typ": TYP, "x5c": x5c(service)} if header is None else header
    return sign(head, claims, key or service.key, head["alg"])


def x5c(service: Service) -> list[str]:
    return [base64.b64encode(one).decode() for one in service.chain]


def test_a_service_speaks_for_itself() -> None:
    found = accepted(ONE.sign(TWO.id))
    assert (found.issuer, found.subject, found.chain) == (ONE.id, ONE.id, (ONE.id,))


def test_a_pushed_key_verifies_with_no_chain() -> None:
    found = accepted(ONE.sign(TWO.id, x5c=False), rules=rules(ONE, chains=False))
    assert found.issuer == ONE.id


def test_a_service_speaks_for_a_user_whose_token_it_carries() -> None:
    found = accepted(ONE.sign(TWO.id, **for_ann()))
    assert (found.subject, found.scopes) == ("ann", {"read"})
    assert found.chain == (USERS, ONE.id)
    assert found.claims["sub_id"]["iss"] == "https://login.example"


def test_three_services_make_a_chain_that_the_last_one_can_show() -> None:
    first = ONE.sign(TWO.id, **for_ann())
    second = TWO.sign(THREE.id, **for_ann(first))
    found = accepted(second, TWO, rules=rules(callee=THREE))
    assert found.chain == (USERS, ONE.id, TWO.id)


def test_the_keys_of_one_caller_do_not_depend_on_their_order() -> None:
    keys = [service.key.public_key() for service in (ONE, TWO)]
    assert caller_jwks(keys) == caller_jwks(reversed(keys)) == caller_jwks(keys * 2)
    parsed = parse_jwks(caller_jwks(keys))
    assert [key.alg for key in parsed.keys] == ["ES256", "ES256"]
    assert not parsed.dropped


def test_a_token_that_a_third_service_got_hold_of_is_refused() -> None:
    """Service 1's token replayed by service 3."""
    assert refusal(ONE.sign(TWO.id, **for_ann()), THREE) == "service-issuer"


def test_a_token_for_another_callee_is_refused() -> None:
    assert refusal(ONE.sign(THREE.id)) == "audience-other"


def test_a_user_is_named_only_with_a_token_of_that_user() -> None:
    assert refusal(ONE.sign(TWO.id, subject="ann")) == "service-subject"
    assert refusal(ONE.sign(TWO.id, **for_ann(subject="bob"))) == "service-subject"
    other = {"format": "iss_sub", "iss": "https://evil.example", "sub": "ann"}
    assert refusal(ONE.sign(TWO.id, **for_ann(subject_id=other))) == "service-subject"
    assert refusal(ONE.sign(TWO.id, **for_ann(subject_id=None))) == "service-subject"


def test_scope_does_not_grow_along_a_chain() -> None:
    wide = for_ann(scopes=frozenset(["read", "admin"]))
    assert refusal(ONE.sign(TWO.id, **wide)) == "service-subject"
    first = ONE.sign(TWO.id, **for_ann())
    wider = TWO.sign(THREE.id, **for_ann(first, scopes=frozenset(["pay"])))
    assert refusal(wider, TWO, rules=rules(callee=THREE)) == "service-subject"


def test_a_token_meant_for_somebody_else_is_not_carried() -> None:
    assert refusal(ONE.sign(TWO.id, **for_ann(user_token(THREE.id)))) == "service-audience"
    first = ONE.sign(THREE.id, **for_ann())
    stolen = TWO.sign(THREE.id, **for_ann(first))
    assert refusal(stolen, TWO, rules=rules(callee=THREE)) == "service-audience"


def test_a_carried_token_is_verified_like_any_other() -> None:
    forged = user_token()[:-8] + "AAAAAAAA"
    assert refusal(ONE.sign(TWO.id, **for_ann(forged))) == "signature-invalid"
    expired = user_token(exp=int(NOW) - 61)
    assert refusal(ONE.sign(TWO.id, **for_ann(expired))) == "token-expired"
    unknown = user_token(iss="https://evil.example")
    assert refusal(ONE.sign(TWO.id, **for_ann(unknown))) == "issuer-unknown"
    assert refusal(ONE.sign(TWO.id, **for_ann("not a token"))) == "token-not-compact"


def test_a_token_does_not_outlive_the_one_that_it_carries() -> None:
    longer = for_ann(expires_s=NOW + 61)
    assert refusal(ONE.sign(TWO.id, **longer)) == "service-malformed"


def test_nesting_has_an_end() -> None:
    services = [Service(f"s{index}") for index in range(MAX_DEPTH + 1)]
    token = user_token(services[0].id)
    for number, service in enumerate(services):
        audience = services[number + 1].id if number < MAX_DEPTH else TWO.id
        token = service.sign(audience, x5c=False, **for_ann(token))
    assert refusal(token, services[-1], rules=rules(*services)) == "service-depth"


def test_just_deep_enough_is_accepted() -> None:
    services = [Service(f"s{index}") for index in range(MAX_DEPTH - 1)]
    token = user_token(services[0].id)
    for number, service in enumerate(services):
        audience = services[number + 1].id if number < MAX_DEPTH - 2 else TWO.id
        token = service.sign(audience, x5c=False, **for_ann(token))
    found = accepted(token, services[-1], rules=rules(*services))
    assert len(found.chain) == MAX_DEPTH


def test_a_chain_that_does_not_lead_to_the_meshs_root_is_refused() -> None:
    stranger = Service("one", OTHER_MESH)
    assert refusal(raw(stranger)) == "service-chain"
    alone = raw(ONE, {"alg": "ES256", "typ": TYP, "x5c": x5c(ONE)[:1]})
    assert refusal(alone) == "service-chain"
    reversed_ = raw(ONE, {"alg": "ES256", "typ": TYP, "x5c": x5c(ONE)[::-1]})
    assert refusal(reversed_) == "service-chain"


def test_an_expired_certificate_signs_nothing() -> None:
    later = ServiceRules(
        (TWO.id,), chains=chain_verifier([MESH.root], material.TRUST_DOMAIN, NOW + material.DAY)
    )
    assert refusal(raw(ONE), rules=later) == "service-chain"


def test_the_certificates_name_is_the_issuers() -> None:
    assert refusal(raw(THREE, iss=ONE.id, sub=ONE.id)) == "service-issuer"


def test_a_chain_and_the_key_of_somebody_else_do_not_match() -> None:
    assert refusal(raw(ONE, key=THREE.key)) == "signature-invalid"


def test_a_nodes_certificate_is_no_workloads() -> None:
    control = material.control_authority()
    key = material.new_key()
    leaf = material.node(control, key=key)
    header = {
        "alg": "ES256",
        "typ": TYP,
        "x5c": [base64.b64encode(one).decode() for one in (leaf, control.intermediate)],
    }
    assert refusal(raw(ONE, header, key)) == "service-chain"
    assert x509.load_der_x509_certificate(leaf)


def test_x5c_is_refused_where_only_pushed_keys_count() -> None:
    assert refusal(ONE.sign(TWO.id), rules=rules(ONE, chains=False)) == "service-malformed"


def test_a_pushed_key_is_its_own_callers_alone() -> None:
    """Service 3's key is known here; it signs in the name of service 1."""
    from limen.core.tokens.signing import key_id  # noqa: PLC0415

    header = {"alg": "ES256", "typ": TYP, "kid": key_id(THREE.key.public_key())}
    lying = raw(ONE, header, THREE.key)
    assert refusal(lying, rules=rules(ONE, THREE)) == "key-unknown"
    assert refusal(ONE.sign(TWO.id, x5c=False), rules=rules(THREE)) == "key-unknown"


@pytest.mark.parametrize(
    "extra",
    [
        {"kid": "k"},
        {"jwk": jwk(ONE.key)},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/chain"},
        {"x5t": "AA"},
        {"cty": "JWT"},
    ],
)
def test_no_other_header_is_accepted(extra: dict[str, Any]) -> None:
    header = {"alg": "ES256", "typ": TYP, "x5c": x5c(ONE), **extra}
    assert refusal(raw(ONE, header)) == "service-malformed"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"alg": "ES256", "typ": TYP}, "service-malformed"),
        ({"alg": "ES256", "x5c": x5c(ONE)}, "header-typ"),
        ({"alg": "ES256", "typ": "JWT", "x5c": x5c(ONE)}, "header-typ"),
        ({"alg": "ES256", "typ": TYP, "x5c": []}, "service-malformed"),
        ({"alg": "ES256", "typ": TYP, "x5c": x5c(ONE) * 3}, "service-malformed"),
        ({"alg": "ES256", "typ": TYP, "x5c": "AAAA"}, "service-malformed"),
        ({"alg": "ES256", "typ": TYP, "x5c": [7]}, "service-malformed"),
        ({"alg": "ES256", "typ": TYP, "x5c": ["A A=="]}, "service-malformed"),
        ({"alg": "ES256", "typ": TYP, "x5c": [x5c(ONE)[0] + "\n"]}, "service-malformed"),
        ({"alg": "ES256", "typ": TYP, "x5c": ["AAAA"]}, "service-chain"),
    ],
)
def test_what_is_no_header_of_a_services_token(header: Any, code: str) -> None:
    assert refusal(raw(ONE, header)) == code


def test_the_algorithm_is_es256_alone() -> None:
    header = {"alg": "ES384", "typ": TYP, "x5c": x5c(ONE)}
    assert refusal(raw(ONE, header, ec_key("384"))) == "alg-not-pinned"
    public = ONE.key.public_key().public_numbers().x.to_bytes(32, "big")
    assert refusal(raw(ONE, {**header, "alg": "HS256"}, public)) == "alg-not-pinned"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sub": ""}, "service-malformed"),
        ({"sub": ...}, "service-malformed"),
        ({"jti": ...}, "service-malformed"),
        ({"aud": [TWO.id, THREE.id]}, "claim-aud"),
        ({"aud": ...}, "claim-aud"),
        ({"aud": "*"}, "audience-other"),
        ({"iat": ...}, "claim-iat"),
        ({"exp": ...}, "claim-exp"),
        ({"exp": int(NOW) + MAX_LIFETIME_S + 1}, "service-malformed"),
        ({"exp": int(NOW) - 10, "iat": int(NOW) - 60}, "token-expired"),
        ({"iat": int(NOW) + 30}, "token-future"),
        ({"scope": ["admin"]}, "service-malformed"),
        ({"prev": {"iss": USERS}}, "service-malformed"),
        ({"act": {"sub": "ann"}}, "service-malformed"),
        ({"roles": ["admin"]}, "service-malformed"),
    ],
)
def test_what_is_no_services_token(changes: dict[str, Any], code: str) -> None:
    assert refusal(raw(ONE, **changes)) == code


def test_nothing_secret_is_in_a_representation() -> None:
    token = user_token()
    statement = partial(Statement, ONE.id, "ann", TWO.id, NOW + 60)(previous=token)
    assert token not in repr(statement)
    assert "ann@" not in repr(accepted(ONE.sign(TWO.id)))
