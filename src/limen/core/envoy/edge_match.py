r"""Matches, path changes and header changes of routes at the edge.

Texts of documents are literal: `%` in a header's value and `\` in a substitution are escaped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, assert_never

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from limen.core.envoy.expressions import ANY, quoted
from limen.core.envoy.wrapped import false
from limen.core.model.route import PathChangeKind, PathKind, ValueKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.model.route import (
        HeaderChange,
        HttpMatch,
        NamedMatch,
        PathChange,
        PathMatch,
        ValueMatch,
    )

_PORT = "(?::[0-9]+)?"


def to_route_match(match: HttpMatch | None) -> route_pb2.RouteMatch:
    """All that is given must hold; None: everything."""
    if match is None:
        return route_pb2.RouteMatch(prefix="/")
    found = _path(match.path)
    if match.method is not None:
        found.headers.append(_header(":method", match.method))
    if match.authority is not None:
        authority = _regex(_authority(match.authority))
        found.headers.append(route_pb2.HeaderMatcher(name=":authority", string_match=authority))
    found.headers.extend(
        _header(named.name, named.match, negated=named.negated) for named in match.headers
    )
    found.query_parameters.extend(_query(named) for named in match.query)
    return found


def _path(path: PathMatch | None) -> route_pb2.RouteMatch:
    if path is None:
        return route_pb2.RouteMatch(prefix="/")
    sensitive = false() if path.ignore_case else None
    match path.kind:
        case PathKind.EXACT:
            return route_pb2.RouteMatch(path=path.text, case_sensitive=sensitive)
        case PathKind.PREFIX:
            return route_pb2.RouteMatch(prefix=path.text, case_sensitive=sensitive)
        case PathKind.SEGMENTS if path.text == "/":
            return route_pb2.RouteMatch(prefix="/")
        case PathKind.SEGMENTS:
            return route_pb2.RouteMatch(path_separated_prefix=path.text, case_sensitive=sensitive)
        case PathKind.REGEX:
            return route_pb2.RouteMatch(safe_regex=regex_pb2.RegexMatcher(regex=path.text))
    assert_never(path.kind)


def _header(name: str, match: ValueMatch, *, negated: bool = False) -> route_pb2.HeaderMatcher:
    """Repeated values are compared joined with a comma.

    Negated, an absent header counts as an empty one: otherwise it would match nothing, inverted or
    not.
    """
    if match.kind is ValueKind.PRESENT:
        return route_pb2.HeaderMatcher(name=name, present_match=True, invert_match=negated)
    return route_pb2.HeaderMatcher(
        name=name,
        string_match=_value(match),
        invert_match=negated,
        treat_missing_header_as_empty=negated,
    )


def _query(named: NamedMatch) -> route_pb2.QueryParameterMatcher:
    if named.match.kind is ValueKind.PRESENT:
        return route_pb2.QueryParameterMatcher(name=named.name, present_match=True)
    return route_pb2.QueryParameterMatcher(name=named.name, string_match=_value(named.match))


def _authority(match: ValueMatch) -> str:
    """Whatever the case of its letters, with any port or without."""
    match match.kind:
        case ValueKind.EXACT:
            return quoted(match.text, fold=True) + _PORT
        case ValueKind.PREFIX:
            return quoted(match.text, fold=True) + ANY
        case ValueKind.REGEX:
            return f"(?i:(?:{match.text}){_PORT})"
        case ValueKind.PRESENT:
            return ANY
    assert_never(match.kind)


def to_string_matcher(match: ValueMatch) -> string_pb2.StringMatcher:
    """A comparison with one text."""
    return _value(match)


def _value(match: ValueMatch) -> string_pb2.StringMatcher:
    match match.kind:
        case ValueKind.EXACT:
            return string_pb2.StringMatcher(exact=match.text)
        case ValueKind.PREFIX:
            return string_pb2.StringMatcher(prefix=match.text) if match.text else _regex(ANY)
        case ValueKind.REGEX:
            return _regex(match.text)
        case ValueKind.PRESENT:
            return _regex(ANY)
    assert_never(match.kind)


def _regex(text: str) -> string_pb2.StringMatcher:
    return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=text))


class PathFields(TypedDict, total=False):
    """How a route or a redirect changes the path: one of these, or nothing."""

    prefix_rewrite: str
    regex_rewrite: regex_pb2.RegexMatchAndSubstitute


def path_fields(change: PathChange | None, match: HttpMatch | None) -> PathFields:
    """A change of the path, for the path that `match` matched. The path is never made empty."""
    if change is None:
        return {}
    path = None if match is None else match.path
    match change.kind:
        case PathChangeKind.WHOLE:
            return {"regex_rewrite": _substitute("^.*$", _literal(change.text or "/"))}
        case PathChangeKind.REGEX:
            return {"regex_rewrite": _substitute(change.pattern, change.text)}
        case PathChangeKind.MATCHED if change.text:
            return {"prefix_rewrite": change.text}
        case PathChangeKind.MATCHED:
            return _cut_off(path)
        case PathChangeKind.SEGMENTS:
            return _segments(path, change.text.rstrip("/"))
    assert_never(change.kind)


def _segments(path: PathMatch | None, text: str) -> PathFields:
    if path is None or path.text == "/":
        return {"prefix_rewrite": f"{text}/"} if text else {}
    return {"prefix_rewrite": text} if text else _cut_off(path)


def _cut_off(path: PathMatch | None) -> PathFields:
    """What matched goes; Envoy ignores an empty `prefix_rewrite`."""
    if path is None:
        return {}
    if path.kind in (PathKind.EXACT, PathKind.REGEX):
        return {"prefix_rewrite": "/"}
    fold = "(?i)" if path.ignore_case else ""
    return {"regex_rewrite": _substitute(f"{fold}^{quoted(path.text)}/*(.*)$", r"/\1")}


def _substitute(pattern: str, text: str) -> regex_pb2.RegexMatchAndSubstitute:
    return regex_pb2.RegexMatchAndSubstitute(
        pattern=regex_pb2.RegexMatcher(regex=pattern), substitution=text
    )


def _literal(text: str) -> str:
    return text.replace("\\", "\\\\")


class HeaderFields(TypedDict):
    """Header changes as routes, virtual hosts and weighted clusters have them."""

    request_headers_to_add: list[base_pb2.HeaderValueOption]
    request_headers_to_remove: list[str]
    response_headers_to_add: list[base_pb2.HeaderValueOption]
    response_headers_to_remove: list[str]


def header_fields(request: HeaderChange, response: HeaderChange) -> HeaderFields:
    """Changes on the way in and on the way out."""
    return HeaderFields(
        request_headers_to_add=_options(request),
        request_headers_to_remove=list(request.remove),
        response_headers_to_add=_options(response),
        response_headers_to_remove=list(response.remove),
    )


def _options(change: HeaderChange) -> list[base_pb2.HeaderValueOption]:
    return [
        *_pairs(change.set_, "OVERWRITE_IF_EXISTS_OR_ADD"),
        *_pairs(change.add, "APPEND_IF_EXISTS_OR_ADD"),
    ]


def _pairs(pairs: Iterable[tuple[str, str]], action: str) -> list[base_pb2.HeaderValueOption]:
    return [
        base_pb2.HeaderValueOption(
            header=base_pb2.HeaderValue(key=name, value=value.replace("%", "%%")),
            append_action=action,
            keep_empty_value=True,
        )
        for name, value in pairs
    ]
