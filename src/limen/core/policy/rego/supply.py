"""Attributes of declared sources, as a Rego policy sees them: all of them, before it is asked.

Rego cannot ask on its way. What has no value is Indeterminate, unless its source calls it optional:
a policy that says `not` would take its absence for a no.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.core.policy.engine import AccessRequest, HttpRequest
from limen.core.policy.sources import AnswersNeeded, AttributeUnavailable, to_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.model.attribute_source import AttributeName, GivenAttribute
    from limen.core.policy.sources import Asking, Lookup, Value


def supplied(asking: Asking, request: Lookup) -> dict[str, dict[str, list[Value]]]:
    """Category, attribute to values. Raises `AnswersNeeded`, `AttributeUnavailable`."""

    def lookup(name: AttributeName) -> list[Any]:
        return list(request(name)) or _values(asking, name, lookup)

    found: dict[str, dict[str, list[Value]]] = {}
    incomplete = False
    for source in asking.book.sources:
        for given in source.gives:
            try:
                values = _given(asking, given, lookup)
            except AnswersNeeded:
                incomplete = True
            else:
                found.setdefault(given.attribute.category, {})[given.attribute.id] = values
    if incomplete:
        raise AnswersNeeded
    return found


def _given(asking: Asking, given: GivenAttribute, lookup: Lookup) -> list[Value]:
    values = _values(asking, given.attribute, lookup)
    if not values and not given.optional:
        raise AttributeUnavailable(given.attribute, "a source has no value of an attribute")
    return values


def _values(asking: Asking, name: AttributeName, lookup: Lookup) -> list[Value]:
    try:
        return [to_value(text, name.datatype) for text in asking.values(name, lookup)]
    except ValueError as error:
        raise AttributeUnavailable(name, str(error)) from None


def access_request_of(document: Mapping[str, Any]) -> AccessRequest:
    """The request that an input document describes, in either of its two shapes."""
    http = document.get("attributes", {})
    for part in ("request", "http"):
        http = http.get(part) if isinstance(http, dict) else None
    if not isinstance(http, dict):
        parts = [document.get(name) for name in ("subject", "action", "resource", "context")]
        subject, action, resource, context = (p if isinstance(p, dict) else {} for p in parts)
        return AccessRequest(subject, action, resource, context)
    source = document["attributes"].get("source", {})
    principal = source.get("principal", "") if isinstance(source, dict) else ""
    headers = http.get("headers", {})
    held = HttpRequest(
        str(http.get("method", "")),
        str(http.get("path", "")),
        {k: str(v) for k, v in headers.items()} if isinstance(headers, dict) else {},
        source=str(principal),
    )
    return AccessRequest(http=held)
