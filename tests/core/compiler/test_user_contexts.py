"""UserContexts: what a port does with tokens, how the user goes on, and what is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.core.compiler import build as b
from tests.core.compiler.test_edge import ALLOW, GATE, GATEWAY_POD, ITEMS, ROUTE, snapshot
from tests.core.tokens.signing import ec_key, jwk

from limen.core.compiler.checks import check
from limen.core.compiler.graph import MeshGraph
from limen.core.compiler.user_contexts import NO_SERVICE, TokenService
from limen.core.envoy import names
from limen.core.envoy.resources import node_resources, shape_of
from limen.core.model.names import InstanceName
from limen.core.model.request_authentication import TokenHeader
from limen.core.model.resource import TRUSTED_ISSUER, USER_CONTEXT, Origin, Resource, ResourceKey
from limen.core.model.selector import Scope
from limen.core.model.snapshot import Snapshot
from limen.core.model.token_service import JwtTrust, TrustedIssuer
from limen.core.model.user_context import (
    DEFAULT_CONTEXT_HEADER,
    USER_HEADER,
    AcceptedToken,
    Hop,
    HopStyle,
    TokenTarget,
    UserContext,
)
from limen.core.plan.node import HopPlan, NodePlan, TokenServicePlan

if TYPE_CHECKING:
    from limen.core.plan.node import ExchangePlan

JWKS = json.dumps({"keys": [jwk(ec_key(), kid="k", alg="ES256")]})
SERVICE = TokenService("https://tokens.mesh", "https://tokens:8443", JWKS, "g1")
LOGIN = Resource(
    ResourceKey(TRUSTED_ISSUER, "default", "", "login"),
    TrustedIssuer("https://login.example", JwtTrust(), audiences=("shop",)),
    (),
    Origin("i.yaml"),
)
MESH = AcceptedToken("mesh")
OUTSIDE = AcceptedToken("login")
TO_ITEMS = TokenTarget(("items", "stock"), ("read",), 60)


def context(
    *accept: AcceptedToken, name: str = "users", namespace: str = "default", **fields: Any
) -> Resource:
    app = fields.pop("app", "items")
    scope = Scope(namespace, (("app", app),))
    key = ResourceKey(USER_CONTEXT, "default", namespace, name)
    spec = UserContext(scope, accept or (MESH,), **fields)
    return Resource(key, spec, (), Origin("u.yaml", {"": 1, "/spec": 4}))


def graph(*resources: Resource, service: TokenService | None = SERVICE) -> MeshGraph:
    made = MeshGraph("default", [b.dataplane("items"), b.dataplane("orders"), LOGIN, *resources])
    made.set_token_service(service)
    return made


def plan(*resources: Resource, service: TokenService | None = SERVICE) -> NodePlan:
    return graph(*resources, service=service).plan(b.instance("items"))


def test_a_workload_takes_tokens_of_the_mesh_that_are_meant_for_it() -> None:
    (inbound,) = plan(context(required=True)).inbounds
    (token,) = inbound.tokens
    assert (token.issuer, token.audiences) == ("https://tokens.mesh", (str(b.who("items")),))
    assert json.loads(token.jwks)["keys"][0]["kid"] == "k"
    assert (token.forward, token.required, token.output_payload_to_header) == (
        True, True, USER_HEADER
    )  # fmt: skip
    assert (inbound.exchange, inbound.context_header) == (None, DEFAULT_CONTEXT_HEADER)


def test_named_audiences_and_places_count() -> None:
    accepted = AcceptedToken("mesh", (TokenHeader("x-token", ""),), ("items.example",))
    (token,) = plan(context(accepted)).inbounds[0].tokens
    assert token.audiences == ("items.example",)
    assert token.from_headers == (TokenHeader("x-token", ""),)


def test_an_outside_token_is_exchanged_before_it_is_verified() -> None:
    found = plan(context(OUTSIDE, exchange=TO_ITEMS, cache_s=30, negative_cache_s=1))
    (inbound,) = found.inbounds
    assert inbound.exchange == replace(
        exchange_of(inbound.exchange),
        audiences=("items", "stock"),
        issuers=("login",),
        headers=(TokenHeader("authorization", "Bearer "),),
        scopes=("read",),
        lifetime_s=60,
        cache_s=30,
        negative_cache_s=1,
    )
    assert inbound.tokens[0].audiences == ("items", "stock")
    assert found.token_service == TokenServicePlan(SERVICE.issuer, SERVICE.url, "g1")


def exchange_of(found: ExchangePlan | None) -> ExchangePlan:
    assert found is not None
    return found


def test_the_user_goes_on_as_the_document_says() -> None:
    found = plan(context(hop=Hop(HopStyle.EXCHANGED)))
    assert found.hop == HopPlan(HopStyle.EXCHANGED, DEFAULT_CONTEXT_HEADER)
    assert found.inbounds[0].context_header == DEFAULT_CONTEXT_HEADER
    assert found.token_service is not None
    assert graph(context(hop=Hop(HopStyle.EXCHANGED))).plan(b.instance("orders")).hop is None


@pytest.mark.parametrize("service", [None, replace(SERVICE, jwks=""), replace(SERVICE, jwks="{")])
def test_without_a_token_service_or_its_keys_no_token_is_good(service: Any) -> None:
    found = plan(context(OUTSIDE, exchange=TO_ITEMS, required=True), service=service)
    (token,) = found.inbounds[0].tokens
    assert token.jwks == ""
    if service is None:
        assert token.issuer == NO_SERVICE
        assert found.token_service == TokenServicePlan(NO_SERVICE, "")


def test_a_workload_that_no_document_concerns_is_as_before() -> None:
    found = plan()
    assert (found.hop, found.token_service, found.inbounds[0].tokens) == (None, None, ())


def test_what_the_token_service_says_changes_those_who_use_it_and_nobody_else() -> None:
    made = graph(context(OUTSIDE, exchange=TO_ITEMS, hop=Hop(HopStyle.EXCHANGED)))
    for changed in (
        replace(SERVICE, generation="g2"),
        replace(SERVICE, generation="g2", url="https://other:8443"),
        None,
    ):
        dirty = made.set_token_service(changed)
        assert dirty.instances == {b.instance("items")}
    assert made.set_token_service(None).instances == frozenset()


def test_a_revocation_touches_no_listener() -> None:
    made = graph(context(OUTSIDE, exchange=TO_ITEMS, hop=Hop(HopStyle.EXCHANGED)))
    before = made.plan(b.instance("items"))
    made.set_token_service(replace(SERVICE, generation="g2"))
    after = made.plan(b.instance("items"))
    assert shape_of(before) == shape_of(after)
    old, new = node_resources(before), node_resources(after)
    differing = {
        (url, name) for url in old for name in old[url] if old[url][name] != new[url].get(name)
    }
    port = after.inbounds[0].port
    scripts = {names.token_exchange(port), names.HOP, names.TOKEN_SERVICE}
    assert differing == {(names.EXTENSION, name) for name in scripts}


def test_the_order_of_documents_changes_nothing() -> None:
    documents = [context(OUTSIDE, exchange=TO_ITEMS), b.dataplane("items"), LOGIN]
    plans = set()
    for order in (documents, documents[::-1]):
        made = MeshGraph("default", order)
        made.set_token_service(SERVICE)
        plans.add(made.plan(b.instance("items")))
    made = MeshGraph("default", ())
    made.set_token_service(SERVICE)
    for document in documents:
        made.update([document])
    assert plans == {made.plan(b.instance("items"))}


def test_a_new_mesh_document_does_not_lose_the_token_service() -> None:
    made = graph(context(OUTSIDE, exchange=TO_ITEMS))
    before = made.plan(b.instance("items"))
    made.update([b.mesh(), b.settings(rule_header="x-rule")])
    assert made.plan(b.instance("items")).token_service == before.token_service


def test_changing_the_document_names_the_workload_and_what_narrowed() -> None:
    made = graph(context(OUTSIDE, exchange=TO_ITEMS))
    dirty = made.update([context(OUTSIDE, exchange=replace(TO_ITEMS, audiences=("items",)))])
    assert dirty.instances == {b.instance("items")}
    assert dirty.narrowed == {b.workload("items")}
    dirty = made.update([context(OUTSIDE, exchange=TO_ITEMS, hop=Hop(HopStyle.SAME_TOKEN))])
    assert dirty.instances == {b.instance("items")}


def codes(*resources: Resource) -> list[tuple[str, str]]:
    known = {r.key: r for r in (b.dataplane("items"), LOGIN, *resources)}
    found = check(Snapshot(known))
    return [(d.code, d.path) for d in found if d.code != "nothing-allowed"]


def test_documents_that_fit_have_no_finding() -> None:
    assert codes(context(OUTSIDE, exchange=TO_ITEMS, hop=Hop(HopStyle.EXCHANGED))) == []
    assert codes(context(hop=Hop(HopStyle.SAME_TOKEN))) == []


def test_two_documents_for_one_workload_are_refused() -> None:
    assert ("two-user-contexts", "/spec/selector") in codes(context(), context(name="other"))


@pytest.mark.parametrize(
    "style", [HopStyle.SERVICE_SIGNED, HopStyle.TRANSACTION_TOKEN, HopStyle.HOP_PROOF]
)
def test_a_style_that_no_proxy_enforces_is_refused(style: HopStyle) -> None:
    assert codes(context(hop=Hop(style))) == [("hop-style-later", "/spec/hop/style")]


def test_what_an_exchange_would_not_check_is_refused() -> None:
    limited = replace(OUTSIDE, audiences=("shop",))
    assert codes(context(limited, exchange=TO_ITEMS)) == [
        ("audiences-at-exchange", "/spec/accept/0/audiences")
    ]


def test_a_token_of_the_mesh_stands_in_one_place() -> None:
    places = AcceptedToken("mesh", (TokenHeader("x-a", ""), TokenHeader("x-b", "")))
    assert codes(context(places)) == [("several-places", "/spec/accept/0/fromHeaders")]


EDGE = tuple(snapshot(GATEWAY_POD + ITEMS + GATE + ROUTE + ALLOW).resources.values())


def at_gateway(**fields: Any) -> Resource:
    scope = Scope("istio-system", (("istio", "ingressgateway"),))
    key = ResourceKey(USER_CONTEXT, "default", "istio-system", "edge")
    spec = UserContext(scope, (OUTSIDE,), exchange=TO_ITEMS, **fields)
    return Resource(key, spec, (), Origin("u.yaml", {"": 1}))


def test_a_gateway_exchanges_and_sends_the_new_token_on() -> None:
    made = MeshGraph("default", [*EDGE, LOGIN, at_gateway()])
    made.set_token_service(SERVICE)
    (gateway,) = [name for name in made.instances if name.workload.name == "ingress"]
    found = made.plan(gateway)
    assert found.edge is not None
    plain = next(one for one in found.edge.listeners if one.port == 80)
    assert exchange_of(plain.exchange).audiences == ("items", "stock")
    (token,) = plain.tokens
    assert (token.forward, token.output_payload_to_header) == (True, "")
    assert found.token_service is not None
    assert isinstance(gateway, InstanceName)


def test_a_gateway_has_no_application_that_passes_a_user_on() -> None:
    known = {r.key: r for r in (*EDGE, LOGIN, at_gateway(hop=Hop(HopStyle.SAME_TOKEN)))}
    assert "hop-at-gateway" in {d.code for d in check(Snapshot(known))}
