"""What commands print: tables with colours on a terminal, plain in a pipe, JSON or YAML as data."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar

import click
import yaml
from rich.console import Console
from rich.table import Table

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
        print(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True), end="")


class _Dumper(yaml.SafeDumper):
    """Ordered mappings (what protobuf's JSON is made of) are mappings."""

    def ignore_aliases(self, data: object) -> bool:
        """Values are written out where they are used: we read no aliases ourselves."""
        del data
        return True


_Dumper.add_representer(OrderedDict, yaml.SafeDumper.represent_dict)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on a terminal; aligned plain columns in a pipe, never truncated there."""
    cells = [[str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
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
