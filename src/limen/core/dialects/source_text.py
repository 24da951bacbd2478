"""Placeholders in the queries and addresses of attribute sources: where they stand, and may not."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from limen.errors import InvalidInput

_SQL = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|::|:([A-Za-z_][A-Za-z0-9_]{0,62})|;""",
    re.DOTALL | re.ASCII,
)
_BRACES = re.compile(r"\{([^{}]*)\}")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
_ODD = ("'", '"', "/*")


def placeholders_of_query(query: str) -> set[str]:
    """The names behind `:`. Raises ValueError for a query that is not one SELECT."""
    found = set()
    for token in _SQL.finditer(query):
        if token[0] == ";" and query[token.end() :].strip():
            raise ValueError("the query is more than one statement")
        if token[1]:
            found.add(token[1])
    bare = _SQL.sub(" ", query).lstrip()
    if not bare.lower().startswith(("select", "with", "values")):
        raise ValueError("the query is no SELECT")
    if any(sign in bare for sign in _ODD) or "$" in bare or "?" in bare or "@" in bare:
        raise ValueError("a quote that does not end, or a sign ($ ? @) that means another thing")
    return found


def bind_query(query: str) -> tuple[str, tuple[str, ...]]:
    """The query with `%s` for every placeholder, and the names in that order."""
    names: list[str] = []

    def put(token: re.Match[str]) -> str:
        if token[1]:
            names.append(token[1])
            return "%s"
        return "" if token[0] == ";" else token[0].replace("%", "%%")

    parts, at = [], 0
    for token in _SQL.finditer(query):
        parts += [query[at : token.start()].replace("%", "%%"), put(token)]
        at = token.end()
    return "".join([*parts, query[at:].replace("%", "%%")]), tuple(names)


def placeholders_of_url(url: str) -> set[str]:
    """The names in braces. Raises ValueError for one that stands in the host, or is no name."""
    found = _BRACES.findall(url)
    if any(not _WORD.fullmatch(name) for name in found):
        raise ValueError("a placeholder is {name}")
    path = _BRACES.sub("x", url)
    if "{" in path or "}" in path:
        raise ValueError("a brace without the other")
    head = url.split("://", 1)[1].partition("/")[0] if "://" in url else url
    if "{" in head:
        raise ValueError("the host of an address is fixed")
    return set(found)


def check_url(url: str) -> None:
    """Raises InvalidInput unless it is `https://`, or `http://` of loopback."""
    try:
        parts = urlsplit(_BRACES.sub("x", url))
        good = parts.port is None or parts.port > 0
    except ValueError:
        parts, good = urlsplit(""), False
    good = good and (
        parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))
    )
    if not good or not parts.hostname or parts.username is not None or parts.fragment:
        raise InvalidInput(
            "a source is asked at https://HOST/PATH, or at http:// of a loopback address",
            code="bad-value",
            hint="write https, without user, password or fragment",
        )


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
