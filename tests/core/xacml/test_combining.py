"""Every combining algorithm against the specification's pseudo-code, for all small inputs.

The pseudo-code of appendix C is written here a second time, in its own words (strings, loops, no
early knowledge), and compared with the engine over every sequence of up to three decisions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest

from limen.core.policy.xacml.combining import POLICY_ALGORITHMS, RULE_ALGORITHMS
from limen.core.policy.xacml.decision import Effect, Extended, Obligation, Outcome, Status
from limen.core.policy.xacml.errors import EvaluationError

SIX = ("P", "D", "NA", "IP", "ID", "IDP")
NAMES = {
    "P": Extended.PERMIT,
    "D": Extended.DENY,
    "NA": Extended.NOT_APPLICABLE,
    "IP": Extended.INDETERMINATE_P,
    "ID": Extended.INDETERMINATE_D,
    "IDP": Extended.INDETERMINATE_DP,
}
SHORT = {value: key for key, value in NAMES.items()}


@dataclass
class Fixed:
    """A child with a fixed outcome; `target` is "match", "no" or "error"."""

    name: str
    effect: Effect | None = None
    target: str = "match"
    index: int = 0
    looked_at: bool = False

    def applies(self, ctx: object) -> bool:
        if self.target == "error":
            raise EvaluationError("target-error", "target")
        return self.target == "match"

    def evaluate(self, ctx: object) -> Outcome:
        self.looked_at = True
        obligations = ()
        if self.name in ("P", "D"):
            obligations = (Obligation(f"{self.name}{self.index}", ()),)
        return Outcome(NAMES[self.name], Status(f"status-{self.name}{self.index}"), obligations)

    evaluate_matched = evaluate


def deny_overrides(decisions: list[str]) -> str:
    at_least = {name: name in decisions for name in SIX}
    if at_least["D"]:
        return "D"
    if at_least["IDP"]:
        return "IDP"
    if at_least["ID"] and (at_least["IP"] or at_least["P"]):
        return "IDP"
    if at_least["ID"]:
        return "ID"
    if at_least["P"]:
        return "P"
    if at_least["IP"]:
        return "IP"
    return "NA"


SWAP = {"P": "D", "D": "P", "NA": "NA", "IP": "ID", "ID": "IP", "IDP": "IDP"}


def permit_overrides(decisions: list[str]) -> str:
    return SWAP[deny_overrides([SWAP[d] for d in decisions])]


def deny_unless_permit(decisions: list[str]) -> str:
    return "P" if "P" in decisions else "D"


def permit_unless_deny(decisions: list[str]) -> str:
    return "D" if "D" in decisions else "P"


def first_applicable(decisions: list[str]) -> str:
    for decision in decisions:
        if decision != "NA":
            return decision
    return "NA"


MODERN = {
    "3.0:{}-combining-algorithm:deny-overrides": deny_overrides,
    "3.0:{}-combining-algorithm:ordered-deny-overrides": deny_overrides,
    "3.0:{}-combining-algorithm:permit-overrides": permit_overrides,
    "3.0:{}-combining-algorithm:ordered-permit-overrides": permit_overrides,
    "3.0:{}-combining-algorithm:deny-unless-permit": deny_unless_permit,
    "3.0:{}-combining-algorithm:permit-unless-deny": permit_unless_deny,
    "1.0:{}-combining-algorithm:first-applicable": first_applicable,
}


def sequences(alphabet: tuple[str, ...], longest: int = 3) -> list[list[str]]:
    return [
        list(found)
        for length in range(longest + 1)
        for found in itertools.product(alphabet, repeat=length)
    ]


@pytest.mark.parametrize("kind", ["rule", "policy"])
@pytest.mark.parametrize("name", list(MODERN))
def test_algorithm_agrees_with_its_pseudo_code(name: str, kind: str):
    known = RULE_ALGORITHMS if kind == "rule" else POLICY_ALGORITHMS
    combine = known[f"urn:oasis:names:tc:xacml:{name.format(kind)}"].combine
    for decisions in sequences(SIX):
        nodes = [Fixed(d, index=i) for i, d in enumerate(decisions)]
        outcome = combine(nodes, None)
        assert SHORT[outcome.decision] == MODERN[name](decisions), decisions


@pytest.mark.parametrize("name", list(MODERN))
def test_obligations_come_only_from_children_that_decided_the_same(name: str):
    combine = POLICY_ALGORITHMS[f"urn:oasis:names:tc:xacml:{name.format('policy')}"].combine
    for decisions in sequences(SIX):
        nodes = [Fixed(d, index=i) for i, d in enumerate(decisions)]
        outcome = combine(nodes, None)
        wanted = SHORT[outcome.decision]
        seen = [
            f"{node.name}{node.index}" for node in nodes if node.looked_at and node.name == wanted
        ]
        assert [o.id for o in outcome.obligations] == (seen if wanted in "PD" else []), decisions


@pytest.mark.parametrize("name", list(MODERN))
def test_an_indeterminate_result_tells_the_reason_of_one_of_its_children(name: str):
    combine = POLICY_ALGORITHMS[f"urn:oasis:names:tc:xacml:{name.format('policy')}"].combine
    for decisions in sequences(SIX):
        nodes = [Fixed(d, index=i) for i, d in enumerate(decisions)]
        outcome = combine(nodes, None)
        if SHORT[outcome.decision].startswith("I"):
            assert outcome.status.code.startswith("status-I"), decisions


def legacy_rule_deny(decisions: list[tuple[str, str]]) -> str:
    """Decision and effect of each rule; Indeterminate without its kind."""
    error = potential_deny = permit = False
    for decision, effect in decisions:
        if decision == "D":
            return "D"
        if decision == "P":
            permit = True
        elif decision == "I":
            error = True
            if effect == "D":
                potential_deny = True
    if potential_deny:
        return "I"
    if permit:
        return "P"
    return "I" if error else "NA"


def legacy_rule_permit(decisions: list[tuple[str, str]]) -> str:
    turned = [(SWAP.get(d, d), SWAP[e]) for d, e in decisions]
    found = legacy_rule_deny(turned)
    return SWAP.get(found, found)


def rules(decisions: tuple[tuple[str, str], ...]) -> list[Fixed]:
    effects = {"P": Effect.PERMIT, "D": Effect.DENY}
    return [
        Fixed("I" + effect if decision == "I" else decision, effects[effect], index=i)
        for i, (decision, effect) in enumerate(decisions)
    ]


LEGACY = {
    "1.0:rule-combining-algorithm:deny-overrides": legacy_rule_deny,
    "1.1:rule-combining-algorithm:ordered-deny-overrides": legacy_rule_deny,
    "1.0:rule-combining-algorithm:permit-overrides": legacy_rule_permit,
    "1.1:rule-combining-algorithm:ordered-permit-overrides": legacy_rule_permit,
}


@pytest.mark.parametrize("name", list(LEGACY))
def test_legacy_rule_algorithm_agrees_with_its_pseudo_code(name: str):
    combine = RULE_ALGORITHMS[f"urn:oasis:names:tc:xacml:{name}"].combine
    single = [("P", "P"), ("D", "D"), ("NA", "P"), ("NA", "D"), ("I", "P"), ("I", "D")]
    for length in range(4):
        for decisions in itertools.product(single, repeat=length):
            found = SHORT[combine(rules(decisions), None).decision]
            wanted = LEGACY[name](list(decisions))
            assert (found[0] if found.startswith("I") else found) == wanted, decisions


def legacy_policy_deny(decisions: list[str]) -> str:
    permit = False
    for decision in decisions:
        if decision == "D" or decision.startswith("I"):
            return "D"
        permit = permit or decision == "P"
    return "P" if permit else "NA"


def legacy_policy_permit(decisions: list[str]) -> str:
    if "P" in decisions:
        return "P"
    if "D" in decisions:
        return "D"
    return "I" if any(d.startswith("I") for d in decisions) else "NA"


LEGACY_POLICY = {
    "1.0:policy-combining-algorithm:deny-overrides": legacy_policy_deny,
    "1.1:policy-combining-algorithm:ordered-deny-overrides": legacy_policy_deny,
    "1.0:policy-combining-algorithm:permit-overrides": legacy_policy_permit,
    "1.1:policy-combining-algorithm:ordered-permit-overrides": legacy_policy_permit,
}


@pytest.mark.parametrize("name", list(LEGACY_POLICY))
def test_legacy_policy_algorithm_agrees_with_its_pseudo_code(name: str):
    combine = POLICY_ALGORITHMS[f"urn:oasis:names:tc:xacml:{name}"].combine
    for decisions in sequences(SIX):
        nodes = [Fixed(d, index=i) for i, d in enumerate(decisions)]
        found = SHORT[combine(nodes, None).decision]
        wanted = LEGACY_POLICY[name](decisions)
        assert (found[0] if found.startswith("I") else found) == wanted, decisions


def test_only_one_applicable_goes_by_targets():
    combine = POLICY_ALGORITHMS[
        "urn:oasis:names:tc:xacml:1.0:policy-combining-algorithm:only-one-applicable"
    ].combine
    single = list(itertools.product(SIX, ("match", "no", "error")))
    for length in range(3):
        for children in itertools.product(single, repeat=length):
            nodes = [Fixed(d, target=t, index=i) for i, (d, t) in enumerate(children)]
            found = SHORT[combine(nodes, None).decision]
            matching = [d for d, t in children if t == "match"]
            if any(t == "error" for _, t in children) or len(matching) > 1:
                assert found == "IDP", children
            else:
                assert found == (matching[0] if matching else "NA"), children


def test_on_permit_apply_second():
    combine = POLICY_ALGORITHMS[
        "urn:oasis:names:tc:xacml:3.0:policy-combining-algorithm:on-permit-apply-second"
    ].combine
    for decisions in itertools.product(SIX, repeat=3):
        for count in (2, 3):
            nodes = [Fixed(d, index=i) for i, d in enumerate(decisions[:count])]
            found = SHORT[combine(nodes, None).decision]
            first, second, third = decisions
            if first == "P":
                wanted = second
            elif first in ("IP", "IDP"):
                wanted = first
            else:
                wanted = third if count == 3 else "NA"
            assert found == wanted, decisions[:count]


def test_on_permit_apply_second_keeps_obligations_of_both_that_agree():
    combine = POLICY_ALGORITHMS[
        "urn:oasis:names:tc:xacml:3.0:policy-combining-algorithm:on-permit-apply-second"
    ].combine
    agreed = combine([Fixed("P", index=0), Fixed("P", index=1)], None)
    assert [o.id for o in agreed.obligations] == ["P0", "P1"]
    differs = combine([Fixed("P", index=0), Fixed("D", index=1)], None)
    assert [o.id for o in differs.obligations] == ["D1"]


def test_every_standard_algorithm_is_known():
    assert len(RULE_ALGORITHMS) == 11
    assert len(POLICY_ALGORITHMS) == 13
