"""Kuma's Dataplane: schema and conversion.

Source: kuma `api/mesh/v1alpha1/dataplane.proto` (2.x, with `state` and `name` of inbounds), its
validator, and `pkg/xds/generator/probe_generator.go`.
"""

from __future__ import annotations

import ipaddress
import re

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.fields import obj, objects, text, whole
from limen.core.dialects.metadata import (
    OWN_SERVICE_ACCOUNT_LABEL,
    SERVICE_ACCOUNT_LABEL,
)
from limen.core.dialects.schema import (
    Choice,
    Field,
    ListOf,
    MapOf,
    Only,
    Refused,
    Struct,
    Text,
    Whole,
)
from limen.core.dialects.tags import (
    TAG_NAME,
    TAG_VALUE,
    check_protocol_tag,
    check_service_tag,
    to_tags,
)
from limen.core.model.names import InstanceName, WorkloadName
from limen.core.model.workload import (
    PROTOCOL_TAG,
    SERVICE_TAG,
    Dataplane,
    Inbound,
    LocalPort,
    Probe,
    Protocol,
)
from limen.errors import InvalidInput

LOOPBACK = "127.0.0.1"
PORT = Whole(1, 65535)


def parse_address(value: str) -> str:
    """`value` if it is an IP address. Raises InvalidInput (code `bad-address`)."""
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        address = None
    if address is None or getattr(address, "scope_id", None):
        raise InvalidInput(
            f"{show(value)} is not an IP address",
            code="bad-address",
            hint="host names are not resolved: write the IP address",
        )
    if address.is_unspecified or address.is_multicast:
        raise InvalidInput(
            f"{show(value)} is not the address of one host",
            code="bad-address",
            hint="write the address at which others reach it",
        )
    return value


def parse_probe_path(value: str) -> str:
    """`value` if it is a plain path. Raises InvalidInput (code `bad-value`)."""
    segments = value.split("/")
    if not re.fullmatch(r"/[A-Za-z0-9._~/@:+-]*", value) or {".", ".."} & set(segments):
        raise InvalidInput(
            f"{show(value)} is not a plain path",
            code="bad-value",
            hint="start with /, without query, '..' or escapes",
        )
    return value


ADDRESS = Text("an IP address", max_length=45, parse=parse_address)
PATH = Text("a path", max_length=1024, parse=parse_probe_path)
_NOT_READY = "an instance that is not ready is simply not registered: remove it, or write Ready"
_TAGS = MapOf(TAG_NAME, TAG_VALUE)


def _check_inbound(inbound: JsonObject, path: str, out: Findings) -> None:
    tags = obj(inbound, "tags")
    check_service_tag(tags, child(path, "tags"), out)
    check_protocol_tag(tags, child(path, "tags"), out)


def _check_outbound(outbound: JsonObject, path: str, out: Findings) -> None:
    tags = obj(outbound, "tags")
    check_service_tag(tags, child(path, "tags"), out)
    for name in tags:
        if name != SERVICE_TAG:
            out.error(
                "refused-field",
                f"the tag {show(name)} is not supported here",
                child(child(path, "tags"), name),
                f"a local port leads to a whole service: keep {SERVICE_TAG} only",
            )


INBOUND = Struct(
    {
        "port": Field(PORT, required=True, note="where mutual TLS is spoken"),
        "servicePort": Field(PORT, note="where the application listens; `port` if absent"),
        "serviceAddress": Field(ADDRESS, note="of the application, 127.0.0.1 if absent"),
        "address": Field(ADDRESS, note="networking.address if absent"),
        "tags": Field(_TAGS, required=True, note="at least kuma.io/service"),
        "name": Field(
            Text("a port's name", re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"), 1, 63),
            note="for sectionName",
        ),
        "state": Field(Choice(("Ready",), {"NotReady": _NOT_READY, "Ignored": _NOT_READY})),
        "health": Field(Struct({"ready": Field(Only(True, _NOT_READY), required=True)})),
        "serviceProbe": Field(Refused("active probing by the proxy is a later version")),
    },
    (_check_inbound,),
)

OUTBOUND = Struct(
    {
        "address": Field(ADDRESS, note="127.0.0.1 if absent; a loopback address"),
        "port": Field(PORT, required=True),
        "tags": Field(_TAGS, required=True, note="kuma.io/service of the service to reach"),
        "service": Field(Refused("write tags: {kuma.io/service: NAME} instead")),
        "backendRef": Field(Refused("write tags: {kuma.io/service: NAME} instead")),
    },
    (_check_outbound,),
)

_DELEGATED = "a foreign gateway is a workload like any other: give it an inbound"


def _check_gateway(gateway: JsonObject, path: str, out: Findings) -> None:
    check_service_tag(obj(gateway, "tags"), child(path, "tags"), out)


GATEWAY = Struct(
    {
        "type": Field(
            Choice(("BUILTIN",), {"DELEGATED": _DELEGATED}),
            required=True,
            note="its ports come from Gateway documents",
        ),
        "tags": Field(_TAGS, required=True, note="at least kuma.io/service"),
    },
    (_check_gateway,),
)

PROBES = Struct(
    {
        "port": Field(PORT, required=True, note="plaintext, GET and HEAD on these paths only"),
        "endpoints": Field(
            ListOf(
                Struct(
                    {
                        "inboundPort": Field(
                            PORT, required=True, note="port of the application (servicePort)"
                        ),
                        "inboundPath": Field(PATH, required=True, note="path on the application"),
                        "path": Field(PATH, required=True, note="path on the probe port"),
                    }
                ),
                maximum=100,
            ),
            required=True,
        ),
    }
)


def _check_dataplane(spec: JsonObject, path: str, out: Findings) -> None:
    networking = obj(spec, "networking")
    inbounds = objects(networking, "inbound")
    place = child(path, "networking")
    _check_kind(spec, path, out)
    taken: dict[tuple[str, int], str] = {}
    for index, inbound in enumerate(inbounds):
        here = child(child(place, "inbound"), index)
        _claim(taken, _bind_address(networking, inbound), whole(inbound, "port"), here, out)
    for index, inbound in enumerate(inbounds):
        here = child(child(place, "inbound"), index)
        _check_application(inbound, here, taken, out)
    for index, outbound in enumerate(objects(networking, "outbound")):
        here = child(child(place, "outbound"), index)
        address = text(outbound, "address", LOOPBACK)
        _claim(taken, address, whole(outbound, "port"), here, out)
        if not ipaddress.ip_address(address).is_loopback:
            out.error(
                "bad-address",
                f"{show(address)} is not a loopback address: others could borrow this identity",
                child(here, "address"),
                "write 127.0.0.1, or remove the field",
            )
    names = [text(inbound, "name") for inbound in inbounds]
    for index, name in enumerate(names):
        if name and name in names[:index]:
            here = child(child(child(place, "inbound"), index), "name")
            out.error("duplicate-name", f"two inbounds are called {show(name)}", here)
    _check_probes(spec, path, taken, out)


def _check_kind(spec: JsonObject, path: str, out: Findings) -> None:
    """A Dataplane has inbounds or is a gateway."""
    networking, place = obj(spec, "networking"), child(path, "networking")
    if "gateway" not in networking:
        if not objects(networking, "inbound"):
            out.error(
                "missing-field",
                "a Dataplane serves at least one port",
                place,
                "add inbound, or gateway: {type: BUILTIN, tags: …} for a gateway",
            )
        return
    for parent, where, name in (
        (networking, place, "inbound"),
        (networking, place, "outbound"),
        (spec, path, "probes"),
    ):
        if name in parent:
            out.error(
                "refused-field",
                f"a gateway has no {name}: its ports come from Gateway documents",
                child(where, name),
                "remove it, or remove gateway",
            )


def _claim(
    taken: dict[tuple[str, int], str], address: str, port: int, path: str, out: Findings
) -> None:
    """Each address and port is used once."""
    owner = taken.setdefault((address, port), path)
    if owner != path:
        out.error(
            "port-conflict",
            f"port {port} is already used by {owner}",
            child(path, "port"),
            "use another port",
        )


def _check_application(
    inbound: JsonObject, path: str, taken: dict[tuple[str, int], str], out: Findings
) -> None:
    """The application does not listen where the proxy does."""
    address, port = text(inbound, "serviceAddress", LOOPBACK), _service_port(inbound)
    owner = taken.get((address, port))
    if owner is not None:
        out.error(
            "port-conflict",
            f"the proxy listens where the application should: {owner} has port {port}",
            child(path, "servicePort" if "servicePort" in inbound else "port"),
            "give the application a servicePort of its own",
        )


def _check_probes(
    spec: JsonObject, path: str, taken: dict[tuple[str, int], str], out: Findings
) -> None:
    probes = obj(spec, "probes")
    if not probes:
        return
    networking, place = obj(spec, "networking"), child(path, "probes")
    _claim(taken, text(networking, "address"), whole(probes, "port"), place, out)
    known = {_service_port(inbound) for inbound in objects(networking, "inbound")}
    seen: set[str] = set()
    for index, endpoint in enumerate(objects(probes, "endpoints")):
        here = child(child(place, "endpoints"), index)
        if whole(endpoint, "inboundPort") not in known:
            out.error(
                "dangling-reference",
                f"no inbound has the application port {whole(endpoint, 'inboundPort')}",
                child(here, "inboundPort"),
                f"application ports here: {', '.join(map(str, sorted(known)))}",
            )
        if text(endpoint, "path") in seen:
            out.error(
                "duplicate-name",
                f"two probes have the path {show(text(endpoint, 'path'))}",
                child(here, "path"),
            )
        seen.add(text(endpoint, "path"))


SPEC = Struct(
    {
        "networking": Field(
            Struct(
                {
                    "address": Field(ADDRESS, required=True, note="where the proxy is reached"),
                    "inbound": Field(
                        ListOf(INBOUND, maximum=100),
                        note="at least one port, but for a gateway, which has none",
                    ),
                    "outbound": Field(ListOf(OUTBOUND, maximum=1000)),
                    "advertisedAddress": Field(
                        Refused("proxies are reached where they listen: write it as address")
                    ),
                    "gateway": Field(GATEWAY, note="an instance of `limen gateway run`"),
                    "transparentProxying": Field(
                        Refused("transparent proxying is a later version: remove it")
                    ),
                    "admin": Field(Refused("the admin interface is a Unix socket: remove it")),
                    "ingress": Field(Refused("zones are a later version: remove it")),
                }
            ),
            required=True,
            note="address, and inbound or gateway",
        ),
        "metrics": Field(Refused("per-workload metrics settings are a later version: remove it")),
        "probes": Field(PROBES),
        "envoy": Field(Refused("the way to the proxy is not a setting (delta xDS): remove it")),
    },
    (_check_dataplane,),
)


def to_dataplane(
    instance: str, mesh: str, namespace: str, metadata: JsonObject, spec: JsonObject
) -> Dataplane:
    """A checked spec. The workload is the service of the first inbound, or the gateway's.

    `node` stays "": which node runs an instance is registered by the server, never written.
    """
    networking = obj(spec, "networking")
    inbounds = tuple(_to_inbound(inbound) for inbound in objects(networking, "inbound"))
    gateway = "gateway" in networking
    tags = to_tags(obj(networking, "gateway").get("tags", {}))
    service = inbounds[0].service if inbounds else dict(tags)[SERVICE_TAG]
    workload = WorkloadName(mesh, namespace, service)
    labels = obj(metadata, "labels")
    account = text(labels, OWN_SERVICE_ACCOUNT_LABEL) or text(labels, SERVICE_ACCOUNT_LABEL)
    probes = obj(spec, "probes")
    return Dataplane(
        name=InstanceName(workload, instance),
        service_account=account or workload.name,
        address=text(networking, "address"),
        inbounds=inbounds,
        outbounds=tuple(
            LocalPort(text(o, "address", LOOPBACK), whole(o, "port"), to_tags(o["tags"]))
            for o in objects(networking, "outbound")
        ),
        probe_port=whole(probes, "port") or None,
        probes=tuple(
            Probe(text(e, "path"), whole(e, "inboundPort"), text(e, "inboundPath"))
            for e in objects(probes, "endpoints")
        ),
        gateway=gateway,
        tags=tags,
    )


def _to_inbound(inbound: JsonObject) -> Inbound:
    tags = to_tags(inbound["tags"])
    return Inbound(
        port=whole(inbound, "port"),
        service_port=_service_port(inbound),
        protocol=Protocol(dict(tags).get(PROTOCOL_TAG, Protocol.HTTP.value)),
        tags=tags,
        address=text(inbound, "address"),
        service_address=text(inbound, "serviceAddress", LOOPBACK),
        name=text(inbound, "name"),
    )


def _service_port(inbound: JsonObject) -> int:
    return whole(inbound, "servicePort", whole(inbound, "port"))


def _bind_address(networking: JsonObject, inbound: JsonObject) -> str:
    return text(inbound, "address", text(networking, "address"))
