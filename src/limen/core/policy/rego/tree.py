"""What the syntax trees of a policy say: which functions are called, which rules need which.

The engine finds neither before it meets them: an unknown function fails the decision, and a
function that calls itself ends the process. Both are found here, when a policy is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limen.core.policy.rego.constants import impossible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_CHAIN = 100
"""Rules that need one another, one behind the other."""

Path = tuple[str, ...]

_REFERENCES = frozenset({"Var", "RefDot", "RefBrack"})


@dataclass(slots=True)
class Rule:
    """One name of a package: what it calls, and what else its definitions refer to."""

    path: Path
    file: str
    line: int
    calls: list[tuple[Path, int]] = field(default_factory=list)
    references: set[Path] = field(default_factory=set)
    default: bool = False
    last: int = 0
    """The line on which the definition ends."""
    inputs: list[tuple[Path, int]] = field(default_factory=list)
    """What of the input it refers to, with lines."""
    never: int = 0
    """The line of an expression that is never true and without which it does not hold; 0: none."""


def rules_of(modules: list[dict[str, Any]]) -> list[Rule]:
    """Every rule of the engine's syntax trees, with full paths (`a`, `b` for `data.a.b`)."""
    return [rule for module in modules for rule in _Module(module).rules()]


def undefined_calls(rules: list[Rule]) -> Iterator[tuple[Rule, str, int]]:
    """Calls of names that no rule defines: functions of the language, or mistakes."""
    defined = {rule.path for rule in rules}
    for rule in rules:
        for path, line in rule.calls:
            if path not in defined:
                yield rule, ".".join(path[1:] if path[0] == "" else path), line


def deepest(rules: list[Rule]) -> tuple[list[Path] | None, int]:
    """A circle of rules that need themselves, if there is one; and the longest chain."""
    graph = needs(rules)
    depth: dict[Path, int] = {}
    for start in graph:
        if start in depth:
            continue
        trail: list[tuple[Path, Iterator[Path]]] = [(start, iter(graph[start]))]
        on_trail = {start: 0}
        while trail:
            node, children = trail[-1]
            child = next((c for c in children if c not in depth), None)
            if child is None:
                depth[node] = 1 + max((depth.get(c, 0) for c in graph[node]), default=0)
                trail.pop()
                del on_trail[node]
            elif child in on_trail:
                circle = [path for path, _ in trail[on_trail[child] :]]
                return [*circle, child], 0
            else:
                on_trail[child] = len(trail)
                trail.append((child, iter(graph[child])))
    return None, max(depth.values(), default=0)


def needs(rules: list[Rule]) -> dict[Path, list[Path]]:
    """Rule to the rules that it needs. A reference to a package needs all of its rules."""
    below: dict[Path, set[Path]] = {}
    for rule in rules:
        for length in range(1, len(rule.path) + 1):
            below.setdefault(rule.path[:length], set()).add(rule.path)
    found: dict[Path, set[Path]] = {rule.path: set() for rule in rules}
    for rule in rules:
        for path in (*rule.references, *(path for path, _ in rule.calls)):
            found[rule.path] |= below.get(path, set())
            for length in range(1, len(path)):
                if path[:length] in found:
                    found[rule.path].add(path[:length])
    return {path: sorted(needed) for path, needed in found.items()}


class _Module:
    """One syntax tree: its package, what its imports stand for, its rules."""

    def __init__(self, module: dict[str, Any]) -> None:
        self.file: str = module["source"]["file"]
        self._text: bytes = module["source"]["contents"].encode()
        tree = module["ast"]
        self.package = self._chain(tree["package"]["refr"])[0]
        self.aliases: dict[str, Path] = {}
        for item in tree["imports"]:
            path, _ = self._chain(item["refr"])
            name = self._slice(item["as"]) if item.get("as") else path[-1]
            if path[0] in ("data", "input"):
                self.aliases[name] = path
        self._rules: list[dict[str, Any]] = tree["rules"]
        self._local: set[Path] = set()

    def rules(self) -> Iterator[Rule]:
        """All rules. Each definition of a name is one."""
        heads = [(item, *self._head(item)) for item in self._rules]
        self._local = {name for _, name, _ in heads}
        for item, name, line in heads:
            rule = Rule((*self.package, *name), self.file, line, default="Default" in item)
            rule.last = line + self._slice((item.get("Spec") or item["Default"])["span"]).count(
                "\n"
            )
            bound: set[str] = set()
            parts = _without_name(item)
            self._bound(parts, bound)
            self._walk(parts, rule, bound)
            rule.never = impossible(item, self._chain)
            yield rule

    def _head(self, item: dict[str, Any]) -> tuple[Path, int]:
        body = item.get("Spec") or item["Default"]
        refr = next(iter(body["head"].values()))["refr"] if "head" in body else body["refr"]
        return self._chain(refr)[0], body["span"]["line"]

    def _slice(self, span: Mapping[str, int]) -> str:
        return self._text[span["start"] : span["end"]].decode()

    def _chain(self, node: dict[str, Any]) -> tuple[Path, bool]:
        """The dotted names of a reference up to its first bracket; whether that is all of it."""
        (kind, body), *_ = node.items()
        if kind == "Var":
            return (body["value"],), True
        if kind not in ("RefDot", "RefBrack"):
            return ("",), False
        path, whole = self._chain(body["refr"])
        if not whole:
            return path, False
        if kind == "RefDot":
            return (*path, body["field"][1]), True
        index = body.get("index") or {}
        text = index.get("String", {}).get("value") if isinstance(index, dict) else None
        return ((*path, text), True) if isinstance(text, str) else (path, False)

    def _resolve(self, path: Path) -> Path | None:
        """The full path of a rule that a reference may mean; None: it means no rule."""
        if path[0] == "data":
            return path[1:]
        if path[0] in self.aliases:
            meant = (*self.aliases[path[0]], *path[1:])
            return meant[1:] if meant[0] == "data" else None
        if any(path[: len(n)] == n or n[: len(path)] == path for n in self._local):
            return (*self.package, *path)
        return None

    def _walk(self, item: Any, rule: Rule, bound: set[str]) -> None:
        stack = [item]
        while stack:
            node = stack.pop()
            if isinstance(node, list):
                stack += node
            elif isinstance(node, dict):
                if "Call" in node:
                    self._call(node["Call"], rule)
                    stack.append(node["Call"]["params"])
                elif _REFERENCES.isdisjoint(node):
                    stack += node.values()
                else:
                    self._reference(node, rule, bound)
                    stack += _inside(node)

    def _call(self, call: dict[str, Any], rule: Rule) -> None:
        path, _ = self._chain(call["fcn"])
        line = call["span"]["line"]
        meant = self._resolve(path)
        rule.calls.append(((*meant,) if meant else ("", *path), line))

    def _reference(self, node: dict[str, Any], rule: Rule, bound: set[str]) -> None:
        path, _ = self._chain(node)
        if path[0] in bound:
            return
        meant_input = self.aliases.get(path[0], path[:1])
        if meant_input[:1] == ("input",):
            place = next(iter(node.values()))["span"]["line"]
            rule.inputs.append(((*meant_input, *path[1:]), place))
        meant = self._resolve(path)
        if meant is not None and meant != ():
            rule.references.add(meant)

    def _bound(self, item: Any, bound: set[str]) -> None:
        """Names that a rule declares itself: arguments, `some`, `:=`, `every`."""
        stack = [item]
        while stack:
            node = stack.pop()
            if isinstance(node, list):
                stack += node
                continue
            if not isinstance(node, dict):
                continue
            for argument in node.get("args") or ():
                bound |= _names(argument)
            if "AssignExpr" in node and node["AssignExpr"]["op"] == "ColEq":
                bound |= _names(node["AssignExpr"]["lhs"])
            if "SomeIn" in node:
                bound |= _names(node["SomeIn"]["key"]) | _names(node["SomeIn"]["value"])
            if "SomeVars" in node:
                bound |= {self._slice(span) for span in node["SomeVars"].get("vars", ())}
            if "Every" in node:
                spans = (node["Every"].get("key"), node["Every"]["value"])
                bound |= {self._slice(span) for span in spans if span}
            stack += node.values()


def _without_name(item: dict[str, Any]) -> list[Any]:
    """The parts of a definition that are evaluated: all but the name of its head."""
    if "Default" in item:
        return [{"args": item["Default"]["args"]}, item["Default"]["value"]]
    (head,) = item["Spec"]["head"].values()
    return [{k: v for k, v in head.items() if k != "refr"}, item["Spec"]["bodies"]]


def _inside(node: dict[str, Any]) -> list[Any]:
    """The parts of a reference that are evaluated themselves: brackets, and what it begins with."""
    found: list[Any] = []
    while True:
        (kind, body), *_ = node.items()
        if kind == "Var":
            return found
        if kind not in _REFERENCES:
            return [*found, node]
        found.append(body.get("index"))
        node = body["refr"]


def _names(pattern: Any) -> set[str]:
    """The variables of a pattern."""
    found: set[str] = set()
    stack = [pattern]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        elif isinstance(node, dict):
            if "Var" in node:
                found.add(node["Var"]["value"])
            stack += node.values()
    return found
