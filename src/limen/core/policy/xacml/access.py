"""The XACML engine behind the interface of all engines: AuthZEN's four parts as attributes.

`subject.id`, `action.name` and `resource.id` are `subject-id`, `action-id` and `resource-id` of the
core standard. A property `p` is the attribute `p` of its category; `context` is the environment.
What a proxy saw of an HTTP request are attributes whose names begin with `urn:limen:http:`; the
claims of the token that it verified are the subject's, `urn:limen:claim:` and their names.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from limen.core.policy.engine import AccessRequest, Answer, Duty, HttpRequest, Verdict
from limen.core.policy.xacml import names
from limen.core.policy.xacml.request import Attribute, Attributes, AttributeValue, XacmlRequest
from limen.core.policy.xacml.supply import (
    ACTION_ID,
    RESOURCE_ID,
    SUBJECT_ID,
    TYPE,
    SourceFinder,
)

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping

    from limen.core.policy.sources import Asking, SourceBook
    from limen.core.policy.xacml.context import Finder
    from limen.core.policy.xacml.decision import Obligation
    from limen.core.policy.xacml.engine import Engine
    from limen.core.policy.xacml.request import Result
    from limen.core.policy.xacml.trace import TraceNode

HTTP = "urn:limen:http:"
CLAIM = "urn:limen:claim:"


class XacmlPolicyEngine:
    """An engine of `load_policies` that answers requests of any enforcement point."""

    language = "xacml"

    def __init__(self, engine: Engine, book: SourceBook | None = None) -> None:
        self.engine = engine
        self._sources = None if book is None else SourceFinder(book)

    def finder(self, asking: Asking | None) -> Finder | None:
        """What finds attributes that a request lacks."""
        if asking is None or self._sources is None:
            return None
        return self._sources.finder(asking)

    def judge(
        self, request: AccessRequest, now: dt.datetime, asking: Asking | None = None
    ) -> Verdict:
        """The verdict on `request` at `now`. Raises `AnswersNeeded`."""
        try:
            asked = _xacml(request)
        except ValueError as error:
            return Verdict(Answer.INDETERMINATE, str(error))
        (result,) = self.engine.evaluate(asked, now, self.finder(asking)).results
        return _verdict(result)

    def explain(
        self, request: AccessRequest, now: dt.datetime
    ) -> tuple[Verdict, tuple[TraceNode, ...]]:
        """The verdict without sources, and how it came about."""
        try:
            asked = _xacml(request)
        except ValueError as error:
            return Verdict(Answer.INDETERMINATE, str(error)), ()
        response, traces = self.engine.explain(asked, now)
        return _verdict(response.results[0]), traces


def _xacml(request: AccessRequest) -> XacmlRequest:
    subject = [*_one(SUBJECT_ID, request.subject.get("id")), *_typed(request.subject)]
    resource = [*_one(RESOURCE_ID, request.resource.get("id")), *_typed(request.resource)]
    action = [
        *_one(ACTION_ID, request.action.get("name")),
        *_properties(request.action.get("properties")),
    ]
    environment = list(_properties(request.context))
    if request.http is not None:
        subject += [*_one(SUBJECT_ID, request.http.source or None), *_claims(request.http)]
        action += _one(ACTION_ID, request.http.method)
        resource += _seen(request.http)
        for name, value in request.http.headers.items():
            environment += _one(f"{HTTP}header:{name}", value)
    return XacmlRequest(
        (
            Attributes(names.ACCESS_SUBJECT, tuple(subject)),
            Attributes(names.RESOURCE, tuple(resource)),
            Attributes(names.ACTION, tuple(action)),
            Attributes(names.ENVIRONMENT, tuple(environment)),
        )
    )


def _claims(http: HttpRequest) -> Iterator[Attribute]:
    """Of the verified token. One that is neither a value nor a list of values is no attribute."""
    for name, value in (http.claims or {}).items():
        values = value if isinstance(value, list) else [value]
        if all(isinstance(v, str | bool | int | float) for v in values):
            yield from _one(f"{CLAIM}{name}", value)


def _seen(http: HttpRequest) -> Iterator[Attribute]:
    """Attributes of the resource: the path without its query is its identifier."""
    path, _, query = http.path.partition("?")  # not urlsplit: it takes //a/b for a host and a path
    yield from _one(RESOURCE_ID, path)
    yield from _one(f"{HTTP}host", http.host)
    values: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, max_num_fields=1_000):
        values.setdefault(name, []).append(value)
    for name, found in values.items():
        yield from _one(f"{HTTP}query:{name}", found)


def _typed(entity: Mapping[str, Any]) -> Iterator[Attribute]:
    yield from _one(TYPE, entity.get("type"))
    yield from _properties(entity.get("properties"))


def _properties(properties: Any) -> Iterator[Attribute]:
    if properties is None:
        return
    if not isinstance(properties, dict):
        raise ValueError("properties are an object")  # noqa: TRY004 - text from outside
    for name, value in properties.items():
        yield from _one(name, value)


def _one(name: str, value: Any) -> list[Attribute]:
    """The attribute `name`; none for null and for an empty list."""
    if type(value) is str:  # most are
        return [Attribute(name, (AttributeValue(value),))]
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [Attribute(name, tuple(_value(name, v) for v in values))] if values else []


def _value(name: str, value: Any) -> AttributeValue:
    match value:
        case bool():
            return AttributeValue("true" if value else "false", names.BOOLEAN)
        case str():
            return AttributeValue(value)
        case int():
            return AttributeValue(str(value), names.INTEGER)
        case float() if math.isfinite(value):
            return AttributeValue(repr(value), names.DOUBLE)
        case _:
            raise ValueError(f"{name} is neither text, number nor boolean, nor a list of them")


def _verdict(result: Result) -> Verdict:
    missing = "".join(f"; missing: {attribute.attribute_id}" for attribute in result.status.missing)
    reason = f"{result.status.message}{missing}"
    duties = tuple(_duty(obligation) for obligation in result.obligations)
    return Verdict(Answer(result.decision.value), reason, duties)


def _duty(obligation: Obligation) -> Duty:
    """Values of one attribute are one text, or a list if there are several."""
    found: dict[str, list[str]] = {}
    for assignment in obligation.assignments:
        found.setdefault(assignment.attribute_id, []).append(assignment.value)
    attributes = {name: v[0] if len(v) == 1 else v for name, v in found.items()}
    return Duty(obligation.id, attributes, obligation.advice)
