"""What a rule of Istio's VirtualService does with a request: schemas and conversion.

Source: istio/api `networking/v1/virtual_service.proto`, istio/istio `pkg/config/validation`
validateHTTPRoute, validateHTTPRedirect, validateHTTPRewrite, validateCORSPolicy.
"""

from __future__ import annotations

from functools import partial

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.duration import parse_duration
from limen.core.dialects.fields import obj, objects, text, texts, whole
from limen.core.dialects.gateway_headers import (
    EXPOSED,
    HEADER_NAME,
    ISTIO_VALUE,
    METHOD,
    check_change,
    to_change,
)
from limen.core.dialects.gateway_hosts import AUTHORITY, SERVICE_HOST, parse_service
from limen.core.dialects.gateway_paths import MAX_PATH, NEW_PATH, NEW_PREFIX, check_substitution
from limen.core.dialects.gateway_regex import check_regex
from limen.core.dialects.istio_matches import REGEX, text_match, to_value
from limen.core.dialects.metadata import NAME
from limen.core.dialects.schema import (
    Choice,
    Duration,
    Field,
    Flag,
    ListOf,
    MapOf,
    Refused,
    Struct,
    Text,
    Whole,
)
from limen.core.model.route import (
    Cors,
    Destination,
    HeaderChanges,
    PathChange,
    PathChangeKind,
    Redirect,
    RedirectPort,
    Rewrite,
    UnmatchedPreflight,
)
from limen.errors import InvalidInput

MAX_WEIGHT = 1_000_000
REDIRECTS = (301, 302, 303, 307, 308)
_DAY_S = 86400


def _check_origin(value: str) -> None:
    if value != "*" and not ("://" in value and value.isascii() and " " not in value):
        raise InvalidInput(
            f"{show(value)} is not an origin",
            code="bad-value",
            hint="write it like https://www.example.com, or * for any",
        )


def _changes(*, response: bool) -> Struct:
    return Struct(
        {
            "set": Field(MapOf(HEADER_NAME, ISTIO_VALUE)),
            "add": Field(MapOf(HEADER_NAME, ISTIO_VALUE)),
            "remove": Field(ListOf(HEADER_NAME, 100)),
        },
        (partial(check_change, response=response),),
    )


HEADERS = Struct(
    {
        "request": Field(_changes(response=False)),
        "response": Field(_changes(response=True)),
    }
)


def to_changes(headers: JsonObject) -> HeaderChanges:
    """A checked `headers`."""
    return HeaderChanges(
        request=to_change(obj(headers, "request"), commands=True),
        response=to_change(obj(headers, "response"), commands=True),
    )


_DESTINATION = Struct(
    {
        "host": Field(
            SERVICE_HOST,
            required=True,
            note="`NAME`, `NAME.NAMESPACE.svc.cluster.local` or `NAME.NAMESPACE.mesh`",
        ),
        "port": Field(
            Struct({"number": Field(Whole(1, 65535), required=True)}),
            note="needed if the service has several",
        ),
        "subset": Field(NAME, note="of a DestinationRule"),
    }
)
_WEIGHT = Field(Whole(0, MAX_WEIGHT), note="share of the sum; one destination alone gets all")
DESTINATION = Struct(
    {
        "destination": Field(_DESTINATION, required=True),
        "weight": _WEIGHT,
        "headers": Field(HEADERS),
    }
)
TLS_DESTINATION = Struct(
    {"destination": Field(_DESTINATION, required=True), "weight": _WEIGHT},
)


def check_weights(rule: JsonObject, path: str, out: Findings) -> None:
    """Of several destinations at least one gets something."""
    route = objects(rule, "route")
    if len(route) > 1 and not any(whole(entry, "weight") for entry in route):
        out.error(
            "missing-field",
            "no destination has a weight, so none would get a request",
            child(path, "route"),
            "give each its share, for example 80 and 20",
        )


def to_destinations(namespace: str, rule: JsonObject) -> tuple[Destination, ...]:
    """The checked `route` of a rule in a document of `namespace`."""
    route = objects(rule, "route")
    return tuple(
        _to_destination(namespace, entry, 1 if len(route) == 1 else whole(entry, "weight"))
        for entry in route
    )


def _to_destination(namespace: str, entry: JsonObject, weight: int) -> Destination:
    destination = obj(entry, "destination")
    return Destination(
        service=parse_service(text(destination, "host"), namespace),
        port=whole(obj(destination, "port"), "number"),
        weight=weight,
        subset=text(destination, "subset"),
        headers=to_changes(obj(entry, "headers")),
    )


def _check_regex_rewrite(value: JsonObject, path: str, out: Findings) -> None:
    try:
        check_substitution(text(value, "rewrite"), check_regex(text(value, "match")))
    except InvalidInput as error:
        out.error(error.code, error.message, child(path, "rewrite"), error.hint)


def _check_rewrite(value: JsonObject, path: str, out: Findings) -> None:
    if not value:
        message = "the rewrite changes nothing"
        out.error("empty-value", message, path, "write uri or authority, or remove it")
    if "uri" in value and "uriRegexRewrite" in value:
        out.error(
            "conflicting-fields",
            "uri and uriRegexRewrite cannot be used together",
            child(path, "uriRegexRewrite"),
            "keep one of them",
        )


REWRITE = Struct(
    {
        "uri": Field(NEW_PREFIX, note="instead of the prefix that matched, or of the whole path"),
        "authority": Field(AUTHORITY, note="the Host header"),
        "uriRegexRewrite": Field(
            Struct(
                {
                    "match": Field(REGEX, required=True, note="RE2, anywhere in the path"),
                    "rewrite": Field(
                        Text("a replacement", min_length=0, max_length=MAX_PATH),
                        required=True,
                        note="`\\1` stands for the first group",
                    ),
                },
                (_check_regex_rewrite,),
            )
        ),
    },
    (_check_rewrite,),
)


def to_rewrite(value: JsonObject) -> Rewrite:
    """A checked `rewrite`."""
    regex = obj(value, "uriRegexRewrite")
    path = None
    if regex:
        path = PathChange(PathChangeKind.REGEX, text(regex, "rewrite"), text(regex, "match"))
    elif "uri" in value:
        path = PathChange(PathChangeKind.MATCHED, text(value, "uri"))
    return Rewrite(host=text(value, "authority").lower(), path=path)


def _check_redirect(value: JsonObject, path: str, out: Findings) -> None:
    if not {"uri", "authority", "port", "derivePort", "scheme"} & set(value):
        message = "the redirect leads to where the request came"
        out.error("empty-value", message, path, "write uri, authority, scheme or port")
    if "port" in value and "derivePort" in value:
        out.error(
            "conflicting-fields",
            "port and derivePort cannot be used together",
            child(path, "derivePort"),
            "keep one of them",
        )
    code = whole(value, "redirectCode", 301)
    if code not in REDIRECTS:
        out.error(
            "unknown-value",
            f"{code} is not one of: {', '.join(map(str, REDIRECTS))}",
            child(path, "redirectCode"),
            "301 and 308 are kept by browsers, 302 and 307 are not",
        )


REDIRECT = Struct(
    {
        "uri": Field(NEW_PATH, note="instead of the whole path; the query stays"),
        "authority": Field(AUTHORITY),
        "port": Field(Whole(1, 65535)),
        "derivePort": Field(Choice(("FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"))),
        "scheme": Field(Choice(("http", "https"))),
        "redirectCode": Field(Whole(300, 399), note="301 if absent"),
    },
    (_check_redirect,),
)


def to_redirect(value: JsonObject) -> Redirect:
    """A checked `redirect`. Without a word about the port the request's stays (Envoy's way)."""
    derived = {
        "FROM_REQUEST_PORT": RedirectPort.LISTENER,
        "FROM_PROTOCOL_DEFAULT": RedirectPort.SCHEME,
    }.get(text(value, "derivePort"), RedirectPort.REQUEST)
    path = PathChange(PathChangeKind.WHOLE, text(value, "uri")) if "uri" in value else None
    return Redirect(
        scheme=text(value, "scheme"),
        host=text(value, "authority").lower(),
        path=path,
        port=whole(value, "port") or derived,
        status=whole(value, "redirectCode", 301),
    )


def _check_cors(value: JsonObject, path: str, out: Findings) -> None:
    age = text(value, "maxAge", "0s")
    if parse_duration(age) % 1:
        message = f"{show(age)} is not a number of whole seconds"
        out.error("bad-duration", message, child(path, "maxAge"), "write it like 24h or 90s")
    origins = objects(value, "allowOrigins")
    for index, origin in enumerate(origins):
        if origin.get("exact") == "*" and value.get("allowCredentials") is True:
            out.error(
                "conflicting-fields",
                "credentials of every origin would be accepted",
                child(child(path, "allowOrigins"), index),
                "name the origins that may use credentials",
            )


_ORIGIN = Text("an origin", max_length=MAX_PATH, parse=_check_origin)
_NAMES = ListOf(EXPOSED, 100)
CORS = Struct(
    {
        "allowOrigins": Field(
            ListOf(text_match(_ORIGIN), 100), required=True, note="any of them; exact `*` is any"
        ),
        "allowOrigin": Field(Refused("it is the old form: write allowOrigins with exact")),
        "allowMethods": Field(ListOf(METHOD, 20)),
        "allowHeaders": Field(_NAMES),
        "exposeHeaders": Field(_NAMES),
        "maxAge": Field(Duration(0, _DAY_S), note="whole seconds, a day at most"),
        "allowCredentials": Field(Flag()),
        "unmatchedPreflights": Field(
            Choice(("UNSPECIFIED", "FORWARD", "IGNORE")), note="FORWARD if absent"
        ),
    },
    (_check_cors,),
)


def to_cors(value: JsonObject) -> Cors:
    """A checked `corsPolicy`."""
    ignore = value.get("unmatchedPreflights") == "IGNORE"
    return Cors(
        origins=tuple(to_value(origin) for origin in objects(value, "allowOrigins")),
        methods=texts(value, "allowMethods"),
        headers=texts(value, "allowHeaders"),
        expose=texts(value, "exposeHeaders"),
        max_age_s=int(parse_duration(text(value, "maxAge"))) if "maxAge" in value else None,
        credentials=value.get("allowCredentials") is True,
        unmatched=UnmatchedPreflight.ANSWER if ignore else UnmatchedPreflight.FORWARD,
    )


_LATER = "a later version has it; leave it out until then"
RESILIENCE: dict[str, Field] = {
    "timeout": Field(Refused(_LATER)),
    "retries": Field(Refused(_LATER)),
    "fault": Field(Refused(_LATER)),
    "mirror": Field(Refused(_LATER)),
    "mirrors": Field(Refused(_LATER)),
    "mirrorPercent": Field(Refused(_LATER)),
    "mirror_percent": Field(Refused(_LATER)),
    "mirrorPercentage": Field(Refused(_LATER)),
    "directResponse": Field(Refused("fixed answers are a later version; forward or redirect")),
    "delegate": Field(Refused("rules in other documents are not followed: write them here")),
    "websocketUpgrade": Field(Refused("it has no effect in Istio; WebSockets pass anyway")),
}
