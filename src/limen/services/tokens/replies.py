"""Answers of the token service, and its errors in one table (RFC 6749, section 5.2; RFC 8693)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_WRITER = json.JSONEncoder(separators=(",", ":"))
STATUS = {
    "invalid_client": 401,
    "request_too_large": 413,
    "too_many_requests": 429,
    "server_error": 500,
    "temporarily_unavailable": 503,
}
"""All others are 400."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One HTTP request. `path` has its query."""

    method: str
    path: str
    content_type: str = ""
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """A status and a JSON body (already written), or none."""

    status: int
    body: bytes = field(default=b"", repr=False)
    content_type: str = "application/json"


class OAuthError(Exception):
    """What a client is told. `error` is the protocol's word, `code` says exactly which defect.

    Neither holds anything of a token.
    """

    def __init__(self, error: str, description: str, code: str = "") -> None:
        super().__init__(description)
        self.error = error
        self.description = description
        self.code = code or error

    def reply(self) -> Reply:
        """As HTTP."""
        body = {"error": self.error, "error_description": self.description, "code": self.code}
        return json_reply(body, STATUS.get(self.error, 400))


def json_reply(value: Mapping[str, Any], status: int = 200) -> Reply:
    """An answer in JSON."""
    return Reply(status, _WRITER.encode(value).encode())
