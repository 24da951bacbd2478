"""The Gateway API's HTTPRoute, GRPCRoute and TLSRoute: schemas and conversion.

Source: kubernetes-sigs/gateway-api `apis/v1/httproute_types.go`, `grpcroute_types.go`,
`tlsroute_types.go`.
"""

from __future__ import annotations

import re

from limen.core.dialects import gateway_api_filters as filters
from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.fields import obj, objects, text, texts, whole
from limen.core.dialects.gateway_api_references import (
    BACKEND,
    BACKEND_KIND,
    EXPERIMENTAL,
    PARENT,
    check_parents,
    to_parents,
)
from limen.core.dialects.gateway_headers import HEADER_NAME, PARAMETER, VALUE
from limen.core.dialects.gateway_hosts import HOSTNAME
from limen.core.dialects.gateway_paths import MAX_PATH, PATH, PREFIX
from limen.core.dialects.istio_matches import REGEX
from limen.core.dialects.metadata import NAME, parse_timestamp
from limen.core.dialects.schema import Choice, Field, ListOf, Refused, Struct, Text, check
from limen.core.model import resource
from limen.core.model.gateway import Family
from limen.core.model.route import (
    Destination,
    Forward,
    HttpMatch,
    HttpRule,
    NamedMatch,
    PathKind,
    PathMatch,
    Redirect,
    Route,
    ServiceRef,
    TlsMatch,
    TlsRule,
    ValueKind,
    ValueMatch,
)

MAX_MATCHES = 128
_LATER = "a later version has it; leave it out until then"
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_GRPC_SERVICE = re.compile(r"\.?[a-z_][a-z_0-9]*(?:\.[a-z_][a-z_0-9]*)*", re.ASCII | re.IGNORECASE)
_GRPC_METHOD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*", re.ASCII)
_KINDS = {"Exact": ValueKind.EXACT, "RegularExpression": ValueKind.REGEX}


def _check_path(value: JsonObject, path: str, out: Findings) -> None:
    schema = {"Exact": PATH, "RegularExpression": REGEX}.get(text(value, "type"), PREFIX)
    check(schema, value.get("value", "/"), child(path, "value"), out)


def _named(name: Text, exact: Text) -> ListOf:
    """Comparisons of headers or parameters by `name`, whose exact values are `exact`."""

    def check_value(value: JsonObject, path: str, out: Findings) -> None:
        schema = REGEX if value.get("type") == "RegularExpression" else exact
        check(schema, value["value"], child(path, "value"), out)

    fields = {
        "type": Field(Choice(tuple(_KINDS)), note="Exact if absent; RegularExpression is RE2"),
        "name": Field(name, required=True),
        "value": Field(Text("a value", max_length=4096), required=True),
    }
    return ListOf(Struct(fields, (check_value,)), 16)


def _check_names(match: JsonObject, path: str, out: Findings) -> None:
    """Each header and parameter once: the Gateway API would ignore the others."""
    for field, fold in (("headers", True), ("queryParams", False)):
        seen: set[str] = set()
        for index, entry in enumerate(objects(match, field)):
            name = text(entry, "name").lower() if fold else text(entry, "name")
            if name in seen:
                place = child(child(child(path, field), index), "name")
                message = f"{show(name)} is compared twice"
                out.error("duplicate-name", message, place, "join them in one expression")
            seen.add(name)


_HTTP_MATCH = Struct(
    {
        "path": Field(
            Struct(
                {
                    "type": Field(
                        Choice(("Exact", "PathPrefix", "RegularExpression")),
                        note="PathPrefix if absent: whole parts, `/a` does not mean `/ab`",
                    ),
                    "value": Field(Text("a path", max_length=MAX_PATH), note="/ if absent"),
                },
                (_check_path,),
            ),
            note="every path if absent",
        ),
        "headers": Field(_named(HEADER_NAME, VALUE), note="all of them"),
        "queryParams": Field(
            _named(PARAMETER, Text("a value", max_length=1024)), note="all of them"
        ),
        "method": Field(Choice(_METHODS)),
    },
    (_check_names,),
)


def _check_grpc_method(value: JsonObject, path: str, out: Findings) -> None:
    if "service" not in value and "method" not in value:
        message = "neither service nor method is given"
        out.error("missing-field", message, path, "name one of them, or leave the whole out")
    regex = value.get("type") == "RegularExpression"
    for field, pattern in (("service", _GRPC_SERVICE), ("method", _GRPC_METHOD)):
        if field in value:
            exact = Text(f"a gRPC {field}", pattern, 1, 512, "as in the .proto file")
            check(REGEX if regex else exact, value[field], child(path, field), out)


_GRPC_MATCH = Struct(
    {
        "method": Field(
            Struct(
                {
                    "type": Field(Choice(tuple(_KINDS)), note="Exact if absent"),
                    "service": Field(Text("a gRPC service"), note="any if absent"),
                    "method": Field(Text("a gRPC method"), note="any if absent"),
                },
                (_check_grpc_method,),
            ),
            note="every call if absent",
        ),
        "headers": Field(_named(HEADER_NAME, VALUE), note="all of them"),
    },
    (_check_names,),
)


def _backend(schema: ListOf) -> ListOf:
    fields = {**BACKEND, "filters": Field(schema, note="of requests to this one")}
    return ListOf(Struct(fields, (BACKEND_KIND, filters.check_once)), 16)


def _check_prefix(rule: JsonObject, path: str, out: Findings) -> None:
    """A prefix can be replaced only where exactly one was compared."""
    matches = objects(rule, "matches")
    kinds = [obj(match, "path").get("type", "PathPrefix") for match in matches]
    prefix = kinds in ([], ["PathPrefix"])
    for index, entry in enumerate(objects(rule, "filters")):
        for field in ("requestRedirect", "urlRewrite"):
            change = obj(obj(entry, field), "path")
            if change.get("type") == "ReplacePrefixMatch" and not prefix:
                place = child(child(child(path, "filters"), index), field)
                out.error(
                    "conflicting-fields",
                    "ReplacePrefixMatch needs exactly one match, with PathPrefix",
                    child(place, "path"),
                    "split the rule, or write ReplaceFullPath",
                )


def _check_http_rule(rule: JsonObject, path: str, out: Findings) -> None:
    filters.check_once(rule, path, out)
    _check_prefix(rule, path, out)
    redirect = filters.filter_of(rule, filters.REDIRECT, "requestRedirect") is not None
    if redirect and "backendRefs" in rule:
        message = "RequestRedirect and backendRefs cannot be used together"
        place = child(path, "backendRefs")
        out.error("conflicting-fields", message, place, "nothing is forwarded: remove it")
    elif not redirect:
        _warn_about_nothing(rule, path, out)


def _warn_about_nothing(rule: JsonObject, path: str, out: Findings) -> None:
    if not any(whole(b, "weight", 1) for b in objects(rule, "backendRefs")):
        out.warn(
            "no-effect",
            "no backend gets these requests; they are answered 500",
            path,
            "write backendRefs",
        )


def _check_grpc_rule(rule: JsonObject, path: str, out: Findings) -> None:
    filters.check_once(rule, path, out)
    _warn_about_nothing(rule, path, out)


_RULE = {
    "name": Field(NAME, note="unique in the route; written to the access log"),
    "sessionPersistence": Field(EXPERIMENTAL),
}
_HTTP_RULE = Struct(
    {
        **_RULE,
        "matches": Field(ListOf(_HTTP_MATCH, 64), note="any of them; every request if absent"),
        "filters": Field(filters.HTTP_FILTERS),
        "backendRefs": Field(_backend(filters.BACKEND_FILTERS)),
        "timeouts": Field(Refused(_LATER)),
        "retry": Field(Refused(_LATER)),
    },
    (_check_http_rule,),
)
_GRPC_RULE = Struct(
    {
        **_RULE,
        "matches": Field(ListOf(_GRPC_MATCH, 64), note="any of them; every call if absent"),
        "filters": Field(filters.GRPC_FILTERS),
        "backendRefs": Field(_backend(filters.GRPC_FILTERS)),
    },
    (_check_grpc_rule,),
)
_TLS_RULE = Struct(
    {
        "name": Field(NAME),
        "backendRefs": Field(ListOf(Struct(dict(BACKEND), (BACKEND_KIND,)), 16), required=True),
    }
)


def _check_rules(spec: JsonObject, path: str, out: Findings) -> None:
    names: set[str] = set()
    matches = 0
    for index, rule in enumerate(objects(spec, "rules")):
        name = text(rule, "name")
        if name and name in names:
            place = child(child(child(path, "rules"), index), "name")
            out.error("duplicate-name", f"two rules have the name {show(name)}", place, "rename")
        names.add(name)
        matches += len(objects(rule, "matches"))
    if matches > MAX_MATCHES:
        message = f"the rules have {matches} matches together; {MAX_MATCHES} at most"
        out.error("out-of-range", message, child(path, "rules"), "split the route")
    for index, host in enumerate(texts(spec, "hostnames")):
        if host in texts(spec, "hostnames")[:index]:
            place = child(child(path, "hostnames"), index)
            out.error("duplicate-name", f"{show(host)} stands twice", place, "remove one")


def _spec(rule: Struct, rules: int, hostnames: Field) -> Struct:
    return Struct(
        {
            "parentRefs": Field(ListOf(PARENT, 32), required=True, note="gateways"),
            "hostnames": hostnames,
            "rules": Field(ListOf(rule, rules), required=True),
            "useDefaultGateways": Field(EXPERIMENTAL),
        },
        (check_parents, _check_rules),
    )


_HOSTNAMES = Field(ListOf(HOSTNAME, 16), note="those of the listener if absent")
HTTP_ROUTE = _spec(_HTTP_RULE, 16, _HOSTNAMES)
GRPC_ROUTE = _spec(_GRPC_RULE, 16, _HOSTNAMES)
TLS_ROUTE = _spec(
    _TLS_RULE, 1, Field(ListOf(HOSTNAME, 1024), required=True, note="server names of clients")
)


def to_http_route(namespace: str, metadata: JsonObject, spec: JsonObject) -> Route:
    """A checked HTTPRoute of `namespace`."""
    rules = tuple(_to_http_rule(namespace, rule) for rule in objects(spec, "rules"))
    return _to_route(resource.HTTP_ROUTE, namespace, metadata, spec, http=rules)


def to_grpc_route(namespace: str, metadata: JsonObject, spec: JsonObject) -> Route:
    """A checked GRPCRoute of `namespace`."""
    rules = tuple(
        HttpRule(
            action=Forward(_to_destinations(namespace, rule)),
            matches=tuple(_to_grpc_match(match) for match in objects(rule, "matches")),
            headers=filters.to_changes(rule),
            name=text(rule, "name"),
        )
        for rule in objects(spec, "rules")
    )
    return _to_route(resource.GRPC_ROUTE, namespace, metadata, spec, http=rules)


def to_tls_route(namespace: str, metadata: JsonObject, spec: JsonObject) -> Route:
    """A checked TLSRoute of `namespace`."""
    match = TlsMatch(texts(spec, "hostnames"))
    rules = tuple(
        TlsRule((match,), _to_destinations(namespace, rule)) for rule in objects(spec, "rules")
    )
    return _to_route(resource.TLS_ROUTE, namespace, metadata, spec, tls=rules)


def _to_route(
    kind: str,
    namespace: str,
    metadata: JsonObject,
    spec: JsonObject,
    *,
    http: tuple[HttpRule, ...] = (),
    tls: tuple[TlsRule, ...] = (),
) -> Route:
    return Route(
        family=Family.GATEWAY_API,
        kind=kind,
        hosts=texts(spec, "hostnames"),
        parents=to_parents(namespace, spec),
        http=http,
        tls=tls,
        created=parse_timestamp(text(metadata, "creationTimestamp")),
    )


def _to_http_rule(namespace: str, rule: JsonObject) -> HttpRule:
    cors = filters.filter_of(rule, filters.CORS, "cors")
    return HttpRule(
        action=_to_action(namespace, rule),
        matches=tuple(_to_http_match(match) for match in objects(rule, "matches")),
        headers=filters.to_changes(rule),
        cors=None if cors is None else filters.to_cors(cors),
        name=text(rule, "name"),
    )


def _to_action(namespace: str, rule: JsonObject) -> Forward | Redirect:
    redirect = filters.filter_of(rule, filters.REDIRECT, "requestRedirect")
    if redirect is not None:
        return filters.to_redirect(redirect)
    rewrite = filters.filter_of(rule, filters.REWRITE, "urlRewrite")
    return Forward(
        _to_destinations(namespace, rule), None if rewrite is None else filters.to_rewrite(rewrite)
    )


def _to_destinations(namespace: str, rule: JsonObject) -> tuple[Destination, ...]:
    return tuple(
        Destination(
            service=ServiceRef(text(backend, "namespace", namespace), text(backend, "name")),
            port=whole(backend, "port"),
            weight=whole(backend, "weight", 1),
            headers=filters.to_changes(backend),
        )
        for backend in objects(rule, "backendRefs")
    )


def _to_http_match(match: JsonObject) -> HttpMatch:
    return HttpMatch(
        path=_to_path(obj(match, "path")),
        method=ValueMatch(ValueKind.EXACT, text(match, "method")) if "method" in match else None,
        headers=_to_named(match, "headers", lower=True),
        query=_to_named(match, "queryParams", lower=False),
    )


def _to_path(path: JsonObject) -> PathMatch:
    value = text(path, "value", "/")
    match path.get("type", "PathPrefix"):
        case "Exact":
            return PathMatch(PathKind.EXACT, value)
        case "RegularExpression":
            return PathMatch(PathKind.REGEX, value)
        case _:
            return PathMatch(PathKind.SEGMENTS, value.rstrip("/") or "/")


def _to_named(match: JsonObject, field: str, *, lower: bool) -> tuple[NamedMatch, ...]:
    return tuple(
        NamedMatch(
            text(entry, "name").lower() if lower else text(entry, "name"),
            ValueMatch(_KINDS[text(entry, "type", "Exact")], text(entry, "value")),
        )
        for entry in objects(match, field)
    )


def _to_grpc_match(match: JsonObject) -> HttpMatch:
    """A gRPC call is a POST to `/SERVICE/METHOD`."""
    method = obj(match, "method")
    service, call = text(method, "service").lstrip("."), text(method, "method")
    path: PathMatch | None = None
    if method.get("type") == "RegularExpression":
        path = PathMatch(PathKind.REGEX, f"/(?:{service or '[^/]+'})/(?:{call or '[^/]+'})")
    elif service and call:
        path = PathMatch(PathKind.EXACT, f"/{service}/{call}")
    elif service:
        path = PathMatch(PathKind.SEGMENTS, f"/{service}")
    elif call:
        path = PathMatch(PathKind.REGEX, f"/[^/]+/{call}")
    return HttpMatch(path=path, headers=_to_named(match, "headers", lower=True))
