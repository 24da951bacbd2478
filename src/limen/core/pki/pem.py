"""PEM text to DER and back, strictly: nothing around the blocks, nothing unknown inside.

`cryptography` skips what it does not know between blocks; a reader that skips lets the text say one
thing to a person and another to a program.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PEM_BYTES = 256 * 1024
CERTIFICATE = "CERTIFICATE"
_BLOCK = re.compile(
    r"-----BEGIN ([A-Z0-9 ]{1,40})-----[ \t]*\r?\n([A-Za-z0-9+/=\r\n \t]*?)-----END \1-----\s*",
    re.ASCII,
)


def to_pem(label: str, der: bytes) -> str:
    """One PEM block (RFC 7468), newline at the end."""
    body = base64.b64encode(der).decode("ascii")
    lines = "\n".join(body[i : i + 64] for i in range(0, len(body), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"


def certificates_to_pem(ders: Iterable[bytes]) -> str:
    """Certificates one after another, in the given order."""
    return "".join(to_pem(CERTIFICATE, der) for der in ders)


def parse_pem(
    text: str, labels: frozenset[str], what: str, max_bytes: int = MAX_PEM_BYTES
) -> tuple[bytes, ...]:
    """DER of every block, in order; at least one.

    Raises InvalidInput (`invalid-pem`) on anything else: other labels, text around the blocks, bad
    base64, too long.
    """
    if len(text) > max_bytes:
        raise _invalid(what, f"is longer than {max_bytes} bytes")
    ders, position, stripped = [], 0, text.strip()
    while position < len(stripped):
        block = _BLOCK.match(stripped, position)
        if block is None:
            raise _invalid(what, "is not PEM, or has text around its blocks")
        if block[1] not in labels:
            raise _invalid(what, f"has a block {block[1]!a}")
        ders.append(_decode(block[2], what))
        position = block.end()
    if not ders:
        raise _invalid(what, "is empty")
    return tuple(ders)


def parse_certificates(text: str, what: str = "certificate") -> tuple[bytes, ...]:
    """DER of every certificate in `text`, in order. Raises InvalidInput (`invalid-pem`)."""
    return parse_pem(text, frozenset({CERTIFICATE}), what)


def _decode(body: str, what: str) -> bytes:
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _invalid(what, "has bad base64") from None


def _invalid(what: str, problem: str) -> InvalidInput:
    return InvalidInput(
        f"the {what} {problem}", code="invalid-pem", hint="send PEM blocks and nothing else"
    )
