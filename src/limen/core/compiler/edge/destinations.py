"""Where requests go: services, one port or subset of them, and what is in the way.

Which namespace's DestinationRule counts: that of the gateway, of the service, of the mesh's root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from limen.core.compiler.registry import dataplane_of, labels_of
from limen.core.compiler.scopes import means_port
from limen.core.model.gateway import Family, GrantSource
from limen.core.model.names import WorkloadName
from limen.core.model.resource import SERVICE, TLS_ROUTE
from limen.core.model.workload import Protocol as Speech
from limen.core.plan.edge import Missing, PartPlan, Share

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from limen.core.compiler.edge.documents import EdgeDocuments, Report
    from limen.core.compiler.environment import Environment
    from limen.core.model.resource import Resource
    from limen.core.model.route import Destination, Route, ServiceRef, Subset
    from limen.core.model.workload import Inbound
    from limen.core.plan.node import Edge, Endpoint

Port = tuple["Resource", "Inbound"]


class Services(Protocol):
    """What the compiler knows of the services of a mesh."""

    environment: Environment

    def guarded_ports(self, subject: WorkloadName) -> list[Port]:
        """Every port that serves a workload."""
        ...

    def edge_to(self, workload: WorkloadName) -> Edge:
        """What a caller needs to know of a workload."""
        ...

    def addresses_of(self, workload: WorkloadName, ports: Iterable[Port]) -> tuple[Endpoint, ...]:
        """Where these ports are reached now."""
        ...


class Destinations:
    """The destinations of one gateway workload. `reachable`: who may let it in."""

    def __init__(
        self,
        services: Services,
        documents: EdgeDocuments,
        namespace: str,
        reachable: Collection[WorkloadName],
        report: Report,
    ) -> None:
        self._services = services
        self._documents = documents
        self._namespace = namespace
        self._reachable = reachable
        self._report = report
        self._parts: dict[tuple[WorkloadName, str], PartPlan] = {}

    def parts(self) -> tuple[PartPlan, ...]:
        """Every part of a service that was asked for."""
        return tuple(self._parts[key] for key in sorted(self._parts))

    def shares(
        self, resource: Resource, route: Route, wanted: Sequence[Destination], path: str
    ) -> tuple[Share, ...]:
        """One share for each destination, in order; `path` is that of the rule."""
        field = "backendRefs" if route.family is Family.GATEWAY_API else "route"
        return tuple(
            self._share(resource, route, one, f"{path}/{field}/{index}")
            for index, one in enumerate(wanted)
        )

    def _share(self, resource: Resource, route: Route, wanted: Destination, path: str) -> Share:
        mesh = self._services.environment.mesh
        callee = WorkloadName(mesh, wanted.service.namespace, wanted.service.name)
        absent = Missing.BACKEND if route.kind.endswith("HTTPRoute") else Missing.NOBODY

        def missing(why: Missing) -> Share:
            return Share(callee, wanted.weight, headers=wanted.headers, missing=why)

        source = GrantSource(route.kind, resource.key.namespace)
        if route.family is Family.GATEWAY_API and not self._documents.permits(
            source, callee.namespace, SERVICE, callee.name
        ):
            self._report.error(
                resource,
                "missing-grant",
                f"{callee} is in another namespace, which does not permit this route",
                path,
                f"write a ReferenceGrant in {callee.namespace}: from "
                f"{route.kind.rpartition('/')[2]} of {source.namespace} to Service {callee.name}",
            )
            return missing(absent)
        ports = self._services.guarded_ports(callee)
        if not ports:
            self._report.warn(
                resource,
                "unknown-service",
                f"no instance of {callee} is known: its share of the requests gets {absent.value}",
                path,
                "start it, declare it (kind: Dataplane), or correct the name",
            )
            return missing(absent)
        tunnel = "/tls/" in path or route.kind == TLS_ROUTE
        chosen = self._chosen(resource, wanted, callee, ports, path)
        if chosen is not None:
            chosen = self._speaking(resource, callee, chosen, path, tunnel=tunnel)
        if chosen is None:
            return missing(absent)
        if callee not in self._reachable:
            self._report.warn(
                resource,
                "gateway-not-allowed",
                f"no policy of {callee} lets the gateway in: its share of the requests is refused",
                path,
                f"allow the gateway's identity to call {callee}; `limen explain` says how",
            )
            return missing(Missing.FORBIDDEN)
        if len(chosen) == len(ports) and not tunnel:
            return Share(callee, wanted.weight, headers=wanted.headers)
        name = f"{wanted.port or 'any'}" + (f"/{wanted.subset}" if wanted.subset else "")
        self._parts[callee, name] = PartPlan(
            name,
            self._services.edge_to(callee),
            self._services.addresses_of(callee, chosen),
        )
        return Share(callee, wanted.weight, name, wanted.headers)

    def _chosen(
        self,
        resource: Resource,
        wanted: Destination,
        callee: WorkloadName,
        ports: list[Port],
        path: str,
    ) -> list[Port] | None:
        """The ports of the service that are meant; None (and a finding) if none are."""
        chosen = ports
        known = sorted({inbound.service_port for _, inbound in ports})
        if wanted.port:
            chosen = [p for p in ports if means_port(dataplane_of(p[0]), p[1], wanted.port)]
        elif len(known) > 1:
            chosen = []
        if not chosen:
            which = f"no port {wanted.port}" if wanted.port else "several ports, and none is named"
            self._report.error(
                resource,
                "dangling-reference",
                f"{callee} has {which}: its ports are {', '.join(map(str, known))}",
                path,
                "name a port on which the application listens",
            )
            return None
        if not wanted.subset:
            return chosen
        subset = self._subset(wanted.service, wanted.subset)
        if subset is None:
            self._report.error(
                resource,
                "dangling-reference",
                f"no DestinationRule gives {callee} a subset {wanted.subset}",
                path,
                "write a DestinationRule with this subset, or correct the name",
            )
            return None
        found = [port for port in chosen if _has(port, subset)]
        if not found:
            self._report.warn(
                resource,
                "empty-subset",
                f"no instance of {callee} has the labels of subset {wanted.subset}: its share of "
                "the requests gets 503",
                path,
                "start one, or correct the labels in the DestinationRule",
            )
            return None
        return found

    def _speaking(
        self,
        resource: Resource,
        callee: WorkloadName,
        ports: list[Port],
        path: str,
        *,
        tunnel: bool,
    ) -> list[Port] | None:
        """Those of `ports` that end TLS themselves, or that do not; None (and a finding)."""
        found = [p for p in ports if (p[1].protocol is Speech.TLS) is tunnel]
        if found:
            return found
        does = "does not end TLS itself" if tunnel else "ends TLS itself"
        hint = (
            "tag its port kuma.io/protocol: tls" if tunnel else "route to it by SNI (PASSTHROUGH)"
        )
        self._report.error(
            resource,
            "wrong-protocol",
            f"{callee} {does}: this route cannot lead there",
            path,
            hint,
        )
        return None

    def _subset(self, service: ServiceRef, name: str) -> Subset | None:
        root = self._services.environment.root_namespace
        for namespace in dict.fromkeys((self._namespace, service.namespace, root)):
            for resource, rule in self._documents.rules():
                exported = not rule.exported_to or self._namespace in rule.exported_to
                if resource.key.namespace != namespace or rule.service != service or not exported:
                    continue
                return next((s for s in rule.subsets if s.name == name), None)
        return None


def _has(port: Port, subset: Subset) -> bool:
    resource, inbound = port
    labels = dict(inbound.tags) | labels_of(resource)
    return all(labels.get(key) == value for key, value in subset.labels)
