"""What a door takes and gives, whatever its protocol: a request and a reply, as values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limen.core.policy.xacml.json_request import parse_json
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class DoorRequest:
    """An HTTP request. Header names are in lower case; `path` has its query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class DoorReply:
    """An HTTP response."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def json_reply(data: Any, status: int = 200) -> DoorReply:
    """A reply with a JSON document."""
    body = json.dumps(data, ensure_ascii=False).encode("utf-8", "replace")
    return DoorReply(status, body, {"content-type": "application/json"})


def json_body(request: DoorRequest) -> dict[str, Any]:
    """The object in the body. Raises `InvalidInput`: not JSON, duplicate members, no object."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise InvalidInput("the body is not application/json", code="not-json")
    found = parse_json(request.body)
    if not isinstance(found, dict):
        raise InvalidInput("the body is not a JSON object", code="not-json")
    return found
