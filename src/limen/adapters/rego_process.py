"""Rego policies of others, loaded and asked in a process of their own that may die.

The engine has no bound on work, memory or recursion that it could be trusted with. Here the process
has: processor time, address space, and a deadline. `python -m limen.adapters.rego_process` is the
child; it reads one JSON document and writes one.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from limen.adapters.bounded_child import ask_child, read_job
from limen.core.model.diagnostic import Diagnostic, Severity
from limen.core.policy.rego.engine import load_rego
from limen.core.policy.rego.explanation import explain_rego
from limen.core.policy.rego.source import DEFAULT_ENTRY, RegoModule
from limen.core.policy.rego.testing import report_tests
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

DEADLINE_S = 10


@dataclass(frozen=True, slots=True)
class RegoSet:
    """Policies, their data documents (JSON) and the rule that decides."""

    modules: tuple[RegoModule, ...]
    data: tuple[str, ...] = ()
    entry: str = DEFAULT_ENTRY


@dataclass(frozen=True, slots=True)
class RegoAnswer:
    """The value of the decision rule, or why there is none."""

    value: Any = None
    error: str = ""


def try_load(policies: RegoSet, deadline_s: float = DEADLINE_S) -> None:
    """Raise `InvalidInput` if the engine cannot load the policies within its bounds."""
    found = _ask(policies, None, deadline_s)
    if found is None:
        raise InvalidInput(
            "the policy cannot be loaded: it takes too much time or memory to read",
            code="rego-too-large",
            hint="make expressions and rules smaller",
        )


def ask(policies: RegoSet, document: Any, deadline_s: float = DEADLINE_S) -> RegoAnswer:
    """The decision on an `input` document. Raises `InvalidInput` if the policies cannot be loaded.

    The answer takes two deadlines at most, whatever the policy does.
    """
    try_load(policies, deadline_s)
    found = _ask(policies, {"input": document}, deadline_s)
    if found is None:
        return RegoAnswer(error="the decision takes too much time or memory")
    return RegoAnswer(found.get("value"), found.get("error", ""))


def explain(policies: RegoSet, document: Any, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """What `core/policy/rego/explanation.explain_rego` gives. Raises `InvalidInput`."""
    found = _ask(policies, {"explain": document}, deadline_s)
    if found is None:
        message = "the decision takes too much time or memory"
        raise InvalidInput(message, code="rego-too-large")
    return found


def run_tests(
    policies: RegoSet, inputs: Sequence[Any] = (), deadline_s: float = 6 * DEADLINE_S
) -> dict[str, Any]:
    """What `core/policy/rego/testing.report_tests` gives. Raises `InvalidInput`.

    With `inputs` the entry rule is asked too, so it has to be there.
    """
    found = _ask(policies, {"tests": list(inputs)}, deadline_s)
    if found is None:
        raise InvalidInput("the tests take too much time or memory", code="rego-too-large")
    return found


def _ask(policies: RegoSet, request: Any, deadline_s: float) -> dict[str, Any] | None:
    """What the child answers; None: it died, or did not answer in time."""
    job = {**asdict(policies), "request": request}
    found: dict[str, Any] | None = ask_child("limen.adapters.rego_process", job, deadline_s)
    if found is not None and "findings" in found:
        findings = [
            Diagnostic(**{**finding, "severity": Severity(finding["severity"])})
            for finding in found["findings"]
        ]
        raise InvalidInput(
            found["message"], code="rego-invalid", hint=found["hint"], diagnostics=findings
        )
    return found


def _serve(job: dict[str, Any]) -> dict[str, Any]:
    modules = [RegoModule(**module) for module in job["modules"]]
    try:
        only_tests = bool(job["request"]) and job["request"].get("tests") == []
        entry = None if only_tests else job["entry"]
        engine = load_rego(modules, [text.encode() for text in job["data"]], entry)
    except InvalidInput as error:
        findings = [{**asdict(d), "severity": d.severity.value} for d in error.diagnostics]
        return {"findings": findings, "message": error.message, "hint": error.hint}
    if job["request"] is None:
        return {}
    if "tests" in job["request"]:
        return report_tests(engine, dt.datetime.now(dt.UTC), job["request"]["tests"])
    if "explain" in job["request"]:
        return explain_rego(engine, job["request"]["explain"], dt.datetime.now(dt.UTC))
    try:
        return {"value": engine.evaluate(job["request"]["input"], dt.datetime.now(dt.UTC))}
    except ValueError as error:
        return {"error": str(error)}


def _main() -> None:
    json.dump(_serve(read_job()), sys.stdout, default=_plain)


def _plain(value: Any) -> Any:
    """Sets of the language as sorted lists."""
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    raise TypeError


if __name__ == "__main__":
    _main()
