"""Keeps one Envoy running: adopt or start, wait, start again with back-off; hold it when told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from limen.adapters.envoy_process import (
    admin_request,
    adopt_envoy,
    start_envoy,
)
from limen.errors import LimenError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from limen.adapters.envoy_process import EnvoyCommand, EnvoyProcess

_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 30.0
_STEADY_S = 30.0
_LOOK_S = 30.0
_READY_POLL_S = 0.01
QUICK_DEATH_S = 5.0
"""One that lives shorter and ends by itself died of its configuration, or of its surroundings."""
QUICK_DEATHS = 3
_log = logging.getLogger("limen.agent")


class EnvoySupervisor:
    """One workload's Envoy. `allowed` off means: it must not serve (no valid identity, stale).

    `on_crashes` is called with the reason when it has died quickly `QUICK_DEATHS` times in a row,
    and says whether something was changed, so that the next try is made at once.
    """

    def __init__(self, command: EnvoyCommand, name: str, on_crashes: Callable[[str], bool]) -> None:
        self._command = command
        self._name = name
        self._on_crashes = on_crashes
        self._process: EnvoyProcess | None = None
        self._allowed = asyncio.Event()
        self._held = asyncio.Event()
        self._deaths = 0
        self.restarts = 0
        self.adopted = False
        self.trouble = ""

    @property
    def pid(self) -> int | None:
        """Of the running Envoy."""
        running = self._process is not None and self._process.running
        return self._process.process.pid if running and self._process else None

    @property
    def allowed(self) -> bool:
        """Whether it may serve."""
        return self._allowed.is_set()

    def allow(self) -> None:
        """It may serve."""
        self._held.clear()
        self._allowed.set()

    def hold(self) -> None:
        """It must stop serving, and stay stopped until `allow`."""
        self._allowed.clear()
        self._held.set()

    def adopt_only(self) -> None:
        """Take over a running Envoy only to stop it."""
        self._process = adopt_envoy(self._command)

    async def run(self, drain_s: float) -> None:
        """Supervise until cancelled. Being cancelled leaves Envoy running: see `stop`."""
        loop = asyncio.get_running_loop()
        delay = 0.0
        while True:
            await self._allowed.wait()
            await asyncio.sleep(delay)
            started = loop.time()
            process = self._adopt_or_start()
            if process is not None:
                self._process = process
                await self._watch(process, drain_s)
                self.restarts += 1
            lived = loop.time() - started
            steady = lived > _STEADY_S
            delay = _FIRST_DELAY_S if delay == 0 or steady else min(delay * 2, _MAX_DELAY_S)
            if self._crashes_again(process, lived):
                delay = 0.0

    def _crashes_again(self, process: EnvoyProcess | None, lived_s: float) -> bool:
        """Count quick deaths; True when something was done about them."""
        if process is None:
            return False
        if not process.crashed or lived_s > QUICK_DEATH_S:
            self._deaths, self.trouble = 0, ""
            return False
        self._deaths += 1
        if self._deaths % QUICK_DEATHS:
            return False
        how = process.ended_by or "it ended"
        reason = f"Envoy died {QUICK_DEATHS} times within {QUICK_DEATH_S:g} s of its start: {how}"
        _log.error("%s: %s", self._name, reason)
        self.trouble = reason
        return self._on_crashes(reason)

    async def stop(self, drain_s: float) -> None:
        """Drain and end Envoy. `run` must have been cancelled before."""
        if self._process is not None:
            await self._process.stop(drain_s)

    def leave(self) -> None:
        """Stop watching; Envoy goes on serving for the next agent."""
        if self._process is not None:
            self._process.release()

    async def wait_ready(self, deadline_s: float) -> None:
        """Return when Envoy says that it is live. Raises Unavailable after `deadline_s`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while loop.time() < end:
            with contextlib.suppress(Unavailable):
                if "LIVE" in await admin_request(self._command.admin_socket, "GET", "/ready"):
                    self.trouble = ""
                    return
            await asyncio.sleep(_READY_POLL_S)  # Envoy offers no event for this
        raise Unavailable(
            f"Envoy of {self._name} was not ready within {deadline_s:g} s",
            code="envoy-not-ready",
            hint=f"see {self._command.log}",
        )

    def _adopt_or_start(self) -> EnvoyProcess | None:
        process = adopt_envoy(self._command)
        self.adopted = process is not None
        if process is not None:
            _log.info("%s: adopted envoy %d", self._name, process.process.pid)
            return process
        try:
            return start_envoy(self._command)
        except LimenError as error:
            self.trouble = str(error)
            _log.exception("%s: envoy does not start", self._name)
            return None

    async def _watch(self, process: EnvoyProcess, drain_s: float) -> None:
        exited = asyncio.create_task(process.wait())
        held = asyncio.create_task(self._held.wait())
        try:
            while not exited.done():
                await asyncio.wait(
                    {exited, held}, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED
                )
                if not exited.done() and self.trouble:
                    self.trouble = ""  # it has lived for longer than a quick death takes
                if held.done() and not exited.done():
                    _log.warning("%s: stopping envoy", self._name)
                    await process.stop(drain_s)
                    return
            _log.warning("%s: envoy %d ended", self._name, process.process.pid)
        finally:
            exited.cancel()
            held.cancel()
