"""The decision point of one workload: kept running, given whole sets of policies, kept fresh.

A set that it cannot load, or dies of, is refused, and what it had before decides on. While there is
none, Envoy finds nobody on the socket and refuses.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

from limen.adapters.pdp_process import end_left_over, end_process, left_over, start_pdp
from limen.errors import Unavailable, Untrusted
from limen.services.agent.published import NONE, verify_published

if TYPE_CHECKING:
    from collections.abc import Callable

    from limen.adapters.pdp_process import PdpProcess
    from limen.adapters.runtime_dir import WorkloadPaths
    from limen.services.agent.node_identity import NodeIdentity
    from limen.services.agent.published import Published

_TAKE_S = 30.0
_FRESH_S = 10.0
_ANSWERS_S = 15.0
_FIRST_DELAY_S = 0.05
_MAX_DELAY_S = 5.0
_log = logging.getLogger("limen.agent")


class DecisionPoint:
    """`silent_s` says how long ago the server was heard; the process is told now and then."""

    def __init__(
        self, name: str, paths: WorkloadPaths, held: Published, silent_s: Callable[[], float]
    ) -> None:
        self._name = name
        self._paths = paths
        self._silent_s = silent_s
        self._beat_s = _FRESH_S
        self._held = held
        self._process: PdpProcess | None = None
        self._lock = asyncio.Lock()
        self._wanted = asyncio.Event()
        if held.content:
            self._wanted.set()
        self._delay_s = 0.0
        self.restarts = 0
        self.trouble = ""

    @property
    def pid(self) -> int | None:
        """Of the process; None: there is none."""
        return self._process.pid if self._process is not None else None

    async def take_offered(self, offered: bytes, node: NodeIdentity) -> str:
        """As `take`, of a set as the server sent it: one that it did not sign is refused."""
        try:
            published = verify_published(offered, node) if offered else NONE
        except Untrusted as error:
            return str(error)
        return await self.take(published)

    async def take(self, offered: Published) -> str:
        """Decide by this set from now on, or by none; why it was refused, "" if it was not.

        Epochs of another store are another count: they are not compared.
        """
        async with self._lock:
            if offered.store != self._held.store:
                await self._end()
            if not offered.content:
                self._held = NONE
                self._wanted.clear()
                await self._end()
                return ""
            refusal = await self._load(offered)
            if not refusal:
                self._held = offered
                self._wanted.set()
            elif self._process is None and self._held.content:
                await self._load(self._held)
            if refusal:
                _log.error("%s: policies refused: %s", self._name, refusal)
            return refusal

    async def run(self) -> None:
        """Keep it running and fresh, until cancelled."""
        while True:
            await self._wanted.wait()
            async with self._lock:
                if self._held.content and self._process is None:
                    self.trouble = await self._load(self._held)
                process = self._process
            if process is not None:
                await self._keep_fresh(process)
            elif self._held.content:
                await asyncio.sleep(self._next_delay())

    async def close(self, *, keep: bool) -> None:
        """End it, and what an earlier agent left, unless the next agent is to find it."""
        if keep:
            return
        async with self._lock:
            await self._end()
            end_left_over(self._paths)

    def _next_delay(self) -> float:
        self._delay_s = min(max(self._delay_s * 2, _FIRST_DELAY_S), _MAX_DELAY_S)
        return self._delay_s

    async def _keep_fresh(self, process: PdpProcess) -> None:
        """Return when it has died."""
        exited = asyncio.ensure_future(process.wait())
        try:
            while not exited.done():
                await asyncio.wait({exited}, timeout=self._beat_s)
                async with self._lock:
                    if process is self._process and not exited.done():
                        await self._tell_fresh(process)
        finally:
            exited.cancel()
        async with self._lock:
            if process is self._process:
                _log.error("%s: the decision point died; it is started again", self._name)
                await self._end()
                self.restarts += 1

    async def _tell_fresh(self, process: PdpProcess) -> None:
        try:
            await process.ask({"fresh": self._silent_s()}, _ANSWERS_S)
            self._delay_s = 0.0
        except Unavailable:
            process.kill()  # it hangs, or is dead already: whoever waits for its end goes on

    async def _load(self, offered: Published) -> str:
        """Give a set to the process, a new one if there is none. Why not, "" if it decides."""
        policies: list[dict[str, Any]] = json.loads(offered.content)["policies"]
        limits = [one["stale_after_s"] for one in policies if one.get("stale_after_s")]
        self._beat_s = min([_FRESH_S, *(limit / 10 for limit in limits)])
        try:
            if self._process is None:
                older = left_over(self._paths.pdp_record)
                paths = self._paths
                self._process = await start_pdp(
                    paths.pdp_socket, paths.pdp_log, paths.pdp_record, paths.sources
                )
            else:
                older = None
            await self._tell_fresh(self._process)
            answer = await self._process.ask({"set": policies}, _TAKE_S)
        except Unavailable as error:
            await self._end()
            return f"{error.message}: see {self._paths.pdp_log}"
        if older is not None:
            end_process(older)
        refusal = str(answer.get("refused", ""))
        if not refusal:
            self.trouble = ""
        return refusal

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.stop()
            self._paths.pdp_socket.unlink(missing_ok=True)
