"""`limen test`: a team's own cases against its policies, offline. Coverage of rules, JUnit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

import click

from limen.cli.case_files import load_cases
from limen.cli.explain import print_findings
from limen.cli.files import load_files
from limen.cli.output import output_option, print_data
from limen.core.compiler.cases import Outcome, Report, run_cases
from limen.core.compiler.checks import check
from limen.core.compiler.explanation import rule_json
from limen.core.model.diagnostic import has_errors
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from limen.core.compiler.explanation import Json


@click.command("test")
@click.option(
    "-f", "--file", "paths", multiple=True, required=True, metavar="PATH",
    help="Policies: file, directory, or - for standard input; repeatable.",
)  # fmt: skip
@click.option(
    "--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write JUnit's XML there."
)
@click.option("--require-coverage", is_flag=True, help="Fail if a rule is reached by no case.")
@output_option
@click.argument("cases", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.pass_context
def test(
    context: click.Context,
    paths: tuple[str, ...],
    cases: tuple[Path, ...],
    *,
    junit: Path | None,
    require_coverage: bool,
    output: str,
) -> None:
    """Ask every case and compare: verdict, status, deciding rule. No server needed.

    CASES are files: `tests:` and a list of {from, to, method, path, headers, claims, port,
    source_ip, remote_ip, sni, expect: allow|deny, status, rule, name}. Answers are those of
    `limen explain -f`. Exit code 1 if a case fails or the policies have errors.

    \b
    Example:
      limen test -f policies/ cases.yaml --require-coverage
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    wanted = tuple(case for path in cases for case in load_cases(path))
    loaded = load_files(paths)
    findings = loaded.diagnostics
    if not has_errors(findings):
        findings += check(loaded.snapshot)
    print_findings(findings)
    if has_errors(findings):
        context.exit(1)
    report = run_cases(loaded.snapshot, wanted)
    if junit is not None:
        _write(junit, to_junit(report))
    if output == "table":
        _print(report)
    else:
        print_data(to_json(report), output)
    if report.failed or (require_coverage and report.unreached):
        context.exit(1)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}", code="unwritable") from None


def _print(report: Report) -> None:
    for outcome in report.failed:
        print(f"FAILED {outcome.case.name}: {outcome.problem}")
        for miss in () if outcome.answer is None else outcome.answer.near_misses:
            print(f"  {miss.rule.ref}: {miss.field} wanted {miss.wanted}, saw {miss.seen}")
    for ref in report.unreached:
        print(f"no case reaches {ref}")
    passed = len(report.outcomes) - len(report.failed)
    reached = len(report.rules) - len(report.unreached)
    print(f"{passed} of {len(report.outcomes)} cases passed", end="; ")
    print(f"{reached} of {len(report.rules)} rules reached")


def to_json(report: Report) -> dict[str, Json]:
    """The report of `-o json`."""
    return {
        "cases": [_case_json(outcome) for outcome in report.outcomes],
        "passed": len(report.outcomes) - len(report.failed),
        "failed": len(report.failed),
        "rules": len(report.rules),
        "unreached": [rule_json(ref) for ref in report.unreached],
    }


def _case_json(outcome: Outcome) -> Json:
    answer = outcome.answer
    return {
        "name": outcome.case.name,
        "passed": not outcome.problem,
        "problem": outcome.problem,
        "answer": None if answer is None else answer.to_json(),
    }


def to_junit(report: Report) -> str:
    """JUnit's XML, as continuous integration reads it."""
    suite = f'tests="{len(report.outcomes)}" failures="{len(report.failed)}" errors="0"'
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<testsuite name="limen test" {suite}>']
    for outcome in report.outcomes:
        start = f"  <testcase classname={_attribute(outcome.case.query.callee)} "
        start += f"name={_attribute(outcome.case.name)}"
        if not outcome.problem:
            lines.append(f"{start}/>")
            continue
        lines.append(f"{start}>")
        problem = _printable(outcome.problem)
        lines.append(f"    <failure message={_attribute(problem)}>{escape(problem)}</failure>")
        lines.append("  </testcase>")
    return "\n".join([*lines, "</testsuite>", ""])


def _attribute(text: str) -> str:
    return quoteattr(_printable(text))


def _printable(text: str) -> str:
    """Without characters that XML cannot hold."""
    return "".join(c if c.isprintable() else "?" for c in text)
