"""Headers, query parameters and methods that routes compare and change.

What identity, framing or tracing rests on may not be written by a route.

Source: RFC 9110 sections 5.1, 5.5 and 9.1; istio/istio `pkg/config/validation`
ValidateHTTPHeaderOperationName; gateway-api `apis/v1/httproute_types.go` HTTPHeaderFilter.
"""

from __future__ import annotations

import re

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.fields import objects, text, texts
from limen.core.dialects.schema import Text
from limen.core.model.route import HeaderChange
from limen.errors import InvalidInput

MAX_VALUE = 4096
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^`|~-]+", re.ASCII)
_VALUE = re.compile(r"[!-~]+(?:[\t ]+[!-~]+)*", re.ASCII)
_FRAMING = re.compile(
    r"connection|keep-alive|te|trailer|transfer-encoding|upgrade|content-length|proxy-.*|expect"
    r"|host|http2-settings",
    re.ASCII,
)
_OURS = re.compile(
    r"x-forwarded-client-cert|x-forwarded-for|forwarded|x-real-ip|true-client-ip|client-cert.*"
    r"|x-envoy-.*|x-istio-.*|x-limen-.*|x-request-id|traceparent|tracestate|via",
    re.ASCII,
)
_PSEUDO_FIELDS = frozenset({"uri", "scheme", "method", "authority"})


def _bad(value: str, what: str, hint: str) -> InvalidInput:
    return InvalidInput(f"{show(value)} {what}", code="bad-value", hint=hint)


def check_header_name(name: str) -> None:
    """Raises InvalidInput (code `bad-value`)."""
    if name.startswith(":"):
        raise _bad(name, "is not a header", "match the path, method or host by their own fields")
    if "_" in name:
        raise _bad(
            name,
            "is in no request: names with _ are refused by the proxies",
            "send and match a name with -",
        )
    if not _TOKEN.fullmatch(name):
        raise _bad(name, "is not a header's name", "write it like x-user")


def _check_istio_match_name(name: str) -> None:
    if name in _PSEUDO_FIELDS:
        raise _bad(name, "is not a header: Istio ignores it here", f"write {name}: beside headers:")
    if name.startswith("@"):
        raise InvalidInput(
            f"routing by claims ({show(name)}) is not supported",
            code="refused-value",
            hint="allow by claims with an AuthorizationPolicy, and route by path or header",
        )
    check_header_name(name)
    if name != name.lower():
        raise _bad(name, "has upper-case letters, which Istio never matches", f"use {name.lower()}")


def _check_written(name: str, *, removed: bool, response: bool) -> None:
    """Raises InvalidInput (`unsafe-header`) for a header that a route may not touch."""
    check_header_name(name)
    folded = name.lower()
    ours = _OURS.fullmatch(folded) and not (response and removed)
    if _FRAMING.fullmatch(folded) or ours:
        does = "removed" if removed else "written"
        raise InvalidInput(
            f"{show(name)} may not be {does} by a route",
            code="unsafe-header",
            hint="write rewrite for the host; choose a name of your own for everything else"
            if folded == "host"
            else "identity, framing or tracing rests on it; choose a name of your own",
        )


def check_value(value: str) -> None:
    """A header's value: printable ASCII, blanks inside only."""
    if not _VALUE.fullmatch(value):
        raise _bad(value, "is not a header's value", "use printable ASCII, blanks inside only")


def check_istio_value(value: str) -> None:
    """As `check_value`; `%` begins a command of the proxy in Istio, `%%` means it literally."""
    check_value(value)
    if "%" in value.replace("%%", ""):
        raise InvalidInput(
            "commands of the proxy (%…%) are not supported in a header's value",
            code="refused-value",
            hint="write the value itself; %% means a percent sign",
        )


def check_parameter_name(name: str) -> None:
    """A query parameter's name as it stands in a URL."""
    if not re.fullmatch(r"[A-Za-z0-9._~!$'()*,;:@/?%\[\]-]+", name, re.ASCII):
        raise _bad(name, "is not the name of a query parameter", "write it as it stands in the URL")


def check_method(value: str) -> None:
    """An HTTP method, upper case."""
    if value != value.upper():
        raise _bad(value, "never matches: methods are upper case", f"write {value.upper()}")
    if not re.fullmatch(r"[A-Z][A-Z0-9_-]*", value, re.ASCII):
        raise _bad(value, "is not a method", "write it like GET")


def check_exposed(name: str) -> None:
    """A header's name, or `*` for any."""
    if name != "*":
        check_header_name(name)


EXPOSED = Text("a header's name, or *", max_length=256, parse=check_exposed)
HEADER_NAME = Text("a header's name", max_length=256, parse=check_header_name)
ISTIO_MATCH_NAME = Text("a header's name", max_length=256, parse=_check_istio_match_name)
VALUE = Text("a header's value", max_length=MAX_VALUE, parse=check_value)
ISTIO_VALUE = Text("a header's value", max_length=MAX_VALUE, parse=check_istio_value)
PARAMETER = Text("a query parameter's name", max_length=256, parse=check_parameter_name)
METHOD = Text("a method", max_length=32, parse=check_method)


def check_change(value: JsonObject, path: str, out: Findings, *, response: bool) -> None:
    """Each header once in `set`, `add` and `remove`, and none that a route may not touch."""
    seen: dict[str, str] = {}
    for place, name, removed in _names(value, path):
        try:
            _check_written(name, removed=removed, response=response)
        except InvalidInput as error:
            out.error(error.code, error.message, place, error.hint)
            continue
        first = seen.setdefault(name.lower(), place)
        if first != place:
            out.error(
                "duplicate-name",
                f"the header {show(name)} is changed twice",
                place,
                "change it once; several values are separated by commas",
            )


def _names(value: JsonObject, path: str) -> list[tuple[str, str, bool]]:
    """Place, name, and whether it is removed, of every header that is changed."""
    found: list[tuple[str, str, bool]] = []
    for field in ("set", "add"):
        place = child(path, field)
        entries = value.get(field, {})
        if isinstance(entries, dict):
            found.extend((child(place, name), name, False) for name in entries)
        else:
            for index, entry in enumerate(objects(value, field)):
                found.append((child(place, index), text(entry, "name"), False))
    place = child(path, "remove")
    found.extend((child(place, i), name, True) for i, name in enumerate(texts(value, "remove")))
    return found


def to_change(value: JsonObject, *, commands: bool) -> HeaderChange:
    """A checked change; `commands`: `%%` means a percent sign (Istio)."""
    return HeaderChange(
        set_=_pairs(value, "set", commands=commands),
        add=_pairs(value, "add", commands=commands),
        remove=tuple(name.lower() for name in texts(value, "remove")),
    )


def _pairs(value: JsonObject, field: str, *, commands: bool) -> tuple[tuple[str, str], ...]:
    entries = value.get(field, {})
    pairs = (
        [(name, str(item)) for name, item in entries.items()]
        if isinstance(entries, dict)
        else [(text(e, "name"), text(e, "value")) for e in objects(value, field)]
    )
    return tuple((n.lower(), v.replace("%%", "%") if commands else v) for n, v in pairs)
