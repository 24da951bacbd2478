"""What a node says of an instance it runs, and the Dataplane that follows from it.

The node adds the place only: address, ports, protocol, probes, the local side. Service, tags,
labels and identity come from the operator's document or from the node's entitlement.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from limen.core.model.mesh import Isolation
from limen.core.model.names import InstanceName, WorkloadName, parse_name
from limen.core.model.workload import (
    SERVICE_TAG,
    Dataplane,
    Inbound,
    LocalPort,
    Probe,
    Protocol,
)
from limen.core.plan.node import LocalSide
from limen.errors import Forbidden, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from limen.adapters.store import JsonValue

MAX_INBOUNDS = 16
MAX_PROBES = 32
MAX_LOCAL_PORTS = 32
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class InboundPlace:
    """A guarded port and the application's port behind it."""

    port: int
    service_port: int
    protocol: Protocol
    name: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A `Register` message, parsed. `raw` is stored, and parsed again when the server starts.

    `local_ports` are plain ports that the agent keeps for the workload alone. A `gateway` has no
    inbounds: documents say which ports it opens.
    """

    instance: InstanceName
    address: str
    inbounds: tuple[InboundPlace, ...]
    probe_port: int | None
    probes: tuple[Probe, ...]
    local: LocalSide
    local_ports: tuple[LocalPort, ...]
    raw: Mapping[str, JsonValue]
    gateway: bool = False


def parse_place(raw: Mapping[str, JsonValue], mesh: str) -> Place:
    """Read a `Register` message. Raises InvalidInput.

    Fields that this version does not know are left aside: an agent may be one version newer.
    """
    workload = WorkloadName(
        mesh,
        parse_name(_text(raw, "namespace"), "namespace"),
        parse_name(_text(raw, "service"), "service"),
    )
    inbounds = tuple(_inbound(i) for i in _objects(raw, "inbounds", MAX_INBOUNDS))
    gateway = raw.get("gateway") is True
    if len({i.port for i in inbounds}) != len(inbounds) or bool(inbounds) is gateway:
        raise InvalidInput(
            "an instance needs inbounds, each on a port of its own; a gateway has none"
        )
    probe_port = _port(raw, "probe_port") if raw.get("probe_port") is not None else None
    return Place(
        instance=InstanceName(workload, parse_name(_text(raw, "instance"), "instance")),
        address=_ip(_text(raw, "address")),
        inbounds=inbounds,
        probe_port=probe_port,
        probes=tuple(_probe(p) for p in _objects(raw, "probes", MAX_PROBES)),
        local=_local(raw),
        local_ports=_local_ports(raw),
        raw=raw,
        gateway=gateway,
    )


def dataplane_of(
    place: Place,
    tags: Mapping[str, str],
    service_account: str,
    node: str,
    document: Dataplane | None = None,
) -> Dataplane:
    """The instance as the mesh sees it.

    With an operator's `document` for this instance its tags stay, port by port in order; without
    one every port has `tags`. Local ports are there as isolation allows. Raises Forbidden if the
    document is another service's, InvalidInput if its number of ports differs.
    """
    service = place.instance.workload.name
    own = tuple(sorted({**tags, SERVICE_TAG: service}.items()))
    if document is None:
        port_tags: tuple[tuple[tuple[str, str], ...], ...] = (own,) * len(place.inbounds)
    else:
        if document.name.workload != place.instance.workload:
            raise Forbidden(
                f"the Dataplane {place.instance.instance} belongs to service "
                f"{document.name.workload}, not to {place.instance.workload}",
                code="dataplane-of-another-service",
                hint="choose another instance name",
            )
        if len(document.inbounds) != len(place.inbounds) or document.gateway is not place.gateway:
            raise InvalidInput(
                f"the document of {place.instance} has {len(document.inbounds)} inbounds, the "
                f"agent offers {len(place.inbounds)}",
                code="dataplane-mismatch",
            )
        port_tags = tuple(i.tags for i in document.inbounds)
    inbounds = tuple(
        Inbound(p.port, p.service_port, p.protocol, t, name=p.name)
        for p, t in zip(place.inbounds, port_tags, strict=True)
    )
    made = document or Dataplane(
        name=place.instance,
        service_account=service_account,
        address=place.address,
        inbounds=inbounds,
        gateway=place.gateway,
        tags=own if place.gateway else (),
    )
    return replace(
        made,
        name=place.instance,
        address=place.address,
        inbounds=inbounds,
        outbounds=_allowed_ports(place, made.outbounds),
        probe_port=place.probe_port or made.probe_port,
        probes=place.probes or made.probes,
        node=node,
    )


def check_local_ports(place: Place) -> None:
    """Raises Forbidden (`isolation-too-weak`) if any process of the host could use them."""
    if place.local_ports and place.local.isolation in {None, Isolation.NONE}:
        raise Forbidden(
            f"{place.instance} may not have plain local ports: its isolation is none",
            code="isolation-too-weak",
            hint="run it as a user of its own or in a network namespace, or use HTTP_PROXY",
        )


def _allowed_ports(place: Place, declared: tuple[LocalPort, ...]) -> tuple[LocalPort, ...]:
    """A document's ports and the agent's own, as far as nobody else can use them.

    In a network namespace all; under a user of its own those that the agent says it guards; else
    none. The agent's answer for a port wins.
    """
    match place.local.isolation:
        case Isolation.NETWORK_NAMESPACE:
            own = {port.port for port in place.local_ports}
            rest = tuple(port for port in declared if port.port not in own)
            return (*rest, *place.local_ports)
        case Isolation.UID:
            return place.local_ports
        case Isolation.NONE | None:
            return ()
        case unknown:
            assert_never(unknown)


def _inbound(raw: Mapping[str, JsonValue]) -> InboundPlace:
    protocol = _text(raw, "protocol")
    try:
        parsed = Protocol(protocol)
    except ValueError:
        raise InvalidInput(
            f"protocol {protocol[:40]!a} is not supported",
            code="protocol-unsupported",
            hint="http, http2 or grpc; TCP comes in a later version",
        ) from None
    name = _text(raw, "name") if raw.get("name") else ""
    if name:
        parse_name(name, "port name")
    return InboundPlace(_port(raw, "port"), _port(raw, "service_port"), parsed, name)


def _probe(raw: Mapping[str, JsonValue]) -> Probe:
    paths = [_text(raw, key) for key in ("path", "inbound_path")]
    if not all(p.startswith("/") and p.isascii() and p.isprintable() for p in paths):
        raise InvalidInput("a probe's paths begin with / and are printable ASCII")
    return Probe(paths[0], _port(raw, "inbound_port"), paths[1])


def _local(raw: Mapping[str, JsonValue]) -> LocalSide:
    found = raw.get("local") or {}
    if not isinstance(found, dict):
        raise InvalidInput("local must be an object")
    port = _port(found, "outbound_port") if found.get("outbound_port") else 0
    socket, pdp = _socket(found, "outbound_socket"), _socket(found, "pdp_socket")
    isolation = raw.get("isolation")
    try:
        level = Isolation(isolation) if isolation else None
    except ValueError:
        raise InvalidInput(f"isolation {str(isolation)[:40]!a} is not known") from None
    return LocalSide(port, socket, level, pdp)


def _socket(found: Mapping[str, JsonValue], name: str) -> str:
    socket = _text(found, name) if found.get(name) else ""
    if socket and not (socket.startswith("/") and socket.isprintable() and len(socket) < 108):
        raise InvalidInput(f"{name} must be an absolute path of 107 characters at most")
    return socket


def _local_ports(raw: Mapping[str, JsonValue]) -> tuple[LocalPort, ...]:
    local = raw.get("local") or {}
    if not isinstance(local, dict):
        raise InvalidInput("local must be an object")
    found = tuple(
        LocalPort(
            LOOPBACK,
            _port(item, "port"),
            ((SERVICE_TAG, parse_name(_text(item, "service"), "service")),),
        )
        for item in _objects(local, "ports", MAX_LOCAL_PORTS)
    )
    if len({port.port for port in found}) != len(found):
        raise InvalidInput("two local ports have one number", code="duplicate-port")
    return found


def _ip(text: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or address.is_unspecified or address.is_multicast:
        raise InvalidInput(f"address {text[:80]!a} is not an IP address that others can reach")
    return str(address)


def _text(raw: Mapping[str, JsonValue], key: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or len(value) > 1024:
        raise InvalidInput(f"{key} must be a text")
    return value


def _port(raw: Mapping[str, JsonValue], key: str) -> int:
    value = raw.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
        raise InvalidInput(f"{key} must be a port number")
    return value


def _objects(
    raw: Mapping[str, JsonValue], key: str, most: int
) -> Sequence[Mapping[str, JsonValue]]:
    value = raw.get(key) or []
    if not isinstance(value, list) or len(value) > most:
        raise InvalidInput(f"{key} must be a list of at most {most}")
    objects = [v for v in value if isinstance(v, dict)]
    if len(objects) != len(value):
        raise InvalidInput(f"{key} must hold objects")
    return objects
