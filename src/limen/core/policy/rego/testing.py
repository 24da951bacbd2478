"""The tests of Rego policies: rules named `test_...`, as OPA has them, and what they reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from limen.core.policy.rego.engine import RegoEngine
    from limen.core.policy.rego.tree import Rule

_PREFIX = "test_"


def report_tests(
    engine: RegoEngine, now: dt.datetime, inputs: Sequence[Any] = ()
) -> dict[str, Any]:
    """`tests` (name, file, line, passed, reason) and `unreached` (name, file, line), in order.

    `answers`: of the entry rule to `inputs`, each a `value` or an `error`; they reach rules too.
    """
    engine.watch()
    answers = [_answer(engine, document, now) for document in inputs]
    found, seen = [], set()
    for rule in engine.rules:
        if rule.path[-1].startswith(_PREFIX) and rule.path not in seen:
            seen.add(rule.path)
            reason = _reason(engine, _name(rule), now)
            found.append({**_place(rule), "passed": not reason, "reason": reason})
    lines = engine.evaluated_lines()
    unreached = [
        _place(rule)
        for rule in engine.rules
        if not rule.path[-1].startswith(_PREFIX)
        and lines.get(rule.file, frozenset()).isdisjoint(range(rule.line, rule.last + 1))
    ]
    return {"tests": found, "unreached": unreached, "answers": answers}


def _answer(engine: RegoEngine, document: Any, now: dt.datetime) -> dict[str, Any]:
    try:
        return {"value": engine.evaluate(document, now)}
    except ValueError as error:
        return {"error": str(error)}


def _reason(engine: RegoEngine, name: str, now: dt.datetime) -> str:
    """Why a test does not hold; empty: it does."""
    try:
        value = engine.evaluate({}, now, name)
    except ValueError as error:
        return str(error)
    return "" if value is True else f"it is {'undefined' if value is None else 'not true'}"


def _name(rule: Rule) -> str:
    return "data." + ".".join(rule.path)


def _place(rule: Rule) -> dict[str, Any]:
    return {"name": _name(rule), "file": rule.file, "line": rule.line}
