"""The workloads of one agent: added, ended, and none forgotten, whoever is cancelled meanwhile.

Adding and ending run in tasks of their own. A caller that goes away does not stop them; `close`
stops the first and waits for the second. So no Envoy is left behind half-way.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from typing import TYPE_CHECKING, Any

from limen.adapters.envoy_process import EnvoyCommand, adopt_envoy
from limen.adapters.pdp_process import end_left_over
from limen.adapters.runtime_dir import WorkloadPaths
from limen.errors import Conflict, LimenError, NotFound, Unavailable
from limen.services.agent.handover import WorkloadRecord
from limen.services.agent.hosting import deregister, new_secret, register
from limen.services.agent.isolation import measure_isolation
from limen.services.agent.kept_logs import keep_log
from limen.services.agent.local_ports import (
    close_to_others,
    forget_ports,
    open_again,
    prove_closed,
)
from limen.services.agent.probing import free_port
from limen.services.agent.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from limen.services.agent.hosting import Host
    from limen.services.agent.spec import WorkloadSpec

_log = logging.getLogger("limen.agent")


class Roster:
    """`running` holds what has been started and is not being ended, by key."""

    def __init__(self) -> None:
        self.running: dict[str, Workload] = {}
        self._adding: dict[str, tuple[WorkloadSpec, asyncio.Task[Workload]]] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    @property
    def specs(self) -> list[WorkloadSpec]:
        """Of everything that runs or is being added."""
        adding = {key: spec for key, (spec, _) in self._adding.items()}
        return list({**{key: w.spec for key, w in self.running.items()}, **adding}.values())

    @property
    def busy(self) -> bool:
        """Whether something is being added."""
        return bool(self._adding)

    async def add(self, host: Host, spec: WorkloadSpec) -> Workload:
        """Run one more workload; returns when its Envoy serves. Nothing is left if it fails.

        Raises Conflict (`instance-exists`), Unavailable, and what the server says.
        """
        while (ending := self._ending.get(spec.key)) is not None:
            await asyncio.wait({ending})
        if self._closed:
            raise Unavailable("the agent is stopping", code="agent-stopping")
        if spec.key in self.running or spec.key in self._adding:
            raise Conflict(
                f"{spec.key} runs already", code="instance-exists", hint="choose another --instance"
            )
        task = asyncio.create_task(self._add(host, spec), name=f"add {spec.key}")
        self._adding[spec.key] = spec, task
        task.add_done_callback(lambda _: self._adding.pop(spec.key))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Unavailable(
                    f"{spec.key} was withdrawn before it was ready", code="workload-withdrawn"
                ) from None
            raise

    async def _add(self, host: Host, spec: WorkloadSpec) -> Workload:
        isolation = measure_isolation(spec)
        outbound_port = await asyncio.to_thread(free_port, netns=spec.netns)
        root = host.paths.workload(spec.key).root
        workload: Workload | None = None
        try:
            await asyncio.to_thread(close_to_others, spec, isolation, root)
            await asyncio.to_thread(prove_closed, spec, isolation)
            registration = await register(host, spec, outbound_port)
            record = WorkloadRecord(
                spec, registration, None, outbound_port, time.time(), new_secret()
            )
            workload = Workload(host, record)
            await workload.certifier.sign()
            self.running[spec.key] = workload
            await workload.start()
            host.changed()
            await workload.wait_ready()
        except BaseException as error:
            self.running.pop(spec.key, None)
            ending = self._end_half(host, spec, workload, error)
            await asyncio.shield(self._finish(spec.key, ending))
            raise
        return workload

    async def restore(self, host: Host, record: WorkloadRecord) -> None:
        """Serve again what an earlier agent served, whether or not the server answers."""
        workload = Workload(host, record)
        self.running[record.spec.key] = workload
        await workload.start()

    async def end_orphan(self, host: Host, record: WorkloadRecord) -> None:
        """Stop what an earlier agent left and nobody needs."""
        workload = Workload(host, record)
        workload.supervisor.adopt_only()
        await asyncio.shield(self._finish(record.spec.key, _end(workload, keep_proxy=False)))

    async def sweep(self, host: Host) -> None:
        """Stop Envoys of this agent that nobody remembers: it was killed while it started them."""
        known = {w.paths.root for w in self.running.values()}
        for root in host.paths.workloads.glob("*"):
            if root not in known:
                await asyncio.shield(
                    self._finish(root.name, end_forgotten(root, host.paths.kept_logs, host.drain_s))
                )

    async def remove(self, key: str) -> None:
        """Withdraw and stop one workload, ready or not. Raises NotFound."""
        if key in self._adding:
            _, task = self._adding[key]
            task.cancel()
            await asyncio.wait({task})
            return
        workload = self.running.pop(key, None)
        if workload is None:
            raise NotFound(f"{key} does not run here")
        await asyncio.shield(self._finish(key, _end(workload, keep_proxy=False)))

    async def close(self, *, keep_proxies: bool) -> None:
        """End everything; what is being added is not kept."""
        self._closed = True
        adding = [task for _, task in self._adding.values()]
        for task in adding:
            task.cancel()
        await asyncio.gather(*adding, return_exceptions=True)
        for key, workload in self.running.items():
            self._finish(key, _end(workload, keep_proxy=keep_proxies))
        self.running.clear()
        await asyncio.gather(*self._ending.values(), return_exceptions=True)

    def _finish(self, key: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"end {key}")
        self._ending[key] = task
        task.add_done_callback(lambda _: self._ending.pop(key))
        return task

    @staticmethod
    async def _end_half(
        host: Host, spec: WorkloadSpec, workload: Workload | None, error: BaseException
    ) -> None:
        """Undo an addition as far as it came."""
        if workload is not None:
            await _end(workload, keep_proxy=False)
            return
        if isinstance(error, Unavailable | asyncio.CancelledError):  # it may have been heard
            await deregister(host, spec.key)
        await asyncio.to_thread(
            open_again, spec, measure_isolation(spec), host.paths.workload(spec.key).root
        )


async def end_forgotten(root: Path, kept: Path, drain_s: float) -> None:
    """Stop the Envoy whose files are in `root`, if it runs; remove its rule and all but its log."""
    process = adopt_envoy(_command_of(WorkloadPaths(root, root)))
    if process is not None:
        _log.warning("stopping envoy %d, which nobody remembers", process.process.pid)
        await process.stop(drain_s)
    end_left_over(WorkloadPaths(root, root))
    await asyncio.to_thread(forget_ports, root)
    keep_log(kept, WorkloadPaths(root, root).envoy_log)
    shutil.rmtree(root, ignore_errors=True)


def _command_of(paths: WorkloadPaths) -> EnvoyCommand:
    return EnvoyCommand((), paths.envoy_log, paths.envoy_record, paths.admin_socket)


async def _end(workload: Workload, *, keep_proxy: bool) -> None:
    kept = workload.kept_logs
    try:
        if not keep_proxy:
            await workload.deregister()
    finally:
        try:
            await workload.stop(keep_proxy=keep_proxy)
        except (LimenError, OSError):
            _log.exception("%s was not stopped cleanly", workload.spec.key)
        if not keep_proxy:
            workload.paths.accepted.unlink(missing_ok=True)
            keep_log(kept, workload.paths.envoy_log)
            shutil.rmtree(workload.paths.root, ignore_errors=True)
