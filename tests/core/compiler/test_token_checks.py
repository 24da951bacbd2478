"""Findings about TrustedIssuers and TokenExchangePolicies, and whom a policy's clients are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.core.compiler import build as b

from limen.core.compiler.checks import check
from limen.core.compiler.graph import MeshGraph
from limen.core.compiler.token_clients import identities_of, spiffe_ids_of
from limen.core.compiler.user_contexts import TokenService
from limen.core.model.mesh import MeshSettings
from limen.core.model.request_authentication import JwtRule, RequestAuthentication
from limen.core.model.resource import (
    MESH_SETTINGS,
    REQUEST_AUTHENTICATION,
    SECRET,
    TOKEN_EXCHANGE_POLICY,
    TRUSTED_ISSUER,
    USER_CONTEXT,
    Origin,
    Resource,
    ResourceKey,
)
from limen.core.model.secret import ClientSecret, Secret
from limen.core.model.selector import Scope
from limen.core.model.snapshot import Snapshot
from limen.core.model.token_service import (
    ExchangeClient,
    Introspection,
    JwtTrust,
    KeyMaterial,
    SecretName,
    SubjectRule,
    TokenExchangePolicy,
    TrustedIssuer,
)
from limen.core.model.user_context import AcceptedToken, UserContext

if TYPE_CHECKING:
    from limen.core.model.resource import Spec

ASKED = Introspection("https://idp/introspect", "limen", SecretName("default", "idp"))


def resource(kind: str, name: str, spec: Spec, namespace: str = "default") -> Resource:
    lines = {"": 1, "/spec": 5}
    return Resource(
        ResourceKey(kind, "default", namespace, name), spec, (), Origin("t.yaml", lines)
    )


def issuer(name: str = "idp", url: str = "https://idp", **fields: object) -> Resource:
    spec = TrustedIssuer(url, JwtTrust(), audiences=("shop",))
    return resource(TRUSTED_ISSUER, name, replace(spec, **fields))  # type: ignore[arg-type]


def policy(
    *clients: ExchangeClient, subject: str = "idp", name: str = "p", namespace: str = "default"
) -> Resource:
    spec = TokenExchangePolicy(clients, ("items",), (SubjectRule(subject),))
    return resource(TOKEN_EXCHANGE_POLICY, name, spec, namespace)


def found(*resources: Resource) -> list[tuple[str, str, int]]:
    return [
        (d.code, d.path, d.line) for d in check(Snapshot({r.key: r for r in resources}))
        if d.code != "nothing-allowed"
    ]  # fmt: skip


def test_documents_that_fit_together_have_no_finding() -> None:
    client = ExchangeClient(account=("default", "web"))
    assert found(issuer(), policy(client), b.dataplane("web")) == []
    assert found(policy(client, subject="mesh")) == []


def test_an_issuer_that_is_not_there_is_named_with_its_line() -> None:
    assert found(policy(ExchangeClient(account=("default", "web")))) == [
        ("unknown-issuer", "/spec/subjects/0/issuer", 5)
    ]
    context = UserContext(Scope("default"), (AcceptedToken("idp"),))
    assert found(resource(USER_CONTEXT, "c", context)) == [
        ("unknown-issuer", "/spec/accept/0/issuer", 5)
    ]


def test_one_issuer_has_one_name() -> None:
    assert [code for code, *_ in found(issuer("a"), issuer("b"))] == ["issuer-taken"]
    assert found(issuer("a"), issuer("b", "https://other")) == []


def test_a_secret_is_there_and_holds_what_is_needed() -> None:
    asked = issuer(introspection=ASKED)
    assert [code for code, *_ in found(asked)] == ["missing-secret"]
    empty = resource(SECRET, "idp", Secret())
    assert [code for code, *_ in found(asked, empty)] == ["wrong-secret"]
    held = resource(SECRET, "idp", Secret(client_secret=ClientSecret("s3cr3ts3cr3t")))
    assert found(asked, held) == []
    by_certificate = replace(ASKED, secret=None, certificate=SecretName("default", "idp"))
    assert [c for c, *_ in found(issuer(introspection=by_certificate), held)] == ["wrong-secret"]


def test_an_issuer_whose_tokens_are_for_anybody_is_named() -> None:
    held = resource(SECRET, "idp", Secret(client_secret=ClientSecret("s3cr3ts3cr3t")))
    some = issuer(introspection=ASKED, jwt=None, audiences=())
    assert [code for code, *_ in found(some, held)] == ["any-audience"]


@pytest.mark.parametrize(
    "client",
    [
        ExchangeClient("spiffe://evil.example.com/ns/default/sa/web"),
        ExchangeClient("spiffe://default.mesh.local/ns/other/sa/web"),
        ExchangeClient(account=("other", "web")),
    ],
)
def test_a_policy_gives_rights_in_its_own_namespace_only(client: ExchangeClient) -> None:
    assert [code for code, *_ in found(issuer(), policy(client))] == ["foreign-client"]


def test_a_policy_of_the_root_namespace_gives_rights_everywhere() -> None:
    client = ExchangeClient(account=("other", "web"))
    assert found(issuer(), policy(client, namespace="istio-system")) == []


def test_a_client_that_is_nobody_is_named() -> None:
    client = ExchangeClient(tags=(("team", "a"),))
    assert [c for c, *_ in found(issuer(), policy(client), b.dataplane("web"))] == [
        "matches-no-workload"
    ]
    assert found(issuer(), policy(client), b.dataplane("web", team="a")) == []


def test_a_client_id_has_one_set_of_keys() -> None:
    one = ExchangeClient(client_id="batch", keys=KeyMaterial("https://a"))
    other = ExchangeClient(client_id="batch", keys=KeyMaterial("https://b"))
    some = [issuer(), policy(one), policy(other, name="q")]
    assert [code for code, *_ in found(*some)] == ["client-taken"]


def test_clients_are_the_registered_identities_that_the_policy_covers() -> None:
    settings = resource(MESH_SETTINGS, "default", MeshSettings(trust_domain_aliases=("old",)))
    graph = MeshGraph(
        "default",
        [
            settings,
            b.dataplane("web", team="a"),
            b.dataplane("api", team="b"),
            b.dataplane("far", namespace="other", team="a"),
        ],
    )
    known = identities_of(graph)

    def ids(client: ExchangeClient, namespace: str = "default") -> set[str]:
        return set(spiffe_ids_of(graph.environment, namespace, client, known))

    web, far = (
        "spiffe://default.mesh.local/ns/default/sa/web",
        "spiffe://default.mesh.local/ns/other/sa/far",
    )
    assert ids(ExchangeClient(tags=(("team", "a"),))) == {web}
    assert ids(ExchangeClient(tags=(("team", "a"),)), "istio-system") == {web, far}
    assert ids(ExchangeClient("spiffe://old/ns/default/sa/web")) == {web}
    assert ids(ExchangeClient("spiffe://evil/ns/default/sa/web")) == set()
    assert ids(ExchangeClient(account=("other", "far"))) == set()
    assert ids(ExchangeClient(client_id="batch")) == set()


def test_of_the_meshs_own_issuer_one_kind_of_token_is_read() -> None:
    rule = JwtRule("https://tokens.mesh", jwks="")
    asked = RequestAuthentication(Scope("default"), (rule, JwtRule("https://idp", jwks="")))
    graph = MeshGraph(
        "default",
        [b.dataplane("web"), resource(REQUEST_AUTHENTICATION, "r", asked)],
    )
    (name,) = graph.instances

    def kinds() -> dict[str, str]:
        return {plan.issuer: plan.typ for plan in graph.plan(name).inbounds[0].tokens}

    assert kinds() == {"https://idp": "", "https://tokens.mesh": ""}
    dirty = graph.set_token_service(TokenService("https://tokens.mesh", "https://t:1", "{}"))
    assert name in dirty.instances
    assert kinds() == {"https://idp": "", "https://tokens.mesh": "at+jwt"}
