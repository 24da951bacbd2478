"""The agent: one mesh on this host, any number of workloads. Wires the rooms' parts together."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from typing import TYPE_CHECKING

from limen.adapters.envoy_process import check_envoy, find_envoy
from limen.adapters.peercred import is_alive
from limen.adapters.runtime_dir import is_tmpfs, make_directory
from limen.adapters.unix_relay import UnixRelay
from limen.errors import Conflict, Forbidden, LimenError, NotFound, Unavailable
from limen.services.agent.attestation import attest_caller
from limen.services.agent.control import ControlServer
from limen.services.agent.handover import load_handover, save_handover
from limen.services.agent.hosting import Host, entitle
from limen.services.agent.kept_logs import KeptLogs
from limen.services.agent.node_keeper import NodeKeeper, load_or_join
from limen.services.agent.node_link import NodeLink
from limen.services.agent.placing import place_workload
from limen.services.agent.reporting import status_payload
from limen.services.agent.roster import Roster
from limen.services.agent.verbs import verbs_of
from limen.services.agent.workload_api import WorkloadApi

if TYPE_CHECKING:
    from pathlib import Path

    from limen.adapters.peercred import Caller
    from limen.services.agent.node_identity import NodeIdentity
    from limen.services.agent.settings import AgentSettings
    from limen.services.agent.spec import WorkloadSpec
    from limen.services.agent.workload import Workload

_REPORT_S = 15.0
_UNUSED_S = 30.0
"""How long an agent that was started for a `limen run` waits for it."""
_log = logging.getLogger("limen.agent")


class Agent:
    """Start it, `run` until `shutdown`. One agent per mesh and runtime directory."""

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        self.started_s = time.time()
        self.envoy_version = ""
        self._roster = Roster()
        self._kept_logs: KeptLogs | None = None
        self._lock = -1
        self._host: Host | None = None
        self._keeper: NodeKeeper | None = None
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._keep_proxies = settings.keep_proxies
        self._tasks: list[asyncio.Task[None]] = []
        self._ended: set[asyncio.Task[None]] = set()
        paths = settings.paths
        self._denied = WorkloadApi(paths.runtime / "denied.sock", None)
        self._relay = UnixRelay(paths.workload_socket, 0o666, self._route)
        self._control = ControlServer(paths.control_socket, verbs_of(self))

    @property
    def workloads(self) -> dict[str, Workload]:
        """What runs, by key."""
        return self._roster.running

    @property
    def logs(self) -> list[Path]:
        """Access logs, those of workloads that have ended first."""
        kept = self._kept_logs.logs() if self._kept_logs is not None else []
        return kept + [w.paths.envoy_log for w in self.workloads.values()]

    @property
    def audit_dropped(self) -> int:
        """Logs of ended workloads that went before all of their audit events were shipped."""
        return self._kept_logs.dropped if self._kept_logs is not None else 0

    @property
    def node(self) -> NodeIdentity | None:
        """Who this node is; None while it joins."""
        return None if self._keeper is None else self._keeper.node

    async def start(self) -> None:
        """Join if needed, take over what an earlier agent left, open the sockets."""
        settings = self.settings
        self._lock_runtime()
        binary = await asyncio.to_thread(lambda: check_envoy(find_envoy(settings.envoy)))
        self.envoy_version = binary.version
        node = await load_or_join(settings, binary.version)
        link = NodeLink(node)
        keeper = self._keeper = NodeKeeper(settings, node, link)
        kept = self._kept_logs = KeptLogs(settings.paths.kept_logs, settings.keep, link.call)
        self._host = Host(
            mesh=settings.mesh,
            paths=settings.paths,
            envoy=binary,
            link=link,
            drain_s=settings.drain_s,
            changed=self._changed.set,
            ended=self._on_process_end,
            check_epoch=keeper.check_epoch,
            take_bundle=keeper.take_bundle,
            keep=settings.keep,
        )
        await self._restore(self._host)
        await self._denied.start()
        self._relay.start()
        await self._control.start()
        self._tasks = [
            asyncio.create_task(keeper.renew_forever()),
            asyncio.create_task(self._save_and_report(self._host)),
            asyncio.create_task(kept.run()),
        ]
        if settings.workloads_file is not None:
            await self._add_static(settings.workloads_file)
        asyncio.get_running_loop().call_later(_UNUSED_S, self._stop_if_unused)

    async def run(self) -> None:
        """Serve until told to stop, then drain and stop everything (or leave the proxies)."""
        await self._stopping.wait()
        await self.close()

    def shutdown(self, *, keep_proxies: bool | None = None) -> None:
        """Begin to stop."""
        if keep_proxies is not None:
            self._keep_proxies = keep_proxies
        self._stopping.set()

    async def close(self) -> None:
        """Stop all parts; without kept proxies nothing is left running or stored for a restart."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._relay.close()
        if self._keep_proxies:
            with contextlib.suppress(Unavailable):  # what was saved before will do
                self._save()
        await self._roster.close(keep_proxies=self._keep_proxies)
        if not self._keep_proxies:
            self.settings.paths.sealed.unlink(missing_ok=True)
        await self._denied.close()
        await self._control.close()
        if self._host is not None:
            await self._host.link.close()
        os.close(self._lock)

    async def abandon(self) -> None:
        """Undo a start that failed half-way. What an earlier agent left goes on."""
        self._keep_proxies = bool(self.workloads)
        if self._lock >= 0:
            await self.close()

    # -- start

    def _lock_runtime(self) -> None:
        paths = self.settings.paths
        make_directory(paths.runtime, 0o711 if os.geteuid() == 0 else 0o700)
        make_directory(paths.state)
        lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Conflict(
                f"an agent of mesh {self.settings.mesh} runs already ({paths.runtime})",
                code="agent-running",
                hint="see `limen agent status`, or end it with `limen agent stop`",
            ) from None
        self._lock = lock
        if not is_tmpfs(paths.runtime):
            _log.warning("%s is not on tmpfs: sealed identities may reach a disk", paths.runtime)

    async def _restore(self, host: Host) -> None:
        """Serve again what an earlier agent served, whether or not the server answers."""
        for record in load_handover(self.settings.paths, self.settings.mesh):
            if record.spec.process is not None and not is_alive(record.spec.process):
                _log.info("%s: its process has ended", record.spec.key)
                await self._roster.end_orphan(host, record)
                continue
            await self._roster.restore(host, record)
        await self._roster.sweep(host)

    async def _add_static(self, path: Path) -> None:
        from limen.services.agent.static_file import load_specs  # noqa: PLC0415 - YAML, only here

        for spec in load_specs(path):
            if spec.key not in self.workloads:
                await self.add(spec)

    # -- workloads

    async def add(self, spec: WorkloadSpec, token: str = "") -> Workload:
        """Run one more workload; returns when its Envoy serves. Nothing is left if it fails.

        `token` is redeemed if this node may not run the workload without it.
        """
        if self._host is None or self._keeper is None:
            raise Unavailable("the agent is starting", code="agent-starting")
        settings, server = self.settings, self._keeper.node.node_address
        try:
            others = self._roster.specs
            placed = await asyncio.to_thread(
                place_workload, spec, settings.mesh, settings.address, server, others
            )
            try:
                workload = await self._roster.add(self._host, placed)
            except Forbidden as error:
                if error.code != "not-entitled" or not token:
                    raise
                await entitle(self._host, token)
                workload = await self._roster.add(self._host, placed)
        finally:
            self._stop_if_unused()
        self._changed.set()
        return workload

    async def remove(self, key: str) -> None:
        """Withdraw and stop one workload. Raises NotFound."""
        await self._roster.remove(key)
        self._changed.set()
        self._stop_if_unused()

    def _stop_if_unused(self) -> None:
        """An agent that a `limen run` started ends with the last of them."""
        runs = [w for w in self.workloads.values() if w.spec.process is not None]
        if self.settings.auto_stop and not runs and not self._roster.busy:
            self.shutdown()

    def _on_process_end(self, key: str) -> None:
        async def end() -> None:
            with contextlib.suppress(NotFound):
                await self.remove(key)

        task = asyncio.create_task(end())
        self._ended.add(task)
        task.add_done_callback(self._ended.discard)

    def _route(self, caller: Caller | None) -> Path:
        key = attest_caller(caller, [w.spec for w in self.workloads.values()])
        if key is None or key not in self.workloads:
            return self.settings.paths.runtime / "denied.sock"
        return self.workloads[key].paths.api_socket

    # -- in the background

    def _save(self) -> None:
        records = [w.record for w in self.workloads.values()]
        save_handover(self.settings.paths, self.settings.mesh, records)

    async def _save_and_report(self, host: Host) -> None:
        while True:
            self._changed.clear()
            try:
                self._save()
            except Unavailable as error:
                _log.warning("identities were not saved for a restart: %s", error)
            try:
                await host.link.call("Status", status_payload(self), 5.0)
            except LimenError as error:
                _log.debug("status not reported: %s", error)
            with contextlib.suppress(TimeoutError):  # wait_for may swallow a cancellation
                async with asyncio.timeout(_REPORT_S):
                    await self._changed.wait()
