"""How two responses differ: decision, status code, obligations, advice, attributes, policies.

Values compare as their datatype has it, in any order where the standard gives none.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml.datatypes import BY_URI

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from limen.core.policy.xacml.decision import Obligation, PolicyId
    from limen.core.policy.xacml.request import Attributes, Result, XacmlResponse


def differences(expected: XacmlResponse, actual: XacmlResponse) -> list[str]:
    """One line for each difference; none: the responses agree."""
    if len(expected.results) != len(actual.results):
        return [f"{len(expected.results)} results expected, {len(actual.results)} returned"]
    if len(expected.results) == 1:
        return _result_differences(expected.results[0], actual.results[0])
    return _unordered(expected.results, actual.results)


def _unordered(expected: Sequence[Result], actual: Sequence[Result]) -> list[str]:
    """Results of several decisions come in any order: pair those that agree."""
    left = list(actual)
    found: list[str] = []
    for index, wanted in enumerate(expected):
        same = next((r for r in left if not _result_differences(wanted, r)), None)
        if same is None:
            nearest = min(left, key=lambda r: len(_result_differences(wanted, r)))
            found += [f"result {index + 1}: {d}" for d in _result_differences(wanted, nearest)]
            left.remove(nearest)
        else:
            left.remove(same)
    return found


def _result_differences(expected: Result, actual: Result) -> list[str]:
    found = []
    if expected.decision is not actual.decision:
        found.append(f"decision: {expected.decision.value} expected, {actual.decision.value}")
    if expected.status.code and expected.status.code != actual.status.code:
        found.append(f"status code: {expected.status.code} expected, {actual.status.code}")
    for name, advice in (("obligations", False), ("advice", True)):
        found += _compared(
            name,
            [_obligation(o) for o in expected.obligations if o.advice is advice],
            [_obligation(o) for o in actual.obligations if o.advice is advice],
        )
    found += _compared("attributes", _attributes(expected), _attributes(actual))
    listed = (expected.policies or (), actual.policies or ())
    unversioned = all(not policy.version for policy in listed[0])
    wanted, given = ([_policy(p, unversioned=unversioned) for p in side] for side in listed)
    return found + _compared("policy identifiers", wanted, given)


def _compared(name: str, expected: Iterable[Hashable], actual: Iterable[Hashable]) -> list[str]:
    wanted, given = Counter(expected), Counter(actual)
    missing, extra = wanted - given, given - wanted
    found = [f"{name}: {_shown(item)} is missing" for item in missing.elements()]
    return found + [f"{name}: {_shown(item)} is too many" for item in extra.elements()]


def _shown(item: Any) -> str:
    if isinstance(item, tuple):
        return "(" + ", ".join(_shown(part) for part in item if part not in ("", ())) + ")"
    if isinstance(item, frozenset):
        return "{" + ", ".join(sorted(_shown(part) for part, _ in item)) + "}"
    return str(item)


def _value(datatype: str, text: str) -> Hashable:
    """What is equal exactly for equal values."""
    known = BY_URI.get(datatype)
    if known is None:
        return (datatype, text)
    try:
        value = known.read(text)
    except ValueError:
        return (known.uri, text.strip())
    return (known.uri, known.text(value) if isinstance(value, bytes) else value)


def _obligation(obligation: Obligation) -> Hashable:
    parts = Counter(
        (a.attribute_id, a.category, a.issuer, _value(a.datatype, a.value))
        for a in obligation.assignments
    )
    return (obligation.id, frozenset(parts.items()))


def _attributes(result: Result) -> list[Hashable]:
    return [item for entity in result.attributes for item in _entity(entity)]


def _entity(entity: Attributes) -> list[Hashable]:
    return [
        (
            entity.category,
            attribute.id,
            attribute.issuer,
            frozenset(Counter(_value(v.datatype, v.text) for v in attribute.values).items()),
        )
        for attribute in entity.attributes
    ]


def _policy(policy: PolicyId, *, unversioned: bool) -> Hashable:
    return (policy.policy_set, policy.id, "" if unversioned else policy.version)
