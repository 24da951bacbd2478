r"""Regular expressions (RE2) for what no plain comparison can say. All match whole texts.

RE2 reads UTF-8: `.` and `[^/]` do not match a byte that is no UTF-8, `\C` matches any. Where such
bytes can occur (headers) only `\C` is used, or a denial would miss them (CVE-2026-73552). Paths
are ASCII when rules see them (normalisation encodes the rest), and so are names in certificates.
"""

from __future__ import annotations

import re
from typing import assert_never

from limen.core.policy.match import How, StringMatch

ANY = r"\C*"
SOME = r"\C+"
_SEGMENT = "[^/]"
_OPERATORS = {"{*}": f"{_SEGMENT}+", "{**}": ANY}


def quoted(text: str, *, fold: bool = False) -> str:
    """An expression for exactly `text`; `fold`: its ASCII letters in either case."""
    if not fold:
        return re.escape(text)
    return "".join(
        f"[{c.lower()}{c.upper()}]" if c.isascii() and c.isalpha() else re.escape(c) for c in text
    )


def segment(match: StringMatch) -> str | None:
    """An expression for a text without `/` that is not empty; None if none can match."""
    if match.how is not How.PRESENT and "/" in match.value:
        return None
    exact = quoted(match.value, fold=match.ignore_case)
    match match.how:
        case How.EXACT | How.PATH_PREFIX:
            return exact or None
        case How.PREFIX:
            return f"{exact}{_SEGMENT}{'*' if exact else '+'}"
        case How.SUFFIX:
            return f"{_SEGMENT}{'*' if exact else '+'}{exact}"
        case How.PRESENT:
            return f"{_SEGMENT}+"
    assert_never(match.how)


def identity_in_namespace(match: StringMatch) -> str | None:
    """`spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT` with a matching namespace, nothing around it."""
    namespace = segment(match)
    if namespace is None:
        return None
    return f"spiffe://{_SEGMENT}+/ns/{namespace}/sa/{_SEGMENT}+"


def path_of_template(template: str) -> str:
    """`{*}`: one segment, `{**}`: anything. Both take `*` (Envoy's own do not: CVE-2025-46821)."""
    parts = re.split(r"(\{\*\*?\})", template)
    return "".join(_OPERATORS.get(part) or quoted(part) for part in parts)


def authority(match: StringMatch, port: int | None) -> str | None:
    """An authority that matches as written or without its port, whatever the case of its letters.

    `port` is the one that is left out; None: any. None is returned if nothing can match.
    """
    if match.how is How.PRESENT:
        return SOME
    value = match.value.lower() if match.ignore_case else match.value
    if value != value.lower():
        return None  # compared with a text in lower case
    exact = quoted(value, fold=True)
    with_port = f":{'[0-9]*' if port is None else port}"
    whole = f"{exact}(?:{with_port})?" if value else with_port
    match match.how:
        case How.EXACT:
            return whole
        case How.PREFIX:
            return f"{exact}{ANY if value else SOME}"
        case How.SUFFIX:
            return f"{ANY}{whole}" if value else SOME
        case How.PATH_PREFIX:
            return f"(?:{whole}|{quoted(value.rstrip('/'), fold=True)}/{ANY})"
    assert_never(match.how)
