"""`limen apply`: send documents to the server, all or none."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from limen.cli.client import config_option, open_client
from limen.cli.files import STDIN, expand, read_file
from limen.cli.output import output_option, print_data, print_table
from limen.core.dialects import MAX_BYTES
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

DEFAULT_WAIT_S = 30.0


@click.command()
@click.option(
    "-f", "--file", "paths", multiple=True, required=True, metavar="PATH",
    help="File, directory, or - for standard input; repeatable.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check, and show what would change per proxy.")
@click.option("--wait", is_flag=True, help="Return when every proxy enforces it, or say which not.")
@click.option("--timeout", default=DEFAULT_WAIT_S, show_default=True, help="Seconds for --wait.")
@config_option
@output_option
def apply(
    paths: tuple[str, ...],
    *,
    dry_run: bool,
    wait: bool,
    timeout: float,
    config: Path | None,
    output: str,
) -> None:
    """Create or change resources. A file that is not understood in full changes nothing.

    Exit code 1: with --wait, some proxy does not enforce the change yet.

    \b
    Example:
      limen apply -f policies/ --dry-run
      limen apply -f policies/ --wait
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    files = [{"name": name, "text": text} for name, text in read_texts(paths)]
    body: dict[str, object] = {"files": files, "dry_run": dry_run}
    if wait and not dry_run:
        body["wait_s"] = timeout
    with open_client(config) as client:
        answer = client.post("/v1/apply", body, timeout_s=timeout + 30)
    if output != "table":
        print_data(answer, output)
    else:
        _print_answer(answer)
    if answer.get("wait") and answer["wait"]["missing"]:
        sys.exit(1)


def read_texts(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and text of every file that `paths` mean. Raises InvalidInput."""
    for file in expand(paths):
        name = "<stdin>" if file == STDIN else file
        yield name, _decode(name, read_file(file))


def _decode(name: str, data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise InvalidInput(
            f"{name} has more than {MAX_BYTES} bytes", code="file-too-large", hint="split it"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput(f"{name} is not UTF-8 text", code="not-utf8") from None


def _print_answer(answer: dict[str, Any]) -> None:
    for finding in answer["diagnostics"]:
        place = f"{finding['file']}:{finding['line']}: {finding['path'] or '/'}"
        print(f"{place}: {finding['code']}: {finding['message']}", file=sys.stderr)
    note = " (dry run)" if answer["dry_run"] else ""
    for r in answer["results"]:
        name = f"{r['namespace']}/{r['name']}" if r["namespace"] else r["name"]
        print(f"{r['kind'].rpartition('/')[2]} {name} in mesh {r['mesh']}: {r['result']}{note}")
    if answer["dry_run"]:
        _print_proxies(answer["affected"])
    if answer.get("wait"):
        print_wait(answer["wait"])


def _print_proxies(affected: list[dict[str, Any]]) -> None:
    if not affected:
        print("no proxy changes")
        return
    rows = [
        (proxy["instance"], sign, name)
        for proxy in affected
        for sign, names in (
            ("+", proxy["added"]),
            ("~", proxy["changed"]),
            ("-", proxy["removed"]),
        )
        for name in names
    ]
    print_table(("proxy", "", "resource"), rows)


def print_wait(wait: dict[str, Any]) -> None:
    """`enforced on 41 of 42`, and why not on the others."""
    print(f"enforced on {wait['enforced']} of {wait['total']} proxies")
    for missing in wait["missing"]:
        print(f"  {missing['instance']}: {missing['why']}")
