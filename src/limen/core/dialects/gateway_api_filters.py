"""Filters of the Gateway API's routes: schemas and conversion.

Source: kubernetes-sigs/gateway-api `apis/v1/httproute_types.go` HTTPRouteFilter and what it holds.
"""

from __future__ import annotations

import re
from functools import partial

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.fields import obj, objects, text, texts, whole
from limen.core.dialects.gateway_headers import (
    EXPOSED,
    HEADER_NAME,
    VALUE,
    check_change,
    to_change,
)
from limen.core.dialects.gateway_hosts import PRECISE_HOSTNAME, check_hostname
from limen.core.dialects.gateway_paths import NEW_PATH, NEW_PREFIX
from limen.core.dialects.istio_actions import REDIRECTS
from limen.core.dialects.schema import (
    Choice,
    Field,
    Flag,
    ListOf,
    Struct,
    Text,
    Variants,
    Whole,
)
from limen.core.model.route import (
    Cors,
    HeaderChanges,
    PathChange,
    PathChangeKind,
    Redirect,
    RedirectPort,
    Rewrite,
    UnmatchedPreflight,
    ValueKind,
    ValueMatch,
)
from limen.errors import InvalidInput

_METHODS = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*",
)  # fmt: skip
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>[^:/]+)(?::(?P<port>[1-9][0-9]{0,4}))?")
_LATER = "a later version has it; leave it out until then"
_REFUSED = {
    "RequestMirror": _LATER,
    "ExtensionRef": "extensions of other implementations are not known here",
    "ExternalAuth": "it is experimental; use an AuthorizationPolicy with CUSTOM",
}
REQUEST, RESPONSE = "RequestHeaderModifier", "ResponseHeaderModifier"
REDIRECT, REWRITE, CORS = "RequestRedirect", "URLRewrite", "CORS"


def _check_origin(value: str) -> None:
    if value == "*":
        return
    parts = _ORIGIN.fullmatch(value)
    good = parts is not None and int(parts["port"] or 1) <= 65535
    if parts is not None and parts["host"] != "*":
        try:
            check_hostname(parts["host"])
        except InvalidInput:
            good = False
    if not good:
        raise InvalidInput(
            f"{show(value, 120)} is not an origin",
            code="bad-value",
            hint="write it like https://www.example.com, https://*.example.com:8443, or * for any",
        )


def _changes(*, response: bool) -> Struct:
    header = Struct(
        {"name": Field(HEADER_NAME, required=True), "value": Field(VALUE, required=True)}
    )
    return Struct(
        {
            "set": Field(ListOf(header, 16)),
            "add": Field(ListOf(header, 16)),
            "remove": Field(ListOf(HEADER_NAME, 16)),
        },
        (partial(check_change, response=response),),
    )


_PATH = Variants(
    "type",
    {
        "ReplaceFullPath": Struct(
            {"type": Field(Text()), "replaceFullPath": Field(NEW_PATH, required=True)}
        ),
        "ReplacePrefixMatch": Struct(
            {"type": Field(Text()), "replacePrefixMatch": Field(NEW_PREFIX, required=True)}
        ),
    },
)


def _check_status(value: JsonObject, path: str, out: Findings) -> None:
    status = whole(value, "statusCode", 302)
    if status not in REDIRECTS:
        known = ", ".join(map(str, REDIRECTS))
        message = f"{status} is not one of: {known}"
        out.error("unknown-value", message, child(path, "statusCode"), "302 if absent")


_REDIRECT = Struct(
    {
        "scheme": Field(Choice(("http", "https"))),
        "hostname": Field(PRECISE_HOSTNAME),
        "path": Field(_PATH),
        "port": Field(Whole(1, 65535), note="of the scheme, or the listener's, if absent"),
        "statusCode": Field(Whole(300, 399), note="302 if absent"),
    },
    (_check_status,),
)
_REWRITE = Struct({"hostname": Field(PRECISE_HOSTNAME), "path": Field(_PATH)})


def _check_cors(value: JsonObject, path: str, out: Findings) -> None:
    for name in ("allowOrigins", "allowMethods", "allowHeaders"):
        if "*" in texts(value, name) and len(texts(value, name)) > 1:
            message = "* cannot stand beside others"
            out.error("conflicting-fields", message, child(path, name), "it means all of them")
    if "*" in texts(value, "allowOrigins") and value.get("allowCredentials") is True:
        out.error(
            "conflicting-fields",
            "credentials of every origin would be accepted",
            child(path, "allowOrigins"),
            "name the origins that may use credentials",
        )


_CORS = Struct(
    {
        "allowOrigins": Field(
            ListOf(Text("an origin", max_length=253, parse=_check_origin), 64), required=True
        ),
        "allowMethods": Field(ListOf(Choice(_METHODS), 9)),
        "allowHeaders": Field(ListOf(EXPOSED, 64)),
        "exposeHeaders": Field(ListOf(EXPOSED, 64)),
        "maxAge": Field(Whole(1, 86400), note="seconds; 5 if absent"),
        "allowCredentials": Field(Flag()),
    },
    (_check_cors,),
)


def _variant(name: str, field: str, schema: Struct) -> dict[str, Struct]:
    return {name: Struct({"type": Field(Text()), field: Field(schema, required=True)})}


_HEADERS = {
    **_variant(REQUEST, "requestHeaderModifier", _changes(response=False)),
    **_variant(RESPONSE, "responseHeaderModifier", _changes(response=True)),
}
_ELSEWHERE = "it belongs to the whole rule: write it under filters beside backendRefs"
HTTP_FILTERS = ListOf(
    Variants(
        "type",
        {
            **_HEADERS,
            **_variant(REDIRECT, "requestRedirect", _REDIRECT),
            **_variant(REWRITE, "urlRewrite", _REWRITE),
            **_variant(CORS, "cors", _CORS),
        },
        _REFUSED,
    ),
    16,
)
BACKEND_FILTERS = ListOf(
    Variants(
        "type",
        _HEADERS,
        {**_REFUSED, **dict.fromkeys((REDIRECT, REWRITE, CORS), _ELSEWHERE)},
    ),
    16,
)
GRPC_FILTERS = ListOf(Variants("type", _HEADERS, _REFUSED), 16)


def check_once(rule: JsonObject, path: str, out: Findings) -> None:
    """No type of filter twice, and no redirect beside a rewrite."""
    kinds = [text(entry, "type") for entry in objects(rule, "filters")]
    for index, kind in enumerate(kinds):
        if kind in kinds[:index]:
            place = child(child(path, "filters"), index)
            out.error("duplicate-name", f"two filters are a {kind}", place, "write them as one")
    if REDIRECT in kinds and REWRITE in kinds:
        place = child(child(path, "filters"), kinds.index(REWRITE))
        message = f"{REDIRECT} and {REWRITE} cannot be used together"
        out.error("conflicting-fields", message, place, "keep one of them")


def filter_of(rule: JsonObject, kind: str, field: str) -> JsonObject | None:
    """What a checked rule or backend has in its filter of one type."""
    for entry in objects(rule, "filters"):
        if entry["type"] == kind:
            return obj(entry, field)
    return None


def to_changes(rule: JsonObject) -> HeaderChanges:
    """Changes of headers in the checked filters."""
    request = filter_of(rule, REQUEST, "requestHeaderModifier") or {}
    response = filter_of(rule, RESPONSE, "responseHeaderModifier") or {}
    return HeaderChanges(to_change(request, commands=False), to_change(response, commands=False))


def _to_path(value: JsonObject) -> PathChange | None:
    path = obj(value, "path")
    match path.get("type"):
        case "ReplaceFullPath":
            return PathChange(PathChangeKind.WHOLE, text(path, "replaceFullPath"))
        case "ReplacePrefixMatch":
            return PathChange(PathChangeKind.SEGMENTS, text(path, "replacePrefixMatch"))
        case _:
            return None


def to_redirect(value: JsonObject) -> Redirect:
    """A checked RequestRedirect."""
    scheme = text(value, "scheme")
    return Redirect(
        scheme=scheme,
        host=text(value, "hostname"),
        path=_to_path(value),
        port=whole(value, "port") or (RedirectPort.SCHEME if scheme else RedirectPort.LISTENER),
        status=whole(value, "statusCode", 302),
    )


def to_rewrite(value: JsonObject) -> Rewrite:
    """A checked URLRewrite."""
    return Rewrite(host=text(value, "hostname"), path=_to_path(value))


def to_cors(value: JsonObject) -> Cors:
    """A checked CORS filter."""
    return Cors(
        origins=tuple(map(_to_origin, texts(value, "allowOrigins"))),
        methods=texts(value, "allowMethods"),
        headers=texts(value, "allowHeaders"),
        expose=texts(value, "exposeHeaders"),
        max_age_s=whole(value, "maxAge", 5),
        credentials=value.get("allowCredentials") is True,
        unmatched=UnmatchedPreflight.ANSWER,
    )


def _to_origin(value: str) -> ValueMatch:
    """`*` in a host means any number of labels."""
    parts = _ORIGIN.fullmatch(value)
    if parts is None or "*" not in parts["host"]:
        return ValueMatch(ValueKind.EXACT, value)
    host = parts["host"].replace(".", r"\.").replace("*", "[A-Za-z0-9.-]+")
    port = f":{parts['port']}" if parts["port"] else ""
    return ValueMatch(ValueKind.REGEX, f"{parts['scheme']}://{host}{port}")
