"""What of a request the parameters of a source can be: the attributes that every language has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limen.core.model.attribute_source import AttributeName
    from limen.core.policy.engine import AccessRequest, HttpRequest

_HEADER = "urn:limen:http:header:"
_OWN = frozenset(
    {("subject", "id"), ("subject", "type"), ("resource", "id"), ("resource", "type")}
    | {("action", "name")}
)
_PLAIN = {"boolean": bool, "integer": int, "double": float, "string": str}


def values_in(request: AccessRequest, name: AttributeName) -> list[Any]:
    """The values of an attribute of the request; values of another datatype are not there."""
    found = _found(request, name.category, name.id)
    values = found if isinstance(found, list) else [] if found is None else [found]
    wanted = _PLAIN.get(name.datatype, str)
    return [v for v in values if type(v) is wanted or (wanted is float and type(v) is int)]


def _found(request: AccessRequest, category: str, name: str) -> Any:
    if request.http is not None and (found := _held(request.http, category, name)) is not None:
        return found
    if category == "environment":
        return request.context.get(name)
    parts = {"subject": request.subject, "resource": request.resource, "action": request.action}
    part = parts.get(category)
    if part is None:
        return None
    if (category, name) in _OWN:
        return part.get(name)
    properties = part.get("properties")
    return properties.get(name) if isinstance(properties, dict) else None


def _held(http: HttpRequest, category: str, name: str) -> str | None:
    """What a proxy saw; None: no such thing."""
    match category, name:
        case "subject", "id":
            return http.source or None
        case "resource", "id":
            return http.path.partition("?")[0]
        case "action", "name":
            return http.method
        case "environment", _ if name.startswith(_HEADER):
            return http.headers.get(name.removeprefix(_HEADER))
    return None
