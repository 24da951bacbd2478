"""What the server knows of each instance's proxy: its stream, what it confirmed, what it refused.

Kept in memory: after a restart the agents come back and say it again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.services.server.plaintext import PlaintextReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from limen.adapters.store import JsonValue
    from limen.core.model.names import InstanceName
    from limen.core.xds.events import Rejection


@dataclass(slots=True)
class Report:
    """What the agent says of an instance (`Status`)."""

    ready: bool = False
    envoy_version: str = ""
    isolation: str = ""
    outage_budget_s: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    time_s: float = 0.0
    audit_dropped: int = 0
    plaintext: PlaintextReport = field(default_factory=PlaintextReport)

    def take_seen(self, said: Mapping[str, JsonValue], permissive: frozenset[int]) -> None:
        """What was seen of requests: who sends plaintext, audit events that had to be dropped."""
        self.plaintext.take(said.get("plaintext"), permissive, self.time_s)
        dropped = said.get("audit_dropped")
        self.audit_dropped = dropped if isinstance(dropped, int) else 0


@dataclass(slots=True)
class Proxy:
    """One instance.

    `sent` is the newest revision that changed something for it. Until it has answered, it is
    `outstanding` and `applied` is the last revision before; afterwards it is up to date with all
    revisions, because those that change nothing for it are not sent.

    `behind` holds all that are not `settled`, this one too as long as it is not.
    """

    instance: InstanceName
    node: str = ""
    connected: bool = False
    since_s: float = 0.0
    sent: int = 0
    applied: int = 0
    outstanding: bool = False
    refusals: tuple[Rejection, ...] = ()
    report: Report = field(default_factory=Report)
    behind: dict[InstanceName, Proxy] = field(default_factory=dict, repr=False, compare=False)

    @property
    def settled(self) -> bool:
        """Whether it is connected and has confirmed all that was sent."""
        return self.connected and not self.outstanding and not self.refusals

    def _note(self) -> None:
        if self.settled:
            self.behind.pop(self.instance, None)
        else:
            self.behind[self.instance] = self

    def opened(self, node: str, now_s: float) -> None:
        """Its stream is open; nothing is confirmed on it yet."""
        self.node, self.connected, self.since_s = node, True, now_s
        self.outstanding = True
        self._note()

    def closed(self, revision: int, now_s: float) -> None:
        """Its stream ended at `revision`."""
        self.applied = self.applied_at(revision)
        self.connected, self.since_s = False, now_s
        self._note()

    def put(self, revision: int, previous: int) -> None:
        """`revision` goes out; `previous` was compiled before."""
        self.applied = self.applied_at(previous)
        self.sent, self.outstanding = revision, True
        self._note()

    def answered(self, refusals: tuple[Rejection, ...]) -> None:
        """It has all that was sent, but for the refusals."""
        self.outstanding, self.refusals = False, refusals
        self._note()

    def applied_at(self, revision: int) -> int:
        """The revision that it enforces when `revision` is the newest compiled."""
        return max(self.applied, revision) if self.settled else self.applied

    def missing(self, revision: int, newest: int) -> str:
        """Why `revision` is not enforced here; "" if it is."""
        if self.applied_at(newest) >= revision:
            return ""
        if self.refusals and not self.outstanding:
            first = self.refusals[0]
            short = first.type_url.rpartition(".")[2]
            return f"refused {short} {first.name}: {first.message}"
        if not self.connected:
            return "not connected"
        return "has not confirmed yet"

    def to_json(self, now_s: float, newest: int) -> dict[str, JsonValue]:
        """As the API shows it."""
        report = self.report
        versions: dict[str, JsonValue] = dict(report.versions)
        why = self.missing(newest, newest)
        return {
            "mesh": self.instance.workload.mesh,
            "instance": str(self.instance),
            "node": self.node,
            "connected": self.connected,
            "since_s": round(max(0.0, now_s - self.since_s), 1) if self.since_s else None,
            "applied_revision": self.applied_at(newest),
            "sent_revision": self.sent,
            "current": not why,
            "state": why or "current",
            "refusals": [
                {"type": r.type_url, "name": r.name, "version": r.version, "message": r.message}
                for r in self.refusals
            ],
            "ready": report.ready,
            "envoy_version": report.envoy_version,
            "versions": versions,
            "isolation": report.isolation,
            "outage_budget_s": report.outage_budget_s,
            "audit_dropped": report.audit_dropped,
            "report_age_s": round(now_s - report.time_s, 1) if report.time_s else None,
        }


class Proxies:
    """All instances, by name. `changed` wakes those who wait for confirmations.

    Those that are behind are known apart, so that a change of ten proxies among a thousand is
    followed at the price of ten.
    """

    def __init__(self) -> None:
        self.revision = 0
        self._all: dict[InstanceName, Proxy] = {}
        self._waiters: set[asyncio.Event] = set()
        self._behind: dict[InstanceName, Proxy] = {}

    def of(self, instance: InstanceName) -> Proxy:
        """The state of an instance, made on first use."""
        found = self._all.get(instance)
        if found is None:
            found = self._all[instance] = Proxy(instance, behind=self._behind)
            self._behind[instance] = found
        return found

    def find(self, instance: InstanceName) -> Proxy | None:
        """The state of an instance, if any."""
        return self._all.get(instance)

    def forget(self, instance: InstanceName) -> None:
        """The instance is gone for good."""
        self._behind.pop(instance, None)
        if self._all.pop(instance, None) is not None:
            self.changed()

    def __iter__(self) -> Iterator[Proxy]:
        return iter(_sorted(self._all.values()))

    def count(self, mesh: str | None = None) -> int:
        """How many there are, of one mesh or of all."""
        if mesh is None:
            return len(self._all)
        return sum(name.workload.mesh == mesh for name in self._all)

    def behind(self, revision: int, newest: int) -> list[Proxy]:
        """Those that do not enforce `revision` when `newest` is compiled, sorted."""
        asked = self._behind if newest >= revision else self._all
        return _sorted(p for p in asked.values() if p.applied_at(newest) < revision)

    def changed(self) -> None:
        """Something was confirmed, refused, opened or closed."""
        for waiter in self._waiters:
            waiter.set()

    async def next_change(self) -> None:
        """Return when something changed."""
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            await waiter.wait()
        finally:
            self._waiters.discard(waiter)

    async def settled(self, revision: int) -> None:
        """Return when every connected proxy has confirmed or refused `revision`."""
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            pending = list(self._behind.values())
            while pending:  # one is looked at per wake-up: a thousand answers cost a thousand looks
                if self._undecided(pending[-1], revision):
                    waiter.clear()
                    await waiter.wait()
                else:
                    pending.pop()
        finally:
            self._waiters.discard(waiter)

    def _undecided(self, proxy: Proxy, revision: int) -> bool:
        known = proxy.instance in self._all
        return (
            known
            and proxy.connected
            and proxy.outstanding
            and proxy.applied_at(self.revision) < revision
        )


def _sorted(proxies: Iterable[Proxy]) -> list[Proxy]:
    return sorted(proxies, key=lambda p: p.instance.sort_key)
