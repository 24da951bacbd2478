"""What a client sends, read strictly: each parameter known, and once unless it may be repeated."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from limen.services.tokens.replies import OAuthError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTENT_TYPE = "application/x-www-form-urlencoded"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
CLIENT_CREDENTIALS = "client_credentials"
MAX_TOKEN_CHARS = 16 * 1024
MAX_FIELDS = 64
MAX_FIELD_CHARS = 4096
_BROKEN = re.compile(r"%(?![0-9A-Fa-f]{2})")
REPEATED = frozenset(("audience", "resource"))
_TOKENS = frozenset(("subject_token", "actor_token", "token", "client_assertion"))
_CLIENT = frozenset(("client_id", "client_assertion", "client_assertion_type", "client_secret"))
_TARGET = frozenset(("audience", "resource", "scope"))
KNOWN = {
    EXCHANGE: _CLIENT
    | _TARGET
    | {
        "grant_type", "subject_token", "subject_token_type", "actor_token", "actor_token_type",
        "requested_token_type", "subject_issuer", "expires_in", "request_details",
        "request_context",
    },
    CLIENT_CREDENTIALS: _CLIENT | _TARGET | {"grant_type"},
    "token": _CLIENT | {"token", "token_type_hint"},
}  # fmt: skip
"""Parameters by grant, and those of the endpoints that take a token."""


@dataclass(frozen=True, slots=True)
class Form:
    """Parameters with one value, and those that may have several."""

    one: Mapping[str, str] = field(repr=False)
    many: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)

    def need(self, name: str) -> str:
        """A parameter that has to be there. Raises OAuthError."""
        found = self.one.get(name, "")
        if not found:
            raise OAuthError("invalid_request", f"{name} is missing", "missing-parameter")
        return found


def parse_form(content_type: str, body: bytes) -> Form:
    """A request's parameters; an empty one counts as absent (RFC 6749, 3.2). Raises OAuthError."""
    if content_type.partition(";")[0].strip().lower() != CONTENT_TYPE:
        raise OAuthError("invalid_request", f"send {CONTENT_TYPE}", "content-type")
    try:
        pairs = _pairs(body.decode("ascii"))
    except ValueError:
        raise OAuthError("invalid_request", "the body is not a form", "form-malformed") from None
    one: dict[str, str] = {}
    many: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for name, value in pairs:
        if name in seen and name not in REPEATED:
            raise OAuthError("invalid_request", "a parameter is repeated", "repeated-parameter")
        seen.add(name)
        _check_size(name, value)
        if name in REPEATED and value:
            many[name] = (*many.get(name, ()), value)
        elif value:
            one[name] = value
    return Form(one, many)


def _pairs(text: str) -> list[tuple[str, str]]:
    """Names and values in order. Raises ValueError: no `=`, too many, not UTF-8."""
    parts = text.split("&") if text else []
    if len(parts) > MAX_FIELDS:
        raise ValueError(text[:0])
    found = []
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise ValueError(text[:0])
        found.append((_unquoted(name), _unquoted(value)))
    return found


def _unquoted(text: str) -> str:
    """Most are plain: a token needs no escapes. Raises ValueError."""
    if "%" not in text and "+" not in text:
        return text
    if _BROKEN.search(text):
        raise ValueError(text[:0])
    return unquote_plus(text, errors="strict")


def check_known(form: Form, what: str) -> None:
    """Raises OAuthError for a parameter that `what` (a grant or `token`) does not have."""
    known = KNOWN.get(what)
    if known is None:
        raise OAuthError("unsupported_grant_type", "this grant is not given here", "grant-type")
    for name in (*form.one, *form.many):
        if name not in known:
            message = "a parameter is not known" if len(name) > 40 else f"{name!a} is not known"
            raise OAuthError("invalid_request", message, "unknown-parameter")


def _check_size(name: str, value: str) -> None:
    if name in _TOKENS:
        if len(value) > MAX_TOKEN_CHARS:
            code = name.replace("_", "-") if name != "token" else "token"
            message = f"{name} is longer than {MAX_TOKEN_CHARS} characters"
            raise OAuthError("invalid_request", message, f"{code}-too-large")
    elif len(name) + len(value) > MAX_FIELD_CHARS:
        raise OAuthError("invalid_request", "a parameter is too long", "parameter-too-large")
