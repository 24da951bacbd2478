"""What the server knows of each instance's proxy: its stream, what it confirmed, what it refused.

Kept in memory: after a restart the agents come back and say it again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.adapters.store import JsonValue
    from limen.core.model.names import InstanceName


@dataclass(frozen=True, slots=True)
class Refusal:
    """A NACK: the type of the resources, what Envoy said, at which revision."""

    type_url: str
    message: str
    revision: int
    time_s: float


@dataclass(slots=True)
class Report:
    """What the agent says of an instance (`Status`)."""

    ready: bool = False
    envoy_version: str = ""
    isolation: str = ""
    outage_budget_s: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    time_s: float = 0.0


@dataclass(slots=True)
class Proxy:
    """One instance.

    `sent` is the newest revision whose content is on its stream; `applied` the
    newest that it confirmed. A revision that changes nothing for it counts as applied at once.
    """

    instance: InstanceName
    node: str = ""
    connected: bool = False
    since_s: float = 0.0
    sent: int = 0
    applied: int = 0
    outstanding: bool = False
    refusals: dict[str, Refusal] = field(default_factory=dict)
    report: Report = field(default_factory=Report)

    def missing(self, revision: int) -> str:
        """Why `revision` is not enforced here; "" if it is."""
        if self.refusals:
            first = min(self.refusals.values(), key=lambda r: r.type_url)
            return f"refused {first.type_url.rpartition('.')[2]}: {first.message}"
        if not self.connected:
            return "not connected"
        if self.applied < revision:
            return "has not confirmed yet"
        return ""

    def to_json(self, now_s: float, revision: int) -> dict[str, JsonValue]:
        """As the API shows it."""
        report = self.report
        versions: dict[str, JsonValue] = dict(report.versions)
        return {
            "mesh": self.instance.workload.mesh,
            "instance": str(self.instance),
            "node": self.node,
            "connected": self.connected,
            "since_s": round(now_s - self.since_s, 1) if self.since_s else None,
            "applied_revision": self.applied,
            "sent_revision": self.sent,
            "current": not self.missing(revision),
            "state": self.missing(revision) or "current",
            "refusals": [
                {
                    "type": r.type_url,
                    "message": r.message,
                    "revision": r.revision,
                    "age_s": round(now_s - r.time_s, 1),
                }
                for r in sorted(self.refusals.values(), key=lambda r: r.type_url)
            ],
            "ready": report.ready,
            "envoy_version": report.envoy_version,
            "versions": versions,
            "isolation": report.isolation,
            "outage_budget_s": report.outage_budget_s,
            "report_age_s": round(now_s - report.time_s, 1) if report.time_s else None,
        }


class Proxies:
    """All instances, by name. `changed` wakes those who wait for confirmations."""

    def __init__(self) -> None:
        self._all: dict[InstanceName, Proxy] = {}
        self._waiters: set[asyncio.Event] = set()

    def of(self, instance: InstanceName) -> Proxy:
        """The state of an instance, made on first use."""
        found = self._all.get(instance)
        if found is None:
            found = self._all[instance] = Proxy(instance)
        return found

    def find(self, instance: InstanceName) -> Proxy | None:
        """The state of an instance, if any."""
        return self._all.get(instance)

    def forget(self, instance: InstanceName) -> None:
        """The instance is gone for good."""
        self._all.pop(instance, None)
        self.changed()

    def __iter__(self) -> Iterator[Proxy]:
        return iter(sorted(self._all.values(), key=lambda p: p.instance))

    def changed(self) -> None:
        """Something was confirmed, refused, opened or closed."""
        for waiter in self._waiters:
            waiter.set()

    async def settled(self, revision: int) -> None:
        """Return when every connected proxy has confirmed or refused `revision`."""
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            while any(
                p.connected and p.applied < revision and not p.refusals for p in self._all.values()
            ):
                waiter.clear()
                await waiter.wait()
        finally:
            self._waiters.discard(waiter)
