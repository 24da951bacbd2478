"""Findings about edge documents: those of compiling every gateway, and what no gateway shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.edge.assumed import assumed_edge
from limen.core.compiler.edge.documents import Report
from limen.core.compiler.edge.listeners import listeners_of
from limen.core.compiler.findings import error_at, warning_at
from limen.core.compiler.registry import dataplane_of
from limen.core.model.authorization import AuthorizationPolicy
from limen.core.model.gateway import Family, Gateway
from limen.core.model.request_authentication import RequestAuthentication
from limen.core.model.resource import GATEWAY, ISTIO_GATEWAY, ResourceKey
from limen.core.model.route import Route
from limen.core.model.selector import TargetKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.compiler.graph import MeshGraph
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.names import InstanceName, WorkloadName
    from limen.core.model.resource import Resource


_UNOPENED = frozenset(
    {"missing-secret", "wrong-secret", "missing-authorities", "duplicate-certificate"}
)


def check_edge(graph: MeshGraph) -> Iterator[Diagnostic]:
    """Every finding about the edge documents of one mesh."""
    documents = graph.view.edges
    if not documents.resources:
        return
    declared = bool(graph.view.doors.registry.gateways)
    assumed, _ = assumed_edge(graph)
    sidecars = [r for r in _instances(graph) if not dataplane_of(r).gateway]
    for resource, gateway in documents.gateways():
        yield from _nobody(graph, resource, gateway, sidecars, declared=declared)
    with graph.trial(assumed):
        report = Report()
        for name in sorted(graph.view.doors.registry.gateways):
            graph.view.edge(name, _reachable(graph, name, assumed), report)
        shared = list(_shared_policies(graph))
    yield from report.found
    yield from dict.fromkeys(shared)
    for resource in documents.resources.values():
        if isinstance(resource.spec, Route):
            dangling = list(_dangling(graph, resource, resource.spec))
            yield from dangling
            if not dangling and resource.key not in report.bound:
                yield _unbound(resource, resource.spec)


def unopened(graph: MeshGraph) -> dict[InstanceName, list[Diagnostic]]:
    """Why listeners of the gateways that are there are not opened: what Secrets lack."""
    found = {}
    for name in sorted(graph.view.doors.registry.gateways):
        report = Report()
        graph.view.edge(name, _reachable(graph, name, []), report)
        found[name] = [d for d in dict.fromkeys(report.found) if d.code in _UNOPENED]
    return {name: findings for name, findings in found.items() if findings}


def _shared_policies(graph: MeshGraph) -> Iterator[Diagnostic]:
    """Policies that name one Gateway and would decide for another, on a port that both have.

    In Istio every Gateway of the Gateway API is a workload of its own, so that there an ALLOW for
    one opens nothing of another.
    """
    registry = graph.view.doors.registry
    at: dict[tuple[str, str], set[ResourceKey]] = {}
    for name in sorted(registry.gateways):
        ports: dict[int, set[ResourceKey]] = {}
        served = listeners_of(graph.view.edges, graph.resource(name), Report())
        for bound in (b for bounds in served.values() for b in bounds):
            ports.setdefault(bound.listener.port, set()).add(bound.resource.key)
        for keys in ports.values():
            for key in keys:
                if key.kind == GATEWAY:
                    others = at.setdefault((key.namespace, key.name), set())
                    others |= keys - {key}
    for resource in graph.view.doors.documents.resources.values():
        if isinstance(resource.spec, AuthorizationPolicy | RequestAuthentication):
            scope = resource.spec.scope
            for target in scope.targets:
                others = at.get((scope.namespace, target.name), set())
                if target.kind is TargetKind.GATEWAY and others:
                    yield _decides_too(resource, target.name, min(others))


def _decides_too(resource: Resource, target: str, other: ResourceKey) -> Diagnostic:
    return error_at(
        resource,
        "port-conflict",
        f"this is for the Gateway {target}, and would decide too for {other.namespace}/"
        f"{other.name}, which has listeners on the same port of the same workload",
        "/spec/targetRefs",
        "give each Gateway a port or a workload of its own, or select the workload by labels",
    )


def _reachable(
    graph: MeshGraph, gateway: InstanceName, assumed: list[Resource]
) -> frozenset[WorkloadName] | set[WorkloadName]:
    """Whom a gateway may call; whose identity is only assumed, of that nothing is said."""
    resource = graph.resource(gateway)
    if resource in assumed:
        return graph.workloads
    return set(graph.callees(graph.view.doors.registry.identity(dataplane_of(resource))))


def _instances(graph: MeshGraph) -> list[Resource]:
    return [graph.resource(name) for name in sorted(graph.instances)]


def _nobody(
    graph: MeshGraph,
    resource: Resource,
    gateway: Gateway,
    sidecars: list[Resource],
    *,
    declared: bool,
) -> Iterator[Diagnostic]:
    """A Gateway that no gateway workload serves."""
    registry = graph.view.doors.registry
    serves = graph.view.edges.serves
    if any(serves(registry.instances[name], resource, gateway) for name in registry.gateways):
        return
    path = "/spec/selector" if gateway.family is Family.ISTIO else "/spec/addresses"
    wrong = next((one for one in sidecars if serves(one, resource, gateway)), None)
    if wrong is not None:
        yield error_at(
            resource,
            "not-a-gateway",
            f"{resource.key.name} means {dataplane_of(wrong).name.workload}, which is no gateway",
            path,
            "name a workload that runs by `limen gateway run`",
        )
    elif declared:
        yield warning_at(
            resource,
            "matches-no-workload",
            f"no gateway that is declared in mesh {graph.mesh} serves {resource.key.name}",
            path,
            "check the labels, or start one: limen gateway run",
        )


def _dangling(graph: MeshGraph, resource: Resource, route: Route) -> Iterator[Diagnostic]:
    istio = route.family is Family.ISTIO
    kind, field = (ISTIO_GATEWAY, "gateways") if istio else (GATEWAY, "parentRefs")
    for index, parent in enumerate(route.parents):
        path = f"/spec/{field}/{index}"
        key = ResourceKey(kind, graph.mesh, parent.namespace, parent.name)
        found = graph.view.edges.resources.get(key)
        if found is None or not isinstance(found.spec, Gateway):
            yield error_at(
                resource,
                "dangling-reference",
                f"there is no Gateway {parent.namespace}/{parent.name}",
                path,
                "apply it together with this document, or correct the name",
            )
        elif parent.listener and parent.listener not in {i.name for i in found.spec.listeners}:
            yield error_at(
                resource,
                "dangling-reference",
                f"the Gateway {parent.namespace}/{parent.name} has no listener {parent.listener}",
                f"{path}/sectionName",
                "correct the name, or leave it out for every listener",
            )


def _unbound(resource: Resource, route: Route) -> Diagnostic:
    hosts = ", ".join(route.hosts[:5]) or "any host"
    return warning_at(
        resource,
        "no-matching-host",
        f"{resource.key.name} ({hosts}) is served nowhere: no listener of its gateways has such a "
        "host for routes of this namespace and kind",
        "/spec/hosts" if route.family is Family.ISTIO else "/spec/hostnames",
        "compare the hosts, and whom the Gateway lets attach",
    )
