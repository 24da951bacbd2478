"""The door of the Rego engine: load policies and data once, then judge requests.

`load_rego` refuses everything that is wrong with the documents, all findings at once.
"""

from __future__ import annotations

import datetime as dt
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import regorus

from limen.core.model.diagnostic import Diagnostic, Severity
from limen.core.policy.engine import AccessRequest, Answer, Verdict
from limen.core.policy.rego import builtins, tokens
from limen.core.policy.rego.decision import verdict_of
from limen.core.policy.rego.envoy_input import envoy_input
from limen.core.policy.rego.source import (
    DEFAULT_ENTRY,
    MAX_DATA_BYTES,
    MAX_MODULE_BYTES,
    check_text,
)
from limen.core.policy.rego.supply import supplied
from limen.core.policy.rego.tree import MAX_CHAIN, deepest, rules_of, undefined_calls
from limen.core.policy.request_values import values_in
from limen.core.policy.sources import AttributeUnavailable
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.core.policy.rego.source import RegoModule
    from limen.core.policy.rego.tree import Rule
    from limen.core.policy.sources import Asking


class RegoEngine:
    """Compiled policies. Not to be shared between threads."""

    language = "rego"

    def __init__(
        self, engine: Any, entry: str, clock: list[dt.datetime], rules: Sequence[Rule] = ()
    ) -> None:
        self._engine = engine
        self.rules = tuple(rules)
        self.entry = tuple(entry.strip("/").split("/"))
        self._rule = "data." + entry.strip("/").replace("/", ".")
        self._clock = clock

    def judge(
        self, request: AccessRequest, now: dt.datetime, asking: Asking | None = None
    ) -> Verdict:
        """The verdict on `request` at `now`: of the input that its parts make.

        Attributes of sources are `input.sources.CATEGORY.ATTRIBUTE`, lists. Raises
        `AnswersNeeded`.
        """
        try:
            document = input_of(request, now)
            if asking is not None:
                document["sources"] = supplied(asking, partial(values_in, request))
            value = self.evaluate(document, now)
        except ValueError as error:
            return Verdict(Answer.INDETERMINATE, str(error))
        except AttributeUnavailable as error:
            return Verdict(Answer.INDETERMINATE, f"{error.reason}; missing: {error.name.id}")
        return verdict_of(value)

    def evaluate(self, document: Any, now: dt.datetime, rule: str = "") -> Any:
        """The value of the entry rule (or of `rule`, `data.PACKAGE.RULE`) for an `input`.

        None: undefined. Raises ValueError.
        """
        self._clock[0] = now
        try:
            self._engine.set_input_json(json.dumps(document))
            return self._engine.eval_rule(rule or self._rule)
        except RuntimeError as error:
            raise ValueError(_plain(error)) from None

    def watch(self) -> None:
        """From now on, remember which lines are evaluated: slow, for tests."""
        self._engine.set_enable_coverage(True)

    def evaluated_lines(self) -> dict[str, frozenset[int]]:
        """File to the lines that were evaluated since `watch`."""
        report = json.loads(self._engine.get_coverage_report_as_json())
        return {file["path"]: frozenset(file["covered"]) for file in report["files"]}


def input_of(request: AccessRequest, now: dt.datetime) -> Any:
    """The input document of a request. Raises ValueError."""
    if request.http is not None:
        return envoy_input(request.http, now)
    return {
        "subject": request.subject,
        "action": request.action,
        "resource": request.resource,
        "context": request.context,
    }


def load_rego(
    modules: Sequence[RegoModule], data: Sequence[bytes] = (), entry: str | None = DEFAULT_ENTRY
) -> RegoEngine:
    """Compile `modules` with the JSON documents `data`; decisions are the rule `entry`.

    `entry` None: there is none, rules are evaluated by name. Raises `InvalidInput` with all
    findings.
    """
    clock = [dt.datetime.fromtimestamp(0, dt.UTC)]
    engine = regorus.Engine()
    engine.set_policy_length_config(
        max_col=4096, max_file_bytes=MAX_MODULE_BYTES, max_lines=MAX_MODULE_BYTES
    )
    extensions = _extensions(clock)
    for name, (arity, function) in extensions.items():
        engine.add_extension(name, arity, function)
    findings = [finding for module in modules if (finding := _add(engine, module)) is not None]
    _refuse(findings)
    try:
        rules = rules_of(json.loads(engine.get_ast_as_json()))
    except RecursionError:
        rules = []
        findings = [_finding("rego-too-deep", "an expression is nested too deeply", "")]
    _refuse(findings)
    findings = _judge_rules(rules, entry, set(extensions))
    findings += [f for document in data if (f := _add_data(engine, document)) is not None]
    _refuse(findings)
    return RegoEngine(engine, entry or "", clock, rules)


def _extensions(clock: list[dt.datetime]) -> dict[str, tuple[int, Any]]:
    return {
        **tokens.functions(lambda: clock[0]),
        "time.now_ns": (0, lambda: int(clock[0].timestamp()) * 10**9 + clock[0].microsecond * 1000),
    }


def _add(engine: Any, module: RegoModule) -> Diagnostic | None:
    """Read one policy, as version 1 of the language or, failing that, as version 0."""
    reason = check_text(module.text)
    if reason is not None:
        return _finding("rego-too-large", reason, module.file)
    try:
        engine.set_rego_v0(False)
        engine.add_policy(module.file, module.text)
    except RuntimeError as error:
        try:
            engine.set_rego_v0(True)
            engine.add_policy(module.file, module.text)
        except RuntimeError:
            return _finding("rego-syntax", _plain(error), module.file, _line(error))
    return None


def _add_data(engine: Any, document: bytes) -> Diagnostic | None:
    if len(document) > MAX_DATA_BYTES:
        return _finding("rego-too-large", f"data of more than {MAX_DATA_BYTES} bytes", "")
    try:
        engine.add_data_json(document.decode("utf-8"))
    except (RuntimeError, UnicodeDecodeError) as error:
        return _finding("rego-data", f"a data document cannot be used: {_plain(error)}", "")
    return None


def _judge_rules(rules: list[Rule], entry: str | None, extensions: set[str]) -> list[Diagnostic]:
    known = builtins.NATIVE | extensions
    found = []
    for rule, name, line in undefined_calls(rules):
        if name not in known:
            message, hint = _unknown(name)
            found.append(_finding("rego-unknown-function", message, rule.file, line, hint))
    circle, length = deepest(rules)
    if circle is not None:
        names = " -> ".join("data." + ".".join(path) for path in circle)
        found.append(_finding("rego-recursion", f"rules need themselves: {names}", ""))
    if length > MAX_CHAIN:
        text = f"more than {MAX_CHAIN} rules need one another in a row"
        found.append(_finding("rego-too-deep", text, ""))
    path = tuple((entry or "").strip("/").split("/"))
    if entry is not None and not any(rule.path == path for rule in rules):
        text = f"no policy defines data.{'.'.join(path)}"
        hint = "name the decision with --root, as PACKAGE/RULE"
        found.append(_finding("rego-no-entry", text, "", hint=hint))
    return found


def _unknown(name: str) -> tuple[str, str]:
    """Message and hint for a function that cannot be called."""
    if name in builtins.WITHHELD:
        return f"{name} may not be called", builtins.WITHHELD[name]
    if name in builtins.ABSENT:
        return f"{name} of OPA is not supported", "write the policy without it"
    return f"no function {name}", "define it, or check its name"


def _plain(error: Exception) -> str:
    """The engine's message without its picture of the source and without a trace."""
    text = str(error).partition("Stack backtrace:")[0]
    lines = [line for line in text.splitlines() if line.startswith("error:")]
    return lines[0].removeprefix("error:").strip() if lines else " ".join(text.split())[:300]


def _line(error: Exception) -> int:
    """The line that the engine's message points to; 0: none."""
    place = next((ln for ln in str(error).splitlines() if ln.startswith("-->")), "")
    number = place.rsplit(":", 2)[-2:-1]
    return int(number[0]) if number and number[0].isdigit() else 0


def _finding(code: str, message: str, file: str, line: int = 0, hint: str = "") -> Diagnostic:
    return Diagnostic(Severity.ERROR, code, message, file=file, line=line, hint=hint)


def _refuse(findings: Sequence[Diagnostic]) -> None:
    if findings:
        first = findings[0]
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise InvalidInput(
            f"the policy cannot be loaded: {first.message}{more}",
            code="rego-invalid",
            hint=first.hint,
            diagnostics=findings,
        )
