"""Workloads that files talk about without declaring them: assumed, one instance each, and said so.

An assumed workload has a service account, a label `app` and a tag `kuma.io/service` equal to its
name, and one HTTP port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.registry import dataplane_of
from limen.core.compiler.selectors import exact_service
from limen.core.model.names import DEFAULT_NAMESPACE, InstanceName, WorkloadName
from limen.core.model.permission import TrafficPermission
from limen.core.model.resource import DATAPLANE, TRAFFIC_PERMISSION, Resource, ResourceKey
from limen.core.model.workload import SERVICE_TAG, Dataplane, Inbound, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.model.snapshot import Snapshot

ASSUMED_PORT = 80
ASSUMED_INSTANCE = "assumed"
_APPLICATION_PORT = 8080


def assumed_dataplane(
    workload: WorkloadName, port: int = ASSUMED_PORT, instance: str = ASSUMED_INSTANCE
) -> Resource:
    """The instance that an undeclared workload is assumed to have."""
    inbound = Inbound(port, _APPLICATION_PORT, Protocol.HTTP, ((SERVICE_TAG, workload.name),))
    name = InstanceName(workload, instance)
    spec = Dataplane(name, workload.name, "127.0.0.1", (inbound,))
    key = ResourceKey(DATAPLANE, workload.mesh, workload.namespace, f"{workload.name}.{instance}")
    return Resource(key, spec, (("app", workload.name),))


def describe(workload: WorkloadName) -> str:
    """One sentence for whoever reads an answer that rests on an assumption."""
    return (
        f"{workload} is not declared: assumed with service account {workload.name}, label "
        f"app={workload.name} and tag {SERVICE_TAG}={workload.name}"
    )


def declared_services(resources: Iterable[Resource]) -> set[str]:
    """Every value of the tag `kuma.io/service` that an instance has."""
    known = [dataplane_of(resource) for resource in resources]
    own = {dataplane.name.workload.name for dataplane in known}
    return own | {inbound.service for dataplane in known for inbound in dataplane.inbounds}


def named_services(snapshot: Snapshot, mesh: str) -> set[str]:
    """Every service that a TrafficPermission of `mesh` names."""
    found: set[str] = set()
    for resource in snapshot.of_kind(TRAFFIC_PERMISSION, mesh):
        if isinstance(resource.spec, TrafficPermission):
            for selector in resource.spec.sources + resource.spec.destinations:
                found.add(exact_service(selector))
    return found - {""}


def undeclared(snapshot: Snapshot, mesh: str) -> list[WorkloadName]:
    """Services that TrafficPermissions of `mesh` name and no Dataplane has. Sorted."""
    known = declared_services(snapshot.of_kind(DATAPLANE, mesh))
    missing = sorted(named_services(snapshot, mesh) - known)
    return [WorkloadName(mesh, DEFAULT_NAMESPACE, name) for name in missing]
