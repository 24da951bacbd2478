"""The strict reader that stands before everything else: text to header, payload and signature.

Only JWS compact serialisation (RFC 7515, section 7.1) is read, each byte of it in the one way that
it can be written. Nothing in a token says which key or which key source verifies it: `jku`, `x5u`,
`jwk` and `x5c` are ignored. No signature is looked at here: see `signature`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limen.core.tokens.algorithms import ALGORITHMS
from limen.core.tokens.encoding import Malformed, decode_base64url, parse_json
from limen.core.tokens.refusal import refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.tokens.algorithms import Algorithm

MAX_TOKEN_CHARS = 16 * 1024
MAX_HEADER_CHARS = 8 * 1024
MAX_SIGNATURE_CHARS = 2 * 1024
MAX_KID_CHARS = 256
MAX_HEADER_DEPTH = 4
MAX_HEADER_ITEMS = 128
MAX_CLAIMS_DEPTH = 16
MAX_CLAIMS_ITEMS = 4096
MAX_CLAIMS = 256
JWE_DOTS = 4
JWS_DOTS = 2


@dataclass(frozen=True, slots=True)
class Jws:
    """A token's parts, read and not verified. `kid` is empty if the header has none."""

    header: Mapping[str, Any]
    alg: str
    kid: str
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    signed: bytes = field(repr=False)
    """What the signature is over."""


def read_compact(token: str | bytes) -> Jws:
    """Read a token's form and header. Raises Untrusted (codes in `refusal`)."""
    header_text, payload_text, signature_text = _split(token)
    header = read_header(header_text)
    payload = _decode(payload_text)
    signature = _decode(signature_text)
    return Jws(
        header,
        header["alg"],
        header.get("kid", ""),
        payload,
        signature,
        f"{header_text}.{payload_text}".encode("ascii"),
    )


def read_header(text: str) -> dict[str, Any]:
    """The header of a token whose first part is `text`. Raises Untrusted."""
    try:
        header = parse_json(_decode(text), max_depth=MAX_HEADER_DEPTH, max_items=MAX_HEADER_ITEMS)
    except Malformed as error:
        raise refuse("header-malformed", f"its header has {_said(error)}") from None
    if not isinstance(header, dict):
        raise refuse("header-malformed", "its header is not an object")
    if "enc" in header:
        raise refuse("token-encrypted", "it is encrypted")
    if "crit" in header:
        raise refuse("header-crit", "it wants an extension that is not understood")
    if header.get("b64", True) is not True:
        raise refuse("header-b64", "its payload is not encoded")
    if "zip" in header:
        raise refuse("header-zip", "it is compressed")
    _check_kid(header)
    _check_alg(header)
    return header


def pinned(jws: Jws, algorithms: frozenset[str]) -> Algorithm:
    """The token's algorithm, if it is one of `algorithms`. Raises Untrusted."""
    if jws.alg not in algorithms or jws.alg not in ALGORITHMS:
        raise refuse("alg-not-pinned", "its alg is not allowed here")
    return ALGORITHMS[jws.alg]


def read_claims(payload: bytes) -> dict[str, Any]:
    """The claims in a payload: a strict JSON object, types not checked yet. Raises Untrusted."""
    try:
        claims = parse_json(payload, max_depth=MAX_CLAIMS_DEPTH, max_items=MAX_CLAIMS_ITEMS)
    except Malformed as error:
        raise refuse("claims-malformed", f"its payload has {_said(error)}") from None
    if not isinstance(claims, dict):
        raise refuse("claims-malformed", "its payload is not an object")
    if len(claims) > MAX_CLAIMS:
        raise refuse("claims-malformed", f"it has more than {MAX_CLAIMS} claims")
    return claims


def _split(token: str | bytes) -> tuple[str, str, str]:
    """Three parts, of which the payload alone may be empty."""
    if len(token) > MAX_TOKEN_CHARS:
        raise refuse("token-too-large", f"it is longer than {MAX_TOKEN_CHARS} characters")
    try:
        text = token.decode("ascii") if isinstance(token, bytes) else token
    except UnicodeDecodeError:
        raise refuse("token-encoding", "it is not ASCII") from None
    dots = text.count(".")
    if dots == JWE_DOTS:
        raise refuse("token-encrypted", "it has the five parts of an encrypted one")
    if dots != JWS_DOTS:
        raise refuse("token-not-compact", "it is not of three parts")
    header, payload, signature = text.split(".")
    if not header:
        raise refuse("token-not-compact", "it has no header")
    if len(header) > MAX_HEADER_CHARS or len(signature) > MAX_SIGNATURE_CHARS:
        raise refuse("token-too-large", "its header or signature is too long")
    return header, payload, signature


def _decode(text: str) -> bytes:
    try:
        return decode_base64url(text)
    except Malformed as error:
        raise refuse("token-encoding", f"a part has {error}") from None


def _check_kid(header: Mapping[str, Any]) -> None:
    kid = header.get("kid", "-")
    if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID_CHARS:
        raise refuse("header-kid", "its kid is not a text of usual length")


def _check_alg(header: Mapping[str, Any]) -> None:
    alg = header.get("alg")
    if not isinstance(alg, str):
        raise refuse("alg-malformed", "it has no alg, or one that is not a text")
    if alg.strip().casefold() == "none":
        raise refuse("alg-none", "it is not signed")


def _said(error: Malformed) -> str:
    return f"a fault: {error}"
