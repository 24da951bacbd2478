"""The messages for Envoy mean what `decide()` says, for every condition and random policies."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.policy import test_decide as random

from limen.core.envoy import expressions, names
from limen.core.envoy.principals import to_principal
from limen.core.envoy.rbac import audit_filter, audit_rules, deny_filter
from limen.core.envoy.strings import is_any_text, to_string_matchers
from limen.core.policy.decide import decide, holds
from limen.core.policy.decision import Request
from limen.core.policy.facts import Facts
from limen.core.policy.match import How, StringMatch, template_pattern
from limen.core.policy.rule import (
    Always,
    Effect,
    Header,
    Layer,
    LayerKind,
    Method,
    Path,
    PathTemplate,
    Policy,
)

from .plans import EVERY_CONDITION
from .rbac_reader import RBAC, Seen, filtered, first_match, text_matches, verdict

CLAIMS = (
    None,
    {"iss": "https://login.example.com", "sub": "bob", "scope": ["items:read"]},
    {"iss": "i", "sub": "", "scope": "items:read", "realm": {"roles": ["x", 1]}},
    {"iss": "one", "sub": "ann", "aud": ["x", 7], "a": {"b": "y"}},
)
REQUESTS = tuple(
    Request(
        principal=who,
        method=method,
        path=path,
        headers=headers,
        port=8443,
        host=host,
        claims=CLAIMS[n % 4],
        source_ip=("", "10.9.9.9", "fd00::1")[n % 3],
        remote_ip=("192.0.2.1", "")[n % 2],
        destination_ip=("10.0.0.5", "fd12::1", "10.0.0.6", "")[n % 4],
        sni=("", "items.default.mesh", "Items.Mesh", "items.mesh")[n % 4],
    )
    for n, (who, method, path, headers, host) in enumerate(
        (who, method, path, headers, host)
        for who in (None, *random.PEOPLE, replace(random.A, service_account="users"))
        for method in ("GET", "HEAD", "PUT")
        for path in ("/", "/api", "/api/x", "/apix", "/admin", "/v1/a/items/", "/v1/a/b/items/c")
        for headers in ({}, {"x-tier": ("GOLD/",)}, {"x-tier": ("", "a Gold/x")}, {"x-tier": ("",)})
        for host in ("", "items.mesh", "Items.mesh:8443", "items.mesh:9", "x.items.mesh/y")
    )
)


@pytest.mark.parametrize("condition", EVERY_CONDITION, ids=str)
def test_every_condition_means_for_envoy_what_it_means_here(condition):
    principal = to_principal(condition, 8443)
    for request in REQUESTS[::7]:  # of all combinations, some of each
        metadata = {} if request.claims is None else {
            names.JWT_METADATA: {names.JWT_PAYLOAD: dict(request.claims)}
        }  # fmt: skip
        known = request.claims if request.claims and "iss" in request.claims else None
        asked = replace(request, claims=known)
        assert Seen(request, metadata).holds(principal) is holds(condition, asked), request


WITH_TOKEN = random.requests.map(
    lambda r: r if r.claims is None or isinstance(r.claims.get("iss"), str) else replace(
        r, claims={**r.claims, "iss": "one"}
    )
)  # fmt: skip
ASKED = st.sampled_from(((), ("",)))


@settings(max_examples=250, deadline=None)
@given(random.policies, WITH_TOKEN, ASKED)
def test_random_policies_mean_for_envoy_what_they_mean_here(policy, request, asked):
    passed, name = verdict(policy, request, asked)
    wanted = decide(policy, replace(request, consents=frozenset(asked)))
    assert passed is wanted.allowed, (name, wanted)
    if wanted.rule is not None and wanted.rule.effect is not Effect.CUSTOM:
        assert names.rule_name(name) == wanted.rule.name


@settings(max_examples=150, deadline=None)
@given(random.policies, WITH_TOKEN)
def test_reports_name_what_matched_and_decide_nothing(policy, request):
    metadata = {RBAC: {}}
    if request.claims is not None:
        metadata[names.JWT_METADATA] = {names.JWT_PAYLOAD: dict(request.claims)}
    seen = Seen(request, metadata)
    wanted = decide(policy, request)
    reporting = audit_filter(audit_rules(policy), request.port)
    assert filtered(reporting, seen) == (True, "")
    first = first_match(reporting.shadow_rules, seen)
    assert (first is None) is (not wanted.audited)
    if first is not None:
        assert names.rule_name(first) == wanted.audited[0].name
    trial = first_match(deny_filter(policy, request.port).shadow_rules, seen)
    assert (trial is None) is (not wanted.dry_run)


def test_of_rules_on_trial_a_denial_is_reported_first_and_an_allowance_last():
    rules = [random.rule(effect, Always(), n) for n, effect in enumerate(Effect)]
    for effects in (
        (Effect.DENY, Effect.CUSTOM, Effect.AUDIT, Effect.ALLOW),
        (Effect.CUSTOM, Effect.AUDIT, Effect.ALLOW),
        (Effect.AUDIT, Effect.ALLOW),
    ):
        trial = tuple(r for r in rules if r.effect in effects)
        policy = Policy((Layer(LayerKind.AUTHORIZATION, (), allows=True, dry_run=trial),))
        first = first_match(deny_filter(policy, 1).shadow_rules, Seen(Request(), {}))
        (wanted,) = (r.name for r in rules if r.effect is effects[0])
        assert first is not None
        assert names.rule_name(first) == wanted


def test_a_custom_rule_that_nobody_was_asked_about_refuses_after_the_denials():
    ask = random.rule(Effect.CUSTOM, Path(StringMatch(How.PREFIX, "/a")), 0)
    deny = random.rule(Effect.DENY, Method(StringMatch(How.EXACT, "PUT")), 1)
    policy = random.policy(ask, deny, random.rule(Effect.ALLOW, Always(), 2))
    assert verdict(policy, Request(path="/b"), ()) == (True, "000000 00002")
    passed, name = verdict(policy, Request(path="/a"), ())
    assert (passed, names.rule_name(name)) == (False, ask.name)
    passed, name = verdict(policy, Request(path="/a", method="PUT"), ())
    assert (passed, names.rule_name(name)) == (False, deny.name)
    assert verdict(policy, Request(path="/a"), ("",))[0]


def test_two_identities_in_one_certificate_are_refused():
    everything = random.policy(random.rule(Effect.ALLOW, Always()))
    said = {
        f"By=spiffe://x;URI={random.A};URI={random.B}": False,
        f"By=spiffe://x;URI={random.A}": True,
    }
    for header, passed in said.items():
        request = Request(headers={"x-forwarded-client-cert": (header,)})
        assert verdict(everything, request, ())[0] is passed


@pytest.mark.parametrize(
    ("path", "passed"),
    [
        ("/x/..;p/b", False),
        ("/x/.;/b", False),
        ("/x/...;/b", True),
        ("/x;p/b", True),
        ("/..", True),
    ],
)
def test_dots_before_a_parameter_are_refused(path, passed):
    everything = random.policy(random.rule(Effect.ALLOW, Always()))
    assert verdict(everything, Request(path=path), ())[0] is passed


def fits(expression: str | None, text: str) -> bool:
    if expression is None:
        return False
    return re.fullmatch(expression.replace(r"\C", r"[\s\S]"), text) is not None


words = st.text("aB./", max_size=3)
some_matches = st.builds(StringMatch, st.sampled_from(How), words, st.booleans())


@settings(max_examples=200, deadline=None)
@given(some_matches, st.text("abB.", min_size=1, max_size=4))
def test_a_segment_is_matched_as_its_text_is(match, text):
    expression = expressions.segment(match)
    if match.how is How.PATH_PREFIX and match.value.endswith("/"):
        return
    assert fits(expression, text) is match.matches(text)
    assert not fits(expression, "")
    assert not fits(expression, f"{text}/{text}")


hosts = st.builds(
    lambda name, port: name + port,
    st.text("aB.", max_size=3),
    st.sampled_from(("", ":80", ":81", ":", "/x", ":8x")),
)


@settings(max_examples=300, deadline=None)
@given(some_matches, hosts, st.booleans())
def test_an_authority_is_matched_with_and_without_its_port(match, host, any_port):
    expression = expressions.authority(match, None if any_port else 80)
    found = Facts(Request(host=host, port=80)).hosts(any_port=any_port)
    assert fits(expression, host) is any(match.matches(h) for h in found)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(("/a", "/{*}", "/a.b")), min_size=1, max_size=3),
    st.booleans(),
    st.text("/a.bX*", max_size=6),
)
def test_a_template_is_one_expression(parts, rest, path):
    template = "".join(parts) + ("/{**}" if rest else "")
    expected = template_pattern(template).fullmatch(path) is not None
    assert fits(expressions.path_of_template(template), path) is expected
    assert holds(PathTemplate(template), Request(path=path)) is expected


def test_a_quoted_text_is_that_text_and_no_other():
    assert fits(expressions.quoted("a.b+"), "a.b+")
    assert not fits(expressions.quoted("a.b+"), "axb+")
    assert not fits(expressions.quoted("a"), "A")
    assert fits(expressions.quoted("aB-ß", fold=True), "Ab-ß")
    assert not fits(expressions.quoted("ß", fold=True), "SS")


@settings(max_examples=150, deadline=None)
@given(some_matches, st.text("aAbB./", max_size=4))
def test_a_comparison_of_texts_is_envoys(match, text):
    if match.how is How.PRESENT or is_any_text(match):
        assert match.matches(text) is (match.how is not How.PRESENT or text != "")
        return
    found = any(text_matches(m, text) for m in to_string_matchers(match))
    assert found is match.matches(text)


def test_presence_is_no_comparison():
    with pytest.raises(ValueError, match="PRESENT"):
        to_string_matchers(StringMatch(How.PRESENT))


def test_one_of_several_values_is_enough_for_envoy_too():
    principal = to_principal(Header("x", StringMatch(How.EXACT, "b")), 1)
    assert Seen(Request(headers={"x": ("a", "b")}), {}).holds(principal)
    assert not Seen(Request(headers={"x": ("a,b",)}), {}).holds(principal)
