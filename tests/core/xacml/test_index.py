"""The index changes no decision: random policies, indexed and not, agree on every request."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.xacml.builders import (
    NOW,
    is_equal,
    load,
    obligation,
    policy,
    policy_set,
    rule,
    subject,
)

from limen.core.policy.xacml.combining import POLICY_ALGORITHMS, RULE_ALGORITHMS
from limen.core.policy.xacml.names import V1, V3

VALUES = st.sampled_from(["1", "2", "3", "4"])
MATCHES = st.builds(is_equal, st.sampled_from(["a", "b"]), VALUES, must=st.booleans())
ALL_OFS = st.lists(MATCHES, min_size=1, max_size=2).map(lambda m: f"<AllOf>{''.join(m)}</AllOf>")
ANY_OFS = st.lists(ALL_OFS, min_size=1, max_size=2).map(lambda a: f"<AnyOf>{''.join(a)}</AnyOf>")
TARGETS = st.lists(ANY_OFS, max_size=2).map(lambda a: f"<Target>{''.join(a)}</Target>")
EFFECTS = st.sampled_from(["Permit", "Deny"])
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "a": st.lists(VALUES, min_size=1, max_size=2).map(tuple),
        "b": st.lists(VALUES, min_size=1, max_size=2).map(tuple),
    },
)
ON_PERMIT = f"{V3}policy-combining-algorithm:on-permit-apply-second"


@st.composite
def documents(draw: st.DrawFn) -> str:
    heads = draw(st.lists(TARGETS, min_size=8, max_size=14))
    inner = [
        policy(f"p{i}", rule("r", draw(EFFECTS), obligation(f"o{i}", draw(EFFECTS))), head=head)
        for i, head in enumerate(heads)
    ]
    algorithm = draw(st.sampled_from([a for a in POLICY_ALGORITHMS if a != ON_PERMIT]))
    rules = [rule(f"r{i}", draw(EFFECTS), head) for i, head in enumerate(heads)]
    flat = policy("flat", *rules, algorithm=draw(st.sampled_from(list(RULE_ALGORITHMS))))
    return policy_set("s", *inner, flat, algorithm=algorithm)


@settings(max_examples=150, deadline=None)
@given(documents(), st.lists(REQUESTS, min_size=4, max_size=4))
def test_indexed_and_plain_engine_agree(document: str, requests: list[dict[str, tuple[str, ...]]]):
    indexed, plain = load(document), load(document, indexed=False)
    for attributes in requests:
        request = subject(**attributes)
        assert indexed.evaluate(request, NOW) == plain.evaluate(request, NOW), attributes
        explained, _ = indexed.explain(request, NOW)
        assert explained == plain.evaluate(request, NOW)


def test_index_looks_only_at_the_policies_that_can_concern_a_request():
    looked: list[str] = []

    def finder(category: str, attribute: str, datatype: str, issuer: str | None, _: object):
        looked.append(attribute)
        return ()

    children = [
        policy(
            f"p{i}",
            rule(
                "r",
                "Permit",
                f"<Target><AnyOf><AllOf>{is_equal(f'x{i}', '1')}</AllOf></AnyOf></Target>",
            ),
            head=f"<Target><AnyOf><AllOf>{is_equal('a', str(i))}</AllOf></AnyOf></Target>",
        )
        for i in range(50)
    ]
    algorithm = f"{V1}policy-combining-algorithm:first-applicable"
    load(policy_set("s", *children, algorithm=algorithm)).evaluate(subject(a="7"), NOW, finder)
    assert looked == ["x7"]
