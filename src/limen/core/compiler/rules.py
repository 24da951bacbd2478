"""What rules of every dialect have in common: names, places, and conditions put together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from limen.core.policy.rule import AllOf, Always, AnyOf, Condition, Effect, Rule, RuleRef

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from limen.core.model.resource import Resource

_ORDER = {
    Effect.DENY: "0-deny",
    Effect.ALLOW: "2-allow",
    Effect.AUDIT: "3-audit",
    Effect.CUSTOM: "4-custom",
}
_NAME = re.compile(
    r"(?:[0-9]{6} )?[0-9]-[a-z]+/(?P<kind>[A-Za-z]{1,63})/(?P<namespace>[^/ ]{1,63})"
    r"/(?P<name>[^/ ]{1,253})/(?P<index>[0-9]{5})[^/ ]{0,64}",
    re.ASCII,
)


def rule_at(
    resource: Resource,
    effect: Effect,
    condition: Condition,
    *,
    index: int,
    path: str,
    suffix: str = "",
    provider: str = "",
) -> Rule:
    """A rule whose name is unique in its policy and sorts in evaluation order.

    `path` is its place below `/spec`.
    """
    key = resource.key
    kind = key.kind.rpartition("/")[2]
    name = f"{_ORDER[effect]}/{kind}/{key.namespace}/{key.name}/{index:05d}{suffix}"
    origin = resource.origin
    line = origin.line(f"/spec{path}" if "/spec" in origin.lines else path)
    ref = RuleRef(kind, key.mesh, key.namespace, key.name, index, origin.file, line)
    return Rule(effect, condition, name, ref, provider)


def parse_rule_name(text: str) -> RuleRef | None:
    """Kind, namespace, name and index of a rule by its name; mesh and file are not in it.

    A number that Envoy's policies have in front may stand there. None if it is no rule's name.
    """
    found = _NAME.fullmatch(text)
    if found is None:
        return None
    return RuleRef(found["kind"], "", found["namespace"], found["name"], int(found["index"]))


def sorted_rules(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Rules in evaluation order."""
    return tuple(sorted(rules, key=lambda rule: rule.name))


def any_of(parts: Sequence[Condition]) -> Condition:
    """At least one of them; nothing is wrapped that is alone."""
    return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))


def all_of(parts: Sequence[Condition]) -> Condition:
    """All of them; none: every request."""
    if not parts:
        return Always()
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))
