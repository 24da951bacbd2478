"""The policies of a mesh's guarded ports, compiled when asked for and kept while they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.documents import Documents, concern_anchors
from limen.core.compiler.permissions import Concerned, choose, compile_policy, in_scope
from limen.core.compiler.registry import (
    Registry,
    label_anchor,
    labels_of,
    name_anchor,
    signature,
)
from limen.core.compiler.selectors import anchors
from limen.core.model.permission import TrafficPermission

if TYPE_CHECKING:
    from limen.core.compiler.environment import Environment
    from limen.core.compiler.registry import Signature
    from limen.core.model.names import SpiffeId, WorkloadName
    from limen.core.model.permission import Tags
    from limen.core.model.resource import Resource, ResourceKey
    from limen.core.model.workload import Dataplane, Inbound
    from limen.core.policy.rule import Policy


class Doors:
    """Registry, documents and policies of one mesh in one environment."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.registry = Registry(environment.trust_domain)
        self.documents = Documents()
        self._policies: dict[tuple[ResourceKey, ...], Policy] = {}
        self._used_by: dict[ResourceKey, set[tuple[ResourceKey, ...]]] = {}

    def concerned(self, dataplane: Resource, inbound: Inbound) -> Concerned:
        """The documents that decide about a port."""
        found = anchors(inbound.tags)
        found.add(name_anchor(dataplane.key.name))
        found.update(label_anchor(k, v) for k, v in labels_of(dataplane).items())
        candidates = self.documents.concerning(found)
        return choose(self.environment, candidates, dataplane, inbound)

    def policy(self, dataplane: Resource, inbound: Inbound) -> Policy:
        """The policy of a port; the same object as long as nothing in it changes."""
        concerned = self.concerned(dataplane, inbound)
        deciding = concerned.mesh_traffic
        if concerned.traffic is not None:
            deciding = (concerned.traffic, *deciding)
        keys = tuple(r.key for r in deciding)
        known = self._policies.get(keys)
        if known is None:
            known = compile_policy(
                self.environment, concerned.traffic, concerned.mesh_traffic, self._resolve
            )
            self._policies[keys] = known
            for key in keys:
                self._used_by.setdefault(key, set()).add(keys)
        return known

    def _resolve(self, selector: Tags) -> list[SpiffeId]:
        return self.registry.resolve(selector)[0]

    def add_document(self, resource: Resource) -> None:
        """Index a permission."""
        self._forget(resource.key)
        self.documents.add(resource)

    def remove_document(self, resource: Resource) -> None:
        """Take a permission out."""
        self._forget(resource.key)
        self.documents.remove(resource)

    def add_instance(self, resource: Resource, dataplane: Dataplane) -> None:
        """Register an instance."""
        before = self._shown(dataplane)
        self.registry.add(resource)
        self._reread(before, dataplane)

    def remove_instance(self, resource: Resource, dataplane: Dataplane) -> None:
        """Take an instance out."""
        before = self._shown(dataplane)
        self.registry.remove(resource)
        self._reread(before, dataplane)

    def _shown(self, dataplane: Dataplane) -> frozenset[Signature]:
        return frozenset(self.registry.signatures(self.registry.identity(dataplane)))

    def _reread(self, before: frozenset[Signature], dataplane: Dataplane) -> None:
        """Forget what sources meant, if the identity now shows other tags than before."""
        after = self._shown(dataplane)
        if before != after:
            for resource in self.documents.naming(before | after):
                self._forget(resource.key)

    def _forget(self, key: ResourceKey) -> None:
        for keys in self._used_by.pop(key, set()):
            self._policies.pop(keys, None)
            for other in keys:
                if other != key and other in self._used_by:
                    self._used_by[other].discard(keys)

    def shifted_sources(self, dataplane: Dataplane, step: int) -> list[Resource]:
        """Permissions whose meaning changes if `dataplane` comes (`step` 1) or goes (-1)."""
        account = self.registry.identity(dataplane)
        shown = self.registry.signatures(account)
        own = signature(dataplane)
        count = shown.get(own, 0)
        if (step > 0 and count) or (step < 0 and count > 1):
            return []
        return self.documents.naming({*shown, own})

    def workloads_concerned(self, resource: Resource) -> set[WorkloadName]:
        """Workloads with a port that the permission could concern."""
        found: set[WorkloadName] = set()
        for each in concern_anchors(resource):
            found.update(self.registry.having(each))
        if isinstance(resource.spec, TrafficPermission):  # the namespace has no part in it
            return found
        return {w for w in found if in_scope(self.environment, resource, w.namespace)}
