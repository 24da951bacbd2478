"""Istio's VirtualService, as far as gateways use it, and DestinationRule: schemas and conversion.

Source: istio/api `networking/v1/virtual_service.proto` and `destination_rule.proto`, istio/istio
`pkg/config/validation` ValidateVirtualService, ValidateDestinationRule.
"""

from __future__ import annotations

from itertools import combinations

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.fields import obj, objects, text, texts
from limen.core.dialects.gateway_hosts import ISTIO_HOST, SERVICE_HOST, parse_service
from limen.core.dialects.istio_actions import (
    CORS,
    DESTINATION,
    HEADERS,
    REDIRECT,
    RESILIENCE,
    REWRITE,
    TLS_DESTINATION,
    check_weights,
    to_changes,
    to_cors,
    to_destinations,
    to_redirect,
    to_rewrite,
)
from limen.core.dialects.istio_matches import (
    GATEWAY_NAME,
    HTTP_MATCH,
    TLS_MATCH,
    to_http_match,
    to_parent,
    to_tls_match,
)
from limen.core.dialects.metadata import LABEL_KEY, LABEL_VALUE, NAME, parse_timestamp
from limen.core.dialects.schema import Field, ListOf, MapOf, Only, Refused, Struct, Text
from limen.core.dialects.tags import to_tags
from limen.core.model import resource
from limen.core.model.gateway import Family, host_covers
from limen.core.model.names import parse_name
from limen.core.model.route import (
    DestinationRule,
    Forward,
    HttpRule,
    Redirect,
    Route,
    Subset,
    TlsRule,
)


def _check_namespace(value: str) -> None:
    if value not in (".", "*"):
        parse_name(value, "namespace")


EXPORT_TO = Field(
    ListOf(Text("a namespace", max_length=253, parse=_check_namespace), 100),
    note="namespaces that may use it; `.` is the own one, `*` or absent: all",
)


def check_export(spec: JsonObject, path: str, out: Findings) -> None:
    """`*` stands alone, and nothing twice."""
    given = texts(spec, "exportTo")
    for index, name in enumerate(given):
        place = child(child(path, "exportTo"), index)
        if name in given[:index]:
            out.error("duplicate-name", f"{show(name)} stands twice", place, "remove one")
        elif name == "*" and len(given) > 1:
            message = "* cannot stand beside other namespaces"
            out.error("conflicting-fields", message, place, "it means all of them")


def _to_exported(namespace: str, spec: JsonObject) -> tuple[str, ...]:
    given = texts(spec, "exportTo")
    return () if "*" in given else tuple(namespace if n == "." else n for n in given)


def _check_rule(rule: JsonObject, path: str, out: Findings) -> None:
    if "route" in rule and "redirect" in rule:
        out.error(
            "conflicting-fields",
            "route and redirect cannot be used together",
            child(path, "redirect"),
            "a request is either forwarded or sent elsewhere",
        )
    elif "route" not in rule and "redirect" not in rule:
        message = "the rule says neither route nor redirect"
        out.error("missing-field", message, path, "write route: with a destination")
    if "redirect" in rule:
        for name in ("rewrite", "corsPolicy"):
            if name in rule:
                out.error(
                    "conflicting-fields",
                    f"{name} and redirect cannot be used together",
                    child(path, name),
                    "nothing is forwarded: remove it",
                )
        if "request" in obj(rule, "headers"):
            out.error(
                "conflicting-fields",
                "headers.request and redirect cannot be used together",
                child(child(path, "headers"), "request"),
                "nothing is forwarded: remove it",
            )
    check_weights(rule, path, out)


_HTTP_RULE = Struct(
    {
        "name": Field(NAME, note="written to the access log"),
        "match": Field(ListOf(HTTP_MATCH, 1000), note="any of them; every request if absent"),
        "route": Field(ListOf(DESTINATION, 100), note="or redirect"),
        "redirect": Field(REDIRECT, note="or route"),
        "rewrite": Field(REWRITE),
        "headers": Field(HEADERS),
        "corsPolicy": Field(CORS),
        **RESILIENCE,
    },
    (_check_rule,),
)
_TLS_RULE = Struct(
    {
        "match": Field(ListOf(TLS_MATCH, 100), required=True, note="any of them"),
        "route": Field(ListOf(TLS_DESTINATION, 100), required=True),
    },
    (check_weights,),
)


def _check_spec(spec: JsonObject, path: str, out: Findings) -> None:
    check_export(spec, path, out)
    hosts = [host.lower() for host in texts(spec, "hosts")]
    _check_hosts(hosts, child(path, "hosts"), out)
    if "http" not in spec and "tls" not in spec:
        message = "neither http nor tls says where requests go"
        out.error("missing-field", message, path, "write http: with a route")
    _warn_about_order(spec, path, out)
    for index, rule in enumerate(objects(spec, "tls")):
        for place, match in enumerate(objects(rule, "match")):
            here = child(child(child(child(path, "tls"), index), "match"), place)
            _check_names(hosts, match, child(here, "sniHosts"), out)


def _check_hosts(hosts: list[str], path: str, out: Findings) -> None:
    """No host twice, and none that another one means too."""
    for (_, one), (second, other) in combinations(list(enumerate(hosts[:200])), 2):
        if host_covers(one, other) or host_covers(other, one):
            out.error(
                "duplicate-name",
                f"the hosts {show(one)} and {show(other)} overlap",
                child(path, second),
                "keep the wider one, or write two documents",
            )
            return


def _warn_about_order(spec: JsonObject, path: str, out: Findings) -> None:
    """A rule behind one that takes every request is never reached."""
    taken: int | None = None
    for index, rule in enumerate(objects(spec, "http")):
        if taken is not None:
            out.warn(
                "never-matches",
                f"rule {taken} takes every request before this one: it never applies",
                child(child(path, "http"), index),
                "put the rule without match last",
            )
            return
        if "match" not in rule:
            taken = index


def _check_names(hosts: list[str], match: JsonObject, path: str, out: Findings) -> None:
    for index, name in enumerate(texts(match, "sniHosts")):
        if not any(host_covers(host, name.lower()) for host in hosts):
            out.error(
                "dangling-reference",
                f"{show(name)} is none of the hosts of this document",
                child(path, index),
                "add it to hosts, or correct it",
            )


SPEC = Struct(
    {
        "hosts": Field(
            ListOf(ISTIO_HOST, 200), required=True, note="that the gateway's servers have too"
        ),
        "gateways": Field(
            ListOf(GATEWAY_NAME, 100), required=True, note="`NAME` or `NAMESPACE/NAME`"
        ),
        "http": Field(ListOf(_HTTP_RULE, 1000), note="the first that matches decides"),
        "tls": Field(ListOf(_TLS_RULE, 1000), note="for servers with PASSTHROUGH"),
        "tcp": Field(Refused("TCP is a later version; tls routes by server name")),
        "exportTo": EXPORT_TO,
    },
    (_check_spec,),
)


def to_virtual_service(namespace: str, metadata: JsonObject, spec: JsonObject) -> Route:
    """A checked document of `namespace`."""
    return Route(
        family=Family.ISTIO,
        kind=resource.VIRTUAL_SERVICE,
        hosts=tuple(host.lower() for host in texts(spec, "hosts")),
        parents=tuple(to_parent(namespace, name) for name in texts(spec, "gateways")),
        http=tuple(_to_rule(namespace, rule) for rule in objects(spec, "http")),
        tls=tuple(_to_tls_rule(namespace, rule) for rule in objects(spec, "tls")),
        exported_to=_to_exported(namespace, spec),
        created=parse_timestamp(text(metadata, "creationTimestamp")),
    )


def _to_rule(namespace: str, rule: JsonObject) -> HttpRule:
    return HttpRule(
        action=_to_action(namespace, rule),
        matches=tuple(to_http_match(namespace, match) for match in objects(rule, "match")),
        headers=to_changes(obj(rule, "headers")),
        cors=to_cors(obj(rule, "corsPolicy")) if "corsPolicy" in rule else None,
        name=text(rule, "name"),
    )


def _to_action(namespace: str, rule: JsonObject) -> Forward | Redirect:
    if "redirect" in rule:
        return to_redirect(obj(rule, "redirect"))
    rewrite = to_rewrite(obj(rule, "rewrite")) if "rewrite" in rule else None
    return Forward(to_destinations(namespace, rule), rewrite)


def _to_tls_rule(namespace: str, rule: JsonObject) -> TlsRule:
    return TlsRule(
        matches=tuple(to_tls_match(namespace, match) for match in objects(rule, "match")),
        destinations=to_destinations(namespace, rule),
    )


_LATER = "a later version has it; leave it out until then"
_IDENTITY = "hops in the mesh use the mesh's identities: leave it out, or mode: ISTIO_MUTUAL"
_TRAFFIC_POLICY = Struct(
    {
        "tls": Field(
            Struct(
                {
                    "mode": Field(Only("ISTIO_MUTUAL", _IDENTITY), required=True),
                    **{
                        name: Field(Refused(_IDENTITY))
                        for name in (
                            "clientCertificate",
                            "privateKey",
                            "caCertificates",
                            "caCrl",
                            "credentialName",
                            "subjectAltNames",
                            "sni",
                            "insecureSkipVerify",
                        )
                    },
                }
            ),
            note="as it is anyway",
        ),
        "loadBalancer": Field(Refused(_LATER)),
        "connectionPool": Field(Refused(_LATER)),
        "outlierDetection": Field(Refused(_LATER)),
        "portLevelSettings": Field(Refused(_LATER)),
        "retryBudget": Field(Refused(_LATER)),
        "tunnel": Field(Refused("tunnels are not supported")),
        "proxyProtocol": Field(Refused("hops in the mesh carry the client's address in a header")),
    }
)
_SUBSET = Struct(
    {
        "name": Field(NAME, required=True),
        "labels": Field(
            MapOf(LABEL_KEY, LABEL_VALUE), required=True, note="of instances; all must match"
        ),
        "trafficPolicy": Field(Refused(_LATER)),
    }
)


def _check_destination_rule(spec: JsonObject, path: str, out: Findings) -> None:
    check_export(spec, path, out)
    names: set[str] = set()
    for index, subset in enumerate(objects(spec, "subsets")):
        name = text(subset, "name")
        if name in names:
            place = child(child(child(path, "subsets"), index), "name")
            out.error("duplicate-name", f"two subsets have the name {show(name)}", place, "rename")
        names.add(name)
    if "subsets" not in spec:
        out.warn("no-effect", "without subsets it changes nothing", path, "remove the document")


DESTINATION_RULE = Struct(
    {
        "host": Field(SERVICE_HOST, required=True, note="as of a VirtualService's destination"),
        "subsets": Field(ListOf(_SUBSET, 100), note="parts that routes may name"),
        "trafficPolicy": Field(_TRAFFIC_POLICY),
        "exportTo": EXPORT_TO,
        "workloadSelector": Field(Refused("it holds for every caller: remove it")),
    },
    (_check_destination_rule,),
)


def to_destination_rule(namespace: str, metadata: JsonObject, spec: JsonObject) -> DestinationRule:
    """A checked document of `namespace`."""
    return DestinationRule(
        service=parse_service(text(spec, "host"), namespace),
        subsets=tuple(
            Subset(text(subset, "name"), to_tags(subset["labels"]))
            for subset in objects(spec, "subsets")
        ),
        exported_to=_to_exported(namespace, spec),
        created=parse_timestamp(text(metadata, "creationTimestamp")),
    )
