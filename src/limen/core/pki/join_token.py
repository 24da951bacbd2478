"""Join tokens as text, and the pinned first contact with the server that they allow.

A token is `limen1.` and the base64url (no padding) of the JSON object
`{"s": server URL, "f": SHA-256 of the control root's DER in hex, "i": token id, "k": secret}`.
Whoever holds it may become one node, once. There is no way to skip the check of the server: the
agent fetches the chain, calls `verify_pinned_chain`, and trusts from then on that root only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from limen.core.pki.chain import verify_server_chain
from limen.errors import InvalidInput, Untrusted

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX = "limen1."
MAX_TOKEN_CHARS = 2048
_FIELDS = frozenset({"s", "f", "i", "k"})
_FINGERPRINT = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ID = re.compile(r"[a-z0-9]{8,64}", re.ASCII)
_SECRET = re.compile(r"[A-Za-z0-9_-]{22,128}", re.ASCII)
_URL_CHARACTERS = re.compile(r"[A-Za-z0-9.:\[\]/_-]{1,512}", re.ASCII)


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A join token's parts. The secret is left out of `repr`."""

    server: str
    fingerprint: str
    token_id: str
    secret: str = field(repr=False)

    @property
    def host(self) -> str:
        """The server's host name or address, without port and brackets."""
        return urlsplit(self.server).hostname or ""

    @property
    def port(self) -> int:
        """The server's API port."""
        return urlsplit(self.server).port or 443


def format_join_token(token: JoinToken) -> str:
    """The text that `parse_join_token` reads back."""
    body = {"s": token.server, "f": token.fingerprint, "i": token.token_id, "k": token.secret}
    raw = json.dumps(body, separators=(",", ":"), sort_keys=True).encode("ascii")
    return PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def parse_join_token(text: str) -> JoinToken:
    """Read a token. Raises InvalidInput (`invalid-join-token`); the message never repeats it."""
    text = text.strip()
    if len(text) > MAX_TOKEN_CHARS:
        raise _invalid("it is too long")
    if not text.startswith(PREFIX):
        raise _invalid(f"it does not start with {PREFIX}")
    fields = _decode(text.removeprefix(PREFIX))
    if fields.keys() != _FIELDS:
        raise _invalid("its fields are not s, f, i, k")
    for name, shape in (("f", _FINGERPRINT), ("i", _ID), ("k", _SECRET), ("s", _URL_CHARACTERS)):
        if not shape.fullmatch(fields[name]):
            raise _invalid(f"its field {name} is malformed")
    _check_server(fields["s"])
    return JoinToken(fields["s"], fields["f"], fields["i"], fields["k"])


def fingerprint_of(certificate_der: bytes) -> str:
    """SHA-256 of a certificate's DER, lower-case hex: field `f`."""
    return hashlib.sha256(certificate_der).hexdigest()


def verify_pinned_chain(
    chain_der: Sequence[bytes], fingerprint: str, host: str, at_s: float
) -> bytes:
    """The control root (DER) if the server that sent `chain_der` is the one the token names.

    `chain_der` is what the TLS server sent, leaf first, root included; `host` is `JoinToken.host`;
    `at_s` seconds since 1970. The root must have the pinned fingerprint, and the chain must lead to
    it, be valid at `at_s`, and its leaf be a server's certificate for `host`. Raises Untrusted.
    """
    wanted = fingerprint.lower().encode("ascii", "replace")
    for der in chain_der:
        if hmac.compare_digest(fingerprint_of(der).encode("ascii"), wanted):
            verify_server_chain(chain_der, (der,), host, at_s)
            return der
    raise Untrusted(
        "the server does not show the authority that the join token names",
        code="pin-mismatch",
        hint="the address leads to another server, somebody is in between, or the token is of an "
        "older installation: make a new token with `limen token create`",
    )


def _decode(encoded: str) -> dict[str, str]:
    try:
        padded = encoded + "=" * (-len(encoded) % 4)
        raw = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
        value = json.loads(raw.decode("ascii"), object_pairs_hook=_without_duplicates)
    except (ValueError, binascii.Error, RecursionError):
        raise _invalid("it cannot be decoded") from None
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise _invalid("it is not an object of texts")
    return value


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError
    return fields


def _check_server(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme == "https" and parts.hostname and parts.path in {"", "/"}
        _ = parts.port
    except ValueError:
        valid = False
    if not valid:
        raise _invalid("its server is not an https URL without path")


def _invalid(problem: str) -> InvalidInput:
    return InvalidInput(
        f"this is not a join token: {problem}",
        code="invalid-join-token",
        hint="copy the whole line that `limen token create` printed",
    )
