"""Who still sends plaintext to ports that take mTLS too: a team can tell when STRICT is safe.

Agents count (`Status`), the server keeps the newest report of each instance and knows which ports
are PERMISSIVE, and who is registered at an address.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.core.model.resource import DATAPLANE
from limen.core.model.workload import Dataplane
from limen.core.plan.node import PortMode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.store import JsonValue
    from limen.core.model.resource import Resource
    from limen.services.server.control import Control
    from limen.services.server.proxies import Proxy

MAX_PORTS = 64
MAX_SOURCES = 50
_MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class Source:
    """An address that sends plaintext. `last`: RFC 3339; `user_agent` is what it says of itself."""

    address: str
    requests: int
    last: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class PortSeen:
    """Plaintext requests at one port."""

    requests: int = 0
    last: str = ""
    sources: tuple[Source, ...] = ()


@dataclass(slots=True)
class PlaintextReport:
    """Of one instance. `open_since_s`: since when the server knows a port to be PERMISSIVE."""

    since_s: float = 0.0
    ports: dict[int, PortSeen] = field(default_factory=dict)
    open_since_s: dict[int, float] = field(default_factory=dict)

    def take(self, value: JsonValue, permissive: frozenset[int], now_s: float) -> None:
        """The newest report. What is not understood of it is as if it were not said."""
        if not isinstance(value, dict):  # an older agent: nothing is known
            self.since_s, self.ports, self.open_since_s = 0.0, {}, {}
            return
        since_s, ports = value.get("since_s"), value.get("ports")
        self.since_s = float(since_s) if isinstance(since_s, int | float) else 0.0
        listed = ports if isinstance(ports, list) else []
        self.ports = dict(_port(p) for p in listed[:MAX_PORTS] if isinstance(p, dict))
        self.open_since_s = {port: self.open_since_s.get(port, now_s) for port in permissive}

    def watched_since_s(self, port: int) -> float | None:
        """Since when every plaintext request at `port` was counted; None: it is not."""
        opened = self.open_since_s.get(port)
        return max(self.since_s, opened) if self.since_s and opened is not None else None


def permissive_ports(control: Control, resource: Resource) -> frozenset[int]:
    """Guarded ports of an instance that take plaintext beside mTLS."""
    dataplane = resource.spec
    if not isinstance(dataplane, Dataplane) or dataplane.gateway:
        return frozenset()
    doors = control.loop.graph(dataplane.name.workload.mesh).view.doors
    return frozenset(
        inbound.port
        for inbound in dataplane.inbounds
        if doors.mode(resource, inbound) is PortMode.PERMISSIVE
    )


def plaintext_rows(
    control: Control, mesh: str | None, namespace: str | None, name: str | None
) -> list[dict[str, JsonValue]]:
    """One row for each PERMISSIVE port of each instance, whether anything was seen or not."""
    homes = _homes(control)
    rows: list[dict[str, JsonValue]] = []
    for resource in control.mirror.snapshot.of_kind(DATAPLANE, mesh):
        dataplane = resource.spec
        if not isinstance(dataplane, Dataplane):
            continue
        workload = dataplane.name.workload
        wanted = {None, str(dataplane.name), str(workload), workload.name, dataplane.name.instance}
        if namespace not in {None, workload.namespace} or name not in wanted:
            continue
        proxy = control.proxies.find(dataplane.name)
        rows += [
            _row(dataplane, port, proxy, homes)
            for port in sorted(permissive_ports(control, resource))
        ]
    return rows


def _row(
    dataplane: Dataplane, port: int, proxy: Proxy | None, homes: Mapping[str, list[str]]
) -> dict[str, JsonValue]:
    report = proxy.report.plaintext if proxy is not None else PlaintextReport()
    seen = report.ports.get(port, PortSeen())
    since_s = report.watched_since_s(port)
    workload = dataplane.name.workload
    return {
        "mesh": workload.mesh,
        "service": str(workload),
        "instance": str(dataplane.name),
        "port": port,
        "mode": PortMode.PERMISSIVE.value.upper(),
        "requests": seen.requests if since_s is not None or seen.requests else None,
        "last": seen.last or None,
        "since_s": since_s,
        "connected": proxy is not None and proxy.connected,
        "sources": [
            {
                "address": source.address,
                "requests": source.requests,
                "last": source.last,
                "user_agent": source.user_agent or None,
                "instances": list(homes.get(source.address, ())),
            }
            for source in reversed(seen.sources)
        ],
    }


def _homes(control: Control) -> dict[str, list[str]]:
    """Instances of the mesh by the address at which they are registered."""
    found: dict[str, list[str]] = {}
    for resource in control.mirror.snapshot.of_kind(DATAPLANE):
        if isinstance(resource.spec, Dataplane) and resource.spec.address:
            found.setdefault(resource.spec.address, []).append(str(resource.spec.name))
    return found


def _port(value: Mapping[str, JsonValue]) -> tuple[int, PortSeen]:
    sources = value.get("sources")
    listed = sources if isinstance(sources, list) else []
    return _count(value.get("port")), PortSeen(
        _count(value.get("requests")),
        _text(value.get("last")),
        tuple(_source(s) for s in listed[:MAX_SOURCES] if isinstance(s, dict)),
    )


def _source(value: Mapping[str, JsonValue]) -> Source:
    return Source(
        _text(value.get("address")),
        _count(value.get("requests")),
        _text(value.get("last")),
        _text(value.get("user_agent")),
    )


def _count(value: JsonValue) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 2**53 else 0  # type: ignore[operator, return-value] # an int


def _text(value: JsonValue) -> str:
    """What a terminal shows without harm."""
    text = value[:_MAX_TEXT] if isinstance(value, str) else ""
    return "".join(c if c.isprintable() else "?" for c in text)
