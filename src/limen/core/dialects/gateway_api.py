"""The Gateway API's Gateway: schema and conversion.

Source: kubernetes-sigs/gateway-api `apis/v1/gateway_types.go`.
"""

from __future__ import annotations

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.fields import obj, objects, text, texts, whole
from limen.core.dialects.gateway_api_references import (
    EXPERIMENTAL,
    GROUP,
    PORT,
    kind_of,
)
from limen.core.dialects.gateway_api_tls import (
    GATEWAY_TLS,
    LISTENER_TLS,
    check_https,
    check_passthrough,
    frontends,
    to_tls,
)
from limen.core.dialects.gateway_hosts import HOSTNAME, SERVICE_HOST, parse_service
from limen.core.dialects.istio_gateway import check_address
from limen.core.dialects.metadata import NAME, parse_timestamp
from limen.core.dialects.schema import (
    Choice,
    Field,
    ListOf,
    Refused,
    Struct,
    Text,
    check,
    suggestion,
)
from limen.core.model import resource
from limen.core.model.gateway import ANY, Family, Gateway, HostGrant, Listener, ListenerProtocol
from limen.core.model.names import parse_name
from limen.errors import InvalidInput

API_VERSION = f"{GROUP}/v1"
OLDER_VERSIONS = (f"{GROUP}/v1beta1",)
NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""The label that every namespace has in Kubernetes: its name."""

_HTTP_KINDS = (resource.HTTP_ROUTE, resource.GRPC_ROUTE)
_KINDS = {"HTTP": _HTTP_KINDS, "HTTPS": _HTTP_KINDS, "TLS": (resource.TLS_ROUTE,)}
_LATER = {"TCP": "TCP is a later version", "UDP": "HTTP, HTTPS and TLS are served"}
_LATER_KINDS = {f"{GROUP}/{name}Route": why for name, why in _LATER.items()}
_NO_LABELS = f"namespaces have no labels here but {NAMESPACE_NAME}, their name"
_AMBIENT = "waypoints and east-west gateways are not supported"
_CLASSES = {"istio-waypoint": _AMBIENT, "istio-east-west": _AMBIENT, "istio-remote": _AMBIENT}
_INFRASTRUCTURE = "nothing is created for a gateway here: remove it"


def _check_class(value: str) -> None:
    parse_name(value, "class")
    if value in _CLASSES:
        raise InvalidInput(
            f"the class {show(value)} is not supported", code="refused-value", hint=_CLASSES[value]
        )


def _check_protocol(value: str) -> None:
    if value.upper() in _LATER:
        raise InvalidInput(
            f"{show(value)} is not supported", code="refused-value", hint=_LATER[value.upper()]
        )
    if value.upper() not in _KINDS:
        raise InvalidInput(
            f"{show(value)} is not one of: {', '.join(_KINDS)}",
            code="unknown-value",
            hint=suggestion(value, tuple(_KINDS)),
        )


def _check_from(value: JsonObject, path: str, out: Findings) -> None:
    chosen = value.get("from", "Same")
    if chosen == "Selector" and not _selected(value):
        message = "Selector needs a selector that names namespaces"
        out.error("missing-field", message, path, f"write {NAMESPACE_NAME}: NAMESPACE under it")
    if chosen != "Selector" and "selector" in value:
        out.error(
            "conflicting-fields",
            f"selector has no meaning with from: {chosen}",
            child(path, "selector"),
            "write from: Selector, or remove it",
        )


def _check_kind(value: JsonObject, path: str, out: Findings) -> None:
    named = kind_of(value, GROUP, "")
    if named in _LATER_KINDS:
        message = f"{show(text(value, 'kind'))} is not supported"
        out.error("refused-value", message, child(path, "kind"), _LATER_KINDS[named])
    elif named not in (*_HTTP_KINDS, resource.TLS_ROUTE):
        known = "HTTPRoute, GRPCRoute, TLSRoute"
        message = f"{show(named, 120)} is not one of: {known}"
        out.error("unknown-value", message, child(path, "kind"), f"of the group {GROUP}")


def _selected(namespaces: JsonObject) -> tuple[str, ...]:
    """The names that a selector means, sorted."""
    selector = obj(namespaces, "selector")
    wanted = [set(texts(e, "values")) for e in objects(selector, "matchExpressions")]
    if "matchLabels" in selector:
        wanted.append({text(obj(selector, "matchLabels"), NAMESPACE_NAME)})
    return tuple(sorted(set.intersection(*wanted))) if wanted else ()


_NAMESPACES = Struct(
    {
        "from": Field(Choice(("Same", "All", "Selector")), note="Same if absent"),
        "selector": Field(
            Struct(
                {
                    "matchLabels": Field(
                        Struct({NAMESPACE_NAME: Field(NAME, required=True, note=_NO_LABELS)})
                    ),
                    "matchExpressions": Field(
                        ListOf(
                            Struct(
                                {
                                    "key": Field(Choice((NAMESPACE_NAME,)), required=True),
                                    "operator": Field(
                                        Choice(
                                            ("In",),
                                            dict.fromkeys(
                                                ("NotIn", "Exists", "DoesNotExist"),
                                                "name the namespaces with In, or write from: All",
                                            ),
                                        ),
                                        required=True,
                                    ),
                                    "values": Field(ListOf(NAME, 100), required=True),
                                }
                            ),
                            16,
                        )
                    ),
                }
            ),
            note=_NO_LABELS,
        ),
    },
    (_check_from,),
)
_ALLOWED = Struct(
    {
        "namespaces": Field(_NAMESPACES, note="whose routes may attach; the gateway's if absent"),
        "kinds": Field(
            ListOf(
                Struct(
                    {
                        "group": Field(Text("a group", max_length=253)),
                        "kind": Field(Text("a kind", max_length=63), required=True),
                    },
                    (_check_kind,),
                ),
                8,
            ),
            note="by protocol if absent: HTTPRoute and GRPCRoute, or TLSRoute",
        ),
    }
)
_LISTENER = Struct(
    {
        "name": Field(NAME, required=True, note="unique in the gateway"),
        "hostname": Field(HOSTNAME, note="every host if absent"),
        "port": Field(PORT, required=True),
        "protocol": Field(
            Text("a protocol", max_length=255, parse=_check_protocol),
            required=True,
            note=f"one of {', '.join(_KINDS)}",
        ),
        "tls": Field(LISTENER_TLS, note="of HTTPS and TLS"),
        "allowedRoutes": Field(_ALLOWED),
    }
)


def _check_address(value: JsonObject, path: str, out: Findings) -> None:
    if value.get("type", "IPAddress") == "IPAddress":
        kind = Text("an address", max_length=45, parse=check_address)
    else:
        kind = SERVICE_HOST
    check(kind, value["value"], child(path, "value"), out)


_ADDRESS = Struct(
    {
        "type": Field(
            Choice(
                ("IPAddress", "Hostname"),
                {"NamedAddress": "write the address, or the host of the gateway's workload"},
            ),
            note="IPAddress if absent",
        ),
        "value": Field(
            Text("an address", max_length=253),
            required=True,
            note="an IPAddress to listen on, or the Hostname of the workload that serves it",
        ),
    },
    (_check_address,),
)


def _protocol(listener: JsonObject) -> str:
    return text(listener, "protocol").upper()


def _check_spec(spec: JsonObject, path: str, out: Findings) -> None:
    validations = frontends(spec)
    names: set[str] = set()
    taken: dict[tuple[int, str], int] = {}
    plain: dict[int, bool] = {}
    for index, listener in enumerate(objects(spec, "listeners")):
        place = child(child(path, "listeners"), index)
        name, port = text(listener, "name"), whole(listener, "port")
        if name in names:
            message = f"two listeners have the name {show(name)}"
            out.error("duplicate-name", message, child(place, "name"), "rename one")
        names.add(name)
        host = text(listener, "hostname", ANY)
        if (port, host) in taken:
            message = f"listener {taken[port, host]} has port {port} and this hostname already"
            out.error("port-conflict", message, place, "give them different hostnames or ports")
        taken.setdefault((port, host), index)
        is_plain = _protocol(listener) == "HTTP"
        if plain.setdefault(port, is_plain) != is_plain:
            message = f"port {port} would be both plain HTTP and TLS"
            out.error("port-conflict", message, child(place, "port"), "use another port")
        _check_listener(listener, validations.get(port, validations[0]), place, out)
    if sum(a.get("type") == "Hostname" for a in objects(spec, "addresses")) > 1:
        message = "a gateway is served by one workload"
        out.error("conflicting-fields", message, child(path, "addresses"), "keep one Hostname")


def _check_listener(listener: JsonObject, validation: JsonObject, path: str, out: Findings) -> None:
    protocol = _protocol(listener)
    if protocol == "HTTP" and "tls" in listener:
        message = "tls has no meaning with HTTP"
        hint = "write protocol: HTTPS, or remove it"
        out.error("conflicting-fields", message, child(path, "tls"), hint)
    elif protocol != "HTTP" and "tls" not in listener:
        out.error("missing-field", f"{protocol} needs tls", path, "write tls:")
    elif protocol == "HTTPS":
        check_https(listener, validation, path, out)
    elif protocol == "TLS":
        check_passthrough(listener, path, out)
    allowed = obj(listener, "allowedRoutes")
    for index, kind in enumerate(objects(allowed, "kinds")):
        if kind_of(kind, GROUP, "") not in _KINDS[protocol]:
            place = child(child(child(path, "allowedRoutes"), "kinds"), index)
            message = f"a {text(kind, 'kind')} cannot attach to a listener of {protocol}"
            out.error("conflicting-fields", message, place, "remove it")


SPEC = Struct(
    {
        "gatewayClassName": Field(
            Text("a class", max_length=253, parse=_check_class),
            required=True,
            note="any: Limen serves it",
        ),
        "listeners": Field(ListOf(_LISTENER, 64), required=True),
        "addresses": Field(
            ListOf(_ADDRESS, 16),
            note="else every address of the workload with the gateway's own namespace and name",
        ),
        "tls": Field(GATEWAY_TLS),
        "infrastructure": Field(Refused(_INFRASTRUCTURE)),
        "allowedListeners": Field(Refused("ListenerSets are not supported")),
        "defaultScope": Field(EXPERIMENTAL),
        "backendTLS": Field(EXPERIMENTAL),
    },
    (_check_spec,),
)


def to_gateway(namespace: str, metadata: JsonObject, spec: JsonObject) -> Gateway:
    """A checked document of `namespace`."""
    validations = frontends(spec)
    workload = f"{namespace}/{text(metadata, 'name')}"
    addresses = []
    for address in objects(spec, "addresses"):
        if address.get("type") == "Hostname":
            service = parse_service(text(address, "value"), namespace)
            workload = f"{service.namespace}/{service.name}"
        else:
            addresses.append(text(address, "value"))
    return Gateway(
        family=Family.GATEWAY_API,
        listeners=tuple(
            _to_listener(namespace, one, validations.get(whole(one, "port"), validations[0]))
            for one in objects(spec, "listeners")
        ),
        workload=workload,
        addresses=tuple(addresses),
        created=parse_timestamp(text(metadata, "creationTimestamp")),
    )


def _to_listener(namespace: str, listener: JsonObject, validation: JsonObject) -> Listener:
    protocol = _protocol(listener)
    allowed = obj(listener, "allowedRoutes")
    kinds = tuple(kind_of(kind, GROUP, "") for kind in objects(allowed, "kinds"))
    host = text(listener, "hostname", ANY)
    owners = _owners(namespace, obj(allowed, "namespaces"))
    return Listener(
        name=text(listener, "name"),
        port=whole(listener, "port"),
        protocol=ListenerProtocol(protocol),
        grants=tuple(HostGrant(owner, host) for owner in owners),
        kinds=kinds or _KINDS[protocol],
        tls=None if protocol == "HTTP" else to_tls(namespace, listener, validation),
    )


def _owners(namespace: str, namespaces: JsonObject) -> tuple[str, ...]:
    match namespaces.get("from", "Same"):
        case "All":
            return (ANY,)
        case "Selector":
            return _selected(namespaces)
        case _:
            return (namespace,)
