"""All resources at one revision, as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from limen.core.model.resource import Resource, ResourceKey


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`resources` by key, and the store's revision at which they stood."""

    resources: Mapping[ResourceKey, Resource] = field(default_factory=dict)
    revision: int = 0

    def of_kind(self, kind: str, mesh: str | None = None) -> Iterator[Resource]:
        """Resources of one kind, in key order, of one mesh if given."""
        for key in sorted(k for k in self.resources if k.kind == kind):
            if mesh is None or key.mesh == mesh:
                yield self.resources[key]

    def replaced(
        self, put: Iterable[Resource], deleted: Iterable[ResourceKey] = (), revision: int = 0
    ) -> Snapshot:
        """A copy with some resources put and some deleted."""
        resources = dict(self.resources)
        for key in deleted:
            resources.pop(key, None)
        for resource in put:
            resources[resource.key] = resource
        return Snapshot(resources, revision or self.revision)
