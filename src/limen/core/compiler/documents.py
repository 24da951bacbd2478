"""The policy documents of one mesh, indexed by what they could concern."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from limen.core.compiler.permissions import mesh_traffic_of, traffic_of
from limen.core.compiler.registry import label_anchor, name_anchor, seen_by
from limen.core.compiler.scopes import ScopedSpec, scope_anchors
from limen.core.compiler.selectors import ANY_SERVICE, NO_ANCHOR, Anchor, anchor, anchors
from limen.core.model.peer_authentication import PeerAuthentication
from limen.core.model.permission import TrafficPermission
from limen.core.model.user_context import UserContext

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.compiler.environment import Environment
    from limen.core.compiler.registry import Signature
    from limen.core.model.permission import TargetRef
    from limen.core.model.resource import Resource, ResourceKey

M = TypeVar("M")


def target_anchor(target: TargetRef) -> Anchor:
    """Where a MeshTrafficPermission with this target is found."""
    if target.whole_mesh:
        return NO_ANCHOR
    if target.name:
        return name_anchor(target.name)
    if target.labels:
        return label_anchor(*target.labels[0])
    return NO_ANCHOR


def concern_anchors(env: Environment, resource: Resource) -> set[Anchor]:
    """Anchors of the ports that a document could concern."""
    if isinstance(resource.spec, TrafficPermission):
        return {anchor(d) for d in resource.spec.destinations}
    if isinstance(resource.spec, ScopedSpec):
        return scope_anchors(env, resource.spec.scope)
    return {target_anchor(mesh_traffic_of(resource).target)}


def source_anchors(resource: Resource) -> set[Anchor]:
    """Anchors of the callers whose registration changes what a permission means."""
    if not isinstance(resource.spec, TrafficPermission):
        return set()
    return {anchor(s) for s in resource.spec.sources if s != ANY_SERVICE}


class Documents:
    """Permissions and Istio's security documents of one mesh in one environment."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.peers = 0
        self.scoped = 0
        self.users = 0
        self.resources: dict[ResourceKey, Resource] = {}
        self._concerning: dict[Anchor, set[ResourceKey]] = {}
        self._sourcing: dict[Anchor, set[ResourceKey]] = {}

    def add(self, resource: Resource) -> None:
        """Index a document that is not indexed."""
        self.resources[resource.key] = resource
        self.peers += isinstance(resource.spec, PeerAuthentication)
        self.scoped += isinstance(resource.spec, ScopedSpec)
        self.users += isinstance(resource.spec, UserContext)
        for found in concern_anchors(self._environment, resource):
            self._concerning.setdefault(found, set()).add(resource.key)
        for found in source_anchors(resource):
            self._sourcing.setdefault(found, set()).add(resource.key)

    def remove(self, resource: Resource) -> None:
        """Take back what `add(resource)` did."""
        del self.resources[resource.key]
        self.peers -= isinstance(resource.spec, PeerAuthentication)
        self.scoped -= isinstance(resource.spec, ScopedSpec)
        self.users -= isinstance(resource.spec, UserContext)
        for found in concern_anchors(self._environment, resource):
            _drop(self._concerning, found, resource.key)
        for found in source_anchors(resource):
            _drop(self._sourcing, found, resource.key)

    def permissions(self) -> dict[ResourceKey, Resource]:
        """Kuma's two kinds."""
        known = self.resources.items()
        return {k: r for k, r in known if not isinstance(r.spec, ScopedSpec)}

    def istio(self) -> dict[ResourceKey, Resource]:
        """Istio's kinds, and those with a scope like theirs."""
        known = self.resources.items()
        return {k: r for k, r in known if isinstance(r.spec, ScopedSpec)}

    def concerning(self, found: Iterable[Anchor]) -> list[Resource]:
        """Documents that could concern a port with these anchors."""
        keys: set[ResourceKey] = set(self._concerning.get(NO_ANCHOR, ()))
        for each in found:
            keys |= self._concerning.get(each, set())
        return [self.resources[key] for key in keys]

    def naming(self, signatures: Iterable[Signature]) -> list[Resource]:
        """TrafficPermissions with a source that one of these callers satisfies."""
        known = tuple(signatures)
        keys: set[ResourceKey] = set(self._sourcing.get(NO_ANCHOR, ()))
        for tags in known:
            for port in tags:
                for each in anchors(port):
                    keys |= self._sourcing.get(each, set())
        found = (self.resources[key] for key in keys)
        return [r for r in found if _names_any(r, known)]


def _names_any(resource: Resource, signatures: tuple[Signature, ...]) -> bool:
    sources = traffic_of(resource).sources
    return any(seen_by(source, tags) for source in sources for tags in signatures)


def _drop(sets: dict[Anchor, set[M]], key: Anchor, member: M) -> None:
    members = sets[key]
    members.discard(member)
    if not members:
        del sets[key]
