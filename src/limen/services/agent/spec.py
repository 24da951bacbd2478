"""What one asks of an agent: run this workload. Parsed strictly, because it comes over a socket.

Identity, tags and rights are not in here: they are the server's to say.
"""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from limen.adapters.peercred import ProcessId
from limen.core.model.names import (
    DEFAULT_MESH,
    DEFAULT_NAMESPACE,
    InstanceName,
    WorkloadName,
    parse_name,
)
from limen.core.model.workload import Protocol
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PORT = 65535
MAX_LOCAL_PORTS = 32


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """One instance. Ports: `port` guarded (0: the agent chooses), `service_port` the program's.

    `uid` is the program's user. `process` binds the workload to a process tree: callers of the
    Workload API must stand in it, and the workload ends with it. Without it the uid decides.
    `netns` is the path of the network namespace in which program and proxy run, "" for the agent's.
    `local_ports` are plain loopback ports, each leading to one service of the same namespace. A
    `gateway` has no program and no guarded port: both ports are 0, documents say what it opens.
    """

    service: str
    service_port: int
    uid: int
    namespace: str = DEFAULT_NAMESPACE
    instance: str = ""
    protocol: str = Protocol.HTTP.value
    address: str = ""
    port: int = 0
    probe_port: int | None = None
    probe_path: str = ""
    process: ProcessId | None = None
    local_ports: tuple[tuple[int, str], ...] = ()
    netns: str = ""
    gateway: bool = False

    @property
    def workload(self) -> str:
        """`NAMESPACE/NAME`."""
        return f"{self.namespace}/{self.service}"

    @property
    def key(self) -> str:
        """`NAMESPACE/NAME/INSTANCE`."""
        return f"{self.workload}/{self.instance}"

    def instance_name(self, mesh: str = DEFAULT_MESH) -> InstanceName:
        """Its name in `mesh`."""
        return InstanceName(WorkloadName(mesh, self.namespace, self.service), self.instance)


def spec_to_json(spec: WorkloadSpec) -> dict[str, Any]:
    """Shape that `parse_spec` reads."""
    return asdict(spec)


def parse_spec(raw: Mapping[str, Any]) -> WorkloadSpec:
    """A spec from JSON. Raises InvalidInput for an unknown field, a wrong type or a bad name."""
    known = {f.name for f in fields(WorkloadSpec)}
    if unknown := sorted(set(raw) - known):
        raise InvalidInput(f"unknown field {unknown[0]!a} of a workload", code="unknown-field")
    address = _text(raw, "address")
    if address:
        _check_address(address)
    gateway = raw.get("gateway") is True
    return WorkloadSpec(
        service=parse_name(_text(raw, "service"), "service"),
        service_port=_port(raw, "service_port", low=0 if gateway else 1),
        uid=_number(raw, "uid", 0, 2**32 - 2),
        namespace=parse_name(_text(raw, "namespace") or DEFAULT_NAMESPACE, "namespace"),
        instance=parse_name(_text(raw, "instance"), "instance") if raw.get("instance") else "",
        protocol=parse_protocol(_text(raw, "protocol") or Protocol.HTTP.value),
        address=address,
        port=_port(raw, "port", low=0) if "port" in raw else 0,
        probe_port=None if raw.get("probe_port") is None else _port(raw, "probe_port", low=1),
        probe_path=_probe_path(_text(raw, "probe_path")),
        process=_process(raw.get("process")),
        local_ports=_local_ports(raw.get("local_ports") or ()),
        netns=_netns(_text(raw, "netns")),
        gateway=gateway,
    )


def parse_protocol(text: str) -> str:
    """`http`, `http2` or `grpc`. Raises InvalidInput; `tcp` is named as a later version's."""
    if text == "tcp":
        raise InvalidInput(
            "protocol tcp is a later version's",
            code="protocol-unsupported",
            hint="use http, http2 or grpc; plain TCP services cannot join the mesh yet",
        )
    try:
        return Protocol(text).value
    except ValueError:
        raise InvalidInput(
            f"protocol {text[:40]!a} is not known",
            code="protocol-unsupported",
            hint="use http, http2 or grpc",
        ) from None


def _check_address(text: str) -> None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise InvalidInput(
            f"address {text[:80]!a} is not an IP address",
            code="invalid-address",
            hint="give the IP address by which other hosts reach this workload",
        ) from None
    if address.is_unspecified or address.is_multicast:
        raise InvalidInput(f"address {text} reaches no host", code="invalid-address")


def _text(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name, "")
    if not isinstance(value, str) or len(value) > 1024:
        raise InvalidInput(f"{name} must be text", code="wrong-type")
    return value


def _number(raw: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = raw.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInput(f"{name} must be a number from {low} to {high}", code="wrong-type")
    return value


def _port(raw: Mapping[str, Any], name: str, low: int) -> int:
    return _number(raw, name, low, MAX_PORT)


def _probe_path(text: str) -> str:
    if text and (not text.startswith("/") or not text.isascii() or not text.isprintable()):
        raise InvalidInput("probe_path must be a path that starts with /", code="wrong-type")
    return text


def _netns(text: str) -> str:
    if text and (not text.startswith("/") or not text.isprintable()):
        raise InvalidInput("netns must be an absolute path", code="invalid-netns")
    return text


def _process(value: object) -> ProcessId | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"pid", "start_ticks"}:
        raise InvalidInput("process must hold pid and start_ticks", code="wrong-type")
    return ProcessId(
        _number(value, "pid", 1, 2**31 - 1), _number(value, "start_ticks", 0, 2**63 - 1)
    )


def _local_ports(value: object) -> tuple[tuple[int, str], ...]:
    if not isinstance(value, (list, tuple)):
        raise InvalidInput("local_ports must be a list of [port, service]", code="wrong-type")
    found: list[tuple[int, str]] = []
    for item in value:
        if not isinstance(item, (list, tuple)) or len(item) != 2 or not isinstance(item[1], str):
            raise InvalidInput("local_ports must be a list of [port, service]", code="wrong-type")
        found.append((_port({"port": item[0]}, "port", low=1), parse_name(item[1], "service")))
    if len({port for port, _ in found}) != len(found) or len(found) > MAX_LOCAL_PORTS:
        raise InvalidInput(
            f"local ports must differ, {MAX_LOCAL_PORTS} at most", code="invalid-local-port"
        )
    return tuple(sorted(found))
