"""`limen validate`: judge documents without a server."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from limen.adapters.clock import SystemClock
from limen.adapters.policy_trial import try_policies
from limen.cli.files import load_files
from limen.cli.output import output_option, print_data
from limen.core.compiler.checks import check
from limen.core.dialects import expired
from limen.core.model.diagnostic import Severity, has_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.cli.files import Loaded
    from limen.core.model.diagnostic import Diagnostic


@click.command()
@click.option(
    "-f",
    "--file",
    "paths",
    multiple=True,
    required=True,
    metavar="PATH",
    help="File, directory, or - for standard input; repeatable.",
)
@click.option("--strict", is_flag=True, help="Warnings fail, too.")
@output_option
def validate(paths: tuple[str, ...], *, strict: bool, output: str) -> None:
    """Check documents, alone and together; no server needed.

    Prints one line per finding, `file:line: path: CODE: message`. Exit code 1 if there is an error
    (with --strict, or a warning), 2 if a PATH cannot be read.

    \b
    Example:
      limen validate -f policies/
      kubectl get meshtrafficpermissions -A -o yaml | limen validate -f -
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    loaded = load_files(paths)
    diagnostics = judged(loaded)
    if output != "table":
        print_data(_report(loaded, diagnostics), output)
    else:
        for diagnostic in diagnostics:
            print(_line(diagnostic))
    print(_summary(loaded, diagnostics), file=sys.stderr)
    if has_errors(diagnostics) or (strict and diagnostics):
        sys.exit(1)


def judged(loaded: Loaded) -> tuple[Diagnostic, ...]:
    """All findings: about each document, then about the documents together.

    Documents are judged together only when each was understood: what a broken one meant is not
    known, and would be missed everywhere.
    """
    if has_errors(loaded.diagnostics):
        return loaded.diagnostics
    late = tuple(expired(loaded.resources, SystemClock().now_s()))
    tried = try_policies(loaded.resources)
    return (*loaded.diagnostics, *late, *tried, *check(loaded.snapshot))


def _line(diagnostic: Diagnostic) -> str:
    warning = diagnostic.severity is Severity.WARNING
    return f"{diagnostic} [warning]" if warning else str(diagnostic)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _summary(loaded: Loaded, diagnostics: Sequence[Diagnostic]) -> str:
    errors = sum(d.severity is Severity.ERROR for d in diagnostics)
    return (
        f"{_count(len(loaded.files), 'file')}, "
        f"{_count(len(loaded.resources), 'valid resource')}, "
        f"{_count(errors, 'error')}, {_count(len(diagnostics) - errors, 'warning')}"
    )


def _report(loaded: Loaded, diagnostics: Sequence[Diagnostic]) -> dict[str, object]:
    return {
        "valid": not has_errors(tuple(diagnostics)),
        "files": list(loaded.files),
        "resources": [
            {
                "kind": r.key.kind,
                "mesh": r.key.mesh,
                "namespace": r.key.namespace,
                "name": r.key.name,
            }
            for r in loaded.resources
        ],
        "findings": [
            {
                "severity": d.severity.value,
                "code": d.code,
                "file": d.file,
                "line": d.line,
                "path": d.path or "/",
                "message": d.message,
                "hint": d.hint,
            }
            for d in diagnostics
        ],
    }
