"""One instance while it runs: registered, certified, configured, supervised, probed.

Wiring and tasks only; what each part does stands in its own module.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import TYPE_CHECKING, Any

from limen.adapters.envoy_process import EnvoyCommand
from limen.adapters.runtime_dir import make_directory, write_atomic
from limen.core.envoy import names
from limen.core.envoy.bootstrap import build_bootstrap, envoy_arguments
from limen.core.envoy.guard import guard_resource
from limen.core.envoy.secret import svid_resource
from limen.core.envoy.user_context import read_token_service
from limen.errors import Unavailable
from limen.services.agent.ads import EnvoyEndpoint
from limen.services.agent.certifying import Certifier
from limen.services.agent.deciding import DecisionPoint
from limen.services.agent.following import ServerFollower
from limen.services.agent.handover import WorkloadRecord
from limen.services.agent.hosting import deregister, register
from limen.services.agent.isolation import measure_isolation
from limen.services.agent.local_ports import close_to_others, open_again
from limen.services.agent.log_following import LogFollower
from limen.services.agent.probing import LOOPBACK, wait_listening
from limen.services.agent.published import saved_policies
from limen.services.agent.relay import Relay
from limen.services.agent.supervision import EnvoySupervisor
from limen.services.agent.token_client import TokenClient
from limen.services.agent.token_door import TokenDoor
from limen.services.agent.watching import probe_forever, wait_exit
from limen.services.agent.workload_api import SvidFeed, WorkloadApi

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from limen.adapters.peercred import ProcessId
    from limen.adapters.runtime_dir import WorkloadPaths
    from limen.core.model.mesh import Isolation
    from limen.core.plan.node import TokenServicePlan
    from limen.services.agent.hosting import Host

_READY_S = 20.0
_LAST_LOOK_S = 1.0
"""So long the end of a workload waits for its last audit events to be shipped."""
_TRUSTED_AFTER_S = 5.0
"""A configuration with which Envoy has run for so long is one to fall back to."""
_log = logging.getLogger("limen.agent")


class Workload:
    """Made from a record: a new one, or one that an earlier agent left."""

    def __init__(self, host: Host, record: WorkloadRecord) -> None:
        self._host = host
        self.spec = record.spec
        self.registration = record.registration
        self.outbound_port = record.outbound_port
        self.secret = record.secret
        self.isolation: Isolation = measure_isolation(self.spec)
        self.feed = SvidFeed()
        self.feed.publish(record.svid)
        self.application_ready = False
        self.refusal = ""
        self._trouble = ""
        paths = host.paths.workload(self.spec.key)
        self.paths: WorkloadPaths = paths
        saved = paths.accepted.read_bytes() if paths.accepted.exists() else b""
        self.relay = Relay(
            self.spec.key, saved, record.given, self._keep_accepted, self._note_refusal
        )
        self._dirty = asyncio.Event()
        self._endpoint = EnvoyEndpoint(paths.ads_socket, self.relay)
        self._api = WorkloadApi(paths.api_socket, self.feed)
        self._door = TokenDoor(
            paths.door_socket,
            paths.token_socket,
            TokenClient(self.feed.usable, lambda: host.link.node.control_bundle_pem),
            self._token_service,
        )
        self.supervisor = EnvoySupervisor(
            self._envoy_command(), self.spec.key, self.relay.fall_back
        )
        self.certifier = Certifier(
            host.link, self.feed, lambda: self.registration, self._on_svid, self._stop_if_expired
        )
        self._follower = ServerFollower(
            host.link,
            self.relay,
            self._register_again,
            host.changed,
            record.last_contact_s,
            lambda: self._take_policies if self.registration.policies else None,
        )
        self.point = DecisionPoint(
            self.spec.key, paths, saved_policies(self.relay.policies), self._silent_s
        )
        self.log = LogFollower(
            self.spec.key, paths.envoy_log, host.keep, host.link.call, host.changed
        )
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def kept_logs(self) -> Path:
        """Where its log goes when it has ended."""
        return self._host.paths.kept_logs

    @property
    def server_connected(self) -> bool:
        """Whether the server talks on this workload's stream."""
        return self._follower.connected

    @property
    def trouble(self) -> str:
        """What does not go well, "" if all does."""
        parts = (
            self._trouble,
            self.supervisor.trouble,
            self.certifier.trouble,
            self.point.trouble,
            self.log.trouble,
        )
        return next((text for text in (*parts, self._follower.trouble) if text), "")

    @property
    def record(self) -> WorkloadRecord:
        """What the next agent needs."""
        return WorkloadRecord(
            self.spec,
            self.registration,
            self.feed.current,
            self.outbound_port,
            self._follower.last_contact_s,
            self.secret,
            self.relay.private(),
        )

    async def start(self) -> None:
        """Open the sockets and start every task. Waits for no server."""
        await asyncio.to_thread(close_to_others, self.spec, self.isolation, self.paths.root)
        self._make_directories()
        guard = guard_resource(self.spec.instance, self.secret)
        self.relay.set_own(names.EXTENSION, guard)
        await self._endpoint.start()
        await self._api.start()
        await self._door.start()
        self.own_sockets()
        if self.feed.usable() is not None:
            self._use_svid()
        self._run("envoy", self.supervisor.run(self._host.drain_s))
        self._run("policies", self.point.run())
        self._run("renewal", self.certifier.renew_forever())
        self._run("server", self._follower.run(self.spec.key))
        if self.spec.gateway:
            self.application_ready = True  # the proxy is all there is
        else:
            self._run(
                "probe",
                probe_forever(self.spec.service_port, self.spec.netns, self._note_application),
            )
        self._run("save", self._save_forever())
        self._run("log", self.log.run())
        self._run("staleness", self._watch_staleness())
        self._run("trust", self._trust_forever())
        if self.spec.process is not None:
            self._run("process", self._end_with(self.spec.process))

    async def wait_ready(self) -> None:
        """Return when Envoy serves this workload's listeners. Raises Unavailable with the cause."""
        deadline = asyncio.get_running_loop().time() + _READY_S
        while not self.relay.confirmed:
            self._require_hope()
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(
                    f"{self.spec.key} was not ready within {_READY_S:g} s: "
                    f"{self.trouble or 'no configuration came from the server'}",
                    code="workload-not-ready",
                    hint=f"see {self.paths.envoy_log}",
                )
            await asyncio.sleep(0.005)  # independent conditions and a deadline
        await self.supervisor.wait_ready(_READY_S)
        ports = [(LOOPBACK, self.outbound_port), (self.spec.address, self.spec.port)]
        for host, port in ports[:1] if self.spec.gateway else ports:
            await wait_listening(host, port, _READY_S, self.spec.netns)
        self.own_sockets()

    def _require_hope(self) -> None:
        if self.refusal:
            raise Unavailable(
                f"Envoy refused its configuration: {self.refusal}",
                code="configuration-refused",
                hint="is a port of it in use already?",
            )
        if self.supervisor.trouble:
            raise Unavailable(
                self.supervisor.trouble, code="envoy-broken", hint=f"see {self.paths.envoy_log}"
            )

    async def stop(self, *, keep_proxy: bool) -> None:
        """End the tasks, and Envoy unless `keep_proxy`."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        try:
            if keep_proxy:
                self.supervisor.leave()
            else:
                await self.supervisor.stop(self._host.drain_s)
                await asyncio.to_thread(open_again, self.spec, self.isolation, self.paths.root)
        finally:
            await self.point.close(keep=keep_proxy)
            await self._endpoint.close()
            await self._api.close()
            await self._door.close()
            await self.log.finish(0.0 if keep_proxy else _LAST_LOOK_S)

    async def deregister(self) -> None:
        """Withdraw its address, and do not register again."""
        if (following := self._tasks.get("server")) is not None:
            following.cancel()
        await deregister(self._host, self.registration.instance)

    def own_sockets(self) -> None:
        """Agent and Envoy make them as the agent's uid; hand them to the workload's."""
        if os.geteuid() == 0 and self.spec.uid != 0:
            for path in (self.paths.outbound_socket, self.paths.token_socket):
                with contextlib.suppress(FileNotFoundError):
                    os.chown(path, self.spec.uid, -1, follow_symlinks=False)

    def _token_service(self) -> TokenServicePlan | None:
        body = self.relay.offered(names.EXTENSION, names.TOKEN_SERVICE)
        return None if body is None else read_token_service(body)

    # -- parts

    def _make_directories(self) -> None:
        apart = os.geteuid() == 0 and self.spec.uid != 0
        make_directory(self.paths.root.parent, 0o711)
        make_directory(self.paths.root, 0o711)
        make_directory(self.paths.private)
        make_directory(self.paths.out, owner=self.spec.uid if apart else None)
        bootstrap = build_bootstrap(
            node_id=self.spec.key,
            cluster=self.spec.workload,
            ads_socket=str(self.paths.ads_socket),
            admin_socket=str(self.paths.admin_socket),
            token_socket=str(self.paths.door_socket),
        )
        write_atomic(self.paths.private / "bootstrap.json", bootstrap)

    def _envoy_command(self) -> EnvoyCommand:
        config = str(self.paths.private / "bootstrap.json")
        return EnvoyCommand(
            tuple(envoy_arguments(str(self._host.envoy.path), config)),
            self.paths.envoy_log,
            self.paths.envoy_record,
            self.paths.admin_socket,
            self.spec.netns,
        )

    def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"{self.spec.key} {name}")
        task.add_done_callback(self._on_task_end)
        self._tasks[name] = task

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """A task that dies of a bug is loud, and the workload says so."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._trouble = f"{task.get_name()} failed: {type(error).__name__}"
            _log.error("%s failed", task.get_name(), exc_info=error)

    def _keep_accepted(self) -> None:
        self._dirty.set()
        if self.spec.gateway:  # its certificates are sealed with the identities
            self._host.changed()

    def _note_refusal(self, reason: str) -> None:
        self.refusal = reason
        if reason:
            _log.error("%s: Envoy refused: %s", self.spec.key, reason)
        self._host.changed()

    def _note_application(self, ready: bool) -> None:  # noqa: FBT001 - the state that it reports
        self.application_ready = ready
        self._host.changed()

    async def _register_again(self) -> None:
        self.registration = await register(self._host, self.spec, self.outbound_port)

    # -- may it serve?

    def _on_svid(self) -> None:
        self._use_svid()
        self._host.changed()

    def _use_svid(self) -> None:
        """Hand the certificate to Envoy, if it is valid; then Envoy may serve."""
        svid = self.feed.usable()
        if svid is None:
            return
        resource = svid_resource(svid.certificate_pem.encode(), svid.key_pem.encode())
        self.relay.set_own(names.SECRET, resource)
        if not self._stale():
            self.supervisor.allow()

    def _stop_if_expired(self) -> None:
        """An expired certificate is never used: Envoy stops until there is a new one."""
        if self.feed.usable() is None and self.supervisor.allowed:
            _log.error("%s: its certificate has expired: it stops serving", self.spec.key)
            self.supervisor.hold()
            self.feed.publish(None)

    async def _take_policies(self, offered: bytes) -> str:
        return await self.point.take_offered(offered, self._host.link.node)

    def _silent_s(self) -> float:
        return 0.0 if self.server_connected else time.time() - self._follower.last_contact_s

    def _stale(self) -> bool:
        return self._follower.is_stale(self.registration)

    async def _watch_staleness(self) -> None:
        """Refuse to serve when cut off for longer than the mesh allows; serve again when not."""
        while True:
            self._stop_if_expired()
            self.own_sockets()  # a restarted Envoy makes it anew
            if self._stale() and self.supervisor.allowed:
                _log.error("%s: cut off for too long: it stops serving", self.spec.key)
                self.supervisor.hold()
            elif not self.supervisor.allowed and not self._stale():
                self._use_svid()
            limit = self.registration.max_staleness_s or 20.0
            await asyncio.sleep(max(0.05, min(1.0, limit / 20)))

    # -- in the background

    async def _trust_forever(self) -> None:
        """A configuration with which one Envoy has run for a while is one to fall back to."""
        while True:
            pid, accepted = self.supervisor.pid, self.relay.accepted
            await asyncio.sleep(_TRUSTED_AFTER_S)
            if pid is not None and pid == self.supervisor.pid:
                self.relay.lived_with(accepted)

    async def _save_forever(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                write_atomic(self.paths.accepted, self.relay.dump())
            except Unavailable as error:
                self._trouble = str(error)
                _log.exception("%s: configuration not kept", self.spec.key)

    async def _end_with(self, process: ProcessId) -> None:
        """End the workload with its process tree's root."""
        await wait_exit(process)
        self._host.ended(self.spec.key)
