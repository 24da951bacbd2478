"""`limen policy test`: the tests of Rego, a team's own cases for both languages, coverage."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from limen.adapters.policy_files import language_of, read_bounded, read_policies, read_rego
from limen.cli import pdp_inputs as inputs
from limen.core.dialects.yaml_reader import MAX_BYTES, read_yaml
from limen.core.model.diagnostic import has_errors
from limen.core.policy.cases import read_cases
from limen.core.policy.engine import Answer, Verdict
from limen.core.policy.rego.source import DEFAULT_ENTRY, MAX_DATA_BYTES
from limen.core.policy.xacml.access import XacmlPolicyEngine
from limen.core.policy.xacml.coverage import Coverage
from limen.core.policy.xacml.engine import load_policies, read_documents
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from limen.core.policy.cases import PolicyCase

Unreached = list[tuple[str, str, int]]


@click.command()
@inputs.policy_option
@inputs.root_option
@inputs.data_option
@click.option(
    "--cases",
    "case_files",
    multiple=True,
    type=inputs.PATH,
    metavar="FILE",
    help="Cases: requests and what must come out; YAML, repeatable.",
)
def test(
    policies: tuple[Path, ...],
    root: str | None,
    data: tuple[Path, ...],
    case_files: tuple[Path, ...],
) -> None:
    """Run cases against XACML or Rego policies, and the tests of Rego (rules named test_...).

    Names each that does not hold and each rule that none reaches; exits with 1 if one fails or
    there is none. A case is {name, request, expect, obligations}.

    \b
    Examples:
      limen policy test --policy policies/
      limen policy test --policy policies/ --root records --cases cases.yaml
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    if not policies:
        raise click.UsageError("give --policy")
    cases = [case for file in case_files for case in _cases(file)]
    if language_of(policies) == "rego":
        failures, unreached, count = _rego(policies, root, data, cases)
    else:
        if data:
            raise click.UsageError("--data is for Rego policies")
        if not cases:
            message = (
                "give --cases; the standard's own are run with: limen pdp evaluate --batch DIR"
            )
            raise click.UsageError(message)
        failures, unreached, count = _xacml(policies, root, cases)
    for failure in failures:
        print(f"FAIL {failure}")
    for name, file, line in unreached:
        print(f"no test reaches {name}  {file}:{line}")
    print(f"{count - len(failures)} passed, {len(failures)} failed")
    sys.exit(1 if failures or not count else 0)


def _cases(file: Path) -> list[PolicyCase]:
    documents, findings = read_yaml(read_bounded(file, MAX_BYTES), str(file))
    if has_errors(findings) or len(documents) != 1:
        message = f"{file} is not one YAML document that can be read"
        raise InvalidInput(message, code="policy-cases", diagnostics=findings)
    return read_cases(documents[0].body)


def _xacml(
    policies: Sequence[Path], root: str | None, cases: Sequence[PolicyCase]
) -> tuple[list[str], Unreached, int]:
    files = read_policies(policies)
    texts, names = [f.document for f in files], [f.path for f in files]
    engine = XacmlPolicyEngine(load_policies(texts, root, files=names))
    coverage, failures = Coverage(), []
    moment = inputs.now()
    for case in cases:
        if case.document is not None:
            raise InvalidInput(f"case {case.name}: input is for Rego", code="policy-cases")
        verdict, traces = engine.explain(case.request, moment)
        coverage.add(traces)
        difference = case.difference(verdict)
        if difference:
            failures.append(f"{case.name}  {difference}")
    return failures, coverage.unreached(read_documents(texts, names)), len(cases)


def _rego(
    policies: Sequence[Path], root: str | None, data: Sequence[Path], cases: Sequence[PolicyCase]
) -> tuple[list[str], Unreached, int]:
    from limen.adapters.rego_process import RegoSet, run_tests  # noqa: PLC0415 - loads the engine
    from limen.core.policy.rego.engine import input_of  # noqa: PLC0415 - as above

    documents = tuple(
        read_bounded(path, MAX_DATA_BYTES).decode("utf-8", "replace") for path in data
    )
    moment = inputs.now()
    asked = [
        case.document if case.document is not None else input_of(case.request, moment)
        for case in cases
    ]
    modules = tuple(read_rego(policies, tests=True))
    report = run_tests(RegoSet(modules, documents, root or DEFAULT_ENTRY), asked)
    failures = [
        f"{result['name']}  {result['file']}:{result['line']}  {result['reason']}"
        for result in report["tests"]
        if not result["passed"]
    ]
    for case, answer in zip(cases, report["answers"], strict=True):
        difference = case.difference(_verdict(answer))
        if difference:
            failures.append(f"{case.name}  {difference}")
    unreached = [(rule["name"], rule["file"], rule["line"]) for rule in report["unreached"]]
    return failures, unreached, len(report["tests"]) + len(cases)


def _verdict(answer: dict[str, Any]) -> Verdict:
    from limen.core.policy.rego.decision import verdict_of  # noqa: PLC0415 - Rego only

    if "error" in answer:
        return Verdict(Answer.INDETERMINATE, answer["error"])
    return verdict_of(answer["value"])
