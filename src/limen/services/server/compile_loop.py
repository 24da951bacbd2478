"""From a commit to every proxy that it concerns, and to no other.

The mirror hands over changes in the order of commits; `absorb` takes all that have gathered into
the graphs and notes whom they touch; those are compiled and put on their streams a few at a time.
In between others get their turn, and more may gather: a flood of commits costs few compilations.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from limen.core.compiler.edge.checks import unopened
from limen.core.compiler.graph import MeshGraph
from limen.core.envoy import names
from limen.core.envoy.endpoints import endpoints_resource
from limen.core.envoy.secret import bundle_resource
from limen.core.model.resource import Resource
from limen.core.model.workload import Dataplane
from limen.errors import NotFound
from limen.services.server.open_proxy import OpenProxy
from limen.services.server.presence import Presence
from limen.services.server.rollout import Rollout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from limen.core.compiler.graph import Change, Dirty
    from limen.core.compiler.user_contexts import TokenService
    from limen.core.envoy.encoded import Encoded, NodeResources
    from limen.core.model.names import InstanceName, WorkloadName
    from limen.core.model.resource import ResourceKey
    from limen.core.plan.node import LocalSide
    from limen.services.server.metrics import Metrics
    from limen.services.server.open_proxy import Stream
    from limen.services.server.proxies import Proxies


AT_ONCE = 32
"""Proxies compiled before others get their turn: some ten milliseconds at worst."""


class CompileLoop:
    """Keeps one graph per mesh, and the resources of every proxy whose stream is open.

    `revision` is the newest that is on the streams. `local_of` gives the local side that the node
    registered with a Dataplane.
    """

    def __init__(
        self,
        proxies: Proxies,
        metrics: Metrics,
        local_of: Callable[[ResourceKey], LocalSide],
        *,
        grace_s: float,
    ) -> None:
        self.revision = 0
        self.ready = False
        self.sign_policies: Callable[[Encoded], Encoded] | None = None
        self._proxies = proxies
        self._metrics = metrics
        self._local_of = local_of
        self._graphs: dict[str, MeshGraph] = {}
        self._keys: dict[str, str] = {}
        self._token_services: dict[str, TokenService] = {}
        self._bundles: dict[str, dict[str, Encoded]] = {}
        self._addresses: dict[WorkloadName, Encoded] = {}
        self._open: dict[InstanceName, OpenProxy] = {}
        self._callers: dict[WorkloadName, set[InstanceName]] = {}
        self._pending: list[Change] = []
        self._pending_revision = self._absorbed = 0
        self._rollout = Rollout()
        self._urgent: deque[InstanceName] = deque()
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._flushed = asyncio.Event()
        self.presence = Presence(grace_s, self._wake.set)

    # --- what comes in

    def changed(self, changes: Mapping[ResourceKey, Resource | None], revision: int) -> None:
        """The mirror's listener."""
        self._pending.extend(
            key if resource is None else resource for key, resource in changes.items()
        )
        self._pending_revision = revision
        self._wake.set()

    def set_bundle(self, mesh: str, pem: str) -> None:
        """The roots that the workloads of a mesh trust. Sent to all its proxies if they changed."""
        encoded = bundle_resource(pem.encode("ascii"))
        bundle = {encoded.name: encoded}
        if self._bundles.get(mesh) == bundle:
            return
        self._bundles[mesh] = bundle
        for instance, known in self._open.items():
            if instance.workload.mesh == mesh:
                secrets = {**known.resources.get(names.SECRET, {}), **bundle}
                self._put(known, {**known.resources, names.SECRET: secrets})

    def set_keys(self, keys: Mapping[str, str]) -> None:
        """All key sets of token issuers (JSON text), by `KeySource.name`."""
        self._keys = dict(keys)
        for graph in self._graphs.values():
            self._put_dirty(graph, graph.set_keys(self._keys))
        self._wake.set()

    def set_token_services(self, services: Mapping[str, TokenService]) -> None:
        """The token service of each mesh that has one."""
        self._token_services = dict(services)
        for mesh, graph in self._graphs.items():
            self._put_dirty(graph, graph.set_token_service(self._token_services.get(mesh)))
        self._wake.set()

    def start(self) -> None:
        """Everything that was stored has come in: compile it. From now on instances are new."""
        self._roll_out()
        self.presence.start(i for graph in self._graphs.values() for i in graph.instances)
        self.ready = True

    # --- the loop

    async def run(self) -> None:
        """Roll out whatever changed, until cancelled."""
        while True:
            await self._wake.wait()
            self.absorb()
            while self._rollout:
                self._step()
                await asyncio.sleep(0)  # what was put is sent now
                if self._wake.is_set():
                    self.absorb()
            self._finish()
            await asyncio.sleep(0)

    def absorb(self) -> None:
        """Take what has gathered into the graphs; note whose proxies it touches."""
        self._wake.clear()
        pending, self._pending = self._pending, []
        newer = self._pending_revision > self._absorbed
        self._absorbed = self._pending_revision
        if pending:
            with self._metrics.compile_s.time():
                self._update(pending)
        self._withdraw_absent()
        if newer:
            self._rollout.mark(self._absorbed)
            self._advance()

    def _step(self) -> None:
        """Compile the next few, those who lost a right by it before all others."""
        with self._metrics.compile_s.time():
            if self._urgent:
                for _ in range(min(AT_ONCE, len(self._urgent))):
                    self._refuse(self._urgent.popleft())
                return
            for instance in self._rollout.take(AT_ONCE):
                known = self._open.get(instance)
                if known is not None:
                    self._compile(known)
        self._rollout.settle()
        self._advance()

    def _roll_out(self) -> None:
        """All at once."""
        self.absorb()
        while self._rollout:
            self._step()
        self._finish()

    def _advance(self) -> None:
        """Tell how far the streams are."""
        if self._rollout.done <= self.revision:
            return
        self.revision = self._proxies.revision = self._rollout.done
        self._metrics.revision.set(self.revision)
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()
        self._proxies.changed()

    def _finish(self) -> None:
        flushed, self._flushed = self._flushed, asyncio.Event()
        flushed.set()

    async def next_flush(self) -> None:
        """Return when all that waits was compiled, once more."""
        await self._flushed.wait()

    async def compiled(self, revision: int) -> None:
        """Return when `revision` is on the streams."""
        while self.revision < revision:
            await self._progress.wait()

    def _update(self, pending: Sequence[Change]) -> None:
        by_mesh: dict[str, list[Change]] = {}
        for change in pending:
            by_mesh.setdefault(_key(change).mesh, []).append(change)
            if isinstance(change, Resource) and isinstance(change.spec, Dataplane):
                self._expect(change.spec)
        for mesh, changes in by_mesh.items():
            self._put_dirty(self.graph(mesh), self.graph(mesh).update(changes))
        for change in pending:
            if isinstance(change, Resource) and isinstance(change.spec, Dataplane):
                self._follow_local(change.spec.name, change.key)

    def _expect(self, dataplane: Dataplane) -> None:
        """An instance may come; one that a node registered is awaited by `apply --wait`."""
        if self.ready:
            self.presence.registered(dataplane.name)
        if dataplane.node:
            self._proxies.of(dataplane.name).node = dataplane.node

    def _follow_local(self, instance: InstanceName, key: ResourceKey) -> None:
        """The local side is not part of the graph: look whether it changed."""
        known = self._open.get(instance)
        if known is not None and known.local != self._local_of(key):
            self._compile(known)

    def _withdraw_absent(self) -> None:
        absent = self.presence.absent
        for mesh, graph in self._graphs.items():
            dirty = graph.set_absent(i for i in absent if i.workload.mesh == mesh)
            self._put_dirty(graph, dirty)

    def _put_dirty(self, graph: MeshGraph, dirty: Dirty) -> None:
        for workload in dirty.endpoints:
            self._addresses.pop(workload, None)
        registered = graph.instances if dirty.instances else frozenset()
        for instance in dirty.instances - registered:
            self._forget(instance, self._open.get(instance))
        touched = [i for i in dirty.instances & registered if i in self._open]
        self._rollout.add(touched)
        if dirty.narrowed and len(touched) > AT_ONCE:
            self._urgent.extend(touched)
        for workload in dirty.endpoints:
            if workload not in self._callers:
                continue
            resource = self._endpoints(graph, workload)
            for instance in self._callers.get(workload, ()):
                known = self._open[instance]
                endpoints = known.resources[names.ENDPOINTS]
                if endpoints.get(resource.name) != resource:
                    changed = {**endpoints, resource.name: resource}
                    self._put(known, {**known.resources, names.ENDPOINTS: changed})

    # --- streams

    def open(self, stream: Stream) -> None:
        """A stream is open: compile its proxy and put it there. Raises NotFound."""
        self.absorb()
        instance = stream.instance
        self.graph(instance.workload.mesh).resource(instance)
        older = self._open.get(instance)
        if older is not None:
            self._index(older, ())
            older.stream.end(NotFound("a newer stream of this instance is open", code="replaced"))
        known = self._open[instance] = OpenProxy(stream)
        self.presence.opened(instance)
        self._metrics.streams.set(len(self._open))
        self._compile(known)

    def close(self, stream: Stream) -> bool:
        """A stream ended. False if its instance has a newer one: nothing changes then."""
        known = self._open.get(stream.instance)
        if known is None or known.stream is not stream:
            return False
        del self._open[stream.instance]
        self._index(known, ())
        self.presence.closed(stream.instance)
        self._metrics.streams.set(len(self._open))
        return True

    def streams(self) -> list[Stream]:
        """All open streams."""
        return [known.stream for known in self._open.values()]

    def _compile(self, known: OpenProxy) -> None:
        instance = known.stream.instance
        graph = self.graph(instance.workload.mesh)
        known.local = self._local_of(graph.resource(instance).key)
        plan = graph.plan(instance, known.local)
        callees = tuple(edge.callee for edge in plan.edges)
        resources = known.compile(plan)
        given = resources.get(names.SECRET, {})  # of a gateway; for this stream alone
        resources[names.SECRET] = {**given, **self._bundles.get(graph.mesh, {})}
        parts = resources.get(names.ENDPOINTS, {})
        if callees != known.callees or not known.resources or plan.edge is not None:
            self._index(known, callees)
            endpoints = (self._endpoints(graph, callee) for callee in callees)
            resources[names.ENDPOINTS] = {**parts, **{e.name: e for e in endpoints}}
        else:
            resources[names.ENDPOINTS] = known.resources[names.ENDPOINTS]
        if self.sign_policies is not None:
            sets = resources[names.POLICIES]
            resources[names.POLICIES] = {k: self.sign_policies(v) for k, v in sets.items()}
        self._metrics.dirty.inc()
        self._put(known, resources)

    def _refuse(self, instance: InstanceName) -> None:
        """A right was withdrawn: its permissions go out before the listeners are built anew."""
        known = self._open.get(instance)
        if known is None or instance not in self.graph(instance.workload.mesh).instances:
            return
        plan = self.graph(instance.workload.mesh).plan(instance, known.local)
        permissions = known.permissions_alone(plan)
        if permissions is not None:
            self._put(known, permissions)

    def _endpoints(self, graph: MeshGraph, callee: WorkloadName) -> Encoded:
        """Where a callee is reached; the same for all who may."""
        found = self._addresses.get(callee)
        if found is None:
            found = self._addresses[callee] = endpoints_resource(graph.endpoints(callee))
        return found

    def _put(self, known: OpenProxy, resources: NodeResources) -> None:
        known.resources = resources
        known.changed_at = self._absorbed
        known.stream.put(resources, known.changed_at, self.revision)

    def _index(self, known: OpenProxy, callees: tuple[WorkloadName, ...]) -> None:
        """Remember whose addresses this proxy needs."""
        instance = known.stream.instance
        for callee in set(known.callees).difference(callees):
            callers = self._callers[callee]
            callers.discard(instance)
            if not callers:
                del self._callers[callee]
        for callee in callees:
            self._callers.setdefault(callee, set()).add(instance)
        known.callees = callees

    def _forget(self, instance: InstanceName, known: OpenProxy | None) -> None:
        if known is not None:
            known.stream.end(NotFound(f"{instance} is registered no more", code="not-registered"))
            self.close(known.stream)
        self.presence.removed(instance)
        self._proxies.forget(instance)

    # --- questions

    def unopened(self) -> dict[InstanceName, list[str]]:
        """Why gateways do not open some of their listeners, one sentence each."""
        return {
            instance: [finding.message for finding in findings]
            for graph in self._graphs.values()
            for instance, findings in unopened(graph).items()
        }

    def graph(self, mesh: str) -> MeshGraph:
        """The graph of a mesh, made on first use."""
        found = self._graphs.get(mesh)
        if found is None:
            found = self._graphs[mesh] = MeshGraph(mesh, keys=self._keys)
            found.set_token_service(self._token_services.get(mesh))
        return found

    def trust_domain(self, mesh: str) -> str:
        """The trust domain of a mesh."""
        return self.graph(mesh).environment.trust_domain

    def narrowed(self, changes: Iterable[Change]) -> list[WorkloadName]:
        """Workloads where somebody would lose a right by these changes, sorted."""
        self.absorb()
        found = [w for mesh, some in _by_mesh(changes) for w in self.preview(mesh, some).narrowed]
        return sorted(found)

    def preview(self, mesh: str, changes: Sequence[Change]) -> Dirty:
        """What changes would do to a mesh. Absorb first."""
        return self.graph(mesh).preview(changes)

    def changed_since(self, revision: int) -> list[InstanceName]:
        """Connected instances for which something changed at `revision` or later, sorted."""
        found = [i for i, known in self._open.items() if known.changed_at >= revision]
        return sorted(found, key=lambda i: i.sort_key)


def _key(change: Change) -> ResourceKey:
    return change.key if isinstance(change, Resource) else change


def _by_mesh(changes: Iterable[Change]) -> list[tuple[str, list[Change]]]:
    found: dict[str, list[Change]] = {}
    for change in changes:
        found.setdefault(_key(change).mesh, []).append(change)
    return list(found.items())
