"""The agent: one mesh on this host, any number of workloads. Wires the rooms' parts together."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from limen.adapters.envoy_process import check_envoy, find_envoy
from limen.adapters.peercred import is_alive
from limen.adapters.runtime_dir import is_tmpfs, make_directory
from limen.adapters.unix_relay import UnixRelay
from limen.core.model.names import parse_instance_name
from limen.errors import Conflict, InvalidInput, LimenError, NotFound, Unavailable
from limen.services.agent.attestation import attest_caller
from limen.services.agent.control import ControlServer
from limen.services.agent.handover import WorkloadRecord, load_handover, save_handover
from limen.services.agent.identity import build_request, key_to_pem, make_key, sleep_until
from limen.services.agent.isolation import measure_isolation, require_local_ports_allowed
from limen.services.agent.node_identity import (
    NodeIdentity,
    agent_versions,
    load_node,
    next_renewal_s,
    redeem_token,
    renewed,
    save_node,
)
from limen.services.agent.node_link import NodeLink
from limen.services.agent.probing import (
    LOOPBACK,
    free_port,
    local_address_towards,
    require_free,
)
from limen.services.agent.reporting import describe_agent, status_payload
from limen.services.agent.spec import parse_spec
from limen.services.agent.workload import Host, Workload, new_secret, register
from limen.services.agent.workload_api import WorkloadApi

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from limen.adapters.peercred import Caller
    from limen.services.agent.settings import AgentSettings
    from limen.services.agent.spec import WorkloadSpec

_REPORT_S = 15.0
_RENEW_RETRY_S = 30.0
_UNUSED_S = 30.0
"""How long an agent that was started for a `limen run` waits for it."""
_log = logging.getLogger("limen.agent")


class Agent:
    """Start it, `run` until `shutdown`. One agent per mesh and runtime directory."""

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        self.workloads: dict[str, Workload] = {}
        self.node: NodeIdentity | None = None
        self.started_s = time.time()
        self.envoy_version = ""
        self._lock = -1
        self._host: Host | None = None
        self._adding: set[str] = set()
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._keep_proxies = settings.keep_proxies
        self._tasks: list[asyncio.Task[None]] = []
        self._ending: set[asyncio.Task[None]] = set()
        paths = settings.paths
        self._denied = WorkloadApi(paths.runtime / "denied.sock", None)
        self._relay = UnixRelay(paths.workload_socket, 0o666, self._route)
        verbs = {
            "add": self._on_add,
            "remove": self._on_remove,
            "list": self._on_status,
            "status": self._on_status,
            "rotate": self._on_rotate,
            "shutdown": self._on_shutdown,
        }
        self._control = ControlServer(paths.control_socket, verbs)

    async def start(self) -> None:
        """Join if needed, take over what an earlier agent left, open the sockets."""
        settings = self.settings
        self._lock_runtime()
        binary = await asyncio.to_thread(lambda: check_envoy(find_envoy(settings.envoy)))
        self.envoy_version = binary.version
        self.node = await self._load_or_join()
        self._host = Host(
            mesh=settings.mesh,
            paths=settings.paths,
            envoy=binary,
            link=NodeLink(self.node),
            drain_s=settings.drain_s,
            changed=self._changed.set,
            ended=self._on_process_end,
            check_epoch=self._check_epoch,
        )
        await self._restore(self._host)
        await self._denied.start()
        self._relay.start()
        await self._control.start()
        self._tasks = [
            asyncio.create_task(self._renew_node()),
            asyncio.create_task(self._save_and_report()),
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
        keep = self._keep_proxies
        if keep:
            self._save()
        await asyncio.gather(*(self._end(w, keep_proxy=keep) for w in self.workloads.values()))
        if not keep:
            self.settings.paths.sealed.unlink(missing_ok=True)
        self.workloads.clear()
        await self._denied.close()
        await self._control.close()
        if self._host is not None:
            await self._host.link.close()
        os.close(self._lock)

    async def abandon(self) -> None:
        """Undo a start that failed half-way."""
        self._keep_proxies = False
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

    async def _load_or_join(self) -> NodeIdentity:
        settings = self.settings
        node = await asyncio.to_thread(load_node, settings.paths.node)
        if node is not None and node.times()[1] > time.time():
            if node.mesh != settings.mesh:
                raise InvalidInput(f"{settings.paths.state} is the state of mesh {node.mesh}")
            return node
        if not settings.token:
            expired = "its certificate has expired" if node else "it has not joined yet"
            raise InvalidInput(
                f"this node needs a join token: {expired}",
                code="no-token",
                hint="make one with `limen token create`, pass it with --token-file or LIMEN_TOKEN",
            )
        versions = agent_versions(self.envoy_version)
        node = await asyncio.to_thread(
            redeem_token, settings.token, settings.mesh, settings.server, versions
        )
        save_node(settings.paths.node, node)
        _log.info("joined mesh %s as node %s", node.mesh, node.node_id)
        return node

    async def _restore(self, host: Host) -> None:
        """Serve again what an earlier agent served, whether or not the server answers."""
        for record in load_handover(self.settings.paths, self.settings.mesh):
            if record.spec.process is not None and not is_alive(record.spec.process):
                _log.info("%s: its process has ended", record.spec.key)
                await self._end_orphan(host, record)
                continue
            workload = Workload(host, record)
            await workload.start()
            self.workloads[record.spec.key] = workload

    async def _end_orphan(self, host: Host, record: WorkloadRecord) -> None:
        workload = Workload(host, record)
        workload.supervisor.adopt_only()
        await self._end(workload, keep_proxy=False)

    async def _add_static(self, path: Path) -> None:
        from limen.services.agent.static_file import load_specs  # noqa: PLC0415 - YAML, only here

        for spec in load_specs(path):
            if spec.key not in self.workloads:
                await self.add(spec)

    # -- workloads

    async def add(self, spec: WorkloadSpec) -> Workload:
        """Run one more workload; returns when its Envoy serves. Nothing is left if it fails."""
        host = self._require_host()
        try:
            spec = self._complete(spec)
            return await self._add_once(host, spec)
        finally:
            self._stop_if_unused()

    async def _add_once(self, host: Host, spec: WorkloadSpec) -> Workload:
        if spec.key in self.workloads or spec.key in self._adding:
            raise Conflict(
                f"{spec.key} runs already", code="instance-exists", hint="choose another --instance"
            )
        self._adding.add(spec.key)
        try:
            return await self._add(host, spec)
        finally:
            self._adding.discard(spec.key)

    async def _add(self, host: Host, spec: WorkloadSpec) -> Workload:
        outbound_port = free_port()
        registration = await register(host, spec, outbound_port)
        record = WorkloadRecord(spec, registration, None, outbound_port, time.time(), new_secret())
        workload = Workload(host, record)
        try:
            await workload.sign()
            await workload.start()
            self.workloads[spec.key] = workload
            await workload.wait_ready()
        except BaseException:
            self.workloads.pop(spec.key, None)
            await self._end(workload, keep_proxy=False)
            raise
        self._changed.set()
        return workload

    async def remove(self, key: str) -> None:
        """Withdraw and stop one workload. Raises NotFound."""
        workload = self.workloads.pop(key, None)
        if workload is None:
            raise NotFound(f"{key} does not run here")
        await self._end(workload, keep_proxy=False)
        self._changed.set()
        self._stop_if_unused()

    def _stop_if_unused(self) -> None:
        """An agent that a `limen run` started ends with the last of them."""
        runs = [w for w in self.workloads.values() if w.spec.process is not None]
        if self.settings.auto_stop and not runs and not self._adding:
            self.shutdown()

    async def _end(self, workload: Workload, *, keep_proxy: bool) -> None:
        if not keep_proxy:
            await workload.deregister()
        await workload.stop(keep_proxy=keep_proxy)
        if not keep_proxy:
            workload.paths.accepted.unlink(missing_ok=True)
            shutil.rmtree(workload.paths.root, ignore_errors=True)

    def _complete(self, spec: WorkloadSpec) -> WorkloadSpec:
        """Fill in what was left to the agent, and check what was given."""
        require_local_ports_allowed(spec, measure_isolation(spec.uid, spec.process))
        address = spec.address or self.settings.address or self._own_address()
        if spec.port:
            require_free(address, spec.port)
        port = spec.port or free_port(address)
        if spec.probe_port is not None:
            require_free(address, spec.probe_port)
        instance = spec.instance or f"i-{secrets.token_hex(4)}"
        made = replace(spec, address=address, port=port, instance=instance)
        parse_instance_name(made.key, self.settings.mesh)
        return made

    def _own_address(self) -> str:
        if self.node is None:
            return LOOPBACK
        host, _, port = self.node.node_address.rpartition(":")
        return local_address_towards(host.strip("[]"), int(port) if port.isdigit() else 443)

    def _on_process_end(self, key: str) -> None:
        async def end() -> None:
            try:
                await self.remove(key)
            except NotFound:
                return

        task = asyncio.create_task(end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _route(self, caller: Caller | None) -> Path:
        key = attest_caller(caller, [w.spec for w in self.workloads.values()])
        if key is None or key not in self.workloads:
            return self.settings.paths.runtime / "denied.sock"
        return self.workloads[key].paths.api_socket

    # -- in the background

    async def _renew_node(self) -> None:
        while True:
            host, node = self._require_host(), self._require_node()
            at_s = next_renewal_s(node, secrets.randbelow(2001) / 1000 - 1)
            await sleep_until(at_s)
            key = make_key()
            try:
                answer = await host.link.call("Renew", {"csr_pem": build_request(key)})
                node = renewed(node, key_to_pem(key), str(answer.get("certificate_pem")))
                save_node(self.settings.paths.node, node)
            except (LimenError, ValueError) as error:
                _log.warning("the node's certificate was not renewed: %s", error)
                await asyncio.sleep(_RENEW_RETRY_S)
                continue
            self.node = node
            await host.link.replace(node)

    def _check_epoch(self, epoch: str) -> None:
        """Refuse a server whose store was set back, unless told. Raises Conflict."""
        node = self._require_node()
        if not epoch or epoch == node.server_epoch:
            return
        if node.server_epoch and not self.settings.accept_epoch:
            raise Conflict(
                "the server's store was restored from a backup: this agent does not go back",
                code="epoch-changed",
                hint="if that was meant, restart the agent with --accept-epoch",
            )
        self.node = replace(node, server_epoch=epoch)
        save_node(self.settings.paths.node, self.node)

    def _save(self) -> None:
        records = [w.record for w in self.workloads.values()]
        save_handover(self.settings.paths, self.settings.mesh, records)

    async def _save_and_report(self) -> None:
        while True:
            self._changed.clear()
            try:
                self._save()
            except Unavailable as error:
                _log.warning("identities were not saved for a restart: %s", error)
            try:
                await self._require_host().link.call("Status", status_payload(self), 5.0)
            except LimenError as error:
                _log.debug("status not reported: %s", error)
            with contextlib.suppress(TimeoutError):  # wait_for may swallow a cancellation
                async with asyncio.timeout(_REPORT_S):
                    await self._changed.wait()

    def _require_host(self) -> Host:
        if self._host is None:
            raise Unavailable("the agent is starting")
        return self._host

    def _require_node(self) -> NodeIdentity:
        if self.node is None:
            raise Unavailable("the agent is starting")
        return self.node

    # -- control verbs

    async def _on_add(self, request: Mapping[str, Any]) -> dict[str, Any]:
        raw = request.get("workload")
        if not isinstance(raw, dict):
            raise InvalidInput("workload is missing")
        workload = await self.add(parse_spec(raw))
        paths = workload.paths
        return {
            "instance": workload.spec.key,
            "spiffe_id": workload.registration.spiffe_id,
            "address": workload.spec.address,
            "port": workload.spec.port,
            "outbound_port": workload.outbound_port,
            "outbound_user": workload.spec.instance,
            "outbound_secret": workload.secret,
            "outbound_socket": str(paths.outbound_socket),
            "workload_socket": str(self.settings.paths.workload_socket),
            "isolation": workload.isolation.value,
        }

    async def _on_remove(self, request: Mapping[str, Any]) -> dict[str, Any]:
        await self.remove(str(request.get("instance", "")))
        return {}

    async def _on_status(self, request: Mapping[str, Any]) -> dict[str, Any]:
        del request
        return await describe_agent(self)

    async def _on_rotate(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """New certificates at once for all workloads, or for the one named by `instance`."""
        wanted = str(request.get("instance", ""))
        chosen = [w for key, w in self.workloads.items() if wanted in {"", key}]
        if wanted and not chosen:
            raise NotFound(f"no workload {wanted!a} here", hint="`limen agent status` lists them")
        await asyncio.gather(*(workload.sign() for workload in chosen))
        return {"rotated": sorted(w.spec.key for w in chosen)}

    async def _on_shutdown(self, request: Mapping[str, Any]) -> dict[str, Any]:
        keep = request.get("keep_proxies")
        self.shutdown(keep_proxies=keep if isinstance(keep, bool) else None)
        return {}
