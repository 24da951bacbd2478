"""Rows of a CSV, JSON or YAML file, read again when the file changes."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from limen.adapters.attributes.failure import (
    MAX_DEPTH,
    MAX_FILE_BYTES,
    MAX_ITEMS,
    SourceFailure,
    rows_of,
)
from limen.core.dialects.yaml_reader import read_yaml
from limen.core.model.diagnostic import has_errors
from limen.core.policy.sources import to_text
from limen.core.tokens.encoding import Malformed, parse_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.adapters.attributes.places import Places
    from limen.core.model.attribute_source import FileOrigin
    from limen.core.policy.sources import Value

MAX_LINES = 100_000


class FileRows:
    """The file of one source. Blocks: to be called in a thread."""

    def __init__(self, origin: FileOrigin, names: Sequence[str], places: Places) -> None:
        self._origin = origin
        self._places = places
        self._where = [(field, names.index(name)) for field, name in origin.where]
        self._kept: tuple[bytes, dict[tuple[str, ...], list[dict[str, Any]]]] | None = None

    def rows(self, values: Sequence[Value], max_rows: int) -> tuple[dict[str, Any], ...]:
        """The rows whose fields equal the parameters. Raises `SourceFailure`."""
        key = tuple(_plain(values[index]) for _, index in self._where)
        return rows_of(self._index().get(key, []), max_rows)

    def _index(self) -> dict[tuple[str, ...], list[dict[str, Any]]]:
        """Rows by what the parameters are compared with."""
        data = self._places.read(self._origin.path, MAX_FILE_BYTES)
        kept = self._kept
        if kept is not None and kept[0] == data:
            return kept[1]
        found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in _read(data, self._origin.form):
            fields = [row.get(field) for field, _ in self._where]
            if all(isinstance(field, str | bool | int | float) for field in fields):
                found.setdefault(tuple(_plain(field) for field in fields), []).append(row)
        self._kept = (data, found)
        return found


def _plain(value: Any) -> str:
    """A text that is equal for equal values of a row and a parameter."""
    if isinstance(value, bool):
        return to_text(value, "boolean", "")
    return str(value)


def _read(data: bytes, form: str) -> Sequence[dict[str, Any]]:
    value: Any
    try:
        if form == "csv":
            return _csv(data.decode("utf-8-sig"))
        if form == "json":
            value = parse_json(data, max_depth=MAX_DEPTH, max_items=MAX_ITEMS)
        else:
            documents, findings = read_yaml(data)
            if has_errors(findings) or len(documents) != 1:
                raise SourceFailure("its file is not one YAML document that can be read")
            value = documents[0].body
    except (Malformed, UnicodeDecodeError, csv.Error):
        raise SourceFailure(f"its file is not {form.upper()} that can be read") from None
    return rows_of(value, MAX_LINES)


def _csv(text: str) -> list[dict[str, str]]:
    """Rows by the names in the head. An empty field is no value."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    head = next(reader, [])
    if not head or len(set(head)) != len(head):
        raise SourceFailure("the head of its file is empty, or names a field twice")
    found: list[dict[str, str]] = []
    for line in reader:
        if not line:
            continue
        if len(line) != len(head):
            raise SourceFailure(
                f"line {reader.line_num} of its file has not the fields of the head"
            )
        if len(found) >= MAX_LINES:
            raise SourceFailure(f"its file has more than {MAX_LINES} lines")
        found.append({name: field for name, field in zip(head, line, strict=True) if field})
    return found
