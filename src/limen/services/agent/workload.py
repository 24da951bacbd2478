"""One instance while it runs: registered, certified, configured, supervised, probed.

Wiring and tasks only; what each part does stands in its own module.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limen.adapters.envoy_process import EnvoyBinary, EnvoyCommand
from limen.adapters.peercred import is_alive
from limen.adapters.runtime_dir import make_directory, write_atomic
from limen.core.envoy import names
from limen.core.envoy.bootstrap import build_bootstrap, envoy_arguments
from limen.core.envoy.guard import guard_resource
from limen.core.envoy.secret import svid_resource
from limen.core.pki.profile import BACKDATE_S
from limen.errors import LimenError, Unavailable, Untrusted
from limen.services.agent.ads import EnvoyEndpoint, follow_server
from limen.services.agent.handover import WorkloadRecord
from limen.services.agent.identity import (
    accept_svid,
    build_request,
    certificate_times,
    make_key,
    sleep_until,
)
from limen.services.agent.isolation import measure_isolation
from limen.services.agent.probing import LOOPBACK, is_listening, wait_listening
from limen.services.agent.registration import parse_registration, register_payload
from limen.services.agent.relay import Relay
from limen.services.agent.supervision import EnvoySupervisor
from limen.services.agent.workload_api import SvidFeed, WorkloadApi

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from limen.adapters.runtime_dir import AgentPaths, WorkloadPaths
    from limen.core.model.mesh import Isolation
    from limen.services.agent.node_link import NodeLink
    from limen.services.agent.registration import Registration
    from limen.services.agent.spec import WorkloadSpec

_READY_S = 20.0
_RETRY_FIRST_S = 0.5
_RETRY_MAX_S = 30.0
_PROBE_FAST_S = 0.2
_PROBE_S = 2.0
_log = logging.getLogger("limen.agent")


@dataclass(frozen=True, slots=True)
class Host:
    """What all workloads of an agent share. `changed` is called when a record or state changed."""

    mesh: str
    paths: AgentPaths
    envoy: EnvoyBinary
    link: NodeLink
    drain_s: float
    changed: Callable[[], None]
    ended: Callable[[str], None]
    check_epoch: Callable[[str], None]


def new_secret() -> str:
    """128 random bits for the way out."""
    return secrets.token_hex(16)


async def register(host: Host, spec: WorkloadSpec, outbound_port: int) -> Registration:
    """Tell the server of an instance. Raises what the server says, or Unavailable."""
    paths = host.paths.workload(spec.key)
    isolation = measure_isolation(spec.uid, spec.process)
    payload = register_payload(spec, isolation, outbound_port, str(paths.outbound_socket))
    registration = parse_registration(await host.link.call("Register", payload))
    host.check_epoch(registration.epoch)
    return registration


class Workload:
    """Made from a record: a new one, or one that an earlier agent left."""

    def __init__(self, host: Host, record: WorkloadRecord) -> None:
        self._host = host
        self.spec = record.spec
        self.registration = record.registration
        self.outbound_port = record.outbound_port
        self.secret = record.secret
        self.isolation: Isolation = measure_isolation(self.spec.uid, self.spec.process)
        self.last_contact_s = record.last_contact_s
        self.feed = SvidFeed()
        self.feed.publish(record.svid)
        self.application_ready = False
        self.clock_offset_s: float | None = None
        self.refusal = ""
        self.trouble = ""
        paths = host.paths.workload(self.spec.key)
        self.paths: WorkloadPaths = paths
        saved = paths.accepted.read_bytes() if paths.accepted.exists() else b""
        self.relay = Relay(self.spec.key, saved, self._keep_accepted, self._note_refusal)
        self._dirty = asyncio.Event()
        self._connected = asyncio.Event()
        self._endpoint = EnvoyEndpoint(paths.ads_socket, self.relay)
        self._api = WorkloadApi(paths.api_socket, self.feed)
        self.supervisor = EnvoySupervisor(self._envoy_command(), self.spec.key)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def server_connected(self) -> bool:
        """Whether the server talks on this workload's stream (trying to connect is not enough)."""
        return self.relay.server_connected and self._connected.is_set()

    @property
    def record(self) -> WorkloadRecord:
        """What the next agent needs."""
        return WorkloadRecord(
            self.spec,
            self.registration,
            self.feed.current,
            self.outbound_port,
            time.time() if self.server_connected else self.last_contact_s,
            self.secret,
        )

    async def start(self) -> None:
        """Open the sockets and start every task. Waits for no server."""
        self._make_directories()
        guard = guard_resource(self.spec.instance, self.secret)
        self.relay.set_own(names.EXTENSION, guard)
        await self._endpoint.start()
        await self._api.start()
        if self.feed.usable() is not None:
            self._use_svid()
        self._run("envoy", self.supervisor.run(self._host.drain_s))
        self._run("renewal", self._renew_forever())
        self._run("server", self._follow_forever())
        self._run("probe", self._probe_forever())
        self._run("save", self._save_forever())
        self._run("staleness", self._watch_staleness())
        if self.spec.process is not None:
            self._run("process", self._watch_process())

    async def wait_ready(self) -> None:
        """Return when Envoy serves this workload's listeners. Raises Unavailable with the cause."""
        deadline = asyncio.get_running_loop().time() + _READY_S
        while not self.relay.confirmed:
            if self.refusal:
                raise Unavailable(
                    f"Envoy refused its configuration: {self.refusal}",
                    code="configuration-refused",
                    hint="is a port of it in use already?",
                )
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(
                    f"{self.spec.key} was not ready within {_READY_S:g} s: "
                    f"{self.trouble or 'no configuration came from the server'}",
                    code="workload-not-ready",
                    hint=f"see {self.paths.envoy_log}",
                )
            await asyncio.sleep(0.005)  # two independent conditions and a deadline
        await self.supervisor.wait_ready(_READY_S)
        for host, port in ((LOOPBACK, self.outbound_port), (self.spec.address, self.spec.port)):
            await wait_listening(host, port, _READY_S)
        self.own_outbound_socket()

    async def stop(self, *, keep_proxy: bool) -> None:
        """End the tasks, and Envoy unless `keep_proxy`."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if keep_proxy:
            self.supervisor.leave()
        else:
            await self.supervisor.stop(self._host.drain_s)
        await self._endpoint.close()
        await self._api.close()

    async def deregister(self) -> None:
        """Withdraw its address; failing is no reason not to stop."""
        if (following := self._tasks.get("server")) is not None:
            following.cancel()  # it would register again
        with contextlib.suppress(LimenError):
            await self._host.link.call("Deregister", {"instance": self.registration.instance}, 2.0)

    def own_outbound_socket(self) -> None:
        """Envoy makes the socket as the agent's uid; hand it to the workload's."""
        if os.geteuid() == 0 and self.spec.uid != 0:
            with contextlib.suppress(FileNotFoundError):
                os.chown(self.paths.outbound_socket, self.spec.uid, -1, follow_symlinks=False)

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
        )
        write_atomic(self.paths.private / "bootstrap.json", bootstrap)

    def _envoy_command(self) -> EnvoyCommand:
        config = str(self.paths.private / "bootstrap.json")
        return EnvoyCommand(
            tuple(envoy_arguments(str(self._host.envoy.path), config)),
            self.paths.envoy_log,
            self.paths.envoy_record,
            self.paths.admin_socket,
        )

    def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"{self.spec.key} {name}")
        task.add_done_callback(self._on_task_end)
        self._tasks[name] = task

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """A task that dies of a bug is loud, and the workload says so."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.trouble = f"{task.get_name()} failed: {type(error).__name__}"
            _log.error("%s failed", task.get_name(), exc_info=error)

    def _keep_accepted(self) -> None:
        self._dirty.set()

    def _note_refusal(self, reason: str) -> None:
        self.refusal = reason
        if reason:
            _log.error("%s: Envoy refused: %s", self.spec.key, reason)
        self._host.changed()

    # -- identity

    def _use_svid(self) -> None:
        svid = self.feed.usable()
        if svid is None:
            return
        resource = svid_resource(svid.certificate_pem.encode(), svid.key_pem.encode())
        self.relay.set_own(names.SECRET, resource)
        if not self._stale():
            self.supervisor.allow()

    async def sign(self) -> None:
        """Get a new certificate and hand it to Envoy and the Workload API."""
        key = make_key()
        registration = self.registration
        request = build_request(key, registration.spiffe_id, registration.dns_names)
        answer = await self._host.link.call(
            "Sign", {"instance": registration.instance, "csr_pem": request}
        )
        try:
            times = float(answer["not_after_s"]), float(answer["renew_at_s"])
            pem, bundle = str(answer["certificate_pem"]), str(answer["bundle_pem"])
        except (KeyError, TypeError, ValueError) as error:
            raise Untrusted("the server's answer to Sign cannot be read") from error
        self.feed.publish(accept_svid(key, registration.spiffe_id, pem, bundle, times))
        self.clock_offset_s = certificate_times(pem)[0] + BACKDATE_S - time.time()
        self._use_svid()
        self._host.changed()

    async def _renew_forever(self) -> None:
        delay = _RETRY_FIRST_S
        while True:
            await self._wait_until_renewal()
            try:
                await self.sign()
                delay, self.trouble = _RETRY_FIRST_S, ""
            except LimenError as error:
                self.trouble = f"no new certificate: {error}"
                _log.warning("%s: %s", self.spec.key, self.trouble)
                self._stop_if_expired()
                await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
                delay = min(delay * 2, _RETRY_MAX_S)

    async def _wait_until_renewal(self) -> None:
        """Return when the certificate is to be renewed; at once if there is none."""
        svid = self.feed.current
        if svid is None:
            return
        early = random.uniform(0, 0.05) * svid.outage_budget_s  # noqa: S311 - jitter
        await sleep_until(svid.renew_at_s - early)

    def _stop_if_expired(self) -> None:
        """An expired certificate is never used: Envoy stops until there is a new one."""
        if self.feed.usable() is None and self.supervisor.allowed:
            _log.error("%s: its certificate has expired: it stops serving", self.spec.key)
            self.supervisor.hold()
            self.feed.publish(None)

    # -- the server

    async def _follow_forever(self) -> None:
        delay = _RETRY_FIRST_S
        registered = True  # the agent has registered it, or restores it and tries the stream first
        while True:
            try:
                if not registered:
                    self.registration = await register(self._host, self.spec, self.outbound_port)
                await follow_server(self._host.link, self.relay, self._connected)
            except LimenError as error:
                self.trouble = str(error)
                _log.warning("%s: %s", self.spec.key, error)
            registered = False
            if self._connected.is_set():
                self._connected.clear()
                self.last_contact_s = time.time()
                self._host.changed()
                delay = _RETRY_FIRST_S / 5
            await asyncio.sleep(delay * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            delay = min(delay * 2, _RETRY_MAX_S / 10)

    def _stale(self) -> bool:
        limit = self.registration.max_staleness_s
        if limit is None or not self.registration.refuse_when_stale:
            return False
        return not self.server_connected and time.time() - self.last_contact_s > limit

    async def _watch_staleness(self) -> None:
        """Refuse to serve when cut off for longer than the mesh allows; serve again when not."""
        while True:
            self._stop_if_expired()
            self.own_outbound_socket()  # a restarted Envoy makes it anew
            if self._stale() and self.supervisor.allowed:
                _log.error("%s: cut off for too long: it stops serving", self.spec.key)
                self.supervisor.hold()
            elif not self.supervisor.allowed and not self._stale():
                self._use_svid()
            limit = self.registration.max_staleness_s or 20.0
            await asyncio.sleep(max(0.05, min(1.0, limit / 20)))

    # -- files and processes

    async def _save_forever(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                write_atomic(self.paths.accepted, self.relay.dump())
            except Unavailable as error:
                self.trouble = str(error)
                _log.exception("%s: configuration not kept", self.spec.key)

    async def _watch_process(self) -> None:
        """End the workload with its process tree's root."""
        process = self.spec.process
        if process is None:
            return
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(process.pid)
            try:
                if is_alive(process):
                    loop.add_reader(pidfd, gone.set)
                    await gone.wait()
            finally:
                loop.remove_reader(pidfd)
                os.close(pidfd)
        self._host.ended(self.spec.key)

    async def _probe_forever(self) -> None:
        while True:
            ready = await is_listening(LOOPBACK, self.spec.service_port)
            if ready != self.application_ready:
                self.application_ready = ready
                self._host.changed()
            await asyncio.sleep(_PROBE_S if ready else _PROBE_FAST_S)
