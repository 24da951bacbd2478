"""Attributes that a request lacks: which source is asked what, and what its answer means.

Pure: an evaluation asks `Asking` for values; what is not known yet ends it with `AnswersNeeded`.
Whoever drives it fetches the answers (`adapters/attributes`) and evaluates again. Within one
`Asking` a question has one answer, so both evaluations see the same world.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limen.core.model.attribute_source import (
    AttributeName,
    ClaimsOrigin,
    GivenAttribute,
    LabelsOrigin,
)
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from limen.core.model.attribute_source import AttributeSource

    Value = str | bool | int | float
    Lookup = Callable[[AttributeName], Sequence[Any]]
    """The values of an attribute, of the request or of a source. May raise what follows below."""

MAX_ROUNDS = 8
"""Evaluations of one request that may end for lack of an answer."""
MAX_VALUES = 1_000
MAX_VALUE_CHARS = 64 * 1024
_INTEGER = re.compile(r"[+-]?[0-9]{1,1000}", re.ASCII)


class AnswersNeeded(Exception):
    """The evaluation needs answers first: see `Asking.needed`."""


class AttributeUnavailable(Exception):
    """A source failed or its answer cannot be believed: the whole decision is Indeterminate.

    No algorithm sees it: who can make a source fail would switch off the rules that need it.
    """

    def __init__(self, name: AttributeName, reason: str) -> None:
        super().__init__(reason)
        self.name = name
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Question:
    """A source and the values of its parameters, in their order."""

    source: AttributeSource
    values: tuple[Value, ...] = ()

    def __hash__(self) -> int:
        return hash((self.source.namespace, self.source.name, self.values))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a source said: rows (none: it knows nothing), or why there is no answer."""

    rows: tuple[Mapping[str, Any], ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Borne:
    """What the door knows beside the request: verified claims, registered labels; None: not."""

    claims: Mapping[str, Any] | None = None
    labels: Mapping[str, Any] | None = None


class SourceBook:
    """The sources of one service, by what they give."""

    def __init__(self, sources: Iterable[AttributeSource]) -> None:
        """Raises `InvalidInput`: two sources give one attribute, or they need one another."""
        self.sources = tuple(sources)
        self._by_name: dict[AttributeName, tuple[AttributeSource, GivenAttribute]] = {}
        owners: dict[tuple[str, str], AttributeSource] = {}
        for source in self.sources:
            for given in source.gives:
                other = owners.setdefault((given.attribute.category, given.attribute.id), source)
                if other is not source or given.attribute in self._by_name:
                    raise InvalidInput(
                        f"the sources {other} and {source} both give {given.attribute.id}",
                        code="source-overlap",
                        hint="take the attribute out of one of them",
                    )
                self._by_name[given.attribute] = (source, given)
        self._refuse_circles()

    def giver(self, name: AttributeName) -> tuple[AttributeSource, GivenAttribute] | None:
        """The source of an attribute."""
        return self._by_name.get(name)

    def names(self) -> frozenset[str]:
        """The identifiers of all attributes that are given."""
        return frozenset(name.id for name in self._by_name)

    def pairs(self) -> frozenset[tuple[str, str]]:
        """Category and identifier of all attributes that are given."""
        return frozenset((name.category, name.id) for name in self._by_name)

    def _refuse_circles(self) -> None:
        done: set[str] = set()

        def visit(source: AttributeSource, trail: tuple[str, ...]) -> None:
            if str(source) in trail:
                raise InvalidInput(
                    f"sources need one another: {' -> '.join((*trail, str(source)))}",
                    code="source-circle",
                    hint="ask one of them with what the request has",
                )
            if str(source) in done:
                return
            for parameter in source.parameters:
                other = self._by_name.get(parameter.attribute)
                if other is not None:
                    visit(other[0], (*trail, str(source)))
            done.add(str(source))

        for source in self.sources:
            visit(source, ())


@dataclass(slots=True)
class Asking:
    """One request's view of the sources. `needed` collects what has to be fetched."""

    book: SourceBook
    cached: Callable[[Question], Answer | None]
    borne: Borne = field(default_factory=Borne)
    answers: dict[Question, Answer] = field(default_factory=dict)
    needed: list[Question] = field(default_factory=list)
    given_up: str = ""
    """Why nothing more is fetched; empty: it is."""

    def values(self, name: AttributeName, lookup: Lookup) -> list[str]:
        """The values (texts of the datatype) of an attribute; none: no source gives any.

        Raises `AnswersNeeded`, `AttributeUnavailable`.
        """
        found = self.book.giver(name)
        if found is None:
            return []
        source, given = found
        answer = self._answer(source, name, lookup)
        if answer.failure:
            raise AttributeUnavailable(name, f"source {source}: {answer.failure}")
        try:
            return _values(answer.rows, given)
        except ValueError as error:
            raise AttributeUnavailable(name, f"source {source}: {error}") from None

    def listed(self, part: str, kind: str) -> list[str] | None:
        """The distinct identifiers of a `kind` of things; None: no source lists them.

        Raises `AnswersNeeded`, `AttributeUnavailable`.
        """
        found: list[str] = []
        known = False
        for source in self.book.sources:
            for listing in source.lists:
                if (listing.part, listing.type) != (part, kind):
                    continue
                known = True
                name = AttributeName(part, listing.field)
                answer = self._answer(source, name, lambda _: ())
                if answer.failure:
                    raise AttributeUnavailable(name, f"source {source}: {answer.failure}")
                try:
                    found += _values(answer.rows, GivenAttribute(name, listing.field))
                except ValueError as error:
                    raise AttributeUnavailable(name, f"source {source}: {error}") from None
        return list(dict.fromkeys(found)) if known else None

    def _answer(self, source: AttributeSource, name: AttributeName, lookup: Lookup) -> Answer:
        if isinstance(source.origin, ClaimsOrigin):
            return Answer(() if self.borne.claims is None else (self.borne.claims,))
        if isinstance(source.origin, LabelsOrigin):
            return Answer(() if self.borne.labels is None else (self.borne.labels,))
        values: list[Value] = []
        for parameter in source.parameters:
            bag = lookup(parameter.attribute)
            if not bag:
                return Answer()
            if len(bag) > 1:
                reason = f"source {source}: its parameter {parameter.name} has several values"
                raise AttributeUnavailable(name, reason)
            value = bag[0]
            values.append(value if isinstance(value, bool | int | float) else str(value))
        question = Question(source, tuple(values))
        answer = self.answers.get(question)
        if answer is None:
            answer = self.cached(question)
            if answer is None:
                if self.given_up:
                    raise AttributeUnavailable(name, f"source {source}: {self.given_up}")
                if question not in self.needed:
                    self.needed.append(question)
                raise AnswersNeeded
            self.answers[question] = answer
        return answer


def _values(rows: Sequence[Mapping[str, Any]], given: GivenAttribute) -> list[str]:
    """One bag of all rows. Raises ValueError for a value that is none of the datatype."""
    found: list[str] = []
    for row in rows:
        value = _field(row, given.field)
        items = value if isinstance(value, list) else [value]
        datatype = given.attribute.datatype
        found += [to_text(item, datatype, given.field) for item in items if item is not None]
    if len(found) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values of {given.field}")
    return found


def _field(row: Mapping[str, Any], path: str) -> Any:
    """The field of that name, or at that JSON pointer; None: it is not there."""
    if not path.startswith("/"):
        return row.get(path)
    value: Any = row
    for part in path[1:].split("/"):
        if not isinstance(value, dict):
            return None
        value = value.get(part.replace("~1", "/").replace("~0", "~"))
    return value


def to_text(value: Any, datatype: str, what: str) -> str:
    """`value` (of JSON, or a text) as a text of `datatype`. Raises ValueError if it is none."""
    match value:
        case bool():
            if datatype == "boolean":
                return "true" if value else "false"
        case str():
            if len(value) > MAX_VALUE_CHARS:
                raise ValueError(f"{what} is too long")
            if datatype != "integer" or _INTEGER.fullmatch(value.strip()):
                return value
        case int():
            if datatype in ("integer", "double"):
                return str(value)
            if datatype == "boolean" and value in (0, 1):
                return "true" if value else "false"
        case float():
            if datatype == "double":
                return repr(value)
    raise ValueError(f"{what} is no {datatype}")


def to_value(text: str, datatype: str) -> Value:
    """The value of JSON that a text of `datatype` stands for. Raises ValueError."""
    match datatype:
        case "boolean":
            if text.strip() not in ("true", "false", "1", "0"):
                raise ValueError(f"{text[:40]!r} is no boolean")
            return text.strip() in ("true", "1")
        case "integer":
            return int(text)
        case "double":
            return float(text)
        case _:
            return text
