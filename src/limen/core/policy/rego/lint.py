"""What a valid Rego policy says that its author hardly means. Findings are warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.model.diagnostic import Diagnostic, Severity
from limen.core.policy.rego.tree import needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.core.policy.rego.tree import Path, Rule


def lint_rego(
    rules: Sequence[Rule], entry: str, given: frozenset[tuple[str, str]] | None = None
) -> list[Diagnostic]:
    """All warnings on policies whose decision is the rule `entry` (`PACKAGE/RULE`).

    `given`: category and identifier of the attributes that sources give; None: not known.
    """
    start = tuple(entry.strip("/").split("/"))
    found = []
    if not any(rule.default for rule in rules if rule.path == start):
        first = next(rule for rule in rules if rule.path == start)
        message = f"data.{'.'.join(start)} has no default: undefined is refused without a reason"
        found.append(_warning("no-default", message, first, f"add: default {start[-1]} := false"))
    reached = _reached(start, needs(list(rules)))
    told: set[Path] = set()
    for rule in rules:
        if rule.path not in reached and rule.path not in told:
            told.add(rule.path)
            message = f"the decision never needs data.{'.'.join(rule.path)}"
            found.append(_warning("unreachable", message, rule, "remove it, or use it"))
    for rule in rules:
        name = f"data.{'.'.join(rule.path)}"
        if rule.never:
            message = f"{name} never holds by this definition: an expression of it is never true"
            hint = "mend or remove it"
            found.append(_warning("never-applies", message, rule, hint, rule.never))
        for path, line in rule.inputs:
            if given is None or path[:2] != ("input", "sources") or len(path) < 4:
                continue
            if (path[2], path[3]) not in given:
                message = f"no source gives the attribute {path[3]} of {path[2]}"
                hint = "name its source, or correct its name"
                found.append(_warning("no-source", message, rule, hint, line))
    return found


def _reached(start: Path, graph: dict[Path, list[Path]]) -> set[Path]:
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += graph.get(path, ())
    return found


def _warning(code: str, message: str, rule: Rule, hint: str, line: int = 0) -> Diagnostic:
    place = line or rule.line
    return Diagnostic(
        Severity.WARNING, f"rego-{code}", message, file=rule.file, line=place, hint=hint
    )
