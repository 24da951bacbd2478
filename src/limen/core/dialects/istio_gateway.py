"""Istio's Gateway: schema and conversion.

Source: istio/api `networking/v1/gateway.proto`, istio/istio `pkg/config/validation`
ValidateGateway, `pilot/pkg/model/gateway.go` MergeGateways.
"""

from __future__ import annotations

import ipaddress

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.fields import obj, objects, text, texts, whole
from limen.core.dialects.gateway_hosts import SERVER_HOST
from limen.core.dialects.istio_gateway_tls import TLS, check_ended, check_plain, to_tls
from limen.core.dialects.metadata import LABEL_KEY, LABEL_VALUE, NAME, parse_timestamp
from limen.core.dialects.schema import (
    Field,
    ListOf,
    MapOf,
    Refused,
    Struct,
    Text,
    Whole,
    suggestion,
)
from limen.core.dialects.tags import to_tags
from limen.core.model import resource
from limen.core.model.gateway import (
    ANY,
    Family,
    Gateway,
    HostGrant,
    Listener,
    ListenerProtocol,
    ServerTlsMode,
)
from limen.errors import InvalidInput

API_VERSION = "networking.istio.io/v1"
OLDER_VERSIONS = ("networking.istio.io/v1beta1", "networking.istio.io/v1alpha3")
MAX_SERVERS = 128

_TCP = "TCP is a later version"
_PLAIN = ("HTTP", "HTTP2", "GRPC")
_PROTOCOLS = (*_PLAIN, "HTTPS", "TLS")
_LATER = {
    "TCP": _TCP,
    "MONGO": _TCP,
    "MYSQL": _TCP,
    "REDIS": _TCP,
    "UDP": "HTTP, HTTPS and TLS are served",
    "GRPC-WEB": "translating gRPC-Web is a later version; unchanged it passes as HTTP",
}


def _check_protocol(value: str) -> None:
    if value.upper() in _LATER:
        raise InvalidInput(
            f"{show(value)} is not supported", code="refused-value", hint=_LATER[value.upper()]
        )
    if value.upper() not in _PROTOCOLS:
        raise InvalidInput(
            f"{show(value)} is not one of: {', '.join(_PROTOCOLS)}",
            code="unknown-value",
            hint=suggestion(value, _PROTOCOLS),
        )


def check_address(value: str) -> None:
    """Raises InvalidInput (code `bad-address`) unless a listener can be bound to `value`."""
    try:
        address = ipaddress.ip_address(value)
        good = not address.is_multicast and not getattr(address, "scope_id", None)
    except ValueError:
        good = False
    if not good:
        raise InvalidInput(
            f"{show(value)} is not an address to listen on",
            code="bad-address",
            hint="write an IP address of the gateway's host",
        )


def _check_server(server: JsonObject, path: str, out: Findings) -> None:
    protocol = _protocol(server)
    tls, place = obj(server, "tls"), child(path, "tls")
    if protocol in _PLAIN:
        check_plain(tls, place, out)
        return
    if "tls" not in server:
        out.error("missing-field", f"{protocol} needs tls", path, "write tls: with a mode")
        return
    check_ended(tls, place, out)
    if protocol == "TLS" and tls.get("mode", "PASSTHROUGH") != "PASSTHROUGH":
        out.error(
            "refused-value",
            "ending TLS around something other than HTTP is not supported",
            child(place, "mode"),
            "write protocol: HTTPS, or mode: PASSTHROUGH",
        )


def _check_servers(spec: JsonObject, path: str, out: Findings) -> None:
    place = child(path, "servers")
    names: set[str] = set()
    ports: dict[tuple[str, int], str] = {}
    hosts: set[tuple[str, int, str]] = set()
    for index, server in enumerate(objects(spec, "servers")):
        here, port = child(place, index), obj(server, "port")
        name, number = text(port, "name"), whole(port, "number")
        if name in names:
            message = f"two servers have a port with the name {show(name)}"
            out.error("duplicate-name", message, child(child(here, "port"), "name"), "rename one")
        names.add(name)
        bound = (text(server, "bind"), number)
        plain = "plain HTTP" if _protocol(server) in _PLAIN else "TLS"
        if ports.setdefault(bound, plain) != plain:
            out.error(
                "port-conflict",
                f"port {number} would be both plain HTTP and TLS",
                child(child(here, "port"), "number"),
                "give one of them another port",
            )
        for position, grant in enumerate(_grants("", server) if plain == "TLS" else ()):
            if (*bound, grant.host) in hosts:
                out.error(
                    "port-conflict",
                    f"two servers on port {number} end TLS for the host {show(grant.host)}",
                    child(child(here, "hosts"), position),
                    "keep it in one of them",
                )
        hosts |= {(*bound, grant.host) for grant in _grants("", server) if plain == "TLS"}


def _protocol(server: JsonObject) -> str:
    return text(obj(server, "port"), "protocol").upper()


_PORT = Struct(
    {
        "number": Field(Whole(1, 65535), required=True),
        "protocol": Field(
            Text("a protocol", max_length=32, parse=_check_protocol),
            required=True,
            note=f"one of {', '.join(_PROTOCOLS)}",
        ),
        "name": Field(NAME, required=True, note="each server's port has a name of its own"),
        "targetPort": Field(Refused("it has no effect on a gateway: remove it")),
    }
)
_SERVER = Struct(
    {
        "port": Field(_PORT, required=True),
        "hosts": Field(
            ListOf(SERVER_HOST, 1000),
            required=True,
            note="`HOST`, or `NAMESPACE/HOST` for the routes of one namespace (`.` is the own one)",
        ),
        "tls": Field(TLS),
        "bind": Field(
            Text("an address", max_length=45, parse=check_address), note="every address if absent"
        ),
        "name": Field(Refused("the port's name names the server: remove it")),
        "defaultEndpoint": Field(Refused("Istio does not implement it either: remove it")),
    },
    (_check_server,),
)
SPEC = Struct(
    {
        "servers": Field(ListOf(_SERVER, MAX_SERVERS), required=True),
        "selector": Field(
            MapOf(LABEL_KEY, LABEL_VALUE),
            required=True,
            note="labels of the gateway's workload, of any namespace; all must match",
        ),
    },
    (_check_servers,),
)


def to_gateway(namespace: str, metadata: JsonObject, spec: JsonObject) -> Gateway:
    """A checked document of `namespace`."""
    return Gateway(
        family=Family.ISTIO,
        listeners=tuple(_to_listener(namespace, server) for server in objects(spec, "servers")),
        selector=to_tags(spec["selector"]),
        created=parse_timestamp(text(metadata, "creationTimestamp")),
    )


def _to_listener(namespace: str, server: JsonObject) -> Listener:
    plain = _protocol(server) in _PLAIN
    tls = None if plain else to_tls(obj(server, "tls"))
    through = tls is not None and tls.mode is ServerTlsMode.PASSTHROUGH
    return Listener(
        name=text(obj(server, "port"), "name"),
        port=whole(obj(server, "port"), "number"),
        protocol=_to_protocol(plain=plain, through=through),
        grants=_grants(namespace, server),
        kinds=(resource.VIRTUAL_SERVICE,),
        tls=tls,
        https_redirect=plain and obj(server, "tls").get("httpsRedirect") is True,
        bind=text(server, "bind"),
    )


def _to_protocol(*, plain: bool, through: bool) -> ListenerProtocol:
    if plain:
        return ListenerProtocol.HTTP
    return ListenerProtocol.TLS if through else ListenerProtocol.HTTPS


def _grants(namespace: str, server: JsonObject) -> tuple[HostGrant, ...]:
    """One for each host, in order; `.` is `namespace`."""
    grants = []
    for entry in texts(server, "hosts"):
        owner, _, host = entry.rpartition("/")
        grants.append(HostGrant(namespace if owner == "." else owner or ANY, host.lower()))
    return tuple(grants)
