"""Paths that routes compare, and those that they put in their place.

Source: RFC 3986 section 3.3; gateway-api `apis/v1/httproute_types.go` HTTPPathMatch; Envoy's
normalisation as the proxies are configured (`istio_patterns`).
"""

from __future__ import annotations

import re

from limen.core.dialects.document import show
from limen.core.dialects.istio_patterns import check_spelling
from limen.core.dialects.schema import Text
from limen.errors import InvalidInput

MAX_PATH = 1024
_PATH = re.compile(r"(?:[A-Za-z0-9/._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})+", re.ASCII)
_DOTS = re.compile(r"/\.\.?(?:/|$)")


def _bad(text: str, what: str, hint: str) -> InvalidInput:
    return InvalidInput(f"{show(text, 120)} {what}", code="bad-value", hint=hint)


def check_path(text: str) -> None:
    """A path, or the beginning of one, as requests have it after normalisation."""
    if not text.startswith("/"):
        raise _bad(text, "never matches: a path begins with /", "begin it with /")
    check_spelling(text, text)
    if not _PATH.fullmatch(text):
        raise _bad(text, "never matches: a path has no such characters", "write them as %XX")


def check_whole_path(text: str) -> None:
    """A path that is compared exactly."""
    check_path(text)
    if _DOTS.search(text):
        raise _bad(text, "never matches: dot segments are resolved", "write the path without them")


def check_new_path(text: str) -> None:
    """A path that a request or a Location gets."""
    if not text.startswith("/") or not _PATH.fullmatch(text):
        raise _bad(text, "is not a path", "begin it with /, without query; other characters as %XX")
    if "//" in text or _DOTS.search(text):
        raise _bad(text, "has empty or dot segments", "write the path that is meant")


def check_new_prefix(text: str) -> None:
    """The beginning of a path that a request gets, or nothing."""
    if text:
        check_new_path(text)


def check_substitution(text: str, captures: int) -> None:
    r"""What a regular expression puts in: `\1` to `\9` for its groups, `\\` for a backslash."""
    for found in re.finditer(r"\\(.?)", text, re.DOTALL):
        if found[1] != "\\" and not (found[1].isdigit() and int(found[1]) <= captures):
            hint = f"the expression has {captures} groups; \\\\ means a backslash"
            raise _bad(text, "refers to a group that the expression does not have", hint)
    if not _PATH.fullmatch(re.sub(r"\\[\\0-9]", "", text) or "/"):
        raise _bad(text, "is not a part of a path", "no query; other characters as %XX")


PATH = Text("a path", max_length=MAX_PATH, parse=check_whole_path)
PREFIX = Text("the beginning of a path", max_length=MAX_PATH, parse=check_path)
NEW_PATH = Text("a path", max_length=MAX_PATH, parse=check_new_path)
NEW_PREFIX = Text(
    "the beginning of a path", min_length=0, max_length=MAX_PATH, parse=check_new_prefix
)
