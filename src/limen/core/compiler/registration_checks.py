"""Findings about Dataplanes: names, addresses and ports that two of them claim."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from limen.core.compiler.findings import error_at, warning_at
from limen.core.compiler.registry import dataplane_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.compiler.graph import MeshGraph
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.names import InstanceName, WorkloadName
    from limen.core.model.resource import Resource
    from limen.core.model.snapshot import Snapshot
    from limen.core.model.workload import Dataplane


def check_registrations(graph: MeshGraph, before: Snapshot | None) -> Iterator[Diagnostic]:
    """Every finding about the Dataplanes of one mesh."""
    resources = [graph.resource(name) for name in sorted(graph.instances)]
    for resource in resources:
        yield from _own_ports(resource)
        if before is not None:
            yield from _taken(resource, before)
    yield from _shared_addresses(resources)
    yield from _shared_hostnames(graph)


def _own_ports(resource: Resource) -> Iterator[Diagnostic]:
    dataplane = dataplane_of(resource)
    seen: set[int] = set() if dataplane.probe_port is None else {dataplane.probe_port}
    for index, inbound in enumerate(dataplane.inbounds):
        if inbound.port in seen:
            yield error_at(
                resource,
                "duplicate-port",
                f"{dataplane.name} uses port {inbound.port} twice",
                f"/spec/networking/inbound/{index}/port",
                "give every inbound, and the probes, a port of its own",
            )
        seen.add(inbound.port)


def _taken(resource: Resource, before: Snapshot) -> Iterator[Diagnostic]:
    """A Dataplane must not take over the name, and so the proxy, of another service's instance."""
    old = before.resources.get(resource.key)
    if old is None:
        return
    was, now = dataplane_of(old), dataplane_of(resource)
    if was.name.workload == now.name.workload and was.service_account == now.service_account:
        return
    yield error_at(
        resource,
        "instance-taken",
        f"the Dataplane {resource.key.name} is an instance of {was.name.workload} (service account "
        f"{was.service_account}), not of {now.name.workload} ({now.service_account})",
        "/metadata/name",
        "choose another name, or delete the Dataplane first",
    )


def _shared_addresses(resources: list[Resource]) -> Iterator[Diagnostic]:
    """Two instances on one address and port: one of them cannot be there.

    A warning: an instance that starts again under a new name finds its old address still noted.
    """
    seen: dict[tuple[str, str, int], InstanceName] = {}
    for resource in resources:
        dataplane = dataplane_of(resource)
        for index, inbound in enumerate(dataplane.inbounds):
            address = inbound.address or dataplane.address
            place = (_host(dataplane, address), address, inbound.port)
            first = seen.setdefault(place, dataplane.name)
            if first == dataplane.name:
                continue
            yield warning_at(
                resource,
                "address-in-use",
                f"{dataplane.name} and {first} are both at {address}:{inbound.port}",
                f"/spec/networking/inbound/{index}/port",
                "give each its own address or port, or delete the one that is gone",
            )


def _host(dataplane: Dataplane, address: str) -> str:
    """What tells two equal addresses apart: a loopback address is another one on every node."""
    try:
        local = ipaddress.ip_address(address).is_loopback
    except ValueError:
        local = address == "localhost"
    return dataplane.node if local else ""


def _shared_hostnames(graph: MeshGraph) -> Iterator[Diagnostic]:
    """Only names with dots can clash: `a.b` in `c` and `a` in `b.c`."""
    seen: dict[str, WorkloadName] = {}
    for workload in sorted(graph.workloads):
        for name in workload.hostnames:
            first = seen.setdefault(name, workload)
            if first == workload:
                continue
            some = min(graph.view.doors.registry.workloads[workload])
            yield error_at(
                graph.resource(some),
                "hostname-clash",
                f"{first} and {workload} would both be called {name}",
                "/metadata",
                "rename the service or the namespace: dots in them make names that clash",
            )
