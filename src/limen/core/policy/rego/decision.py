"""What the value of a decision rule means: a boolean, or the object of OPA's plugin for Envoy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from limen.core.policy.engine import Answer, Duty, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_KNOWN = frozenset(
    {"allowed", "headers", "response_headers_to_add", "request_headers_to_remove"}
    | {"http_status", "body", "reason", "id", "obligations", "advice"}
)
MAX_DUTIES = 100


def verdict_of(value: Any) -> Verdict:
    """The verdict. Whatever is not a clear yes or no is Indeterminate, and says why."""
    if value is True:
        return Verdict(Answer.PERMIT)
    if value is False:
        return Verdict(Answer.DENY, "the policy says no")
    if value is None:
        return Verdict(Answer.INDETERMINATE, "the decision is undefined: give it a default")
    if not isinstance(value, dict) or not isinstance(value.get("allowed"), bool):
        message = "the decision is neither a boolean nor has `allowed`"
        return Verdict(Answer.INDETERMINATE, message)
    try:
        return _of_object(value)
    except ValueError as error:
        return Verdict(Answer.INDETERMINATE, str(error))


def _of_object(value: Mapping[str, Any]) -> Verdict:
    unknown = sorted(set(value) - _KNOWN)
    if unknown:
        raise ValueError(f"{unknown[0]} of a decision is not supported")
    allowed = value["allowed"]
    status = value.get("http_status", 403)
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError("http_status is no status")
    if not allowed and status < 400:
        raise ValueError("http_status of a refusal is 400 to 599")
    removed = value.get("request_headers_to_remove", [])
    if not isinstance(removed, list) or not all(isinstance(name, str) for name in removed):
        raise ValueError("request_headers_to_remove is not a list of names")
    return Verdict(
        Answer.PERMIT if allowed else Answer.DENY,
        str(value.get("reason", "")),
        (*_duties(value, "obligations", advice=False), *_duties(value, "advice", advice=True)),
        headers=_headers(value, "headers"),
        response_headers=_headers(value, "response_headers_to_add") if allowed else {},
        removed=tuple(removed) if allowed else (),
        status=status,
        body=str(value.get("body", "")),
    )


def _duties(value: Mapping[str, Any], name: str, *, advice: bool) -> Iterator[Duty]:
    """`{"id": ..., "attributes": {...}}`, as XACML's: attributes are texts, or lists of them."""
    found = value.get(name, [])
    if not isinstance(found, list | set | frozenset) or len(found) > MAX_DUTIES:
        raise ValueError(f"{name} is not a list")
    for item in found:
        if not isinstance(item, dict) or not set(item) <= {"id", "attributes"}:
            raise ValueError(f"{name} holds something other than id and attributes")
        attributes = item.get("attributes", {})
        if not isinstance(item.get("id"), str) or not isinstance(attributes, dict):
            raise ValueError(f"{name} holds something other than id and attributes")  # noqa: TRY004 - a policy's value
        yield Duty(item["id"], {str(k): _texts(v) for k, v in attributes.items()}, advice)


def _texts(value: Any) -> str | list[str]:
    """Text, or several; numbers and booleans as JSON writes them."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return [str(_texts(item)) for item in value]
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise ValueError("an attribute of a duty is neither text, number nor boolean")


def _headers(value: Mapping[str, Any], name: str) -> dict[str, str]:
    """Header to value; several values are joined as HTTP joins them."""
    found = value.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{name} is not an object")  # noqa: TRY004 - a policy's value
    joined: dict[str, str] = {}
    for header, given in found.items():
        values = given if isinstance(given, list) else [given]
        if not isinstance(header, str) or not all(isinstance(v, str) for v in values):
            raise ValueError(f"{name} holds something other than text")
        joined[header.lower()] = ", ".join(values)
    return joined
