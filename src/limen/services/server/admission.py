"""What a single resource may not become, given what it was. Pure.

`core/compiler.check` judges a snapshot; this judges the step from one to the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.model.diagnostic import Diagnostic, Severity
from limen.core.model.resource import MESH, MESH_SETTINGS, ResourceKey
from limen.core.model.workload import Dataplane

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from limen.core.model.resource import Resource
    from limen.core.model.snapshot import Snapshot


def refusals(before: Snapshot, puts: Iterable[Resource]) -> Iterator[Diagnostic]:
    """Findings about resources that are put on top of `before`."""
    for resource in puts:
        old = before.resources.get(resource.key)
        match resource.spec:
            case Dataplane() as dataplane:
                yield from _dataplane(resource, dataplane, old)
            case _:
                pass


def _dataplane(
    resource: Resource, dataplane: Dataplane, old: Resource | None
) -> Iterator[Diagnostic]:
    """A Dataplane stays the same workload's: a name is not handed from one to another."""
    if old is None or not isinstance(old.spec, Dataplane):
        return
    if old.spec.name.workload != dataplane.name.workload:
        yield _finding(
            resource,
            "dataplane-of-another-service",
            f"Dataplane {resource.key.name} belongs to {old.spec.name.workload}; it cannot become "
            f"{dataplane.name.workload}",
            "/spec/networking/inbound",
            "delete it first, or choose another name",
        )


def users_of_mesh(snapshot: Snapshot, mesh: str) -> list[ResourceKey]:
    """Resources that a mesh still has, its own documents left aside."""
    return sorted(
        k for k in snapshot.resources if k.mesh == mesh and k.kind not in {MESH, MESH_SETTINGS}
    )


def _finding(resource: Resource, code: str, message: str, path: str, hint: str) -> Diagnostic:
    origin = resource.origin
    return Diagnostic(Severity.ERROR, code, message, origin.file, origin.line(path), path, hint)
