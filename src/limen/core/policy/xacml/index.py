"""Which children of a large policy or set a request can concern, found by one attribute's value.

A child may be skipped only if its target is certainly "no match": some `AnyOf` of it needs, in
every `AllOf`, one of known values of one attribute, and the request has none of them. Then the
child is NotApplicable whatever the rest says, and every algorithm ignores it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml import syntax as s
from limen.core.policy.xacml.expression import compile_literal, datatype_of
from limen.core.policy.xacml.matching import is_plain_equality, match_function
from limen.core.policy.xacml.retrieval import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from limen.core.policy.xacml.combining import Node
    from limen.core.policy.xacml.context import Context, Key

    Needs = dict[Key, tuple[frozenset[Any], bool]]

_MERGED = 100_000
LEAST_CHILDREN = 8
"""Below this the index costs more than it saves."""


def needs_of(target: s.Target) -> Needs:
    """Attribute to the values of which one must be there, and whether its absence is an error."""
    found: Needs = {}
    for any_of in target:
        options = [_equalities(all_of) for all_of in any_of]
        common = set.intersection(*(set(option) for option in options)) if options else set()
        for key in common:
            values = frozenset(value for option in options for value in option[key][0])
            strict = any(option[key][1] for option in options)
            if key not in found or len(values) < len(found[key][0]):
                strict = strict or (key in found and found[key][1])
                found[key] = (values, strict)
    return found


def _equalities(all_of: s.AllOf) -> dict[Key, tuple[list[Any], bool]]:
    found: dict[Key, tuple[list[Any], bool]] = {}
    for match in all_of:
        attribute = match.attribute
        if not isinstance(attribute, s.Designator) or not is_plain_equality(match_function(match)):
            continue
        key = key_of(attribute, datatype_of(attribute.datatype, attribute.line))
        value = compile_literal(match.literal).literal
        strict = attribute.must_be_present or (key in found and found[key][1])
        found[key] = ([value], strict)
    return found


def choose(
    nodes: Sequence[Node], targets: Sequence[s.Target]
) -> Callable[[Context], Sequence[Node]] | None:
    """A function from the request to the children to evaluate, in order; None: take all."""
    if len(nodes) < LEAST_CHILDREN:
        return None
    needs = [needs_of(target) for target in targets]
    keys = Counter(key for need in needs for key in need)
    best: tuple[int, Key] | None = None
    for key, count in keys.items():
        sizes = Counter(value for need in needs if key in need for value in need[key][0])
        saved = count - max(sizes.values())
        if best is None or saved > best[0]:
            best = (saved, key)
    if best is None or best[0] * 2 < len(nodes):
        return None
    return _selector(best[1], nodes, needs)


def _selector(
    key: Key, nodes: Sequence[Node], needs: Sequence[Needs]
) -> Callable[[Context], Sequence[Node]]:
    always = [i for i, need in enumerate(needs) if key not in need]
    strict = [i for i, need in enumerate(needs) if key in need and need[key][1]]
    by_value: dict[Any, list[int]] = {}
    for position, need in enumerate(needs):
        for value in need[key][0] if key in need else ():
            by_value.setdefault(value, []).append(position)
    merged = len(by_value) * len(always) <= _MERGED
    chosen = {
        value: [nodes[i] for i in sorted({*always, *positions})]
        for value, positions in (by_value.items() if merged else ())
    }
    without = [nodes[i] for i in sorted({*always, *strict})]
    others = [nodes[i] for i in always]

    def select(ctx: Context) -> Sequence[Node]:
        bag = ctx.bags.get(key)
        if bag is None:
            bag = ctx.find(key)
        if merged and len(bag) == 1:
            return chosen.get(bag[0], others)
        if not bag:
            return without
        positions = {*always, *(i for value in bag for i in by_value.get(value, ()))}
        return [nodes[i] for i in sorted(positions)]

    return select
