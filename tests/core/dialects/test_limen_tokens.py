"""`limen.dev/v1` TrustedIssuer, TokenExchangePolicy and UserContext."""

from __future__ import annotations

import pytest
from tests.core.dialects.documents import codes, one

from limen.core.dialects import kinds
from limen.core.dialects.document import Findings
from limen.core.dialects.limen_user_context import USER_CONTEXT, to_user_context
from limen.core.dialects.schema import check
from limen.core.model.request_authentication import TokenHeader
from limen.core.model.secret import Secret
from limen.core.model.selector import Scope
from limen.core.model.token_service import (
    ClaimSource,
    ExchangeClient,
    Introspection,
    JwtTrust,
    KeyMaterial,
    SecretName,
    SubjectRule,
    TokenExchangePolicy,
    TransactionRights,
    TrustedIssuer,
)
from limen.core.model.user_context import AcceptedToken, Hop, HopStyle, TokenTarget, UserContext

KEYS = (
    '{"keys": [{"kty": "EC", "crv": "P-256", "kid": "a",'
    ' "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",'
    ' "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}'
)
ASK = "url: 'https://a', clientId: b, clientSecretRef: {name: c}"


def issuer(spec: str, name: str = "idp") -> str:
    return (
        f"apiVersion: limen.dev/v1\nkind: TrustedIssuer\nmetadata: {{name: {name}}}\nspec: {spec}"
    )


def policy(spec: str) -> str:
    return (
        "apiVersion: limen.dev/v1\nkind: TokenExchangePolicy\n"
        f"metadata: {{name: p, namespace: shop}}\nspec: {spec}"
    )


def test_every_field_of_an_issuer_is_read() -> None:
    found = one(
        issuer(
            """
  issuer: https://idp.example.com
  jwt: {jwksUri: 'https://idp.example.com/keys', algorithms: [ES256], typ: at+jwt}
  introspection:
    url: https://idp.example.com/introspect
    clientId: limen
    clientSecretRef: {name: idp, namespace: edge}
    timeout: 500ms
    cacheTtl: 30s
    negativeCacheTtl: 0s
  audiences: [shop, '*.example.com']
  subjects: ['user-*', admin]
  subjectClaim: oid
  scopeClaim: scp
  claims: {roles: realm_access.roles, email: email}
"""
        )
    )
    assert found.spec == TrustedIssuer(
        issuer="https://idp.example.com",
        jwt=JwtTrust(KeyMaterial("https://idp.example.com/keys", "", ("ES256",)), "at+jwt"),
        introspection=Introspection(
            "https://idp.example.com/introspect",
            "limen",
            SecretName("edge", "idp"),
            None,
            0.5,
            30,
            0,
        ),
        audiences=("shop", "*.example.com"),
        subjects=("user-*", "admin"),
        subject_claim="oid",
        scope_claim="scp",
        claims=(ClaimSource("email", "email"), ClaimSource("roles", "realm_access.roles")),
    )


def test_only_subjects_that_are_named_are_known() -> None:
    spec = one(issuer("{issuer: 'https://a', jwt: {}, audiences: [a], subjects: [b, 'c*']}")).spec
    assert isinstance(spec, TrustedIssuer)
    assert [s for s in ("b", "bb", "c", "cd", "d", "") if spec.accepts_subject(s)] == [
        "b",
        "c",
        "cd",
    ]


def test_every_field_of_a_policy_is_read() -> None:
    found = one(
        policy(
            f"""
  from:
  - spiffeId: spiffe://default.mesh.local/ns/shop/sa/web
  - serviceAccount: api
  - {{serviceAccount: api, namespace: other}}
  - tags: {{team: a}}
  - {{clientId: batch, jwks: '{KEYS}', algorithms: [ES256]}}
  subjects: [{{issuer: idp, audiences: [shop]}}, {{issuer: mesh}}]
  audiences: [items, '*.example.com']
  scopes: [read]
  lifetime: 1m
  impersonate: true
  clientCredentials: true
  transactions: {{details: [cart]}}
"""
        )
    )
    assert found.spec == TokenExchangePolicy(
        clients=(
            ExchangeClient("spiffe://default.mesh.local/ns/shop/sa/web"),
            ExchangeClient(account=("shop", "api")),
            ExchangeClient(account=("other", "api")),
            ExchangeClient(tags=(("team", "a"),)),
            ExchangeClient(client_id="batch", keys=KeyMaterial("", KEYS, ("ES256",))),
        ),
        audiences=("items", "*.example.com"),
        subjects=(SubjectRule("idp", ("shop",)), SubjectRule("mesh")),
        scopes=("read",),
        lifetime_s=60,
        impersonate=True,
        client_credentials=True,
        transactions=TransactionRights(("cart",)),
    )


def test_absent_rights_are_none() -> None:
    spec = one(
        policy("{from: [{serviceAccount: a}], subjects: [{issuer: i}], audiences: [b]}")
    ).spec
    assert isinstance(spec, TokenExchangePolicy)
    assert (spec.scopes, spec.impersonate, spec.client_credentials) == ((), False, False)


@pytest.mark.parametrize("name", ["mesh", "spiffe", "client", "https"])
def test_no_issuer_has_a_name_that_other_subjects_begin_with(name: str) -> None:
    assert codes(issuer("{issuer: 'https://a', jwt: {}, audiences: [a]}", name)) == ["bad-value"]


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("{issuer: 'https://a', audiences: [a]}", "missing-field"),
        ("{issuer: 'https://a', jwt: {}}", "missing-field"),
        ("{issuer: a, jwt: {}, audiences: [a]}", "missing-field"),
        ("{issuer: 'https://a', jwt: {jwksUri: 'http://a'}, audiences: [a]}", "bad-value"),
        ("{issuer: 'https://a', jwt: {jwksUri: 'file:///etc'}, audiences: [a]}", "bad-value"),
        ("{issuer: 'https://a', jwt: {algorithms: [HS256]}, audiences: [a]}", "refused-value"),
        ("{issuer: 'https://a', jwt: {algorithms: [none]}, audiences: [a]}", "unknown-value"),
        ("{issuer: 'https://a', jwt: {}, audiences: ['a.*']}", "bad-wildcard"),
        ("{issuer: 'https://a', jwt: {}, audiences: ['*']}", "bad-wildcard"),
        ("{issuer: 'https://a', jwt: {}, audiences: [a], subjects: ['a*b']}", "bad-wildcard"),
        ("{issuer: 'https://a', jwt: {}, audiences: [a], claims: {sub: x}}", "bad-value"),
        ("{issuer: 'https://a', jwt: {}, audiences: [a], claims: {act: x}}", "bad-value"),
        ("{issuer: 'https://a', jwt: {}, audiences: [a], claims: {sub_id: x}}", "bad-value"),
        ("{issuer: 'https://a', introspection: {url: 'https://a', clientId: b}}", "missing-field"),
        (
            f"{{issuer: a, introspection: {{{ASK}, clientCertificateRef: {{name: c}}}}}}",
            "conflicting-fields",
        ),
        (
            f"{{issuer: a, introspection: {{{ASK.replace('//a', '//u:p@a')}}}}}",
            "bad-value",
        ),
        (
            f"{{issuer: a, introspection: {{{ASK}, timeout: 1m}}}}",
            "out-of-range",
        ),
    ],
)
def test_an_issuer_that_would_be_understood_in_two_ways_is_refused(spec: str, code: str) -> None:
    assert codes(issuer(spec)) == [code]


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("{from: [], subjects: [{issuer: i}], audiences: [b]}", "empty-value"),
        ("{from: [{}], subjects: [{issuer: i}], audiences: [b]}", "missing-field"),
        (
            "{from: [{serviceAccount: a, tags: {b: c}}], subjects: [{issuer: i}], audiences: [b]}",
            "conflicting-fields",
        ),
        ("{from: [{serviceAccount: a}], audiences: [b]}", "missing-field"),
        ("{from: [{serviceAccount: a}], subjects: [{issuer: i}]}", "missing-field"),
        ("{from: [{serviceAccount: a}], subjects: [{issuer: i}], audiences: [a*]}", "bad-wildcard"),
        (
            "{from: [{serviceAccount: a}], subjects: [{issuer: i}, {issuer: i}], audiences: [b]}",
            "duplicate-name",
        ),
        ("{from: [{clientId: a}], clientCredentials: true, audiences: [b]}", "missing-field"),
        ("{from: [{tags: {a: b}, namespace: c}], subjects: [{issuer: i}], audiences: [b]}",
         "conflicting-fields"),
        ("{from: [{spiffeId: 'spiffe://td/x'}], subjects: [{issuer: i}], audiences: [b]}",
         "invalid-spiffe-id"),
        ("{from: [{serviceAccount: a}], subjects: [{issuer: i}], audiences: [b], lifetime: 24h}",
         "out-of-range"),
        ("{from: [{serviceAccount: a}], subjects: [{issuer: i}], audiences: [b], scopes: ['a b']}",
         "bad-value"),
    ],
)  # fmt: skip
def test_a_policy_that_would_give_more_than_it_says_is_refused(spec: str, code: str) -> None:
    assert codes(policy(spec)) == [code]


def test_a_user_context_is_refused_while_nobody_enforces_it() -> None:
    text = "apiVersion: limen.dev/v1\nkind: UserContext\nmetadata: {name: a}\nspec: {}"
    if "UserContext" in kinds.LATER_LIMEN_KINDS:
        assert codes(text) == ["later-kind"]
    else:
        assert codes(text) == ["missing-field"]


def context(**spec: object) -> tuple[UserContext | None, list[str]]:
    findings = Findings("f", {}, ())
    good = check(USER_CONTEXT, spec, "", findings)
    found = to_user_context("shop", {}, spec) if good else None
    return found, [d.code for d in findings.diagnostics]


def test_every_field_of_a_user_context_is_read() -> None:
    found, _ = context(
        selector={"matchLabels": {"app": "web"}},
        accept=[
            {
                "issuer": "idp",
                "fromHeaders": [{"name": "x-token", "prefix": "Bearer "}],
                "audiences": ["shop"],
            }
        ],
        required=True,
        exchange={"audiences": ["items"], "scopes": ["read"], "lifetime": "1m"},
        hop={"style": "ServiceSigned", "contextHeader": "x-user-context"},
        cacheTtl="10s",
        negativeCacheTtl="1s",
    )
    assert found == UserContext(
        Scope("shop", (("app", "web"),)),
        (AcceptedToken("idp", (TokenHeader("x-token", "Bearer "),), ("shop",)),),
        True,
        TokenTarget(("items",), ("read",), 60),
        Hop(HopStyle.SERVICE_SIGNED, "x-user-context"),
        10,
        1,
    )


def test_external_tokens_do_not_travel_inside() -> None:
    assert context(accept=[{"issuer": "idp"}])[1] == ["missing-field"]
    assert context(accept=[{"issuer": "mesh"}])[1] == []


@pytest.mark.parametrize("entry", ["client-secret: short", "client-secret: 'with blank'"])
def test_a_clients_secret_is_visible_text_and_never_repeated(entry: str) -> None:
    text = f"apiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\nstringData: {{{entry}}}\n"
    assert codes(text) == ["bad-value"]


def test_a_clients_secret_is_read_and_not_shown() -> None:
    head = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n"
    spec = one(f"{head}stringData: {{client-secret: s3cr3ts3cr3t}}").spec
    assert isinstance(spec, Secret)
    assert spec.client_secret is not None
    assert spec.client_secret.reveal() == "s3cr3ts3cr3t"
    assert "s3cr3t" not in f"{spec} {spec!r} {spec.client_secret}"
