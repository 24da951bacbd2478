"""What is called impossible holds of no request."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from limen.core.model.names import parse_spiffe_id
from limen.core.policy.decision import Request
from limen.core.policy.evaluate import holds
from limen.core.policy.impossible import is_impossible
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Authenticated,
    Not,
    Port,
    Principal,
    PrincipalNamespace,
)

HERE = 80
IDS = [f"spiffe://d.mesh.local/ns/{ns}/sa/{sa}" for ns in ("a", "b") for sa in ("x", "y")]
PEERS = [None, *(parse_spiffe_id(text) for text in IDS)]
MATCHES = [StringMatch(How.PRESENT), StringMatch(How.SUFFIX, "/x")]
ATOMS = [
    Always(),
    Authenticated(),
    Port(HERE),
    Port(81),
    *(Principal(StringMatch(How.EXACT, text)) for text in IDS),
    *(Principal(match) for match in MATCHES),
    *(PrincipalNamespace(StringMatch(How.EXACT, name)) for name in ("a", "b")),
    PrincipalNamespace(StringMatch(How.PRESENT)),
]
CONDITIONS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, max_size=3).map(lambda parts: AllOf(tuple(parts))),
        st.lists(inner, max_size=3).map(lambda parts: AnyOf(tuple(parts))),
    ),
    max_leaves=8,
)


@given(CONDITIONS)
def test_what_is_impossible_holds_of_nobody(condition):
    if is_impossible(condition, HERE):
        assert not any(holds(condition, Request(principal=p, port=HERE)) for p in PEERS)
    if is_impossible(condition, None):
        assert not any(
            holds(condition, Request(principal=p, port=n)) for p in PEERS for n in (HERE, 81)
        )


def test_very_many_alternatives_are_taken_for_possible():
    many = AnyOf(tuple(Port(81) for _ in range(100)))
    assert is_impossible(many, HERE)
    assert not is_impossible(AllOf((many, many)), HERE)


def test_an_empty_alternative_is_impossible_however_many_there_are_before_it():
    many = AnyOf(tuple(Port(HERE) for _ in range(1000)))
    assert is_impossible(AllOf((many, many, AnyOf(()))), HERE)
