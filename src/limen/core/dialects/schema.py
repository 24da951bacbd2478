"""The schema language: what each field of a kind may hold, what is refused by name, and why.

A schema is data. `check` judges a value against it and reports every finding; `core/dialects`
converts only what passed; the compatibility page is printed from the same data. A field that is
not in the schema is refused, so nothing is ever dropped silently.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

from limen.core.dialects.document import Findings, JsonObject, JsonValue, child, show
from limen.core.dialects.duration import parse_duration
from limen.errors import InvalidInput

if TYPE_CHECKING:
    import re

Rule = Callable[[JsonObject, str, Findings], None]
"""A check over several fields of an object that is well formed: (value, path, findings)."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text. `parse` raises InvalidInput, whose code, message and hint are reported."""

    what: str = "a text"
    pattern: re.Pattern[str] | None = None
    min_length: int = 1
    max_length: int = 1024
    hint: str = ""
    parse: Callable[[str], object] | None = None


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from `minimum` to `maximum`."""

    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""


@dataclass(frozen=True, slots=True)
class Duration:
    """A time span like `24h`, `1d12h`, `1.5s`, from `minimum_s` to `maximum_s` seconds."""

    minimum_s: float
    maximum_s: float


@dataclass(frozen=True, slots=True)
class Choice:
    """One of `values`; `refused` maps further known values to why they are refused."""

    values: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Only:
    """A field whose other values are not honoured yet: `value`, else refused with `reason`."""

    value: JsonValue
    reason: str


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of `item`, never empty: an empty list could mean nobody or everybody."""

    item: FieldType
    maximum: int = 10_000


@dataclass(frozen=True, slots=True)
class MapOf:
    """A mapping from texts to `value`, never empty unless `may_be_empty`."""

    key: Text
    value: FieldType
    may_be_empty: bool = False


@dataclass(frozen=True, slots=True)
class Struct:
    """An object with the named `fields`; `rules` run when its fields are well formed."""

    fields: Mapping[str, Field]
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Variants:
    """An object whose field `by` says which of `variants` it is; `refused` as in `Choice`."""

    by: str
    variants: Mapping[str, Struct]
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """A field that the dialect has and Limen does not honour: why, and what to do instead."""

    reason: str
    code: str = "refused-field"


@dataclass(frozen=True, slots=True)
class ServerMade:
    """Metadata that a server or a tool wrote; it says nothing about policy and is not kept."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value that may hold a secret: `judge` reports what is wrong with it, never what it is.

    `fields` say which names it may hold, for the compatibility page.
    """

    what: str
    judge: Callable[[JsonValue, str, Findings], bool]
    fields: Mapping[str, str] = field(default_factory=dict)


FieldType = (
    Text
    | Whole
    | Flag
    | Duration
    | Choice
    | Only
    | ListOf
    | MapOf
    | Struct
    | Variants
    | Refused
    | ServerMade
    | Sealed
)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a `Struct`. `note` is printed in the compatibility page."""

    type: FieldType
    required: bool = False
    note: str = ""


def check(schema: FieldType, value: JsonValue, path: str, out: Findings) -> bool:  # noqa: C901, PLR0911, PLR0912 - one branch per type, total by design
    """Judge `value`; findings go to `out`. Whether it may be converted."""
    if isinstance(schema, ServerMade):
        return True
    if isinstance(schema, Refused):
        name = path.rpartition("/")[2].replace("~1", "/").replace("~0", "~")
        out.error(schema.code, f"{name} is not supported", path, schema.reason)
        return False
    if isinstance(schema, Sealed):
        return schema.judge(value, path, out)
    if value is None:
        out.error("null-value", "the field has no value", path, "give it one, or remove the field")
        return False
    match schema:
        case Text():
            return _check_text(schema, value, path, out)
        case Whole():
            return _check_whole(schema, value, path, out)
        case Flag():
            return isinstance(value, bool) or _wrong("true or false", value, path, out)
        case Duration():
            return _check_duration(schema, value, path, out)
        case Choice():
            return _check_choice(schema, value, path, out)
        case Only():
            if type(value) is type(schema.value) and value == schema.value:
                return True
            out.error("refused-value", f"{show(value)} is not supported", path, schema.reason)
            return False
        case ListOf():
            return _check_list(schema, value, path, out)
        case MapOf():
            return _check_map(schema, value, path, out)
        case Struct():
            return _check_struct(schema, value, path, out)
        case Variants():
            return _check_variants(schema, value, path, out)
    assert_never(schema)


def _wrong(wanted: str, value: JsonValue, path: str, out: Findings) -> bool:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a text"}
    kind = kinds.get(type(value), show(value))
    seen = kind if isinstance(value, dict | list) else f"{kind} ({show(value)})"
    hint = ""
    if wanted.startswith("a text") and not isinstance(value, dict | list):
        hint = f"put it in quotes: without them YAML takes it for {kind}"
    elif isinstance(value, str) and wanted.startswith(("a whole", "true")):
        hint = "write it without quotes"
    out.error("wrong-type", f"{wanted} is needed here, not {seen}", path, hint)
    return False


def _check_text(schema: Text, value: JsonValue, path: str, out: Findings) -> bool:
    if not isinstance(value, str):
        return _wrong("a text", value, path, out)
    if not schema.min_length <= len(value) <= schema.max_length:
        out.error(
            "bad-value",
            f"{show(value)} has {len(value)} characters, "
            f"{schema.what} has {schema.min_length} to {schema.max_length}",
            path,
            schema.hint,
        )
        return False
    if schema.pattern is not None and not schema.pattern.fullmatch(value):
        out.error("bad-value", f"{show(value)} is not {schema.what}", path, schema.hint)
        return False
    if schema.parse is not None:
        try:
            schema.parse(value)
        except InvalidInput as error:
            out.error(error.code, error.message, path, error.hint)
            return False
    return True


def _check_whole(schema: Whole, value: JsonValue, path: str, out: Findings) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        return _wrong("a whole number", value, path, out)
    if not schema.minimum <= value <= schema.maximum:
        message = f"{value} is not between {schema.minimum} and {schema.maximum}"
        out.error("out-of-range", message, path)
        return False
    return True


def _check_duration(schema: Duration, value: JsonValue, path: str, out: Findings) -> bool:
    if not isinstance(value, str):
        return _wrong("a text with a duration, like '24h',", value, path, out)
    try:
        seconds = parse_duration(value)
    except InvalidInput as error:
        out.error(error.code, error.message, path, error.hint)
        return False
    if not schema.minimum_s <= seconds <= schema.maximum_s:
        message = f"{show(value)} is not between {schema.minimum_s:g}s and {schema.maximum_s:g}s"
        out.error("out-of-range", message, path)
        return False
    return True


def _check_choice(schema: Choice, value: JsonValue, path: str, out: Findings) -> bool:
    if not isinstance(value, str):
        return _wrong("a text", value, path, out)
    if value in schema.values:
        return True
    if value in schema.refused:
        out.error("refused-value", f"{show(value)} is not supported", path, schema.refused[value])
        return False
    known = ", ".join(schema.values)
    guess = suggestion(value, (*schema.values, *schema.refused))
    out.error("unknown-value", f"{show(value)} is not one of: {known}", path, guess)
    return False


def _check_list(schema: ListOf, value: JsonValue, path: str, out: Findings) -> bool:
    if not isinstance(value, list):
        return _wrong("a list", value, path, out)
    if not value:
        out.error(
            "empty-value", "the list is empty", path, "remove the field, or put something in it"
        )
        return False
    if len(value) > schema.maximum:
        out.error("out-of-range", f"more than {schema.maximum} entries", path, "split it")
        return False
    verdicts = [check(schema.item, item, child(path, i), out) for i, item in enumerate(value)]
    return all(verdicts)


def _check_map(schema: MapOf, value: JsonValue, path: str, out: Findings) -> bool:
    if not isinstance(value, dict):
        return _wrong("a mapping", value, path, out)
    if not value and not schema.may_be_empty:
        out.error("empty-value", "the mapping is empty", path, "remove it, or put something in it")
        return False
    good = True
    for key, item in value.items():
        place = child(path, key)
        good = _check_text(schema.key, key, place, out) and good
        good = check(schema.value, item, place, out) and good
    return good


def _check_struct(schema: Struct, value: JsonValue, path: str, out: Findings) -> bool:
    if not isinstance(value, dict):
        return _wrong("a mapping", value, path, out)
    good = True
    hints: set[str] = set()
    for name, item in value.items():
        known = schema.fields.get(name)
        if known is not None:
            good = check(known.type, item, child(path, name), out) and good
            continue
        good = False
        usable = (n for n, f in schema.fields.items() if not isinstance(f.type, ServerMade))
        hint = suggestion(name, tuple(usable))
        hints.add(hint)
        message = f"the field {show(name)} is not known"
        out.error("unknown-field", message, child(path, name), hint)
    for name, wanted in schema.fields.items():
        if wanted.required and name not in value:
            good = False
            if _did_you_mean(name) not in hints:
                out.error("missing-field", f"the field {name} is missing", path, wanted.note)
    if good:
        before = out.errors
        for rule in schema.rules:
            rule(value, path, out)
        good = out.errors == before
    return good


def _check_variants(schema: Variants, value: JsonValue, path: str, out: Findings) -> bool:
    if not isinstance(value, dict):
        return _wrong("a mapping", value, path, out)
    if schema.by not in value:
        known = ", ".join(schema.variants)
        out.error("missing-field", f"the field {schema.by} is missing", path, f"one of: {known}")
        return False
    chosen = value[schema.by]
    choice = Choice(tuple(schema.variants), schema.refused)
    if not check(choice, chosen, child(path, schema.by), out):
        return False
    return _check_struct(schema.variants[str(chosen)], value, path, out)


def suggestion(name: str, known: tuple[str, ...]) -> str:
    """`did you mean …?`, or the known names if there are few, or nothing."""
    if len(name) <= 64:
        folded = {k.lower().replace("_", ""): k for k in known}
        close = difflib.get_close_matches(name.lower().replace("_", ""), folded, n=1, cutoff=0.7)
        if close:
            return _did_you_mean(folded[close[0]])
    return f"known here: {', '.join(known)}" if known and len(known) <= 12 else ""


def _did_you_mean(name: str) -> str:
    return f"did you mean {name}?"
