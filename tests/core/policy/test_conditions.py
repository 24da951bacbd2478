"""Near misses of every kind, ports that pass connections on, and what a condition looks at."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from limen.core.policy.bounds import identities_of
from limen.core.policy.callers import Callers, implies, widens
from limen.core.policy.connections import for_connections, reads_request
from limen.core.policy.decide import Decider, decide, holds, may_allow
from limen.core.policy.decision import Request
from limen.core.policy.evaluate import SHOWN_ALTERNATIVES, first_failure
from limen.core.policy.facts import Facts
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Authenticated,
    Claim,
    DestinationIp,
    Effect,
    HasToken,
    Header,
    Host,
    Layer,
    LayerKind,
    Method,
    Not,
    Path,
    PathTemplate,
    Policy,
    Port,
    Principal,
    PrincipalNamespace,
    RemoteIp,
    RequestPrincipal,
    Sni,
    SourceIp,
    parts_of,
    reads_address,
    reads_token,
)

from .test_decide import A, B, conditions, exact, policies, policy, requests, rule


def is_(text: str) -> StringMatch:
    return StringMatch(How.EXACT, text)


def begins(text: str) -> StringMatch:
    return StringMatch(How.PREFIX, text)


ASKED = Request(
    principal=A,
    method="PUT",
    path="/data",
    headers={"x-a": ("1", "2")},
    port=80,
    host="Items.mesh:80",
    claims={"iss": "one", "sub": "ann", "groups": ["dev", 7], "n": 7, "org": {"unit": ""}},
    source_ip="10.0.0.1",
    remote_ip="192.0.2.1",
    destination_ip="10.0.0.9",
    sni="items.mesh",
)
BARE = Request(principal=None, port=80)

MISSES = [
    (Authenticated(), BARE, ("principal", "any identity of the mesh", "(no identity)")),
    (exact(B), ASKED, ("principal", str(B), str(A))),
    (exact(B), BARE, ("principal", str(B), "(no identity)")),
    (PrincipalNamespace(is_("bank")), ASKED, ("source namespace", "bank", "default")),
    (PrincipalNamespace(is_("bank")), BARE, ("source namespace", "bank", "(no identity)")),
    (Method(is_("GET")), ASKED, ("method", "GET", "PUT")),
    (Path(begins("/info")), ASKED, ("path", "/info*", "/data")),
    (Path(StringMatch(How.SUFFIX, ".txt")), ASKED, ("path", "*.txt", "/data")),
    (Path(StringMatch(How.PATH_PREFIX, "/a/")), ASKED, ("path", "/a/**", "/data")),
    (PathTemplate("/data/{*}"), ASKED, ("path", "/data/{*}", "/data")),
    (Host(is_("other.mesh")), ASKED, ("host", "other.mesh", "items.mesh:80")),
    (Host(is_("other.mesh")), BARE, ("host", "other.mesh", "(unknown)")),
    (Header("x-a", is_("3")), ASKED, ("header x-a", "3", "1, 2")),
    (Header("x-b", StringMatch(How.PRESENT)), ASKED, ("header x-b", "*", "(absent)")),
    (Port(81), ASKED, ("port", "81", "80")),
    (SourceIp(("::1", "11.0.0.0/8")), ASKED, ("source ip", "::1 or 11.0.0.0/8", "10.0.0.1")),
    (SourceIp(("::/0",)), BARE, ("source ip", "::/0", "(unknown)")),
    (RemoteIp(("10.0.0.0/8",)), ASKED, ("remote ip", "10.0.0.0/8", "192.0.2.1")),
    (RemoteIp(("10.0.0.0/8",)), BARE, ("remote ip", "10.0.0.0/8", "(unknown)")),
    (DestinationIp(("10.0.0.8",)), ASKED, ("destination ip", "10.0.0.8", "10.0.0.9")),
    (DestinationIp(("10.0.0.8",)), BARE, ("destination ip", "10.0.0.8", "(unknown)")),
    (Sni(is_("a.mesh")), ASKED, ("sni", "a.mesh", "items.mesh")),
    (Sni(is_("a.mesh")), BARE, ("sni", "a.mesh", "(absent)")),
    (HasToken(), BARE, ("token", "a verified token", "(no token)")),
    (RequestPrincipal(is_("one"), is_("bob")), ASKED, ("request principal", "one/bob", "one/ann")),
    (RequestPrincipal(is_("i"), is_("bob")), BARE, ("request principal", "i/bob", "(no token)")),
    (Claim(("groups",), is_("ops")), ASKED, ("claim groups", "ops", "dev")),
    (Claim(("n",), is_("7")), ASKED, ("claim n", "7", "7 (no text)")),
    (Claim(("org", "unit"), is_("x")), ASKED, ("claim org[unit]", "x", '""')),
    (Claim(("org", "none"), is_("x")), ASKED, ("claim org[none]", "x", "(absent)")),
    (Claim(("n", "x"), is_("x")), ASKED, ("claim n[x]", "x", "(absent)")),
    (Claim(("groups",), is_("ops")), BARE, ("claim groups", "ops", "(no token)")),
    (AnyOf(()), ASKED, ("rule", "(nothing can match)", "-")),
    (Not(Always()), ASKED, ("rule", "not (any request)", "-")),
    (Not(exact(A)), ASKED, ("principal", f"not {A}", str(A))),
    (Not(HasToken()), ASKED, ("token", "not a verified token", "one/ann")),
    (Not(Not(Method(is_("GET")))), ASKED, ("method", "not GET", "PUT")),
    (Not(AllOf((Port(80), Method(is_("PUT"))))), ASKED, ("port", "not 80", "80")),
    (Not(AnyOf((Port(81), Method(is_("PUT"))))), ASKED, ("method", "not PUT", "PUT")),
    (AnyOf((Method(is_("GET")), Method(is_("HEAD")))), ASKED, ("method", "GET or HEAD", "PUT")),
    (AnyOf((Method(is_("GET")), Port(1))), ASKED, ("method", "GET", "PUT")),
    (AnyOf((Method(is_("GET")), Method(is_("GET")))), ASKED, ("method", "GET", "PUT")),
    (AllOf((Method(is_("PUT")), Port(1), Path(is_("/")))), ASKED, ("port", "1", "80")),
]  # fmt: skip


@pytest.mark.parametrize(("condition", "request_", "said"), MISSES, ids=str)
def test_a_near_miss_says_field_wanted_and_seen(condition, request_, said):
    (miss,) = decide(policy(rule(Effect.ALLOW, condition)), request_).near_misses
    assert (miss.field, miss.wanted, miss.seen) == said


def test_as_many_alternatives_are_shown_as_promised():
    many = [Method(is_(f"M{n}")) for n in range(SHOWN_ALTERNATIVES)]
    _, wanted, _ = first_failure(AnyOf(tuple(many)), Facts(ASKED))
    assert wanted == " or ".join(f"M{n}" for n in range(SHOWN_ALTERNATIVES))
    _, wanted, _ = first_failure(AnyOf((*many, Method(is_("X")))), Facts(ASKED))
    assert wanted.endswith("M7 or 1 more")


def test_long_values_of_a_token_are_cut():
    long = Request(
        claims={"iss": "i" * 300, "sub": "s", "list": ["x" * 300], "n": {"a": "x" * 300}}
    )
    facts = Facts(long)
    assert len(facts.shown_claim(("list",))) == len(facts.shown_claim(("n",))) == 200
    assert len(facts.shown_request_principal()) == 200


@settings(max_examples=150, deadline=None)
@given(conditions, conditions, requests)
def test_the_named_field_is_the_first_part_that_fails(first, second, request):
    """Of a rule with two parts a near miss names that of the first which is false by itself."""
    failure = first_failure(AllOf((first, second)), Facts(request))
    if not holds(first, request):
        assert failure == first_failure(first, Facts(request))
    else:
        assert failure == first_failure(second, Facts(request))


@settings(max_examples=250, deadline=None)
@given(conditions, requests)
def test_outside_its_bound_a_condition_holds_of_nobody(condition, request):
    bound = identities_of(condition)
    if bound is not None and holds(condition, request):
        assert str(request.principal) in bound


def test_rules_that_name_others_are_not_asked_and_the_order_stays():
    subject = policy(
        rule(Effect.ALLOW, exact(B), 0),
        rule(Effect.ALLOW, AllOf((AnyOf((exact(A), exact(B))), Method(is_("GET")))), 1),
        rule(Effect.ALLOW, Authenticated(), 2),
    )
    decider = Decider(subject)
    for who, method, name in ((A, "GET", 1), (B, "PUT", 0), (A, "PUT", 2), (None, "GET", None)):
        for _ in range(2):
            found = decider.decide(Request(principal=who, method=method)).rule
            assert (found and found.name) == (None if name is None else f"{name:05d}")


@settings(max_examples=150, deadline=None)
@given(policies, requests)
def test_a_refusal_lists_every_rule_that_could_have_allowed(subject, request):
    decision = decide(subject, request)
    if decision.allowed or decision.rule is not None:
        assert decision.near_misses == ()
        return
    closed = [
        layer
        for layer in subject.layers
        if layer.allows
        and not any(r.effect is Effect.ALLOW and holds(r.condition, request) for r in layer.rules)
    ]
    wanted = [r for layer in closed[:1] for r in layer.rules if r.effect is Effect.ALLOW]
    assert [miss.rule for miss in decision.near_misses] == wanted


# --- ports that pass connections on

OF_REQUESTS = [
    Method(is_("GET")), Path(is_("/")), PathTemplate("/{*}"), Host(is_("a")), Header("a", is_("b")),
    HasToken(), RequestPrincipal(is_("a"), is_("b")), Claim(("a",), is_("b")),
]  # fmt: skip
OF_CONNECTIONS = [
    Always(), Authenticated(), exact(A), PrincipalNamespace(is_("default")), Port(80),
    SourceIp(("10.0.0.0/8",)), RemoteIp(("10.0.0.0/8",)), DestinationIp(("10.0.0.0/8",)),
    Sni(is_("a")),
]  # fmt: skip


def kept(effect: Effect, condition) -> list:
    ready = policy(rule(effect, condition))
    trial = Policy((Layer(LayerKind.PERMISSION, (), True, ready.layers[0].rules),))
    (layer,) = for_connections(ready).layers
    (shadow,) = for_connections(trial).layers
    assert shadow.dry_run == layer.rules
    return [r.condition for r in layer.rules]


@pytest.mark.parametrize("condition", OF_REQUESTS, ids=str)
def test_a_port_without_requests_never_allows_by_one_and_refuses_whatever_it_says(condition):
    """HTTP-only DENY on a TCP port."""
    assert reads_request(condition)
    assert kept(Effect.ALLOW, condition) == []
    assert kept(Effect.ALLOW, AllOf((exact(A), Not(condition)))) == []
    for effect in (Effect.DENY, Effect.AUDIT, Effect.CUSTOM):
        assert kept(effect, condition) == [Always()]
        assert kept(effect, Not(condition)) == [Always()]
        assert kept(effect, AllOf((exact(A), condition))) == [AllOf((exact(A), Always()))]
        assert kept(effect, AnyOf((Not(exact(A)), condition))) == [AnyOf((Not(exact(A)), Always()))]


@pytest.mark.parametrize("condition", OF_CONNECTIONS, ids=str)
def test_what_a_connection_shows_decides_at_a_port_without_requests(condition):
    assert not reads_request(condition)
    for effect in Effect:
        assert kept(effect, condition) == [condition]
        assert kept(effect, Not(condition)) == [Not(condition)]


@settings(max_examples=150, deadline=None)
@given(policies, requests)
def test_a_policy_for_connections_is_never_wider(subject, request):
    if decide(for_connections(subject), request).allowed:
        assert decide(subject, request).allowed


# --- what a condition looks at


@pytest.mark.parametrize("condition", [*OF_REQUESTS, *OF_CONNECTIONS], ids=str)
def test_what_a_condition_looks_at_is_known_at_any_depth(condition):
    token = isinstance(condition, HasToken | RequestPrincipal | Claim)
    address = isinstance(condition, SourceIp | RemoteIp | DestinationIp)
    for outer in (condition, Not(condition), AllOf((Always(), AnyOf((condition,))))):
        assert condition in list(parts_of(outer))
        assert outer in list(parts_of(outer))
        assert reads_token(outer) is token
        assert reads_address(outer) is address


# --- who may come, and what widens


def test_a_mesh_that_allows_by_default_has_an_edge_for_everybody():
    open_ = Policy(default_allow=True)
    assert may_allow(open_, None)
    assert Callers(open_).include(A)
    assert Callers(open_, anonymous=True).include(A)
    assert not Callers(Policy()).include(A)
    assert not Callers(Policy(), anonymous=True).include(A)


def test_where_nobody_has_an_identity_all_may_come_or_none():
    named = policy(rule(Effect.ALLOW, exact(A)))
    anybody = policy(rule(Effect.ALLOW, Method(is_("GET"))))
    assert not Callers(named, anonymous=True).include(A)
    assert Callers(anybody, anonymous=True).include(A)


def test_who_is_named_by_one_layer_only_may_not_come():
    two = Policy((*ONE.layers, *other(TWO).layers))
    assert [Callers(two).include(who) for who in (A, B)] == [False, False]
    both = policy(rule(Effect.ALLOW, AnyOf((exact(A), exact(B)))))
    three = Policy((*ONE.layers, *other(both).layers))
    assert [Callers(three).include(who) for who in (A, B)] == [True, False]
    assert Callers(three).named == {str(A)}


def test_an_identity_in_any_case_of_letters_lets_in_that_one_only():
    folded = policy(rule(Effect.ALLOW, Principal(StringMatch(How.EXACT, str(A).upper(), True))))
    assert [Callers(folded).include(who) for who in (A, B)] == [True, False]
    assert Callers(folded).named is None
    assert widens(ONE, folded) is implies(exact(A), folded.layers[0].rules[0].condition)


IMPLIED = [
    (exact(A), Authenticated(), True),
    (PrincipalNamespace(is_("a")), Authenticated(), True),
    (Method(is_("GET")), Authenticated(), False),
    (exact(A), Principal(begins(str(A)[:-1])), True),
    (Principal(begins(str(A)[:-1])), exact(A), False),
    (PrincipalNamespace(is_("bank")), PrincipalNamespace(begins("ba")), True),
    (PrincipalNamespace(is_("bank")), PrincipalNamespace(begins("x")), False),
    (PrincipalNamespace(is_("bank")), exact(A), False),
    (Path(is_("/a/b")), Path(begins("/a")), True),
    (Path(begins("/a")), Path(is_("/a/b")), False),
    (Path(StringMatch(How.PATH_PREFIX, "/a/b/")), Path(StringMatch(How.PATH_PREFIX, "/a")), True),
    (Path(StringMatch(How.PATH_PREFIX, "/ab")), Path(StringMatch(How.PATH_PREFIX, "/a")), False),
    (Method(is_("GET")), Method(begins("G")), True),
    (Method(is_("GET")), Path(begins("G")), False),
    (Method(StringMatch(How.EXACT, "GET", ignore_case=True)), Method(begins("G")), False),
    (Claim(("a",), is_("x")), HasToken(), True),
    (RequestPrincipal(is_("a"), is_("b")), HasToken(), True),
    (Header("x", is_("a")), HasToken(), False),
    (HasToken(), Claim(("a",), is_("x")), False),
    (AnyOf((exact(A), exact(B))), Authenticated(), True),
    (AnyOf((exact(A), Always())), Authenticated(), False),
    (exact(A), AnyOf((exact(B), exact(A))), True),
    (exact(A), AnyOf((exact(B),)), False),
    (AllOf((exact(A), Method(is_("GET")))), exact(A), True),
    (AllOf((exact(A), Method(is_("GET")))), exact(B), False),
    (exact(A), AllOf((Authenticated(), exact(A))), True),
    (exact(A), AllOf((Authenticated(), exact(B))), False),
    (exact(A), Always(), True),
]  # fmt: skip


@pytest.mark.parametrize(("narrow", "wide", "known"), IMPLIED, ids=str)
def test_what_is_proved_to_imply_what(narrow, wide, known):
    assert implies(narrow, wide) is known


GET, HEAD = Method(is_("GET")), Method(is_("HEAD"))
ONE, TWO = policy(rule(Effect.ALLOW, exact(A))), policy(rule(Effect.ALLOW, exact(B)))


def other(subject: Policy) -> Policy:
    return Policy(tuple(replace(x, kind=LayerKind.AUTHORIZATION) for x in subject.layers))


@pytest.mark.parametrize(
    ("before", "after", "wider"),
    [
        (ONE, ONE, True),
        (ONE, TWO, False),
        (ONE, Policy(), False),
        (ONE, Policy(default_allow=True), True),
        (ONE, other(ONE), False),
        (ONE, Policy((*ONE.layers, *other(ONE).layers)), False),
        (Policy((*ONE.layers, *other(TWO).layers)), ONE, True),
        (Policy(default_allow=True), Policy(default_allow=True), True),
        (Policy(default_allow=True), Policy(), False),
        (
            Policy(default_allow=True),
            policy(rule(Effect.DENY, GET), allows=False, default_allow=True),
            False,
        ),
        (
            policy(rule(Effect.DENY, GET), allows=False, default_allow=True),
            Policy(default_allow=True),
            True,
        ),
        (
            policy(rule(Effect.DENY, AnyOf((GET, HEAD))), allows=False, default_allow=True),
            policy(rule(Effect.DENY, HEAD), allows=False, default_allow=True),
            True,
        ),
        (policy(rule(Effect.DENY, GET), allows=False), Policy(), True),
        (
            Policy((*ONE.layers, *other(policy(rule(Effect.DENY, GET), allows=False)).layers)),
            ONE,
            True,
        ),
        (
            ONE,
            Policy((*ONE.layers, *other(policy(rule(Effect.DENY, GET), allows=False)).layers)),
            False,
        ),
        (policy(rule(Effect.ALLOW, exact(A)), allows=False), Policy(), True),
        (
            policy(rule(Effect.ALLOW, exact(A)), rule(Effect.AUDIT, exact(B))),
            policy(rule(Effect.ALLOW, exact(A))),
            True,
        ),
        (ONE, policy(rule(Effect.AUDIT, exact(A))), False),
    ],
)
def test_more_grants_are_told_from_losses(before, after, wider):
    assert widens(before, after) is wider


def test_another_provider_is_another_question():
    asked, elsewhere = (
        policy(
            rule(Effect.ALLOW, exact(A)),
            replace(rule(Effect.CUSTOM, Always(), 1), provider=provider),
        )
        for provider in ("one", "two")
    )
    assert widens(asked, replace(asked))
    assert not widens(asked, elsewhere)


def test_a_rule_is_shown_with_its_place():
    ref = rule(Effect.ALLOW, Always()).ref
    assert str(ref) == "TrafficPermission default/p rule 0 (p.yaml:3)"
    assert str(replace(ref, file="")) == "TrafficPermission default/p rule 0"


def test_policies_that_differ_are_told_apart_without_comparing_them():
    assert len({hash(p) for p in (ONE, TWO, Policy(), Policy(default_allow=True))}) == 4
    assert policy(rule(Effect.ALLOW, exact(A))) == ONE
    assert hash(policy(rule(Effect.ALLOW, exact(A)))) == hash(ONE)
    assert ONE != TWO
    assert Policy() != Policy(default_allow=True)


def test_a_namespace_lets_its_own_come_and_nobody_without_identity():
    bank = policy(rule(Effect.ALLOW, PrincipalNamespace(is_("bank"))))
    teller = replace(A, namespace="bank")
    assert [may_allow(bank, who) for who in (teller, A, None)] == [True, False, False]
    closed = policy(
        rule(Effect.DENY, PrincipalNamespace(is_("bank"))), rule(Effect.ALLOW, Always(), 1)
    )
    assert [may_allow(closed, who) for who in (teller, A, None)] == [False, True, True]
    anybody = policy(rule(Effect.ALLOW, Authenticated()))
    assert [may_allow(anybody, who) for who in (teller, None)] == [True, False]


def test_effects_are_named_as_the_api_shows_them():
    assert [effect.value for effect in Effect] == ["allow", "deny", "audit", "custom"]
    assert [kind.value for kind in LayerKind] == ["permission", "authorization"]
