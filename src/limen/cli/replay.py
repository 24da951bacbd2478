"""`limen replay`: which past requests would get another verdict under changed policies."""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limen.cli.client import config_option
from limen.cli.explain import print_findings
from limen.cli.files import load_files
from limen.cli.live import live_resources
from limen.cli.output import output_option, print_table
from limen.cli.past import read_log
from limen.core.compiler.checks import check
from limen.core.compiler.explain import Explainer
from limen.core.compiler.explanation import rule_json
from limen.core.compiler.past import replay as ask_again
from limen.core.model.diagnostic import has_errors
from limen.core.model.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from limen.core.compiler.past import PastRequest, Replayed

    Row = dict[str, Any]

_AT_ONCE = 500
"""Rows of a table that are aligned with one another."""
_PROGRESS_S = 0.5


@click.command()
@click.option(
    "--log", required=True, type=click.Path(dir_okay=False, path_type=Path),
    help="Access log of a proxy, a JSON object a line, or - for standard input.",
)  # fmt: skip
@click.option(
    "-f", "--file", "paths", multiple=True, metavar="PATH",
    help="Candidate policies: file, directory, or - for standard input; repeatable.",
)  # fmt: skip
@click.option(
    "--server", metavar="[URL]", is_flag=False, flag_value="",
    help="The candidate takes its place among the documents of the client file's server.",
)  # fmt: skip
@click.option(
    "--mesh", metavar="NAME",
    help="Only lines of this mesh; lines that name none are taken to be of it.",
)  # fmt: skip
@config_option
@output_option
@click.pass_context
def replay(
    context: click.Context,
    log: Path,
    paths: tuple[str, ...],
    *,
    server: str | None,
    mesh: str | None,
    config: Path | None,
    output: str,
) -> None:
    """Ask every request of a log again, under other policies.

    Names each whose verdict would change, and each of which the log does not say enough: that is
    never guessed. Exit code 0 if nothing changes and everything could be said, 1 otherwise. With
    --server and no candidate: what would change under the policies of now.

    \b
    Example:
      limen replay --log access.jsonl -f candidate/
      limen replay --log access.jsonl -f candidate.yaml --server
      limen replay --log access.jsonl -f candidate/ -o json
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    if not paths and server is None:
        raise click.UsageError("say what policies to ask: -f PATH, or --server, or both")
    loaded = load_files(paths)
    findings = loaded.diagnostics
    snapshot = loaded.snapshot
    if server is not None and not has_errors(findings):
        resources = live_resources(config, server) | dict(snapshot.resources)
        snapshot = Snapshot(resources)
    if paths and not has_errors(findings):
        findings += check(snapshot)
    print_findings(findings)
    if has_errors(findings):
        context.exit(1)
    counts = {"same": 0, "changed": 0, "undecidable": 0}
    asked = _Asked(Explainer(snapshot), assume=server is None, mesh=mesh)
    _PRINTERS[output](asked.rows(read_log(log), counts), counts)
    if counts["changed"] or counts["undecidable"]:
        context.exit(1)


class _Asked:
    """Asks line by line; holds none of them."""

    def __init__(self, explainer: Explainer, *, assume: bool, mesh: str | None) -> None:
        self._explainer = explainer
        self._assume = assume
        self._mesh = mesh
        self._shown_s = time.monotonic()

    def rows(
        self, lines: Iterator[tuple[int, PastRequest]], counts: dict[str, int]
    ) -> Iterator[Row]:
        """The rows that are worth showing. Counts all."""
        for number, past in lines:
            if self._mesh is not None and past.mesh not in {"", self._mesh}:
                continue
            self._progress(number)
            mesh = self._mesh or ""
            row = _row(number, ask_again(self._explainer, past, assume=self._assume, mesh=mesh))
            counts[row["result"]] += 1
            if row["result"] != "same":
                yield row
        self._progress(0)

    def _progress(self, number: int) -> None:
        """On a terminal, how far it is; 0: wipe it off."""
        if not sys.stderr.isatty():
            return
        if not number:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        elif (now := time.monotonic()) - self._shown_s > _PROGRESS_S:
            self._shown_s = now
            print(f"\r\033[Kline {number:,}", end="", file=sys.stderr, flush=True)


def _row(number: int, replayed: Replayed) -> Row:
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


def _print_table(rows: Iterator[Row], counts: dict[str, int]) -> None:
    while some := list(itertools.islice(rows, _AT_ONCE)):
        shown = [
            (
                row["line"],
                f"{row['from']} -> {row['to']}",
                f"{row['method']} {row['path']}",
                row["then"] or "-",
                row["now"] or "?",
                row["why"],
            )
            for row in some
        ]
        print_table(("line", "who", "what", "then", "now", "why"), shown)
    print(", ".join(f"{count} {name}" for name, count in counts.items()))


def _print_json(rows: Iterator[Row], counts: dict[str, int]) -> None:
    """One object, as it comes: `requests` first, then the counts."""
    print('{\n  "requests": [', end="")
    between = "\n    "
    for row in rows:
        print(between + json.dumps(row, ensure_ascii=False), end="")
        between = ",\n    "
    print("\n  ],")
    print(",\n".join(f'  "{name}": {count}' for name, count in counts.items()))
    print("}")


def _print_yaml(rows: Iterator[Row], counts: dict[str, int]) -> None:
    """As `_print_json`; each row is a flow mapping, which JSON is."""
    first = next(rows, None)
    print("requests:" if first is not None else "requests: []")
    for row in itertools.chain([] if first is None else [first], rows):
        print(f"- {json.dumps(row)}")
    for name, count in counts.items():
        print(f"{name}: {count}")


_PRINTERS: dict[str, Callable[[Iterator[Row], dict[str, int]], None]] = {
    "table": _print_table,
    "json": _print_json,
    "yaml": _print_yaml,
}
