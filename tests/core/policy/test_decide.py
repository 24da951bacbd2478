"""`decide` and the indexes that answer for it must never disagree."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limen.core.model.names import SpiffeId
from limen.core.policy.callers import Callers, implies, named_callers, widens
from limen.core.policy.decide import Decider, decide, holds, may_allow
from limen.core.policy.decision import Request
from limen.core.policy.evaluate import first_failure, is_true
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
    Rule,
    RuleRef,
    Sni,
    SourceIp,
)

TD = "default.mesh.local"
PEOPLE = [SpiffeId(TD, ns, sa) for ns in ("default", "bank") for sa in ("a", "b", "A")]


def exact(identity: object) -> Principal:
    return Principal(StringMatch(How.EXACT, str(identity)))


def rule(effect: Effect, condition, index: int = 0) -> Rule:
    ref = RuleRef("TrafficPermission", "default", "default", "p", index, "p.yaml", 3)
    return Rule(effect, condition, f"{index:05d}", ref)


def policy(*rules: Rule, allows: bool = True, default_allow: bool = False) -> Policy:
    return Policy((Layer(LayerKind.PERMISSION, rules, allows),), default_allow)


def allowed(subject: Policy, who: SpiffeId | None, **fields) -> bool:
    return decide(subject, Request(principal=who, **fields)).allowed


A, B = PEOPLE[0], PEOPLE[1]


def test_no_policy_denies_by_default():
    decision = decide(Policy(), Request(principal=A))
    assert not decision.allowed
    assert decision.rule is None
    assert "refused by default" in decision.reason


def test_default_allow_ends_where_a_layer_allows():
    assert allowed(Policy(default_allow=True), A)
    assert not allowed(policy(default_allow=True), A)
    assert allowed(policy(allows=False, default_allow=True), A)


def test_deny_wins_over_allow():
    subject = policy(rule(Effect.ALLOW, Always()), rule(Effect.DENY, exact(A), 1))
    assert not allowed(subject, A)
    assert allowed(subject, B)
    assert decide(subject, Request(principal=A)).rule == subject.layers[0].rules[1]


def test_every_layer_that_allows_must_allow():
    one = Layer(LayerKind.PERMISSION, (rule(Effect.ALLOW, exact(A)),), allows=True)
    two = Layer(LayerKind.PERMISSION, (rule(Effect.ALLOW, exact(B)),), allows=True)
    assert not allowed(Policy((one, two)), A)
    assert allowed(Policy((one, one)), A)


def test_a_layer_that_only_denies_does_not_allow():
    only = policy(rule(Effect.DENY, exact(B)), allows=False)
    assert not allowed(only, A)
    assert allowed(Policy(only.layers, default_allow=True), A)
    assert not allowed(Policy(only.layers, default_allow=True), B)


def test_shadow_deny_is_reported_and_changes_nothing():
    shadow = rule(Effect.DENY, exact(A))
    granted = rule(Effect.ALLOW, exact(A), 1)
    layer = Layer(LayerKind.PERMISSION, (granted,), allows=True, dry_run=(shadow,))
    decision = decide(Policy((layer,)), Request(principal=A))
    assert decision.allowed
    assert decision.shadow_denied == decision.dry_run == (shadow,)
    only = Layer(LayerKind.PERMISSION, (), allows=True, dry_run=(granted,))
    assert not allowed(Policy((only,)), A)
    assert decide(Policy((only,)), Request(principal=A)).dry_run == (granted,)


def test_a_caller_without_identity_satisfies_no_identity_field():
    for condition in (Authenticated(), exact(A), Principal(StringMatch(How.PREFIX, ""))):
        assert not allowed(policy(rule(Effect.ALLOW, condition)), None)


def test_a_denial_by_a_negated_identity_catches_the_caller_without_one():
    subject = policy(rule(Effect.DENY, Not(exact(A))), rule(Effect.ALLOW, Always(), 1))
    assert not allowed(subject, None)
    assert allowed(subject, A)


def test_near_misses_say_what_was_wanted_and_seen():
    condition = AllOf((AnyOf((exact(A), exact(B))), Method(StringMatch(How.EXACT, "GET"))))
    subject = policy(rule(Effect.ALLOW, condition))
    (miss,) = decide(subject, Request(principal=None)).near_misses
    assert (miss.field, miss.wanted, miss.seen) == (
        "principal",
        f"{A} or {B}",
        "(no identity)",
    )
    (miss,) = decide(subject, Request(principal=A, method="PUT")).near_misses
    assert (miss.field, miss.wanted, miss.seen) == ("method", "GET", "PUT")


def test_a_near_miss_shows_the_tokens_principal():
    wanted = RequestPrincipal(StringMatch(How.EXACT, "i"), StringMatch(How.EXACT, "s"))
    subject = policy(rule(Effect.ALLOW, wanted))
    (miss,) = decide(subject, Request(principal=A, claims={"iss": "a", "sub": "b"})).near_misses
    assert (miss.field, miss.seen) == ("request principal", "a/b")


def test_a_denial_that_surely_holds_leaves_no_edge():
    everything = rule(Effect.ALLOW, Always())
    get = Method(StringMatch(How.EXACT, "GET"))
    surely = policy(rule(Effect.DENY, AnyOf((get, exact(A)))), everything)
    assert (may_allow(surely, A), may_allow(surely, B)) == (False, True)
    perhaps = policy(rule(Effect.DENY, AllOf((get, exact(A)))), everything)
    assert may_allow(perhaps, A)


def test_a_long_list_of_wanted_values_is_cut():
    many = AnyOf(tuple(exact(SpiffeId(TD, "default", f"s{n}")) for n in range(100)))
    (miss,) = decide(policy(rule(Effect.ALLOW, many)), Request(principal=A)).near_misses
    assert len(miss.wanted) < 700
    assert miss.wanted.endswith("or 92 more")


def test_one_of_repeated_header_values_is_enough():
    condition = Header("x-role", StringMatch(How.EXACT, "admin"))
    assert holds(condition, Request(headers={"x-role": ("user", "admin")}))
    assert not holds(condition, Request(headers={"x-role": ("user,admin",)}))
    assert not holds(condition, Request())


def test_a_path_prefix_ends_at_a_segment():
    match = StringMatch(How.PATH_PREFIX, "/api/")
    assert match.matches("/api/x")
    assert match.matches("/api/")
    assert not match.matches("/apix")


@pytest.mark.parametrize("condition", [AllOf(()), Not(AnyOf(()))])
def test_empty_all_holds_and_empty_any_does_not(condition):
    assert holds(condition, Request())


TOKEN = {"iss": "one", "sub": "b/c", "aud": ["x", ["y"], 7], "n": 7, "o": {"p": "q"}, "e": ""}


@pytest.mark.parametrize(
    ("path", "how", "value", "expected"),
    [
        (("aud",), How.EXACT, "x", True),
        (("aud",), How.EXACT, "y", False),
        (("aud",), How.EXACT, "7", False),
        (("n",), How.EXACT, "7", False),
        (("n",), How.PRESENT, "", False),
        (("o",), How.PRESENT, "", False),
        (("o", "p"), How.EXACT, "q", True),
        (("o", "z"), How.PRESENT, "", False),
        (("sub", "p"), How.PRESENT, "", False),
        (("e",), How.PRESENT, "", False),
        (("e",), How.EXACT, "", True),
        (("none",), How.PREFIX, "", False),
    ],
)
def test_claims_are_texts_or_lists_of_texts(path, how, value, expected):
    condition = Claim(path, StringMatch(how, value))
    assert holds(condition, Request(claims=TOKEN)) is expected
    assert not holds(condition, Request())


def test_issuer_and_subject_are_never_joined():
    def asks(issuer: str, subject: str) -> RequestPrincipal:
        return RequestPrincipal(StringMatch(How.EXACT, issuer), StringMatch(How.EXACT, subject))

    assert holds(asks("one", "b/c"), Request(claims=TOKEN))
    assert not holds(asks("one/b", "c"), Request(claims=TOKEN))
    present = StringMatch(How.PREFIX, "")
    assert not holds(RequestPrincipal(present, present), Request(claims={"iss": "one"}))
    assert not holds(RequestPrincipal(present, present), Request())


@pytest.mark.parametrize(
    ("host", "own", "any_port"),
    [
        ("a.mesh", True, True),
        ("A.MESH", True, True),
        ("a.mesh:80", True, True),
        ("a.mesh:81", False, True),
        ("a.mesh:", False, True),
        ("a.mesh:x", False, False),
        ("b.mesh", False, False),
        ("", False, False),
    ],
)
def test_hosts(host, own, any_port):
    match = StringMatch(How.EXACT, "A.mesh", ignore_case=True)
    request = Request(host=host, port=80)
    assert holds(Host(match), request) is own
    assert holds(Host(match, any_port=True), request) is any_port
    bare = Host(StringMatch(How.EXACT, "[::1]"), any_port=True)
    assert holds(bare, Request(host="[::1]"))
    assert holds(bare, Request(host="[::1]:9"))


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("/a/{*}", "/a/b", True),
        ("/a/{*}", "/a/", False),
        ("/a/{*}", "/a/b/c", False),
        ("/a/{*}", "/a/*", True),
        ("/a/{*}/c", '/a/%41!"x/c', True),
        ("/a/{**}", "/a/", True),
        ("/a/{**}", "/a", False),
        ("/a/{**}", "/a/b/c/", True),
        ("/a/{**}/z.txt", "/a/b/c/z.txt", True),
        ("/a/{**}/z.txt", "/a/b/c/zxtxt", False),
        ("/a.b/{*}", "/aXb/c", False),
        ("/{*}", "/x\n", True),
    ],
)
def test_path_templates(template, path, expected):
    assert holds(PathTemplate(template), Request(path=path)) is expected


def test_an_unknown_address_is_in_no_range():
    for kind, field in ((SourceIp, "source_ip"), (RemoteIp, "remote_ip")):
        assert holds(kind(("10.0.0.0/8", "::1/128")), Request(**{field: "10.9.9.9"}))
        assert holds(kind(("10.0.0.0/8", "::1/128")), Request(**{field: "::1"}))
        assert not holds(kind(("10.0.0.0/8",)), Request(**{field: "11.0.0.1"}))
        assert not holds(kind(("0.0.0.0/0", "::/0")), Request())


def test_audit_custom_and_trial_are_reported():
    audit, ask = rule(Effect.AUDIT, Always()), rule(Effect.CUSTOM, Always(), 1)
    layer = Layer(LayerKind.AUTHORIZATION, (audit, ask, rule(Effect.ALLOW, exact(A), 2)), True)
    decision = decide(Policy((layer,)), Request(principal=A))
    assert (decision.allowed, decision.undecided, decision.rule) == (False, True, ask)
    assert (decision.audited, decision.asked) == ((audit,), (ask,))
    consents = frozenset({ask.provider})
    decision = decide(Policy((layer,)), Request(principal=A, consents=consents))
    assert (decision.allowed, decision.undecided, decision.asked) == (True, False, (ask,))
    refused = decide(Policy((layer,)), Request(principal=B, consents=consents))
    assert (refused.allowed, refused.undecided) == (False, False)


def test_a_new_question_to_a_provider_may_take_a_right_away():
    granted = rule(Effect.ALLOW, exact(A))
    asked = rule(Effect.CUSTOM, Always(), 1)
    assert not widens(policy(granted), policy(granted, asked))
    assert widens(policy(granted, asked), policy(granted))


def test_one_more_source_of_a_rule_with_operations_is_a_grant():
    get = Method(StringMatch(How.EXACT, "GET"))
    one = policy(rule(Effect.ALLOW, AllOf((exact(A), get))))
    two = policy(rule(Effect.ALLOW, AllOf((AnyOf((exact(A), exact(B))), get))))
    assert widens(one, two)
    assert not widens(two, one)


# --- properties

values = st.sampled_from([str(p) for p in PEOPLE] + [f"spiffe://{TD}", f"spiffe://{TD}/ns/bank"])
matches = st.builds(
    StringMatch, st.sampled_from([How.EXACT, How.EXACT, *How]), values, st.booleans()
)


def texts(*some: str) -> st.SearchStrategy[StringMatch]:
    return st.builds(StringMatch, st.sampled_from(How), st.sampled_from(some), st.booleans())


leaves = st.one_of(
    st.builds(Principal, matches),
    st.builds(exact, st.sampled_from(PEOPLE)),
    st.just(Always()),
    st.just(Authenticated()),
    st.just(Method(StringMatch(How.EXACT, "GET"))),
    st.just(Path(StringMatch(How.PREFIX, "/a"))),
    st.just(Header("x", StringMatch(How.EXACT, "1"))),
    st.just(Port(80)),
    st.builds(PrincipalNamespace, texts("default", "bank", "b")),
    st.just(HasToken()),
    st.builds(RequestPrincipal, texts("one", "o"), texts("ann", "nn")),
    st.builds(Claim, st.sampled_from((("aud",), ("a", "b"), ("sub",))), texts("x", "y", "ann")),
    st.builds(Host, texts("a.mesh", "mesh", "A"), st.booleans()),
    st.builds(Method, texts("GET", "P")),
    st.builds(Path, texts("/a", "/", "b")),
    st.builds(PathTemplate, st.sampled_from(("/{*}", "/a/{**}", "/{**}"))),
    st.builds(SourceIp, st.sampled_from((("10.0.0.0/8",), ("::/0",), ("10.0.0.1/32", "::1/128")))),
    st.builds(RemoteIp, st.just(("10.0.0.1/32",))),
    st.builds(DestinationIp, st.just(("10.0.0.1/32",))),
    st.builds(Sni, texts("a.mesh", "mesh")),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda ps: AllOf(tuple(ps)), st.lists(inner, max_size=3)),
        st.builds(lambda ps: AnyOf(tuple(ps)), st.lists(inner, max_size=3)),
        st.builds(Not, inner),
    ),
    max_leaves=5,
)
rules = st.builds(rule, st.sampled_from(Effect), conditions, st.integers(0, 9))
layers = st.builds(
    lambda kind, rs, allows, trial: Layer(kind, tuple(rs), allows, tuple(trial)),
    st.sampled_from(LayerKind),
    st.lists(rules, max_size=4),
    st.booleans(),
    st.lists(rules, max_size=1),
)
policies = st.builds(
    lambda ls, d: Policy(tuple(ls), d),
    st.lists(layers, max_size=2, unique_by=lambda layer: layer.kind),
    st.booleans(),
)
requests = st.builds(
    Request,
    st.sampled_from([None, *PEOPLE]),
    st.sampled_from(["GET", "PUT"]),
    st.sampled_from(["/a", "/b"]),
    st.sampled_from([{}, {"x": ("1",)}, {"x": ("2", "1")}]),
    st.sampled_from([80, 81]),
    st.sampled_from(["a.mesh", "A.mesh:80", "a.mesh:9", "[::1]", ""]),
    st.sampled_from(
        [None, {}, {"iss": "one", "sub": "ann", "aud": ["x", 7]}, {"a": {"b": "y"}, "iss": 3}]
    ),
    st.sampled_from(["", "10.0.0.1", "::1", "nonsense"]),
    st.sampled_from(["", "10.0.0.1"]),
    st.sampled_from(["", "10.0.0.1"]),
    st.sampled_from(["", "a.mesh"]),
)


@settings(max_examples=400, deadline=None)
@given(conditions, requests)
def test_a_failure_is_shown_exactly_where_a_condition_does_not_hold(condition, request):
    facts = Facts(request)
    failure = first_failure(condition, facts)
    assert (failure is None) is is_true(condition, facts)
    assert failure is None or all(isinstance(part, str) and part for part in failure)


@settings(max_examples=300, deadline=None)
@given(policies, st.lists(requests, min_size=2, max_size=6))
def test_what_was_asked_before_changes_no_answer(subject, asked):
    remembers = Decider(subject)
    assert [remembers.decide(r) for r in asked] == [decide(subject, r) for r in asked]


def test_a_remembered_miss_is_of_that_caller_and_request():
    named = rule(Effect.ALLOW, AllOf((exact(A), Method(StringMatch(How.EXACT, "PUT")))))
    remembers = Decider(policy(named))
    seen = [
        remembers.decide(Request(principal=who, method=method)).near_misses[0][1:]
        for who, method in ((B, "PUT"), (A, "GET"), (B, "GET"), (A, "POST"), (None, "GET"))
    ]
    assert seen == [
        ("principal", str(A), str(B)),
        ("method", "PUT", "GET"),
        ("principal", str(A), str(B)),
        ("method", "PUT", "POST"),
        ("principal", str(A), "(no identity)"),
    ]


@settings(max_examples=600, deadline=None)
@given(conditions, conditions, st.lists(requests, max_size=6))
def test_what_is_implied_holds_wherever_the_other_does(narrow, wide, asked):
    for some in (wide, AnyOf((wide, narrow)), AllOf((narrow, wide))):
        if implies(narrow, some):
            assert all(holds(some, r) for r in asked if holds(narrow, r))
        if implies(some, narrow):
            assert all(holds(narrow, r) for r in asked if holds(some, r))


@settings(max_examples=150, deadline=None)
@given(policies, requests)
def test_whoever_is_allowed_something_gets_an_edge(subject, request):
    if decide(subject, request).allowed:
        assert may_allow(subject, request.principal)


@settings(max_examples=150, deadline=None)
@given(policies, st.sampled_from(PEOPLE))
def test_the_index_of_callers_answers_as_may_allow(subject, caller):
    assert Callers(subject).include(caller) == may_allow(subject, caller)
    named = named_callers(subject)
    if may_allow(subject, caller):
        assert named is None or str(caller) in named


def test_being_named_is_not_enough_where_a_denial_stands_beside():
    some, other = PEOPLE[:2]
    both = [rule(Effect.ALLOW, exact(who)) for who in (some, other)]
    denied = Callers(policy(*both, rule(Effect.DENY, exact(some))))
    assert not denied.include(some)
    assert denied.include(other)


@settings(max_examples=250, deadline=None)
@given(policies, policies, st.lists(requests, max_size=8), st.booleans())
def test_what_widens_takes_nothing_away(before, other, asked, grow):
    after = _grown(before, other) if grow else other
    if widens(before, after):
        for request in asked:
            assert allowed_request(after, request) or not allowed_request(before, request)


def _grown(before: Policy, other: Policy) -> Policy:
    """`before` with the rules of `other` added: sometimes wider, sometimes not."""
    extra = tuple(r for layer in other.layers for r in layer.rules)
    return Policy(
        tuple(Layer(x.kind, x.rules + extra, x.allows) for x in before.layers),
        before.default_allow,
    )


def allowed_request(subject: Policy, request: Request) -> bool:
    return decide(subject, request).allowed


@pytest.mark.parametrize(
    ("before", "after", "wider"),
    [
        (policy(), policy(rule(Effect.ALLOW, exact(A))), True),
        (Policy(), policy(rule(Effect.ALLOW, exact(A))), True),
        (Policy(), Policy(default_allow=True), True),
        (Policy(default_allow=True), policy(rule(Effect.ALLOW, Always())), False),
        (policy(rule(Effect.ALLOW, exact(A))), policy(rule(Effect.ALLOW, Authenticated())), True),
        (policy(rule(Effect.ALLOW, Authenticated())), policy(rule(Effect.ALLOW, exact(A))), False),
        (
            policy(rule(Effect.ALLOW, exact(A))),
            policy(rule(Effect.ALLOW, AnyOf((exact(B), exact(A))))),
            True,
        ),
        (
            policy(rule(Effect.ALLOW, exact(A))),
            policy(rule(Effect.ALLOW, exact(A)), rule(Effect.DENY, exact(B), 1)),
            False,
        ),
        (
            policy(rule(Effect.ALLOW, exact(A)), rule(Effect.DENY, exact(B), 1)),
            policy(rule(Effect.ALLOW, exact(A))),
            True,
        ),
        (
            policy(rule(Effect.ALLOW, exact(A))),
            policy(
                rule(
                    Effect.ALLOW,
                    Principal(StringMatch(How.PATH_PREFIX, f"spiffe://{TD}/ns/default")),
                )
            ),
            True,
        ),
        (
            policy(rule(Effect.ALLOW, Principal(StringMatch(How.PATH_PREFIX, f"spiffe://{TD}")))),
            policy(
                rule(
                    Effect.ALLOW, Principal(StringMatch(How.PATH_PREFIX, f"spiffe://{TD}/ns/bank"))
                )
            ),
            False,
        ),
    ],
)
def test_grants_are_told_from_losses(before, after, wider):
    assert widens(before, after) is wider
