"""What a question means: which mesh, which caller, which callee, and what is assumed for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from limen.core.compiler.assume import (
    ASSUMED_INSTANCE,
    ASSUMED_PORT,
    assumed_dataplane,
    describe,
    undeclared,
)
from limen.core.compiler.edge.assumed import assumed_edge
from limen.core.compiler.explanation import ANONYMOUS
from limen.core.compiler.graph import MeshGraph
from limen.core.compiler.registry import dataplane_of
from limen.core.model.names import WorkloadName, parse_name, parse_spiffe_id, parse_workload_name
from limen.core.policy.decide import Decider
from limen.core.policy.rule import reads_address
from limen.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from limen.core.compiler.explanation import ExplainQuery
    from limen.core.model.names import SpiffeId
    from limen.core.model.resource import Resource
    from limen.core.model.snapshot import Snapshot
    from limen.core.model.workload import Inbound
    from limen.core.policy.rule import Policy


@dataclass(frozen=True, slots=True)
class Reader:
    """One policy, ready to be asked; `reads_addresses`: a rule looks at an IP address."""

    decider: Decider
    reads_addresses: bool


class World:
    """One snapshot with what questions about it need in common, built once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._graphs: dict[str, MeshGraph] = {}
        self._assumed: dict[WorkloadName, bool] = {}
        self._completed: set[str] = set()
        self._edges: dict[str, tuple[str, ...]] = {}
        self._readers: dict[int, Reader] = {}

    def graph(self, mesh: str) -> MeshGraph:
        """The mesh as the snapshot has it, and what was assumed by earlier questions."""
        if mesh not in self._graphs:
            own = [r for k, r in self.snapshot.resources.items() if k.mesh == mesh]
            self._graphs[mesh] = MeshGraph(mesh, own)
        return self._graphs[mesh]

    def assume(self, graph: MeshGraph, workload: WorkloadName, port: int) -> None:
        """Let `workload` be there from now on, if it is not."""
        if workload not in graph.workloads:
            graph.update([assumed_dataplane(workload, port)])
            self._assumed[workload] = True

    def assume_edge(self, graph: MeshGraph, wanted: WorkloadName) -> tuple[str, ...]:
        """Let the gateways be there that edge documents need; sentences about them."""
        if graph.mesh not in self._edges:
            made, said = assumed_edge(graph, wanted)
            graph.update(made)
            self._edges[graph.mesh] = said
            for resource in made:
                dataplane = dataplane_of(resource)
                if not dataplane.gateway:
                    self._assumed[dataplane.name.workload] = True
        return self._edges[graph.mesh]

    def gateway_of(self, graph: MeshGraph, workload: WorkloadName) -> WorkloadName:
        """A gateway that was assumed is also called by its account; else `workload`.

        Its name was made up by the first question, and no answer may depend on their order.
        """
        if workload in graph.workloads:
            return workload
        for name in sorted(graph.view.doors.registry.gateways):
            account = dataplane_of(graph.resource(name)).service_account
            at = name.workload
            if name.instance == ASSUMED_INSTANCE and workload == replace(at, name=account):
                return at
        return workload

    def complete(self, graph: MeshGraph) -> None:
        """Let everybody be there whom a permission names."""
        if graph.mesh in self._completed:
            return
        self._completed.add(graph.mesh)
        served = {w.name for w in graph.workloads}
        for workload in undeclared(self.snapshot, graph.mesh):
            if workload.name not in served:
                self.assume(graph, workload, ASSUMED_PORT)

    def reader(self, policy: Policy) -> Reader:
        """A policy made ready. Remembered for the same object."""
        known = self._readers.get(id(policy))
        if known is None:
            rules = [rule for layer in policy.layers for rule in layer.rules]
            reads = any(reads_address(rule.condition) for rule in rules)
            known = self._readers[id(policy)] = Reader(Decider(policy), reads)
        return known

    def was_assumed(self, workload: WorkloadName) -> bool:
        """Whether no document declares `workload`."""
        return workload in self._assumed


@dataclass(frozen=True, slots=True)
class Setting:
    """The mesh that a question is about, with what had to be assumed for it."""

    world: World
    graph: MeshGraph
    caller: SpiffeId | None
    callee: WorkloadName
    assumed: tuple[str, ...]
    notes: tuple[str, ...]


def set_up(world: World, query: ExplainQuery) -> Setting:
    """The mesh, the caller and the callee that a question means. Raises NotFound, InvalidInput."""
    mesh = parse_name(query.mesh, "mesh")
    graph = world.graph(mesh)
    callee = parse_workload_name(query.callee, mesh)
    edge = world.assume_edge(graph, callee) if query.assume else ()
    caller = _Caller.parse(graph, query.caller, mesh)
    if query.assume:
        callee = world.gateway_of(graph, callee)
        if caller.named is not None:
            caller = replace(caller, named=world.gateway_of(graph, caller.named))
    missing = [callee] if callee not in graph.workloads else []
    missing += [w for w in caller.missing(graph) if w not in missing]
    if not query.assume:
        for workload in (w for w in missing if w == callee or caller.named):
            raise NotFound(
                f"no workload {workload} is registered in mesh {mesh}",
                code="unknown-workload",
                hint="`limen get dataplanes` lists what is registered",
            )
        note = (f"the identity {caller.identity} is not registered",) if missing else ()
        return Setting(world, graph, caller.resolve(graph), callee, (), note)
    for workload in missing:
        port = query.port if workload == callee and query.port else ASSUMED_PORT
        world.assume(graph, workload, port)
    world.complete(graph)
    named = dict.fromkeys((callee, *caller.workloads()))
    said = tuple(describe(w) for w in named if world.was_assumed(w))
    if callee in {name.workload for name in graph.view.doors.registry.gateways}:
        said = (*edge, *said)
    return Setting(world, graph, caller.resolve(graph), callee, said, ())


@dataclass(frozen=True, slots=True)
class _Caller:
    """A caller as asked for: nobody, an identity, or a workload by name."""

    mesh: str
    identity: SpiffeId | None = None
    named: WorkloadName | None = None

    @staticmethod
    def parse(graph: MeshGraph, text: str, mesh: str) -> _Caller:
        if text in ("", "-", ANONYMOUS):  # "-": as proxies write it
            return _Caller(mesh)
        if text.count("/") == 4 and not text.startswith("spiffe:"):
            text = f"spiffe://{text}"  # as Istio's documents write principals: TD/ns/NS/sa/SA
        if text.startswith("spiffe:"):
            return _Caller(mesh, identity=parse_spiffe_id(graph.environment.canonical(text)))
        return _Caller(mesh, named=parse_workload_name(text, mesh))

    def workloads(self) -> list[WorkloadName]:
        """The workload that the caller is, or would be if nobody else has its identity."""
        if self.named is not None:
            return [self.named]
        if self.identity is None:
            return []
        try:
            names = parse_name(self.identity.namespace), parse_name(self.identity.service_account)
        except InvalidInput:
            return []  # an identity that no workload can have: judged as it stands
        return [WorkloadName(self.mesh, *names)]

    def missing(self, graph: MeshGraph) -> list[WorkloadName]:
        """The workload that would have to be assumed."""
        if self.named is not None:
            return [] if self.named in graph.workloads else [self.named]
        who, registry = self.identity, graph.view.doors.registry
        if who is None or not graph.environment.trusts(who) or who in registry.accounts:
            return []
        return self.workloads()

    def resolve(self, graph: MeshGraph) -> SpiffeId | None:
        if self.named is None:
            return self.identity
        registry = graph.view.doors.registry
        instances = registry.workloads[self.named]
        found = {registry.identity(dataplane_of(registry.instances[i])) for i in instances}
        if len(found) > 1:
            listed = ", ".join(map(str, sorted(found)))
            raise InvalidInput(
                f"the instances of {self.named} have several identities: {listed}",
                code="ambiguous-caller",
                hint="ask with --from SPIFFE-ID",
            )
        return found.pop()


def ports_of(setting: Setting, port: int | None) -> list[tuple[Resource, Inbound]]:
    """The guarded ports of the callee; of every instance, first the lowest port."""
    found = setting.graph.view.guarded_ports(setting.callee)
    chosen = [pair for pair in found if port in (None, pair[1].port)]
    if not chosen:
        listed = ", ".join(sorted({str(i.port) for _, i in found}))
        raise NotFound(
            f"{setting.callee} has no guarded port {port}",
            code="unknown-port",
            hint=f"its ports are {listed}",
        )
    return chosen
