"""`limen replay`: which past requests would get another verdict under changed policies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limen.cli.explain import print_findings
from limen.cli.files import load_files
from limen.cli.output import output_option, print_data, print_table
from limen.cli.past import read_log
from limen.core.compiler.checks import check
from limen.core.compiler.explain import Explainer
from limen.core.compiler.explanation import rule_json
from limen.core.compiler.past import replay as ask_again
from limen.core.model.diagnostic import has_errors

if TYPE_CHECKING:
    from limen.core.compiler.past import Replayed


@click.command()
@click.option(
    "--log", required=True, type=click.Path(dir_okay=False, path_type=Path),
    help="Access log of a proxy, a JSON object a line, or - for standard input.",
)  # fmt: skip
@click.option(
    "-f", "--file", "paths", multiple=True, required=True, metavar="PATH",
    help="Candidate policies: file, directory, or - for standard input; repeatable.",
)  # fmt: skip
@output_option
@click.pass_context
def replay(context: click.Context, log: Path, paths: tuple[str, ...], output: str) -> None:
    """Ask every request of a log again, under other policies.

    Names each whose verdict would change, and each of which the log does not say enough: that is
    never guessed. Exit code 0 if nothing changes and everything could be said, 1 otherwise.

    \b
    Example:
      limen replay --log access.jsonl -f candidate/
      limen replay --log access.jsonl -f candidate/ -o json
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    loaded = load_files(paths)
    findings = loaded.diagnostics
    if not has_errors(findings):
        findings += check(loaded.snapshot)
    print_findings(findings)
    if has_errors(findings):
        context.exit(1)
    explainer = Explainer(loaded.snapshot)
    counts = {"same": 0, "changed": 0, "undecidable": 0}
    rows: list[dict[str, Any]] = []
    for number, past in read_log(log):
        row = _row(number, ask_again(explainer, past))
        counts[row["result"]] += 1
        if row["result"] != "same":
            rows.append(row)
    if output == "table":
        _print(rows)
        print(", ".join(f"{count} {name}" for name, count in counts.items()))
    else:
        print_data({**counts, "requests": rows}, output)
    if rows:
        context.exit(1)


def _row(number: int, replayed: Replayed) -> dict[str, Any]:
    past, now = replayed.past, replayed.now
    result = "undecidable" if now is None else "changed" if replayed.changed else "same"
    return {
        "line": number,
        "request_id": past.request_id,
        "result": result,
        "from": past.query.caller,
        "to": past.query.callee,
        "method": past.query.method,
        "path": past.query.path,
        "then": _verdict(past.allowed),
        "now": None if now is None else _verdict(now.allowed),
        "rule_then": past.rule,
        "rule_now": None if now is None or now.rule is None else rule_json(now.rule),
        "why": replayed.why or (now.reason if now is not None else ""),
    }


def _verdict(allowed: bool | None) -> str | None:  # noqa: FBT001 - a verdict
    return None if allowed is None else "allow" if allowed else "deny"


def _print(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    shown = [
        (
            row["line"],
            f"{row['from']} -> {row['to']}",
            f"{row['method']} {row['path']}",
            row["then"] or "-",
            row["now"] or "?",
            row["why"],
        )
        for row in rows
    ]
    print_table(("line", "who", "what", "then", "now", "why"), shown)
