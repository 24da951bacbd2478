"""The generated pages: what of each kind is honoured, and what every code means.

`python -m limen.cli.reference` (or `make docs`) writes them; a test fails when they are stale.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import click

from limen.cli import xacml_reference
from limen.core.dialects import codes, kinds, metadata
from limen.core.dialects.schema import (
    Choice,
    Duration,
    Field,
    FieldType,
    Flag,
    ListOf,
    MapOf,
    Only,
    Refused,
    Sealed,
    ServerMade,
    Struct,
    Text,
    Variants,
    Whole,
)
from limen.core.dialects.yaml_reader import MAX_BYTES, MAX_DEPTH, MAX_NODES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from limen.core.dialects.codes import Code
    from limen.core.dialects.kinds import Kind

COMPATIBILITY = "compatibility.md"
DIAGNOSTICS = "reference/diagnostics.md"
_GENERATED = "<!-- Written by `make docs` from the code. Do not edit. -->\n"

Row = tuple[str, str, str]
"""Field, what it takes, what Limen does with it."""


def pages() -> dict[str, str]:
    """Every generated page by its path under `docs/`."""
    return {
        COMPATIBILITY: compatibility(),
        DIAGNOSTICS: diagnostics(),
        xacml_reference.PAGE: xacml_reference.page(),
    }


def compatibility() -> str:
    """The compatibility page."""
    parts = [
        _GENERATED,
        "# Compatibility: what Limen reads, field by field\n",
        _INTRODUCTION,
        "## Kinds\n",
        _table(("Kind", "API version", "Shapes"), [_kind_row(kind) for kind in kinds.PUBLIC]),
        "Known and refused, with `later-kind`, until a version enforces them:\n",
        _table(
            ("API group", "Kinds"),
            [
                *((f"`{group}`", what) for group, what in kinds.LATER.items()),
                *(("`v1`", name) for name in sorted(kinds.LATER_CORE_KINDS)),
                *(("`limen.dev/v1`", name) for name in sorted(kinds.LATER_LIMEN_KINDS)),
            ],
        ),
        "Kinds of Kuma that are refused with `refused-kind`: "
        + ", ".join(sorted(kinds.KUMA_KINDS))
        + ".\n",
        "## Metadata of every kind\n",
        _fields(metadata.metadata_schema(), "metadata"),
        _labels(),
        *(_kind_section(kind) for kind in kinds.PUBLIC),
    ]
    return "\n".join(parts)


_INTRODUCTION = f"""\
A document is understood in full or refused: a field that is not on this page is refused with
`unknown-field`, one that is marked *refused* with the code that stands beside it. What `kubectl get
-o yaml` and Kuma's API print is accepted; what a server made has no effect. Codes are explained in
[diagnostics](reference/diagnostics.md).

Files are UTF-8 YAML or JSON: at most {MAX_BYTES // 1024 // 1024} MiB, {MAX_DEPTH} levels deep,
{MAX_NODES} values; several documents to a file, and `kind: List`. As in Kubernetes, an unquoted
`on`, `off`, `yes` or `no` is a boolean: where a text is wanted, for example as the name
of a port, it must be quoted. Aliases, anchors, tags, merge keys, duplicate keys, numbers in octal
or hexadecimal, and empty values are refused.

Where Limen differs from Kuma on purpose:
- mutual TLS is on unless a Mesh says `enabledBackend: ""`; Kuma's default is off;
- `Prefix` of a SPIFFE ID matches whole parts, as Kuma's page says; Kuma's code compares texts;
- a mesh starts with no permission: nobody may call anybody.
"""


_DIAGNOSTICS_INTRODUCTION = """\
`limen validate` prints `file:line: path: CODE: message (what to do)`. The path is a JSON pointer
(RFC 6901: `~1` stands for `/` in a key). Codes are stable.
"""


def diagnostics() -> str:
    """The page of codes."""
    return "\n".join(
        [
            _GENERATED,
            "# Diagnostics: what a finding means and what to do\n",
            _DIAGNOSTICS_INTRODUCTION,
            "## Reading the file\n",
            _codes(codes.READING),
            "## Shape and fields\n",
            _codes(codes.SHAPE),
            "## Meaning of one document, or of two of one name\n",
            _codes(codes.MEANING),
            "## Documents together\n",
            _codes(codes.TOGETHER),
        ]
    )


def _codes(table: Sequence[Code]) -> str:
    rows = [
        (f"`{c.name}`", "warning" if c.warning else "error", c.meaning, c.action)
        for c in sorted(table, key=lambda code: code.name)
    ]
    return _table(("Code", "", "Meaning", "What to do"), rows)


def _kind_row(kind: Kind) -> Row:
    shapes = "Kubernetes" if kind.flat is kinds.Flat.NONE else "Kubernetes, Kuma's flat `type:`"
    versions = ", ".join(f"`{version}`" for version in kind.versions)
    title = _title(kind)
    return f"[{title}](#{_anchor(title)})", versions, shapes


def _title(kind: Kind) -> str:
    """The kind's short name, with its group where another kind has the same name."""
    alone = sum(other.short == kind.short for other in kinds.PUBLIC) < 2
    return kind.short if alone else f"{kind.short} of {kind.group}"


def _anchor(title: str) -> str:
    """The link that a heading gets: lower case, blanks to `-`, other punctuation left out."""
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def _kind_section(kind: Kind) -> str:
    fields = _fields(Struct(kind.top), "") if kind.top else _fields(kind.spec, "spec")
    parts = [f"## {_title(kind)}\n", fields]
    if kind.annotations:
        rows = [(f"`{name}`", what) for name, what in kind.annotations.items()]
        parts.append(_table(("Annotation", "Effect"), rows))
    return "\n".join(parts)


def _labels() -> str:
    known = [
        *((f"`{n}`", "label", what) for n, what in metadata.LABELS.items()),
        *((f"`{n}`", "label", f"refused: {why}") for n, why in metadata.REFUSED_LABELS.items()),
        *((f"`{n}`", "annotation", what) for n, what in metadata.ANNOTATIONS.items()),
        *((f"`{n}`", "annotation", "left out") for n in sorted(metadata.DROPPED_ANNOTATIONS)),
    ]
    return (
        "Labels and annotations under other prefixes are free. Those of Kuma and Limen are a "
        "closed list:\n\n" + _table(("Name", "", "Effect"), known)
    )


def _fields(struct: Struct, root: str) -> str:
    prefix = f"{root}." if root else ""
    rows = [row for name, f in struct.fields.items() for row in _rows(f"{prefix}{name}", f)]
    return _table(("Field", "Takes", "Limen"), rows)


def _rows(path: str, field: Field) -> Iterator[Row]:
    takes, state = _describe(field.type)
    if field.required:
        state = f"{state}, required"
    if field.note:
        state = f"{state}: {field.note}"
    yield f"`{path}`", takes, state
    yield from _inner(path, field.type)


def _inner(path: str, kind: FieldType) -> Iterator[Row]:
    if isinstance(kind, ListOf):
        yield from _inner(f"{path}[]", kind.item)
    elif isinstance(kind, Struct):
        for name, field in kind.fields.items():
            yield from _rows(f"{path}.{name}", field)
    elif isinstance(kind, Variants):
        yield from _choices(f"{path}.{kind.by}", tuple(kind.variants), kind.refused)
        for variant in kind.variants.values():
            for name, field in variant.fields.items():
                if name != kind.by:
                    yield from _rows(f"{path}.{name}", field)
    elif isinstance(kind, Sealed):
        for name, what in kind.fields.items():
            yield f"`{path}.{name}`", what, "honoured, never shown"
    elif isinstance(kind, Choice):
        for value, reason in kind.refused.items():
            yield f"`{path}: {value}`", "", f"**refused** (`refused-value`): {reason}"


def _choices(path: str, values: tuple[str, ...], refused: object) -> Iterator[Row]:
    choice = Choice(values, refused if isinstance(refused, dict) else {})
    yield from _rows(path, Field(choice, required=True))


def _describe(kind: FieldType) -> tuple[str, str]:  # noqa: C901, PLR0911 - one branch per type, total by design
    """What a field takes, and what is done with it."""
    match kind:
        case Text():
            return kind.what, "honoured"
        case Whole():
            return f"whole number, {kind.minimum} to {kind.maximum}", "honoured"
        case Flag():
            return "true or false", "honoured"
        case Duration():
            low, high = _span(kind.minimum_s), _span(kind.maximum_s)
            return f"duration, {low} to {high}", "honoured"
        case Choice():
            return " or ".join(f"`{v}`" for v in kind.values), "honoured"
        case Only():
            value = str(kind.value).lower() if isinstance(kind.value, bool) else str(kind.value)
            return f"`{value}` only", f"other values **refused** (`refused-value`): {kind.reason}"
        case ListOf():
            return "list, not empty", "honoured"
        case MapOf():
            return f"mapping of {kind.key.what} to {_describe(kind.value)[0]}", "honoured"
        case Struct() | Variants():
            return "object", "honoured"
        case Refused():
            return "", f"**refused** (`{kind.code}`): {kind.reason}"
        case Sealed():
            return kind.what, "honoured, never shown"
        case ServerMade():
            return "anything", "accepted, without effect"
    assert_never(kind)


def _span(seconds: float) -> str:
    for unit, length in (("y", 365 * 86400), ("d", 86400), ("h", 3600)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "".join("| " + " | ".join(_cell(c) for c in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


@click.command()
@click.option(
    "--docs", type=click.Path(path_type=Path, file_okay=False), default=Path("docs"), help="Where."
)
def main(docs: Path) -> None:
    """Write the generated pages."""
    for name, text in pages().items():
        path = docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
