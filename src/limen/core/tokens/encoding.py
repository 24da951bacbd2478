"""Strict base64url and strict JSON, as tokens and key sets use them.

Base64url: RFC 7515, section 2 (no padding, no other characters), and RFC 4648, section 3.5 (unused
bits are zero): one text for one value. JSON: RFC 8259 in UTF-8, with RFC 7493's (I-JSON) rules that
every reader can keep: no duplicate names, no lone surrogates; and nothing that is not JSON.
"""

from __future__ import annotations

import base64
import json
import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_INTEGER = 2**63 - 1
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_LEXEMES = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]|[,:]', re.DOTALL)
"""Linear: a string that does not end is one lexeme up to the end of the text."""
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_OPENING = frozenset((b"[", b"{"))
_CLOSING = frozenset((b"]", b"}"))


class Malformed(ValueError):
    """Not base64url, or not strict JSON. The message says what is wrong and repeats no value."""


def decode_base64url(text: str) -> bytes:
    """The bytes of a canonical base64url text. Raises Malformed."""
    if not _BASE64URL.fullmatch(text):
        raise Malformed("a character that is not in the base64url alphabet")
    if len(text) % 4 == 1:
        raise Malformed("a length that base64url cannot have")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_base64url(data) != text:
        raise Malformed("unused bits are not zero")
    return data


def encode_base64url(data: bytes) -> str:
    """The only text that `decode_base64url` reads as `data`."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def parse_json(raw: bytes, *, max_depth: int, max_items: int) -> Any:
    """The value of a strict JSON text.

    `max_depth` bounds nesting (a bare value has depth 0), `max_items` the separators (`,` and `:`),
    so names and values. Integers fit 64 bits, other numbers are finite. Raises Malformed.
    """
    _check_shape(raw, max_depth, max_items)
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=_bounded_int,
            parse_float=_finite_float,
        )
    except Malformed:
        raise
    except UnicodeDecodeError:
        raise Malformed("not UTF-8") from None
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None
    if _ESCAPED_SURROGATE.search(raw):
        _refuse_lone_surrogates(value)
    return value


def _check_shape(raw: bytes, max_depth: int, max_items: int) -> None:
    """Bound the work before a parser sees the text. Strings are skipped."""
    depth = items = 0
    for found in _LEXEMES.finditer(raw):
        lexeme = found[0]
        if lexeme in _OPENING:
            depth += 1
            if depth > max_depth:
                raise Malformed(f"nested deeper than {max_depth}")
        elif lexeme in _CLOSING:
            depth -= 1
        elif len(lexeme) == 1:
            items += 1
            if items > max_items:
                raise Malformed(f"more than {max_items} names and values")


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a name occurs twice in one object")
    return found


def _refuse_constant(_name: str) -> NoReturn:
    raise Malformed("NaN and Infinity are not JSON")


def _bounded_int(digits: str) -> int:
    if len(digits) > len(str(-MAX_INTEGER)) or abs(value := int(digits)) > MAX_INTEGER:
        raise Malformed("an integer beyond 64 bits")
    return value


def _finite_float(digits: str) -> float:
    if len(digits) > 64 or not math.isfinite(value := float(digits)):
        raise Malformed("a number that is not finite")
    return value


def _refuse_lone_surrogates(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise Malformed("half of a surrogate pair") from None
