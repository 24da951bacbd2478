"""`MeshGraph`: what every proxy of one mesh must do, kept up to date change by change.

Laws (tests/core/compiler/test_graph.py):
- Same resources, same plans, whatever the order and grouping in which they arrived.
- `update` names every instance whose plan changed and every workload whose endpoints changed.
- An update costs what the change concerns, not what the mesh holds.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from limen.core.compiler.environment import Environment, environment_of
from limen.core.compiler.face import CallerDiff, Face, has_narrowed
from limen.core.compiler.registry import dataplane_of, workloads_of
from limen.core.compiler.token_plans import has_issuer, key_sources
from limen.core.compiler.view import View
from limen.core.model.attribute_source import AttributeSource
from limen.core.model.authorization import AuthorizationPolicy
from limen.core.model.decision import DecisionPolicy
from limen.core.model.gateway import Gateway, ReferenceGrant
from limen.core.model.mesh import Mesh, MeshSettings
from limen.core.model.names import InstanceName, WorkloadName
from limen.core.model.peer_authentication import PeerAuthentication
from limen.core.model.permission import MeshTrafficPermission, TrafficPermission
from limen.core.model.request_authentication import RequestAuthentication
from limen.core.model.resource import MESH, MESH_SETTINGS, Resource, ResourceKey
from limen.core.model.route import DestinationRule, Route, ServiceRef
from limen.core.model.secret import Secret
from limen.core.model.token_service import TokenExchangePolicy, TrustedIssuer
from limen.core.model.user_context import UserContext
from limen.core.model.workload import Cutover, Dataplane

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from limen.core.compiler.token_plans import KeySource
    from limen.core.compiler.user_contexts import TokenService
    from limen.core.model.names import SpiffeId
    from limen.core.plan.node import EndpointsPlan, LocalSide, NodePlan
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
    """One mesh. Resources of other meshes are not taken in.

    `keys`: fetched key sets (JSON text) of token issuers by `KeySource.name`; an issuer without
    one has its tokens refused.
    """

    def __init__(
        self,
        mesh: str,
        resources: Iterable[Resource] = (),
        keys: Mapping[str, str] | None = None,
    ) -> None:
        self.mesh = mesh
        self._resources: dict[ResourceKey, Resource] = {}
        self._view = View(environment_of(mesh, None, None), keys)
        self._faces: dict[WorkloadName, Face] = {}  # as last compared; forgotten when touched
        self._load({r.key: r for r in resources if r.key.mesh == mesh})

    # --- reading

    @property
    def view(self) -> View:
        """Registry, documents and policies as they stand: read only, until the next change."""
        return self._view

    @property
    def environment(self) -> Environment:
        """The mesh's own settings, with defaults."""
        return self._view.environment

    @property
    def instances(self) -> frozenset[InstanceName]:
        """Every registered instance."""
        return frozenset(self._view.doors.registry.instances)

    @property
    def workloads(self) -> frozenset[WorkloadName]:
        """Every workload with an instance."""
        return frozenset(self._view.doors.registry.workloads)

    @property
    def resources(self) -> Mapping[ResourceKey, Resource]:
        """Every resource as it stands."""
        return MappingProxyType(self._resources)

    def resource(self, instance: InstanceName) -> Resource:
        """The Dataplane of an instance. Raises NotFound."""
        return self._view.resource(instance)

    def plan(self, instance: InstanceName, local: LocalSide | None = None) -> NodePlan:
        """What the proxy of `instance` must do. Raises NotFound."""
        return self._view.plan(instance, local)

    def endpoints(self, workload: WorkloadName) -> EndpointsPlan:
        """Where `workload` is reached now; no address if it has no instance."""
        return self._view.endpoints(workload)

    def policy_for(self, subject: WorkloadName | InstanceName, port: int) -> Policy:
        """The policy of a guarded port; of a workload, that of its first instance with the port.

        Raises NotFound.
        """
        return self._view.policy_for(subject, port)

    def callees(self, caller: SpiffeId) -> list[WorkloadName]:
        """The workloads that an identity may reach, sorted."""
        return self._view.callees(caller)

    # --- changing

    def update(self, changes: Iterable[Change]) -> Dirty:
        """Take in changes, in order; what they changed. Other meshes' changes do nothing."""
        before: dict[WorkloadName, Face] = {}
        everyone: set[InstanceName] = set()
        for change in changes:
            key = change.key if isinstance(change, Resource) else change
            new = change if isinstance(change, Resource) else None
            old = self._resources.get(key)
            if key.mesh != self.mesh or (old is None and new is None):
                continue
            if key.kind in (MESH, MESH_SETTINGS):
                everyone |= self._update_environment(key, new, before)
                continue
            for workload in self._touched(old, new):
                self._remember(before, workload)
                self._faces.pop(workload, None)
            self._replace(key, old, new)
        return self._compare(before, everyone)

    @contextmanager
    def trial(self, changes: Iterable[Change]) -> Iterator[Dirty]:
        """While the context lasts, `update(changes)` has been done; afterwards all is as before."""
        undo: dict[ResourceKey, Change] = {}
        wanted = list(changes)
        for change in wanted:
            key = change.key if isinstance(change, Resource) else change
            undo.setdefault(key, self._resources.get(key, key))
        dirty = self.update(wanted)
        try:
            yield dirty
        finally:
            self.update(undo.values())

    def preview(self, changes: Iterable[Change]) -> Dirty:
        """What `update(changes)` would change. Leaves the graph as it was."""
        with self.trial(changes) as dirty:
            return dirty

    def find(self, key: ResourceKey) -> Resource | None:
        """The resource as it stands, if it is there."""
        return self._resources.get(key)

    def set_absent(self, instances: Iterable[InstanceName]) -> Dirty:
        """Say which instances are dead; all others live. Their addresses are withdrawn.

        If no instance of a workload lives, all its addresses stay.
        """
        absent = frozenset(instances)
        touched: set[WorkloadName] = set()
        for instance in absent ^ self._view.absent:
            found = self._view.doors.registry.instances.get(instance)
            if found is not None:
                touched |= workloads_of(dataplane_of(found))
        old = {workload: self._view.addresses(workload) for workload in touched}
        self._view.absent = absent
        for workload in touched:
            self._faces.pop(workload, None)
        changed = {w for w in touched if self._view.addresses(w) != old[w]}
        gateways = self._view.doors.registry.gateways if self._gateways_to(changed) else ()
        return Dirty(frozenset(gateways), frozenset(changed))

    def key_sources(self) -> frozenset[KeySource]:
        """Where the keys of the issuers in this mesh are published."""
        found: set[KeySource] = set()
        for resource in self._view.doors.documents.resources.values():
            if isinstance(resource.spec, RequestAuthentication):
                found |= key_sources(resource)
        return frozenset(found)

    def set_keys(self, keys: Mapping[str, str]) -> Dirty:
        """Take in all fetched key sets, by `KeySource.name`. Nobody loses a right by that."""
        doors = self._view.doors
        before: dict[WorkloadName, Face] = {}
        for resource in doors.with_other_keys(keys):
            for workload in doors.workloads_concerned(resource):
                self._remember(before, workload)
                self._faces.pop(workload, None)
        doors.set_keys(keys)
        return self._compare(before, set())

    def set_token_service(self, service: TokenService | None) -> Dirty:
        """Take in what the mesh's token service says of itself; None: there is none."""
        doors = self._view.doors
        if service == doors.token_service:
            return Dirty()
        before: dict[WorkloadName, Face] = {}
        using: set[InstanceName] = set()
        issuers = {one.issuer for one in (service, doors.token_service) if one is not None}
        for resource in doors.documents.resources.values():
            context = isinstance(resource.spec, UserContext)
            if not context and not has_issuer(resource, issuers):
                continue
            for workload in doors.workloads_concerned(resource):
                self._remember(before, workload)
                self._faces.pop(workload, None)
                if context:
                    using |= doors.registry.workloads[workload]
        doors.set_token_service(service)
        return self._compare(before, using)

    # --- how

    def _load(self, resources: dict[ResourceKey, Resource]) -> None:
        """Start anew with `resources`, without asking what that changes."""
        absent = self._view.absent
        service = self._view.doors.token_service
        self._view = View(self._read_environment(resources), self._view.doors.keys)
        self._view.doors.set_token_service(service)
        self._view.absent = absent
        self._resources = {}
        self._faces = {}
        for key, resource in resources.items():
            self._replace(key, None, resource)

    def _read_environment(self, resources: dict[ResourceKey, Resource]) -> Environment:
        mesh: Mesh | None = None
        settings: MeshSettings | None = None
        for key, resource in resources.items():
            if key.name != self.mesh:
                continue
            if isinstance(resource.spec, Mesh):
                mesh = resource.spec
            elif isinstance(resource.spec, MeshSettings):
                settings = resource.spec
        return environment_of(self.mesh, mesh, settings)

    def _update_environment(
        self, key: ResourceKey, new: Resource | None, before: dict[WorkloadName, Face]
    ) -> set[InstanceName]:
        """Take in a Mesh or MeshSettings; the instances that it concerns: all, or none."""
        resources = dict(self._resources)
        resources.pop(key, None)
        if new is not None:
            resources[key] = new
        if self._read_environment(resources) == self.environment:
            self._resources = resources
            return set()
        everyone = set(self.instances)
        for workload in self.workloads:
            self._remember(before, workload)
        self._load(resources)
        return everyone

    def _touched(self, old: Resource | None, new: Resource | None) -> set[WorkloadName]:
        """Workloads whose face a change could alter, judged before it is taken in."""
        touched: set[WorkloadName] = set()
        doors = self._view.doors
        for resource, step in ((old, -1), (new, 1)):
            if resource is None:
                continue
            match resource.spec:
                case Dataplane() as dataplane:
                    touched |= workloads_of(dataplane)
                    touched |= self._gateways_to(workloads_of(dataplane))
                    for permission in doors.shifted_sources(dataplane, step):
                        touched |= doors.workloads_concerned(permission)
                case (
                    TrafficPermission() | MeshTrafficPermission() | AuthorizationPolicy()
                    | PeerAuthentication() | RequestAuthentication() | UserContext()
                ):  # fmt: skip
                    touched |= doors.workloads_concerned(resource)
                case Cutover():
                    touched.add(_workload(resource.key))
                case DecisionPolicy():
                    touched |= self._deciding(resource.key)
                case AttributeSource():
                    touched |= self._asking(resource.key)
                case Gateway() | Route() | DestinationRule() | ReferenceGrant() | Secret():
                    touched |= self._gateways()
                case Mesh() | MeshSettings() | TrustedIssuer() | TokenExchangePolicy():
                    pass
        return touched

    def _asking(self, source: ResourceKey) -> set[WorkloadName]:
        """Workloads where a policy of the source's namespace may decide."""
        known = (key for key in self._view.policies if key.namespace == source.namespace)
        return set().union(*map(self._deciding, known))

    def _deciding(self, policy: ResourceKey) -> set[WorkloadName]:
        """Workloads where this policy may decide: all, if a provider names it."""
        asked = (p.policy for p in self.environment.providers)
        named = any(r and (r.kind, r.name) == (policy.kind, policy.name) for r in asked)
        return set(self.workloads) if named else set()

    def _gateways(self) -> set[WorkloadName]:
        return {name.workload for name in self._view.doors.registry.gateways}

    def _gateways_to(self, workloads: set[WorkloadName]) -> set[WorkloadName]:
        """Gateways, if a route leads to one of these workloads."""
        named = self._view.edges.services()
        met = any(ServiceRef(w.namespace, w.name) in named for w in workloads)
        return self._gateways() if met else set()

    def _replace(self, key: ResourceKey, old: Resource | None, new: Resource | None) -> None:
        if old is not None:
            self._take_out(old)
            del self._resources[key]
        if new is not None:
            self._take_in(new)
            self._resources[key] = new

    def _take_out(self, old: Resource) -> None:
        doors = self._view.doors
        match old.spec:
            case Dataplane() as dataplane:
                doors.remove_instance(old, dataplane)
            case (
                TrafficPermission() | MeshTrafficPermission() | AuthorizationPolicy()
                | PeerAuthentication() | RequestAuthentication() | UserContext()
            ):  # fmt: skip
                doors.remove_document(old)
            case Cutover():
                self._view.cutovers.pop(_workload(old.key), None)
            case DecisionPolicy():
                self._view.policies.pop(old.key, None)
            case AttributeSource():
                self._view.sources.pop(old.key, None)
            case Gateway() | Route() | DestinationRule() | ReferenceGrant() | Secret():
                self._view.edges.remove(old)
            case Mesh() | MeshSettings() | TrustedIssuer() | TokenExchangePolicy():
                pass

    def _take_in(self, new: Resource) -> None:
        doors = self._view.doors
        match new.spec:
            case Dataplane() as dataplane:
                doors.add_instance(new, dataplane)
            case (
                TrafficPermission() | MeshTrafficPermission() | AuthorizationPolicy()
                | PeerAuthentication() | RequestAuthentication() | UserContext()
            ):  # fmt: skip
                doors.add_document(new)
            case Cutover(revision):
                self._view.cutovers[_workload(new.key)] = revision
            case DecisionPolicy():
                self._view.policies[new.key] = new
            case AttributeSource():
                self._view.sources[new.key] = new
            case Gateway() | Route() | DestinationRule() | ReferenceGrant() | Secret():
                self._view.edges.add(new)
            case Mesh() | MeshSettings() | TrustedIssuer() | TokenExchangePolicy():
                pass

    def _remember(self, faces: dict[WorkloadName, Face], workload: WorkloadName) -> None:
        """Keep the face that `workload` had before the first change of this update."""
        if workload not in faces:
            faces[workload] = self._faces.get(workload) or self._view.face(workload)

    def _compare(self, before: dict[WorkloadName, Face], everyone: set[InstanceName]) -> Dirty:
        accounts = self._view.doors.registry.accounts
        instances = set(everyone)
        endpoints: set[WorkloadName] = set()
        narrowed: set[WorkloadName] = set()
        diff = CallerDiff(self._view.doors.registry.account_of)
        noticing: set[SpiffeId] = set()
        for workload, old in before.items():
            new = self._view.face(workload)
            if new.instances:
                self._faces[workload] = new
            if new == old:
                continue
            names = old.instances.keys() | new.instances.keys()
            instances.update(n for n in names if old.instances.get(n) != new.instances.get(n))
            if old.endpoints != new.endpoints:
                endpoints.add(workload)
            if has_narrowed(old, new):
                narrowed.add(workload)
            noticing |= diff.noticing(old, new)
            self._view.reindex(workload, new)
        for account in noticing:
            instances |= accounts[account]
        return Dirty(frozenset(instances), frozenset(endpoints), frozenset(narrowed))


def _workload(key: ResourceKey) -> WorkloadName:
    """The workload that a Cutover is about."""
    return WorkloadName(key.mesh, key.namespace, key.name)
