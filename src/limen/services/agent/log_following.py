"""Follows the log of one Envoy: rotates it, counts plaintext, ships what AUDIT rules match.

Never on the path of a request. The log itself is the spool: events are read from a position and
the position moves when the server has them, so that an outage or a restart of either side loses and
doubles nothing. Lines that are dropped for age or size before they were shipped are counted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Any

from limen.adapters.log_files import LogFiles
from limen.adapters.runtime_dir import write_atomic
from limen.errors import LimenError, Unavailable
from limen.services.agent.audit_events import audit_event
from limen.services.agent.plaintext import PlaintextSeen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from limen.adapters.log_files import Retention

    Send = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]

MAX_EVENTS = 200
"""In one message."""
_LOOK_S = 0.5
_SAVE_S = 5.0
_SCAN_BYTES = 8 * 1024 * 1024
"""So much is read at once for one message."""
_FIRST_DELAY_S, _MAX_DELAY_S = 1.0, 30.0
INVALID = "invalid-audit-event"
"""The server will never take this message."""
_log = logging.getLogger("limen.agent")


class LogFollower:
    """One log. `send(method, message)` asks the server; `changed` is called for a new source."""

    def __init__(
        self, instance: str, path: Path, keep: Retention, send: Send, changed: Callable[[], None]
    ) -> None:
        self.instance = instance
        self.log = LogFiles(path)
        self.dropped = 0
        self.trouble = ""
        self._keep = keep
        self._send = send
        self._changed = changed
        self._seen = path.with_name(f"{path.name}.seen")
        self._saved: dict[str, Any] = {}
        self._shipped = self._counted = 0
        self._told = 0
        self._delay_s = 0.0
        self._next_s = 0.0
        self._plaintext = PlaintextSeen(0.0)
        self._opened = False

    @property
    def pending(self) -> bool:
        """Whether there is something that the server has not heard of."""
        return self._shipped < self.log.end or self._told < self.dropped

    @property
    def plaintext(self) -> dict[str, Any]:
        """What is reported of plaintext (`PlaintextSeen.to_json`)."""
        return self._plaintext.to_json()

    async def run(self) -> None:
        """Until cancelled."""
        saved_s = 0.0
        while True:
            await self.step()
            if time.monotonic() - saved_s > _SAVE_S:
                saved_s = time.monotonic()
                self.save()
            await asyncio.sleep(_LOOK_S)

    async def step(self) -> None:
        """Look once, and ship as much as the server takes."""
        try:
            if await asyncio.to_thread(self.look, time.time()):
                self._changed()
        except (OSError, Unavailable) as error:
            self.trouble = f"its log cannot be rotated: {error}"
            _log.warning("%s: %s", self.instance, self.trouble)
        if time.monotonic() >= self._next_s:
            while await self._ship():
                pass

    async def finish(self, within_s: float) -> None:
        """The last look, after Envoy has ended."""
        if not self.log.path.parent.exists():  # it never started
            return
        self._next_s = 0.0
        try:
            async with asyncio.timeout(within_s):
                await self.step()
        except TimeoutError:
            _log.warning("%s: audit events are shipped later", self.instance)
        self.save()

    def look(self, now_s: float) -> bool:
        """Count, then rotate if it is due. Whether somebody new sends plaintext. Blocking."""
        self.open()
        anew = False
        for line in self.log.lines(self._counted):
            anew = self._plaintext.count(line.raw) or anew
            self._counted = line.end
        due = self.log.due(self._keep, now_s)
        if self._shipped < due:
            lost = sum(1 for each in self._between(due) if audit_event(each) is not None)
            self.dropped += lost
            self._shipped = due
            if lost:
                _log.error("%s: %d audit events are lost: the log is full", self.instance, lost)
        self.log.rotate(self._keep, now_s)
        return anew

    def save(self) -> None:
        """So that the next agent goes on here. What is not saved is read again, no more."""
        state = {
            "instance": self.instance,
            "shipped": self._shipped,
            "counted": self._counted,
            "dropped": self.dropped,
            "told": self._told,
            "plaintext": self.plaintext,
        }
        if state == self._saved:
            return
        try:
            write_atomic(self._seen, json.dumps(state).encode())
        except Unavailable as error:
            _log.warning("%s: %s", self.instance, error)
            return
        self._saved = state

    def _between(self, end: int) -> Any:
        for line in self.log.lines(self._shipped):
            if line.end > end:
                return
            yield line

    async def _ship(self) -> bool:
        """Send one message; whether there may be more to send at once."""
        events, end = await asyncio.to_thread(self._collect)
        if not events and self._told == self.dropped:
            self._shipped = max(self._shipped, end)
            return False
        dropped = self.dropped
        message = {
            "instance": self.instance,
            "log": self.log.log_id,
            "dropped": dropped,
            "events": events,
        }
        try:
            await self._send("Audit", message)
        except LimenError as error:
            return self._put_off(error, len(events), end)
        self._shipped, self._told = max(self._shipped, end), dropped
        self._delay_s, self.trouble = 0.0, ""
        return len(events) == MAX_EVENTS

    def _put_off(self, error: LimenError, count: int, end: int) -> bool:
        if error.code == INVALID:  # never taken: counted rather than in the way of all others
            self.dropped += count
            self._shipped = max(self._shipped, end)
            _log.error("%s: %d audit events are lost: %s", self.instance, count, error)
            return False
        self._delay_s = min(max(self._delay_s * 2, _FIRST_DELAY_S), _MAX_DELAY_S)
        self._next_s = time.monotonic() + self._delay_s
        self.trouble = f"audit events are not shipped: {error.message}"
        _log.debug("%s: %s", self.instance, self.trouble)
        return False

    def _collect(self) -> tuple[list[dict[str, Any]], int]:
        """The next events, and the position up to which was read."""
        events: list[dict[str, Any]] = []
        end = start = max(self._shipped, self.log.oldest)
        for line in self.log.lines(self._shipped):
            event = audit_event(line)
            if event is not None:
                events.append(event)
            end = line.end
            if len(events) == MAX_EVENTS or end - start > _SCAN_BYTES:
                break
        return events, end

    def open(self) -> None:
        """Go on where an earlier agent was. Blocking; before the first look."""
        if self._opened:
            return
        self.log.recover()
        self._opened = True
        try:
            found = json.loads(self._seen.read_bytes())
        except (OSError, ValueError):
            found = {}
        state = found if isinstance(found, dict) else {}
        shipped, counted, self.dropped, self._told = (
            value if isinstance(value := state.get(key), int) else 0
            for key in ("shipped", "counted", "dropped", "told")
        )
        self._shipped, self._counted = min(shipped, self.log.end), min(counted, self.log.end)
        self._plaintext = PlaintextSeen.load(state.get("plaintext"), time.time())
