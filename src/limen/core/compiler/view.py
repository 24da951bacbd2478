"""The read side of a mesh: faces of workloads, plans of proxies, endpoints, policies of ports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.decisions import Policies, held_policies, with_decisions, with_sources
from limen.core.compiler.doors import Doors
from limen.core.compiler.edge.compile import EdgeCompiler
from limen.core.compiler.edge.documents import EdgeDocuments, Report
from limen.core.compiler.edges import Edges, short_hostname, without_clashes
from limen.core.compiler.face import Face, InstanceFace
from limen.core.compiler.providers import asked_providers
from limen.core.compiler.registry import dataplane_of
from limen.core.compiler.user_contexts import service_plan
from limen.core.model.names import InstanceName, WorkloadName
from limen.core.model.workload import SERVICE_TAG, Protocol
from limen.core.plan.node import (
    Edge,
    Endpoint,
    EndpointsPlan,
    HeldPolicy,
    HopPlan,
    InboundPlan,
    LocalPortPlan,
    LocalSide,
    NodePlan,
    PortMode,
    ProbePlan,
)
from limen.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from limen.core.compiler.edge.compile import Edge as CompiledEdge
    from limen.core.compiler.environment import Environment
    from limen.core.model.names import SpiffeId
    from limen.core.model.resource import Resource
    from limen.core.model.workload import Dataplane, Inbound
    from limen.core.policy.rule import Policy


class View:
    """One mesh in one environment. `graph` changes what is in it, and reindexes what it changed."""

    def __init__(self, environment: Environment, keys: Mapping[str, str] | None = None) -> None:
        self.environment = environment
        self.doors = Doors(environment, keys)
        self.cutovers: dict[WorkloadName, int] = {}
        self.policies: Policies = {}
        self.sources: Policies = {}
        self.absent: frozenset[InstanceName] = frozenset()
        self.edges = EdgeDocuments(environment)
        self._gateways = EdgeCompiler(self, self.doors, self.edges)
        self._edges = Edges()
        self._indexed = False
        self._edge_of: dict[tuple[WorkloadName, bool], Edge] = {}
        self._ways_out: dict[tuple[SpiffeId, str], tuple[Edge, ...]] = {}

    @property
    def mesh(self) -> str:
        """The mesh's name."""
        return self.environment.mesh

    def resource(self, instance: InstanceName) -> Resource:
        """The Dataplane of an instance. Raises NotFound."""
        found = self.doors.registry.instances.get(instance)
        if found is None:
            raise NotFound(
                f"no instance {instance} is registered in mesh {self.mesh}",
                hint="`limen get dataplanes` lists what is registered",
            )
        return found

    def face(self, workload: WorkloadName) -> Face:
        """What others see of `workload` now; an empty face if it has no instance."""
        registry = self.doors.registry
        cutover = self.cutovers.get(workload, 0)
        faces: dict[InstanceName, InstanceFace] = {}
        principals = set()
        for name in registry.workloads.get(workload, ()):
            resource = registry.instances[name]
            dataplane = dataplane_of(resource)
            doors = tuple(
                (inbound.port, self.doors.door(resource, inbound))
                for inbound in dataplane.inbounds
                if dataplane.workload_of(inbound) == workload
            )
            edge = self.edge(name, ()) if dataplane.gateway else None
            held = self.held(resource, edge)
            faces[name] = InstanceFace(dataplane, doors, cutover, edge, held)
            principals.add(registry.identity(dataplane))
        return Face(faces, tuple(sorted(principals)), self.addresses(workload))

    def addresses(self, workload: WorkloadName) -> tuple[Endpoint, ...]:
        """Addresses of the living instances; of all, if none is known to live."""
        ports = (
            (resource, inbound)
            for name in self.doors.registry.workloads.get(workload, ())
            for resource in (self.doors.registry.instances[name],)
            for inbound in dataplane_of(resource).inbounds
            if dataplane_of(resource).workload_of(inbound) == workload
            and inbound.protocol is not Protocol.TLS  # only gateways know the way there
        )
        return self.addresses_of(workload, ports)

    def addresses_of(
        self, workload: WorkloadName, ports: Iterable[tuple[Resource, Inbound]]
    ) -> tuple[Endpoint, ...]:
        """As `addresses`, of these ports of it."""
        registered = self.doors.registry.workloads.get(workload, set())
        alive = registered - self.absent or registered
        found: set[tuple[str, int, bool]] = set()
        for resource, inbound in ports:
            dataplane = dataplane_of(resource)
            if dataplane.name in alive:
                mtls = self.doors.mode(resource, inbound) is not PortMode.DISABLE
                found.add((inbound.address or dataplane.address, inbound.port, mtls))
        return tuple(Endpoint(*place) for place in sorted(found))

    def edge(
        self,
        instance: InstanceName,
        reachable: Collection[WorkloadName],
        report: Report | None = None,
    ) -> CompiledEdge:
        """What a gateway does. Raises NotFound."""
        resource = self.resource(instance)
        cutover = self.cutovers.get(instance.workload, 0)
        return self._gateways.compile(resource, reachable, cutover, report or Report())

    def reindex(self, workload: WorkloadName, face: Face) -> None:
        """Say that the face of `workload` is now `face`."""
        if not self._indexed:
            return
        self._ways_out.clear()
        for short in (False, True):
            self._edge_of.pop((workload, short), None)
        if face.instances:
            self._edges.put(workload, face.guards())
        else:
            self._edges.drop(workload)

    def plan(self, instance: InstanceName, local: LocalSide | None = None) -> NodePlan:
        """What the proxy of `instance` must do. Raises NotFound."""
        resource = self.resource(instance)
        dataplane = dataplane_of(resource)
        env = self.environment
        edges = self._edges_of(dataplane)
        reachable = {edge.callee for edge in edges}
        edge = self.edge(instance, reachable) if dataplane.gateway else None
        inbounds = tuple(self._inbound(resource, i) for i in dataplane.inbounds)
        hop = self._hop(resource)
        exchanging = any(i.exchange for i in inbounds) or (
            edge is not None and any(one.exchange for one in edge.plan.listeners)
        )
        plan = NodePlan(
            instance=instance,
            spiffe_id=dataplane.spiffe_id(env.trust_domain),
            trusted_domains=(env.trust_domain,),
            inbounds=inbounds,
            edges=edges,
            local=local or LocalSide(),
            local_ports=tuple(
                LocalPortPlan(o.address, o.port, callee)
                for o in dataplane.outbounds
                if (callee := _callee(dataplane, dict(o.tags))) in reachable
            ),
            probes=_probes(dataplane),
            max_connection_age_s=env.max_connection_age_s,
            edge=edge.plan if edge is not None else None,
            hop=hop,
            token_service=service_plan(self.doors.token_service) if hop or exchanging else None,
        )
        return with_decisions(plan, env, dataplane, self.held(resource, edge))

    def held_by(self, instance: InstanceName) -> tuple[HeldPolicy, ...]:
        """The policies that the decision point of an instance holds. Raises NotFound."""
        resource = self.resource(instance)
        edge = self.edge(instance, ()) if dataplane_of(resource).gateway else None
        return self.held(resource, edge)

    def held(self, resource: Resource, edge: CompiledEdge | None) -> tuple[HeldPolicy, ...]:
        """The policies that the decision point beside a proxy holds."""
        if not self.policies:
            return ()
        dataplane = dataplane_of(resource)
        doors = [self.doors.door(resource, inbound) for inbound in dataplane.inbounds]
        doors += [door for _, door in edge.doors] if edge is not None else []
        held = held_policies(self.environment, self.policies, dataplane, doors)
        return with_sources(held, self.sources)

    def endpoints(self, workload: WorkloadName) -> EndpointsPlan:
        """Where `workload` is reached now; no address if it has no instance."""
        return EndpointsPlan(workload, self.addresses(workload))

    def policy_for(self, subject: WorkloadName | InstanceName, port: int) -> Policy:
        """The policy of a guarded port; of a workload, that of its first instance with the port.

        Raises NotFound.
        """
        resource, inbound = self.guarded_port(subject, port)
        return self.doors.policy(resource, inbound)

    def guarded_port(
        self, subject: WorkloadName | InstanceName, port: int
    ) -> tuple[Resource, Inbound]:
        """The Dataplane and the inbound behind a port. Raises NotFound."""
        for resource, inbound in self.guarded_ports(subject):
            if inbound.port == port:
                return resource, inbound
        raise NotFound(
            f"{subject} has no guarded port {port} in mesh {self.mesh}",
            hint="`limen get dataplanes` lists the inbound ports",
        )

    def guarded_ports(self, subject: WorkloadName | InstanceName) -> list[tuple[Resource, Inbound]]:
        """The ports of an instance, or those that serve a workload; by port, then instance."""
        if isinstance(subject, InstanceName):
            resource = self.resource(subject)
            ports = sorted(dataplane_of(resource).inbounds, key=lambda i: i.port)
            return [(resource, inbound) for inbound in ports]
        found = [
            (inbound, self.resource(name))
            for name in sorted(self.doors.registry.workloads.get(subject, ()))
            for inbound in dataplane_of(self.resource(name)).inbounds
            if dataplane_of(self.resource(name)).workload_of(inbound) == subject
        ]
        found.sort(key=lambda pair: pair[0].port)
        return [(resource, inbound) for inbound, resource in found]

    def callees(self, caller: SpiffeId) -> list[WorkloadName]:
        """The workloads that an identity may reach, sorted."""
        if not self._indexed:
            for workload in self.doors.registry.workloads:
                self._edges.put(workload, self.face(workload).guards())
            self._indexed = True
        return self._edges.callees(caller)

    def _edges_of(self, dataplane: Dataplane) -> tuple[Edge, ...]:
        caller = dataplane.spiffe_id(self.environment.trust_domain)
        home = dataplane.name.workload.namespace
        known = self._ways_out.get((caller, home))
        if known is None:
            edges = (self._edge(w, short=w.namespace == home) for w in self.callees(caller))
            known = self._ways_out[caller, home] = without_clashes(edges)
        return known

    def edge_to(self, workload: WorkloadName) -> Edge:
        """What a caller of another namespace needs to know of a workload."""
        return self._edge(workload, short=False)

    def _edge(self, workload: WorkloadName, *, short: bool) -> Edge:
        known = self._edge_of.get((workload, short))
        if known is None:
            registry = self.doors.registry
            answering = {
                registry.identity(dataplane_of(registry.instances[name]))
                for name in registry.workloads[workload]
            }
            names = workload.hostnames + ((short_hostname(workload),) if short else ())
            speaks = {self.environment.mtls}
            if self.doors.documents.peers:
                speaks = {
                    self.doors.mode(resource, inbound) is not PortMode.DISABLE
                    for resource, inbound in self.guarded_ports(workload)
                }
            known = Edge(
                workload,
                names,
                tuple(sorted(answering)),
                mtls=True in speaks,
                mixed=len(speaks) > 1,
            )
            self._edge_of[workload, short] = known
        return known

    def _hop(self, resource: Resource) -> HopPlan | None:
        """How the user goes on: what the first port says that says anything."""
        if not self.doors.documents.users:
            return None
        doors = (self.doors.door(resource, i) for i in dataplane_of(resource).inbounds)
        return next((door.hop for door in doors if door.hop), None)

    def _inbound(self, resource: Resource, inbound: Inbound) -> InboundPlan:
        dataplane = dataplane_of(resource)
        door = self.doors.door(resource, inbound)
        return InboundPlan(
            address=inbound.address or dataplane.address,
            port=inbound.port,
            service_address=inbound.service_address,
            service_port=inbound.service_port,
            protocol=inbound.protocol,
            policy=door.policy,
            cutover=self.cutovers.get(dataplane.workload_of(inbound), 0),
            mode=door.mode,
            tokens=door.tokens,
            rule_header=self.environment.rule_header,
            log_all=self.environment.log_all,
            providers=asked_providers(self.environment, door.policy),
            exchange=door.exchange,
            context_header=door.context_header,
        )


def _callee(dataplane: Dataplane, tags: dict[str, str]) -> WorkloadName:
    own = dataplane.name.workload
    return WorkloadName(own.mesh, own.namespace, tags.get(SERVICE_TAG, ""))


def _probes(dataplane: Dataplane) -> ProbePlan | None:
    if dataplane.probe_port is None:
        return None
    return ProbePlan(dataplane.address, dataplane.probe_port, dataplane.probes)
