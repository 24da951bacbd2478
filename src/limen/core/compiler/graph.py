"""`MeshGraph`: what every proxy of one mesh must do, kept up to date change by change.

Laws (tests/core/compiler/test_graph.py):
- Same resources, same plans, whatever the order and grouping in which they arrived.
- `update` names every instance whose plan changed and every workload whose endpoints changed.
- An update costs what the change concerns, not what the mesh holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.compiler.doors import Doors
from limen.core.compiler.edges import Edges, short_hostname, without_clashes
from limen.core.compiler.environment import Environment, environment_of
from limen.core.compiler.face import CallerDiff, Face, InstanceFace, has_narrowed
from limen.core.compiler.registry import dataplane_of, workloads_of
from limen.core.model.mesh import Mesh, MeshSettings
from limen.core.model.names import InstanceName, WorkloadName
from limen.core.model.permission import MeshTrafficPermission, TrafficPermission
from limen.core.model.resource import CUTOVER, MESH, MESH_SETTINGS, Resource, ResourceKey
from limen.core.model.workload import SERVICE_TAG, Cutover, Dataplane
from limen.core.plan.node import (
    Edge,
    Endpoint,
    EndpointsPlan,
    InboundPlan,
    LocalPortPlan,
    LocalSide,
    NodePlan,
    ProbePlan,
)
from limen.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.compiler.permissions import Concerned
    from limen.core.model.names import SpiffeId
    from limen.core.model.workload import Inbound
    from limen.core.policy.rule import Policy

Change = Resource | ResourceKey
"""A resource that is put, or the key of one that is deleted."""


@dataclass(frozen=True, slots=True)
class Dirty:
    """What an update changed; instances and workloads that are gone are named too.

    `narrowed` are the workloads where some caller may have lost a right.
    """

    instances: frozenset[InstanceName] = frozenset()
    endpoints: frozenset[WorkloadName] = frozenset()
    narrowed: frozenset[WorkloadName] = frozenset()


class MeshGraph:
    """One mesh. Resources of other meshes are not taken in."""

    def __init__(self, mesh: str, resources: Iterable[Resource] = ()) -> None:
        self.mesh = mesh
        self._resources: dict[ResourceKey, Resource] = {}
        self._absent: frozenset[InstanceName] = frozenset()
        self._doors = Doors(environment_of(mesh, None, None))
        self._edges = Edges()
        self._stale: set[WorkloadName] = set()
        self._edge_of: dict[tuple[WorkloadName, bool], Edge] = {}
        self._load(r for r in resources if r.key.mesh == mesh)

    @property
    def environment(self) -> Environment:
        """The mesh's own settings, with defaults."""
        return self._doors.environment

    @property
    def doors(self) -> Doors:
        """Registry, documents and policies, to be read only."""
        return self._doors

    @property
    def instances(self) -> frozenset[InstanceName]:
        """Every registered instance."""
        return frozenset(self._doors.registry.instances)

    @property
    def workloads(self) -> frozenset[WorkloadName]:
        """Every workload with an instance."""
        return frozenset(self._doors.registry.workloads)

    def resource(self, instance: InstanceName) -> Resource:
        """The Dataplane of an instance. Raises NotFound."""
        found = self._doors.registry.instances.get(instance)
        if found is None:
            raise NotFound(
                f"no instance {instance} is registered in mesh {self.mesh}",
                hint="`limen get dataplanes` lists what is registered",
            )
        return found

    # --- changes

    def update(self, changes: Iterable[Change]) -> Dirty:
        """Take in changes, in order; what they changed. Other meshes' changes do nothing."""
        before: dict[WorkloadName, Face] = {}
        replanned: set[InstanceName] = set()
        for change in changes:
            key = change.key if isinstance(change, Resource) else change
            new = change if isinstance(change, Resource) else None
            old = self._resources.get(key)
            if key.mesh != self.mesh or (old is None and new is None):
                continue
            if key.kind in (MESH, MESH_SETTINGS):
                replanned |= self._update_environment(key, new, before)
                continue
            for workload in self._touched(old, new):
                self._remember(before, workload)
            self._replace(key, old, new)
        return self._compare(before, replanned)

    def set_absent(self, instances: Iterable[InstanceName]) -> Dirty:
        """Say which instances are dead; all others live. Their addresses are withdrawn."""
        absent = frozenset(instances)
        shifted = absent ^ self._absent
        touched: set[WorkloadName] = set()
        for instance in shifted:
            found = self._doors.registry.instances.get(instance)
            if found is not None:
                touched |= workloads_of(dataplane_of(found))
        old = {workload: self._addresses(workload) for workload in touched}
        self._absent = absent
        changed = {w for w in touched if self._addresses(w) != old[w]}
        return Dirty(endpoints=frozenset(changed))

    def preview(self, changes: Iterable[Change]) -> Dirty:
        """What `update(changes)` would change. Leaves the graph as it was."""
        undo: list[Change] = []
        wanted = list(changes)
        for change in wanted:
            key = change.key if isinstance(change, Resource) else change
            undo.append(self._resources.get(key, key))
        dirty = self.update(wanted)
        self.update(reversed(undo))
        return dirty

    def _load(self, resources: Iterable[Resource]) -> None:
        """Take in resources without asking what they change."""
        known = {r.key: r for r in resources}
        self._resources = {}
        for key, resource in known.items():
            if key.kind in (MESH, MESH_SETTINGS):
                self._resources[key] = resource
        self._doors = Doors(self._read_environment())
        self._edges = Edges()
        for key, resource in known.items():
            if key.kind not in (MESH, MESH_SETTINGS):
                self._replace(key, None, resource)
        self._edge_of = {}
        self._stale = set(self._doors.registry.workloads)

    def _read_environment(self) -> Environment:
        mesh = self._resources.get(self._own(MESH))
        settings = self._resources.get(self._own(MESH_SETTINGS))
        return environment_of(
            self.mesh,
            mesh.spec if mesh and isinstance(mesh.spec, Mesh) else None,
            settings.spec if settings and isinstance(settings.spec, MeshSettings) else None,
        )

    def _own(self, kind: str) -> ResourceKey:
        for key in self._resources:
            if key.kind == kind and key.name == self.mesh:
                return key
        return ResourceKey(kind, self.mesh, "", self.mesh)

    def _update_environment(
        self, key: ResourceKey, new: Resource | None, before: dict[WorkloadName, Face]
    ) -> set[InstanceName]:
        resources = dict(self._resources)
        resources.pop(key, None)
        if new is not None:
            resources[key] = new
        everyone = set(self._doors.registry.instances)
        faces = dict(before)
        for workload in tuple(self._doors.registry.workloads):
            self._remember(faces, workload)
        old = self.environment
        self._load(resources.values())
        if self.environment == old:
            return set()
        before.update(faces)
        return everyone

    def _touched(self, old: Resource | None, new: Resource | None) -> set[WorkloadName]:
        """Workloads whose face a change could alter, judged before it is taken in."""
        touched: set[WorkloadName] = set()
        for resource, step in ((old, -1), (new, 1)):
            if resource is None:
                continue
            match resource.spec:
                case Dataplane() as dataplane:
                    touched |= workloads_of(dataplane)
                    for permission in self._doors.shifted_sources(dataplane, step):
                        touched |= self._doors.workloads_concerned(permission)
                case TrafficPermission() | MeshTrafficPermission():
                    touched |= self._doors.workloads_concerned(resource)
                case Cutover():
                    key = resource.key
                    touched.add(WorkloadName(key.mesh, key.namespace, key.name))
                case Mesh() | MeshSettings():
                    pass
        return touched

    def _replace(self, key: ResourceKey, old: Resource | None, new: Resource | None) -> None:
        if old is not None:
            match old.spec:
                case Dataplane() as dataplane:
                    self._doors.remove_instance(old, dataplane)
                case TrafficPermission() | MeshTrafficPermission():
                    self._doors.remove_document(old)
                case Cutover() | Mesh() | MeshSettings():
                    pass
            del self._resources[key]
        if new is not None:
            match new.spec:
                case Dataplane() as dataplane:
                    self._doors.add_instance(new, dataplane)
                case TrafficPermission() | MeshTrafficPermission():
                    self._doors.add_document(new)
                case Cutover() | Mesh() | MeshSettings():
                    pass
            self._resources[key] = new

    # --- what changed

    def _remember(self, faces: dict[WorkloadName, Face], workload: WorkloadName) -> None:
        """Keep the face that `workload` had before the first change of this update."""
        if workload not in faces:
            faces[workload] = self._face(workload)

    def _face(self, workload: WorkloadName) -> Face:
        registry = self._doors.registry
        cutover = self._cutover(workload)
        faces: dict[InstanceName, InstanceFace] = {}
        principals = set()
        for name in registry.workloads.get(workload, ()):
            resource = registry.instances[name]
            dataplane = dataplane_of(resource)
            policies = tuple(
                (inbound.port, self._doors.policy(resource, inbound))
                for inbound in dataplane.inbounds
                if dataplane.workload_of(inbound) == workload
            )
            faces[name] = InstanceFace(resource, policies, cutover)
            principals.add(registry.identity(dataplane))
        return Face(faces, tuple(sorted(principals)), self._addresses(workload))

    def _cutover(self, workload: WorkloadName) -> int:
        key = ResourceKey(CUTOVER, workload.mesh, workload.namespace, workload.name)
        found = self._resources.get(key)
        return found.spec.revision if found and isinstance(found.spec, Cutover) else 0

    def _addresses(self, workload: WorkloadName) -> tuple[Endpoint, ...]:
        """Addresses of the living instances; of all, if none is known to live."""
        registered = self._doors.registry.workloads.get(workload, set())
        alive = registered - self._absent or registered
        found: set[tuple[str, int]] = set()
        for name in alive:
            dataplane = dataplane_of(self._doors.registry.instances[name])
            for inbound in dataplane.inbounds:
                if dataplane.workload_of(inbound) == workload:
                    found.add((inbound.address or dataplane.address, inbound.port))
        return tuple(Endpoint(address, port) for address, port in sorted(found))

    def _compare(self, before: dict[WorkloadName, Face], replanned: set[InstanceName]) -> Dirty:
        registry = self._doors.registry
        instances = replanned
        endpoints: set[WorkloadName] = set()
        narrowed: set[WorkloadName] = set()
        diff = CallerDiff({str(a): a for a in registry.accounts} if before else {})
        noticing: set[SpiffeId] = set()
        for workload, old in before.items():
            new = self._face(workload)
            names = old.instances.keys() | new.instances.keys()
            instances.update(n for n in names if old.instances.get(n) != new.instances.get(n))
            if old.endpoints != new.endpoints:
                endpoints.add(workload)
            if has_narrowed(old, new):
                narrowed.add(workload)
            noticing |= diff.noticing(old, new)
            self._reindex(workload, new)
        for account in noticing:
            instances |= registry.accounts[account]
        return Dirty(frozenset(instances), frozenset(endpoints), frozenset(narrowed))

    def _reindex(self, workload: WorkloadName, face: Face) -> None:
        self._stale.discard(workload)
        for short in (False, True):
            self._edge_of.pop((workload, short), None)
        if face.instances:
            self._edges.put(workload, face.policies())
        else:
            self._edges.drop(workload)

    # --- plans

    def plan(self, instance: InstanceName, local: LocalSide | None = None) -> NodePlan:
        """What the proxy of `instance` must do. Raises NotFound."""
        resource = self.resource(instance)
        dataplane = dataplane_of(resource)
        env = self.environment
        edges = self._edges_of(dataplane)
        reachable = {edge.callee for edge in edges}
        return NodePlan(
            instance=instance,
            spiffe_id=dataplane.spiffe_id(env.trust_domain),
            trusted_domains=(env.trust_domain,),
            inbounds=tuple(self._inbound(resource, i) for i in dataplane.inbounds),
            edges=edges,
            local=local or LocalSide(),
            local_ports=tuple(
                LocalPortPlan(o.address, o.port, callee)
                for o in dataplane.outbounds
                if (callee := _callee(dataplane, dict(o.tags))) in reachable
            ),
            probes=_probes(dataplane),
            max_connection_age_s=env.max_connection_age_s,
        )

    def endpoints(self, workload: WorkloadName) -> EndpointsPlan:
        """Where `workload` is reached now; no address if it has no instance."""
        return EndpointsPlan(workload, self._addresses(workload))

    def policy_for(self, subject: WorkloadName | InstanceName, port: int) -> Policy:
        """The policy of a guarded port; of a workload, that of its first instance with the port.

        Raises NotFound.
        """
        resource, inbound = self.guarded_port(subject, port)
        return self._doors.policy(resource, inbound)

    def guarded_port(
        self, subject: WorkloadName | InstanceName, port: int
    ) -> tuple[Resource, Inbound]:
        """The Dataplane and the inbound behind a port. Raises NotFound."""
        registry = self._doors.registry
        if isinstance(subject, InstanceName):
            names = [subject]
        else:
            names = sorted(registry.workloads.get(subject, ()))
        for name in names:
            resource = self.resource(name)
            dataplane = dataplane_of(resource)
            for inbound in dataplane.inbounds:
                own = dataplane.workload_of(inbound)
                if inbound.port == port and subject in (own, name):
                    return resource, inbound
        raise NotFound(
            f"{subject} has no guarded port {port} in mesh {self.mesh}",
            hint="`limen get dataplanes` lists the inbound ports",
        )

    def concerned(self, subject: WorkloadName | InstanceName, port: int) -> Concerned:
        """The documents that decide about a guarded port. Raises NotFound."""
        resource, inbound = self.guarded_port(subject, port)
        return self._doors.concerned(resource, inbound)

    def callees(self, caller: SpiffeId) -> list[WorkloadName]:
        """The workloads that an identity may reach, sorted."""
        for workload in self._stale:
            self._edges.put(workload, self._face(workload).policies())
        self._stale.clear()
        return self._edges.callees(caller)

    def _edges_of(self, dataplane: Dataplane) -> tuple[Edge, ...]:
        caller = dataplane.spiffe_id(self.environment.trust_domain)
        home = dataplane.name.workload.namespace
        return without_clashes(
            self._edge(w, short=w.namespace == home) for w in self.callees(caller)
        )

    def _edge(self, workload: WorkloadName, *, short: bool) -> Edge:
        known = self._edge_of.get((workload, short))
        if known is None:
            registry = self._doors.registry
            answering = {
                registry.identity(dataplane_of(registry.instances[name]))
                for name in registry.workloads[workload]
            }
            names = workload.hostnames + ((short_hostname(workload),) if short else ())
            known = Edge(workload, names, tuple(sorted(answering)), self.environment.mtls)
            self._edge_of[workload, short] = known
        return known

    def _inbound(self, resource: Resource, inbound: Inbound) -> InboundPlan:
        dataplane = dataplane_of(resource)
        return InboundPlan(
            address=inbound.address or dataplane.address,
            port=inbound.port,
            service_address=inbound.service_address,
            service_port=inbound.service_port,
            protocol=inbound.protocol,
            policy=self._doors.policy(resource, inbound),
            cutover=self._cutover(dataplane.workload_of(inbound)),
            mtls=self.environment.mtls,
        )


def _callee(dataplane: Dataplane, tags: dict[str, str]) -> WorkloadName:
    own = dataplane.name.workload
    return WorkloadName(own.mesh, own.namespace, tags.get(SERVICE_TAG, ""))


def _probes(dataplane: Dataplane) -> ProbePlan | None:
    if dataplane.probe_port is None:
        return None
    return ProbePlan(dataplane.address, dataplane.probe_port, dataplane.probes)
