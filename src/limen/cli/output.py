"""What commands print: tables with colours on a terminal, plain in a pipe, JSON or YAML as data."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FORMATS = ("table", "json", "yaml")


F = TypeVar("F", bound="Callable[..., Any]")


def output_option(function: F) -> F:
    """The option `-o table|json|yaml` of every command that prints data (argument `output`)."""
    option = click.option(
        "-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True
    )
    return option(function)


def print_data(value: object, output: str) -> None:
    """Print `value` (JSON-able) as JSON or YAML."""
    if output == "json":
        print(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        import yaml  # noqa: PLC0415 - loads slowly, and few ask for it

        plain = json.loads(json.dumps(value))  # no shared parts: we read no aliases ourselves
        print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), end="")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on a terminal; aligned plain columns in a pipe, never truncated there."""
    cells = [[str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415 - only on a terminal, as above
        from rich.table import Table  # noqa: PLC0415 - as above

        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            table.add_column(column.upper(), overflow="fold")
        for row in cells:
            table.add_row(*row)
        Console().print(table)
        return
    lines = [[column.upper() for column in columns], *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
