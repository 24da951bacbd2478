"""Which instances are there: an open stream is an instance's lease.

When the stream ends, the instance stays for a grace; then its addresses are withdrawn (unless no
other of its workload lives: `MeshGraph` sees to that). A new instance counts once its proxy has
confirmed its first configuration and, if its agent reports that, its program listens. After a start
of the server nobody is absent until everybody had time to come back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from limen.core.model.names import InstanceName

START_GRACE_FACTOR = 3
"""How many graces the agents have to come back after a start of the server."""


class Presence:
    """`absent` holds the instances without a lease. `changed` is called when it changes."""

    def __init__(self, grace_s: float, changed: Callable[[], None]) -> None:
        self.absent: set[InstanceName] = set()
        self._grace_s = grace_s
        self._changed = changed
        self._open: set[InstanceName] = set()
        self._known: set[InstanceName] = set()
        self._confirmed: set[InstanceName] = set()
        self._mute: set[InstanceName] = set()
        self._timers: dict[InstanceName, asyncio.TimerHandle] = {}

    def start(self, registered: Iterable[InstanceName]) -> None:
        """The server starts: these instances are taken as there until they had time to return."""
        for instance in registered:
            self._known.add(instance)
            self._expire_after(instance, self._grace_s * START_GRACE_FACTOR)

    def registered(self, instance: InstanceName) -> None:
        """A new instance is expected. It is absent until its proxy has confirmed."""
        if instance not in self._known:
            self._known.add(instance)
            self._leave(instance)

    def removed(self, instance: InstanceName) -> None:
        """The instance is registered no more."""
        self._known.discard(instance)
        self._confirmed.discard(instance)
        self._mute.discard(instance)
        self._cancel(instance)
        self.absent.discard(instance)

    def hold(self, instance: InstanceName) -> None:
        """If this is a new instance, it counts only when it is reported ready."""
        if instance not in self._known:
            self._mute.add(instance)

    def reported(self, instance: InstanceName, *, ready: bool) -> None:
        """Its agent says whether the program listens: without it callers would get errors."""
        if ready:
            self._mute.discard(instance)
            self._enter(instance)
        elif instance in self._known:
            self._mute.add(instance)
            self._leave(instance)

    def opened(self, instance: InstanceName) -> None:
        """Its stream is open. If it was away, it counts again when it has confirmed."""
        self._open.add(instance)
        self._cancel(instance)

    def confirmed(self, instance: InstanceName) -> None:
        """Its proxy runs what it was sent."""
        self._confirmed.add(instance)
        self._enter(instance)

    def closed(self, instance: InstanceName) -> None:
        """Its stream ended."""
        self._open.discard(instance)
        self._confirmed.discard(instance)
        if instance in self._known:
            self._expire_after(instance, self._grace_s)

    def stop(self) -> None:
        """No timer fires any more."""
        for instance in list(self._timers):
            self._cancel(instance)

    def _expire_after(self, instance: InstanceName, delay_s: float) -> None:
        self._cancel(instance)
        loop = asyncio.get_running_loop()
        self._timers[instance] = loop.call_later(delay_s, self._leave, instance)

    def _enter(self, instance: InstanceName) -> None:
        there = instance in self._open and instance in self._confirmed
        if instance in self.absent and there and instance not in self._mute:
            self.absent.discard(instance)
            self._changed()

    def _leave(self, instance: InstanceName) -> None:
        self._timers.pop(instance, None)
        if instance not in self.absent:
            self.absent.add(instance)
            self._changed()

    def _cancel(self, instance: InstanceName) -> None:
        timer = self._timers.pop(instance, None)
        if timer is not None:
            timer.cancel()
