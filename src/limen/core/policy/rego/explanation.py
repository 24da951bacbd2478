"""How a decision of Rego came about: the rules that it needs, as a tree, each with its value.

The engine tells values of rules and the lines that it evaluated, not its way. A rule is `reached`
if evaluating the decision came to one of its lines.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from limen.core.policy.rego.tree import needs

if TYPE_CHECKING:
    import datetime as dt

    from limen.core.policy.rego.engine import RegoEngine
    from limen.core.policy.rego.tree import Path, Rule

MAX_NODES = 500
MAX_VALUE_CHARS = 200


def explain_rego(engine: RegoEngine, document: Any, now: dt.datetime) -> dict[str, Any]:
    """The node of the decision: `name`, `value`, `definitions`, `children`."""
    engine.watch()
    value = _value(engine, "", document, now)
    lines = engine.evaluated_lines()
    return _Tree(engine, document, now, lines).node(engine.entry, value)


class _Tree:
    def __init__(
        self,
        engine: RegoEngine,
        document: Any,
        now: dt.datetime,
        lines: dict[str, frozenset[int]],
    ) -> None:
        self._engine = engine
        self._document = document
        self._now = now
        self._lines = lines
        self._graph = needs(list(engine.rules))
        self._by_path: dict[Path, list[Rule]] = {}
        for rule in engine.rules:
            self._by_path.setdefault(rule.path, []).append(rule)
        self._told: set[Path] = set()
        self._called = {path for rule in engine.rules for path, _ in rule.calls}

    def node(self, path: Path, value: str | None = None) -> dict[str, Any]:
        """A rule is told in full once; where it is needed again only its value."""
        name = "data." + ".".join(path)
        if path in self._called:
            value = "a function"
        elif value is None:
            value = _value(self._engine, name, self._document, self._now)
        found: dict[str, Any] = {"name": name, "value": value}
        if path in self._told or len(self._told) >= MAX_NODES:
            return found
        self._told.add(path)
        found["definitions"] = [self._definition(rule) for rule in self._by_path.get(path, ())]
        if any(one["reached"] for one in found["definitions"]):
            found["children"] = [self.node(child) for child in self._graph.get(path, ())]
        return found

    def _definition(self, rule: Rule) -> dict[str, Any]:
        lines = self._lines.get(rule.file, frozenset())
        reached = rule.default or not lines.isdisjoint(range(rule.line, rule.last + 1))
        return {"file": rule.file, "line": rule.line, "reached": reached, "default": rule.default}


def _value(engine: RegoEngine, name: str, document: Any, now: dt.datetime) -> str:
    """The value as JSON, cut off; `undefined`; or why there is none."""
    try:
        value = engine.evaluate(document, now, name)
    except ValueError as error:
        return f"error: {error}"
    if value is None:
        return "undefined"
    text = json.dumps(value, default=lambda v: sorted(v, key=repr), ensure_ascii=False)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}..."


def lines_of(node: dict[str, Any], indent: int = 0) -> list[str]:
    """For people: one line for each rule, its definitions behind it."""
    places = [
        f"{one['file']}:{one['line']}{' default' if one['default'] else ''}"
        f"{'' if one['reached'] else ' not reached'}"
        for one in node.get("definitions", ())
    ]
    text = f"{'  ' * indent}{node['name']} = {node['value']}"
    text += f"  [{'; '.join(places)}]" if places else ""
    return [text, *(ln for child in node.get("children", ()) for ln in lines_of(child, indent + 1))]
