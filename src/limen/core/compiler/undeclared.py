"""Workloads that permissions name and nobody has declared, indexed like the registered ones.

Each is assumed with one port, so that permissions can be held against one another before anybody
has joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.assume import assumed_dataplane
from limen.core.compiler.registry import Counts, subject_anchors
from limen.core.compiler.selectors import NO_ANCHOR, exact_service
from limen.core.model.names import DEFAULT_NAMESPACE, WorkloadName
from limen.core.model.permission import MeshTrafficPermission, TrafficPermission

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limen.core.compiler.selectors import Anchor
    from limen.core.model.resource import Resource

Named = tuple[str, str]
"""Namespace and name."""
_ANY: Named = (DEFAULT_NAMESPACE, "any-workload")


class Undeclared:
    """What the permissions of one mesh name. `taken`: names that somebody has, kept by others."""

    def __init__(self, mesh: str, taken: Mapping[str, int]) -> None:
        self._mesh = mesh
        self._taken = taken
        self._named: dict[Named, int] = {}
        self._ports: dict[Named, Resource] = {}
        self._at: Counts[Named] = Counts()

    def add(self, permission: Resource, step: int = 1) -> None:
        """A permission comes (`step` 1) or goes (-1)."""
        for named in named_by(permission):
            count = self._named[named] = self._named.get(named, 0) + step
            if count == 0:
                del self._named[named]
                self._index(named, -1)
                del self._ports[named]
            elif count == step:
                self._ports[named] = self._assumed(named)
                self._index(named, 1)

    def ports(self) -> list[Resource]:
        """An assumed Dataplane for each, in order of names."""
        return self._sorted(self._named)

    def having(self, anchors: Iterable[Anchor]) -> list[Resource]:
        """Those that a permission with one of these anchors could concern."""
        wanted = set(anchors)
        if NO_ANCHOR in wanted:
            return self.ports()
        return self._sorted({named for found in wanted for named in self._at.at(found)})

    def only_by(self, permission: Resource) -> list[Resource]:
        """Those that no other permission names."""
        return self._sorted(n for n in named_by(permission) if self._named.get(n) == 1)

    def _sorted(self, named: Iterable[Named]) -> list[Resource]:
        found = [n for n in named if n[1] not in self._taken]
        ports = [(n, self._ports[n]) for n in found]
        if not self._taken and _ANY not in found:
            ports.append((_ANY, self._assumed(_ANY)))
        return [port for _, port in sorted(ports, key=lambda pair: pair[0])]

    def _assumed(self, named: Named) -> Resource:
        return assumed_dataplane(WorkloadName(self._mesh, *named))

    def _index(self, named: Named, step: int) -> None:
        for found in subject_anchors(self._ports[named]):
            self._at.add(found, named, step)


def named_by(permission: Resource) -> set[Named]:
    """The workloads that a permission names as those it concerns."""
    spec = permission.spec
    if isinstance(spec, TrafficPermission):
        found = {(DEFAULT_NAMESPACE, exact_service(d)) for d in spec.destinations}
    elif isinstance(spec, MeshTrafficPermission):
        app = dict(spec.target.labels).get("app", "")
        found = {(spec.target.namespace or DEFAULT_NAMESPACE, app)}
    else:
        found = set()
    return {named for named in found if named[1]}
