"""Targets, rules, policies, sets, references, variables, obligations: decisions and refusals."""

from __future__ import annotations

import itertools

import pytest
from tests.core.xacml.builders import (
    DENY_OVERRIDES,
    DENY_UNLESS_PERMIT,
    EMPTY,
    NOW,
    apply,
    bag,
    designator,
    is_equal,
    judge,
    literal,
    load,
    match,
    obligation,
    policy,
    policy_set,
    rule,
    subject,
    target,
    truth,
    value_of,
    variable,
)

from limen.core.policy.xacml.decision import Decision
from limen.core.policy.xacml.names import ACCESS_SUBJECT, ENVIRONMENT, V1, V3
from limen.core.policy.xacml.request import Attribute, Attributes, AttributeValue, XacmlRequest
from limen.errors import InvalidInput

PERMIT, DENY = Decision.PERMIT, Decision.DENY
NA, INDETERMINATE = Decision.NOT_APPLICABLE, Decision.INDETERMINATE

TRUE = is_equal("a", "1")
FALSE = is_equal("a", "2")
ERROR = is_equal("missing", "1", must=True)
OUTCOMES = {"T": TRUE, "F": FALSE, "E": ERROR}


def all_of(values: tuple[str, ...]) -> str:
    return "F" if "F" in values else ("E" if "E" in values else "T")


def any_of(values: tuple[str, ...]) -> str:
    return "T" if "T" in values else ("E" if "E" in values else "F")


def test_targets_follow_the_tables_of_7_6_to_7_8():
    combinations = list(itertools.product("TFE", repeat=2))
    request = subject(a="1")
    decisions = {"T": PERMIT, "F": NA, "E": INDETERMINATE}
    for first, second in itertools.product(combinations, repeat=2):
        inner = "".join(f"<AllOf>{OUTCOMES[x]}{OUTCOMES[y]}</AllOf>" for x, y in (first, second))
        expected = any_of((all_of(first), all_of(second)))
        document = policy("p", rule("r", "Permit", f"<Target><AnyOf>{inner}</AnyOf></Target>"))
        assert judge(load(document), request).decision is decisions[expected], (first, second)
        inner = "".join(
            f"<AnyOf><AllOf>{OUTCOMES[x]}</AllOf><AllOf>{OUTCOMES[y]}</AllOf></AnyOf>"
            for x, y in (first, second)
        )
        expected = all_of((any_of(first), any_of(second)))
        document = policy("p", rule("r", "Permit", f"<Target>{inner}</Target>"))
        assert judge(load(document), request).decision is decisions[expected], (first, second)


def test_match_holds_if_any_value_of_the_bag_does():
    document = policy("p", rule("r", "Permit", target(is_equal("a", "2"))))
    assert judge(load(document), subject(a=("1", "2"))).decision is PERMIT
    assert judge(load(document), subject(a=("1", "3"))).decision is NA
    assert judge(load(document), EMPTY).decision is NA


def test_match_error_stands_only_if_no_value_matches():
    pattern = match("rfc822Name-match", literal("string", "?"), designator("m", "rfc822Name"))
    document = policy("p", rule("r", "Permit", target(pattern)))
    attribute = Attribute("m", (AttributeValue("a@b.c", f"{V1}data-type:rfc822Name"),))
    request = XacmlRequest((Attributes(ACCESS_SUBJECT, (attribute,)),))
    assert judge(load(document), request).status.code == f"{V1}status:processing-error"
    assert judge(load(document), EMPTY).decision is NA


RULE_BODY = {"T": TRUE, "F": FALSE, "E": ERROR}


@pytest.mark.parametrize("effect", ["Permit", "Deny"])
def test_policy_with_indeterminate_target_follows_table_7(effect: str):
    """Table 7: the combined value of the children decides the kind of Indeterminate."""
    inner = {
        effect: rule("r", effect),
        "NotApplicable": rule("r", effect, target(FALSE)),
        "Indeterminate": rule("r", effect, target(ERROR)),
    }
    other = "Permit" if effect == "Deny" else "Deny"
    for name, body in inner.items():
        child = policy("p", body, head=target(ERROR))
        result = judge(load(child), subject(a="1"))
        assert result.decision is (NA if name == "NotApplicable" else INDETERMINATE)
        overriding = f"{V3}policy-combining-algorithm:{effect.lower()}-overrides"
        sibling = policy("q", rule("s", other))
        outer = judge(load(policy_set("s", child, sibling, algorithm=overriding)), subject(a="1"))
        expected = Decision(other) if name == "NotApplicable" else INDETERMINATE
        assert outer.decision is expected, name
        losing = f"{V3}policy-combining-algorithm:{other.lower()}-overrides"
        outer = judge(load(policy_set("s", child, sibling, algorithm=losing)), subject(a="1"))
        assert outer.decision is Decision(other), name


def test_missing_attribute_is_named_with_its_status():
    result = judge(load(policy("p", rule("r", "Permit", target(ERROR)))))
    assert result.decision is INDETERMINATE
    assert result.status.code == f"{V1}status:missing-attribute"
    (missing,) = result.status.missing
    assert (missing.category, missing.attribute_id) == (ACCESS_SUBJECT, "missing")
    assert missing.datatype.endswith("#string")


def test_malformed_value_of_the_request_is_a_syntax_error():
    attribute = Attribute(
        "n", (AttributeValue("five", "http://www.w3.org/2001/XMLSchema#integer"),)
    )
    request = XacmlRequest((Attributes(ACCESS_SUBJECT, (attribute,)),))
    result = judge(load(policy("p", rule("r"))), request)
    assert result.decision is INDETERMINATE
    assert result.status.code == f"{V1}status:syntax-error"


def test_issuer_of_a_designator_must_match_and_its_absence_takes_any():
    request = XacmlRequest(
        (
            Attributes(
                ACCESS_SUBJECT,
                (
                    Attribute("a", (AttributeValue("x"),), issuer="one"),
                    Attribute("a", (AttributeValue("y"),)),
                ),
            ),
        )
    )

    def size(found: str) -> str:
        return apply("integer-equal", apply("string-bag-size", found), literal("integer", "1"))

    assert truth(size(designator("a", issuer="one")), request) is True
    assert truth(size(designator("a", issuer="two")), request) is False
    assert truth(size(designator("a")), request) is False
    two = apply("integer-equal", apply("string-bag-size", designator("a")), literal("integer", "2"))
    assert truth(two, request) is True


def test_current_time_date_and_date_time_are_supplied():
    for name, kind, text in (
        ("time", "time", "05:06:07Z"),
        ("date", "date", "2026-03-04Z"),
        ("dateTime", "dateTime", "2026-03-04T05:06:07Z"),
    ):
        known = designator(f"{V1}environment:current-{name}", kind, ENVIRONMENT, must=True)
        only = apply(f"{kind}-one-and-only", known)
        assert truth(apply(f"{kind}-equal", only, literal(kind, text))) is True


def test_current_time_of_the_request_goes_first():
    name = f"{V1}environment:current-time"
    given = AttributeValue("01:00:00Z", "http://www.w3.org/2001/XMLSchema#time")
    request = XacmlRequest((Attributes(ENVIRONMENT, (Attribute(name, (given,)),)),))
    only = apply("time-one-and-only", designator(name, "time", ENVIRONMENT))
    assert truth(apply("time-equal", only, literal("time", "01:00:00Z")), request) is True


def test_finder_supplies_what_the_request_lacks_and_only_that():
    asked = []

    def finder(category: str, attribute: str, datatype: str, issuer: str | None, _: object):
        asked.append(attribute)
        return [AttributeValue("2")] if attribute == "a" else []

    engine = load(policy("p", rule("r", "Permit", target(FALSE))))
    assert engine.evaluate(EMPTY, NOW, finder).results[0].decision is PERMIT
    assert engine.evaluate(subject(a="1"), NOW, finder).results[0].decision is NA
    assert asked == ["a"]


def test_variables_are_evaluated_once_and_their_error_is_kept():
    is_in = apply("string-is-in", literal("string", "1"), designator("a"))
    variables = variable("v", is_in) + variable("w", value_of("v"))
    reference = value_of("w")
    condition = f"<Condition>{apply('and', reference, reference)}</Condition>"
    document = policy("p", variables, rule("r", "Permit", condition))
    assert judge(load(document), subject(a="1")).decision is PERMIT
    assert judge(load(document), subject(a="2")).decision is NA


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        (
            variable("v", value_of("v")),
            "cycle",
        ),
        (
            variable("v", value_of("x")),
            "unknown-variable",
        ),
        (
            f'<VariableDefinition VariableId="v">{literal("string", "a")}</VariableDefinition>' * 2,
            "duplicate-variable",
        ),
    ],
)
def test_bad_variables_are_refused(variables: str, code: str):
    with pytest.raises(InvalidInput) as caught:
        load(policy("p", variables, rule("r")))
    assert any(code in d.code for d in caught.value.diagnostics)


def obligations_of(*documents: str, **attributes: str) -> list[str]:
    result = judge(load(*documents), subject(**attributes))
    return [o.id for o in result.obligations]


def test_obligations_come_from_rule_policy_and_set_in_that_order():
    inner = policy(
        "p",
        rule("r", "Permit", obligation("rule", "Permit") + obligation("not", "Deny")),
        tail=obligation("policy", "Permit"),
    )
    outer = policy_set("s", inner, tail=obligation("set", "Permit") + obligation("no", "Deny"))
    assert obligations_of(outer) == ["rule", "policy", "set"]


def test_obligation_of_a_decision_that_lost_is_not_returned():
    document = policy(
        "p",
        rule("r", "Permit", obligation("permit", "Permit")),
        rule("s", "Deny", obligation("deny", "Deny")),
        algorithm=DENY_OVERRIDES,
    )
    assert obligations_of(document) == ["deny"]


def test_obligation_takes_values_from_the_request_one_for_each():
    document = policy("p", rule("r", "Permit", obligation("o", "Permit", designator("a"))))
    result = judge(load(document), subject(a=("x", "y")))
    (found,) = result.obligations
    assert [(a.attribute_id, a.value) for a in found.assignments] == [("o:a", "x"), ("o:a", "y")]


@pytest.mark.parametrize("place", ["rule", "policy", "set"])
@pytest.mark.parametrize("advice", [False, True])
def test_obligation_that_fails_makes_its_place_indeterminate(place: str, *, advice: bool):
    failing = obligation("o", "Permit", designator("missing", must=True), advice=advice)
    at = {name: failing if name == place else "" for name in ("rule", "policy", "set")}
    inner = policy("p", rule("r", "Permit", at["rule"]), tail=at["policy"])
    result = judge(load(policy_set("s", inner, tail=at["set"])))
    assert result.decision is INDETERMINATE
    assert result.status.code == f"{V1}status:missing-attribute"


def test_advice_is_told_apart_from_obligations():
    document = policy("p", rule("r", "Permit", obligation("a", "Permit", advice=True)))
    (found,) = judge(load(document)).obligations
    assert found.advice is True


def reference(name: str, kind: str = "Policy", **patterns: str) -> str:
    given = "".join(f' {key}="{value}"' for key, value in patterns.items())
    return f"<{kind}IdReference{given}>{name}</{kind}IdReference>"


VERSIONS = [
    ({}, "2.10"),
    ({"Version": "1.0"}, "1.0"),
    ({"Version": "1.*"}, "1.5"),
    ({"Version": "2.+"}, "2.10"),
    ({"EarliestVersion": "1.2", "LatestVersion": "2.1"}, "1.5"),
    ({"LatestVersion": "1.*"}, "1.5"),
    ({"LatestVersion": "1.0"}, "1.0"),
    ({"EarliestVersion": "2.2"}, "2.10"),
]


@pytest.mark.parametrize(("patterns", "expected"), VERSIONS)
def test_reference_takes_the_newest_version_that_fits(patterns: dict[str, str], expected: str):
    found = [
        policy("p", rule("r", "Permit", obligation(v, "Permit")), version=v)
        for v in ("1.0", "1.5", "2.10")
    ]
    outer = policy_set("s", reference("p", **patterns))
    assert obligations_of(outer, *found) == [expected]


@pytest.mark.parametrize(
    ("pattern", "versions", "expected"),
    [
        ("1.+", ("1", "2.0"), None),
        ("1.+", ("1", "1.0.3"), "1.0.3"),
        ("*", ("1.0", "7"), "7"),
        ("+", ("1.0", "7.1"), "7.1"),
        ("*.*.2", ("1.0.2", "3.3", "2.9.2"), "2.9.2"),
    ],
)
def test_a_plus_stands_for_one_number_at_least(
    pattern: str, versions: tuple[str, ...], expected: str | None
):
    found = [policy("p", rule("r", "Permit", obligation(v, "Permit")), version=v) for v in versions]
    outer = policy_set("s", reference("p", Version=pattern))
    if expected is None:
        with pytest.raises(InvalidInput):
            obligations_of(outer, *found)
    else:
        assert obligations_of(outer, *found) == [expected]


@pytest.mark.parametrize(
    ("documents", "code"),
    [
        ((policy_set("s", reference("none")),), "unresolved-reference"),
        ((policy_set("s", reference("p", Version="1.+.2")), policy("p", rule("r"))), "bad-version"),
        (
            (policy_set("s", reference("p", Version="3.*")), policy("p", rule("r"))),
            "unresolved-reference",
        ),
        (
            (policy_set("s", reference("p", "PolicySet")), policy("p", rule("r"))),
            "unresolved-reference",
        ),
        (
            (
                policy_set("s", reference("t", "PolicySet")),
                policy_set("t", reference("s", "PolicySet")),
            ),
            "no-root",
        ),
        ((policy_set("s", reference("s", "PolicySet")),), "reference-cycle"),
        ((policy_set("s", policy("p", rule("r")), policy("p", rule("r"))),), "duplicate-policy"),
        ((policy("p", rule("r")), policy("p", rule("r"), version="1")), "duplicate-policy"),
        ((policy("p", rule("r")), policy("q", rule("r"))), "no-root"),
        ((policy("p", rule("r"), rule("r")),), "duplicate-rule"),
        ((policy("p", rule("r"), algorithm="urn:none"),), "unknown-algorithm"),
        (
            (
                policy(
                    "p", rule("r"), algorithm=f"{V1}policy-combining-algorithm:only-one-applicable"
                ),
            ),
            "unknown-algorithm",
        ),
        (
            (
                policy_set(
                    "s",
                    policy("p", rule("r")),
                    algorithm=f"{V3}policy-combining-algorithm:on-permit-apply-second",
                ),
            ),
            "wrong-arity",
        ),
        ((policy("p", rule("r"), version="one"),), "bad-version"),
        ((policy("p", rule("r", "Maybe")),), "bad-effect"),
        ((policy("p", rule("r"), head=""),), "missing-target"),
        ((policy("p", rule("r"), head="<PolicyIssuer/><Target/>"),), "policy-issuer"),
        ((policy("p", "<Rogue/>"),), "unexpected-element"),
        ((policy("p", "stray"),), "unexpected-text"),
        ((policy("p", rule("r", "Permit", "<Condition/>")),), "not-one-expression"),
        ((policy("p", '<Rule RuleId="r" Effect="Permit" Extra="1"/>'),), "unknown-attribute"),
        ((policy("p", '<Rule Effect="Permit"/>'),), "missing-attribute"),
    ],
)
def test_what_is_wrong_with_policies_is_refused_with_a_code(documents: tuple[str, ...], code: str):
    with pytest.raises(InvalidInput) as caught:
        load(*documents)
    assert [d.code for d in caught.value.diagnostics if code in d.code], caught.value.diagnostics


def test_cycle_over_several_documents_is_refused():
    documents = [
        policy_set("s", reference("t", "PolicySet")),
        policy_set("t", reference("u", "PolicySet")),
        policy_set("u", reference("t", "PolicySet")),
    ]
    with pytest.raises(InvalidInput, match="circle"):
        load(*documents, root="s")


def test_all_findings_are_told_at_once():
    wrong = f"<Condition>{literal('string', 'a')}</Condition>"
    with pytest.raises(InvalidInput) as caught:
        load(policy("p", rule("a", "Permit", wrong), rule("b"), rule("c", "Deny", wrong)))
    assert [d.path for d in caught.value.diagnostics] == ["p/a", "p/c"]
    assert all(d.line for d in caught.value.diagnostics)


def test_document_that_nothing_refers_to_is_checked_too():
    with pytest.raises(InvalidInput, match="not known"):
        load(policy("p", rule("r")), policy("q", rule("r"), algorithm="urn:none"), root="p")


def test_root_can_be_named():
    both = (policy("p", rule("r", "Permit")), policy("q", rule("r", "Deny")))
    assert judge(load(*both, root="q")).decision is DENY
    with pytest.raises(InvalidInput, match="no document"):
        load(*both, root="none")


def test_policy_identifiers_are_those_that_applied():
    used, unused = policy("p", rule("r")), policy("q", rule("r", "Permit", target(FALSE)))
    engine = load(policy_set("s", used, unused))
    request = XacmlRequest(EMPTY.attributes, return_policy_ids=True)
    result = judge(engine, request)
    assert {(p.id, p.version, p.policy_set) for p in result.policies or ()} == {
        ("s", "1.0", True),
        ("p", "1.0", False),
    }
    assert judge(engine).policies is None


def test_combined_references_that_multiply_are_refused():
    """Billion laughs with references: each set refers twice to the one below."""
    documents = [policy_set("s20", policy("p", rule("r")))]
    for level in range(20):
        below = reference(f"s{level + 1}", "PolicySet")
        documents.append(policy_set(f"s{level}", below, below))
    with pytest.raises(InvalidInput, match="stands for more than"):
        load(*documents, root="s0")


def test_deeply_nested_policy_sets_are_refused():
    document = policy("p", rule("r"))
    for level in range(40):
        document = policy_set(f"s{level}", document)
    with pytest.raises(InvalidInput, match="deep"):
        load(document)


def test_deeply_nested_expressions_are_refused():
    expression = literal("boolean", "true")
    for _ in range(60):
        expression = apply("not", expression)
    with pytest.raises(InvalidInput, match="deep"):
        truth(expression)


def test_comment_does_not_cut_a_value():
    """As with comments in SAML names: the value is the whole text."""
    value = literal("string", "admin").replace("admin", "ad<!-- x -->min")
    only = apply("string-equal", value, literal("string", "admin"))
    assert truth(only) is True


def test_condition_over_an_empty_bag_needs_no_attribute():
    assert truth(apply("string-is-in", literal("string", "a"), bag("string"))) is False


def test_trace_shows_every_child_and_why():
    document = policy(
        "p",
        rule("skipped", "Permit", target(FALSE)),
        rule("broken", "Permit", target(ERROR)),
        rule("taken", "Permit"),
        algorithm=DENY_UNLESS_PERMIT,
    )
    response, (trace,) = load(document).explain(subject(a="1"), NOW)
    assert response.results[0].decision is PERMIT
    assert [(c.id, c.outcome) for c in trace.children] == [
        ("skipped", "NotApplicable"),
        ("broken", "Indeterminate{P}"),
        ("taken", "Permit"),
    ]
    assert "missing-attribute" in trace.children[1].status
    assert trace.lines()[0].startswith("Permit")
    assert trace.as_data()["children"][0]["target"] == "no match"


def test_rule_that_is_made_too_expensive_is_not_switched_off():
    """An algorithm that passes over Indeterminate must not pass over an exhausted budget."""
    costly = apply(
        "string-regexp-match",
        literal("string", "(a|b|c){0,150}z"),
        apply("string-one-and-only", designator("t")),
    )
    document = policy(
        "p",
        rule("guard", "Deny", f"<Condition>{costly}</Condition>"),
        algorithm=f"{V3}rule-combining-algorithm:permit-unless-deny",
    )
    text = "".join("abc"[(i * i + i // 7) % 3] for i in range(50_000))
    assert judge(load(document), subject(t="harmless")).decision is PERMIT
    assert judge(load(document), subject(t="az")).decision is DENY
    assert judge(load(document), subject(t=text + "z")).decision is INDETERMINATE


def test_trace_of_only_one_applicable_shows_the_policy_that_decided():
    algorithm = f"{V1}policy-combining-algorithm:only-one-applicable"
    taken, other = policy("p", rule("r")), policy("q", rule("s"), head=target(FALSE))
    engine = load(policy_set("s", taken, other, algorithm=algorithm))
    _, (trace,) = engine.explain(subject(a="1"), NOW)
    (child,) = trace.children
    assert (child.id, child.outcome) == ("p v1.0", "Permit")
    assert [c.id for c in child.children] == ["r"]


@pytest.mark.parametrize(
    ("effect", "kind"), [("Permit", "Indeterminate{P}"), ("Deny", "Indeterminate{D}")]
)
def test_indeterminate_target_keeps_the_kind_that_its_rules_could_give(effect: str, kind: str):
    for body in ("", target(ERROR)):
        child = policy("p", rule("r", effect, body), head=target(ERROR))
        _, (trace,) = load(child).explain(subject(a="1"), NOW)
        assert trace.outcome == kind
    other = "Deny" if effect == "Permit" else "Permit"
    algorithm = f"{V3}policy-combining-algorithm:{other.lower()}-overrides"
    document = policy_set("s", child, policy("q", rule("s", effect)), algorithm=algorithm)
    assert judge(load(document), subject(a="1")).decision is Decision(effect)


def test_match_takes_regular_expressions_and_refuses_bad_ones():
    def document(pattern: str) -> str:
        test = match("string-regexp-match", literal("string", pattern), designator("a"))
        return policy("p", rule("r", "Permit", target(test)))

    assert judge(load(document("^x+$")), subject(a=("y", "xx"))).decision is PERMIT
    assert judge(load(document("^x+$")), subject(a="y")).decision is NA
    with pytest.raises(InvalidInput, match="regexp"):
        load(document("("))


@pytest.mark.parametrize(
    "test",
    [
        match("integer-equal", literal("string", "1"), designator("a")),
        match("string-equal", literal("string", "1"), designator("a", "integer")),
        match("integer-add", literal("integer", "1"), designator("a", "integer")),
        match("any-of", literal("string", "1"), designator("a")),
        match("string-equal", designator("a"), literal("string", "1")),
        match("string-equal", literal("string", "1"), literal("string", "1")),
        "",
    ],
)
def test_match_that_cannot_be_is_refused(test: str):
    with pytest.raises(InvalidInput):
        load(
            policy("p", rule("r", "Permit", target(test) if test else "<Target><AnyOf/></Target>"))
        )


def test_combiner_parameters_and_delegation_depth_are_accepted():
    given = (
        '<RuleCombinerParameters RuleIdRef="r"><CombinerParameter ParameterName="n">'
        f"{literal('string', 'v')}</CombinerParameter></RuleCombinerParameters>"
    )
    document = policy("p", given, rule("r")).replace(
        "PolicyId=", 'MaxDelegationDepth="3" PolicyId='
    )
    assert judge(load(document)).decision is PERMIT
    with pytest.raises(InvalidInput):
        load(policy("p", given.replace("ParameterName", "Rogue"), rule("r")))


def test_descriptions_and_defaults_are_accepted():
    head = (
        "<Description>what it is for</Description><PolicyDefaults><XPathVersion>"
        "http://www.w3.org/TR/1999/Rec-xpath-19991116</XPathVersion></PolicyDefaults><Target/>"
    )
    body = rule("r", "Permit", "<Description>why</Description>")
    outer = head.replace("PolicyDefaults", "PolicySetDefaults")
    assert judge(load(policy_set("s", policy("p", body, head=head), head=outer))).decision is PERMIT
