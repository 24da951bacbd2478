"""Gateway API: which routes attach to a listener, and in which order their matches are tried.

Source: Gateway API 1.5, `HTTPRouteRule.matches`, `GRPCRouteRule.matches`, `ParentReference`;
docs/semantics/edge-and-routing.md, sections 8 and 9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.edge.documents import NO_TIME
from limen.core.compiler.edge.routing import Spot, ref_of
from limen.core.model.gateway import ANY, Family, host_intersection
from limen.core.model.resource import GRPC_ROUTE, HTTP_ROUTE, TLS_ROUTE
from limen.core.model.route import PathKind
from limen.core.plan.edge import TunnelChain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from limen.core.compiler.edge.destinations import Destinations
    from limen.core.compiler.edge.documents import EdgeDocuments, Report
    from limen.core.compiler.edge.listeners import Bound
    from limen.core.compiler.edge.routing import Table
    from limen.core.model.resource import Resource
    from limen.core.model.route import HttpMatch, PathMatch, Route
    from limen.core.plan.edge import RoutePlan

_PATH_RANK = {PathKind.EXACT: 0, PathKind.REGEX: 1, PathKind.SEGMENTS: 2, PathKind.PREFIX: 2}
_Key = tuple[int, int, bool, int, int, str, str, str, int, int]


class ApiRoutes:
    """HTTPRoute, GRPCRoute and TLSRoute."""

    def __init__(
        self, documents: EdgeDocuments, destinations: Destinations, report: Report
    ) -> None:
        self._routes = documents.routes(Family.GATEWAY_API)
        self._destinations = destinations
        self._report = report

    def fill(self, table: Table, bounds: Sequence[Bound]) -> None:
        """Add the routes of listeners that share one table."""
        found: dict[str, list[tuple[_Key, RoutePlan]]] = {}
        owner: dict[str, tuple[Resource, Route]] = {}
        for bound in bounds:
            for host in bound.listener.hosts:
                found.setdefault(host, [])
        for resource, route in self._routes:
            if route.kind not in (HTTP_ROUTE, GRPC_ROUTE):
                continue
            for bound in bounds:
                domains = _domains(resource, route, bound)
                if domains:
                    self._report.bound.add(resource.key)
                for domain in domains:
                    if self._other_kind(owner, domain, resource, route):
                        continue
                    found.setdefault(domain, []).extend(self._plans(bound, resource, route, domain))
        for domain, plans in found.items():
            plans.sort(key=lambda pair: pair[0])
            table.routes.setdefault(domain, []).extend(plan for _, plan in plans)

    def tunnels(self, bound: Bound) -> Iterator[TunnelChain]:
        """Chains of a TLS listener that passes connections on."""
        for resource, route in self._routes:
            names = _domains(resource, route, bound) if route.kind == TLS_ROUTE else []
            if not names:
                continue
            self._report.bound.add(resource.key)
            for index, rule in enumerate(route.tls):
                path = f"/spec/rules/{index}"
                yield TunnelChain(
                    f"{bound.name}/{resource.key.namespace}/{resource.key.name}/{index}",
                    tuple(names),
                    self._destinations.shares(resource, route, rule.destinations, path),
                    ref_of(resource, index, path),
                )

    def _other_kind(
        self,
        owner: dict[str, tuple[Resource, Route]],
        domain: str,
        resource: Resource,
        route: Route,
    ) -> bool:
        """HTTPRoute and GRPCRoute are not mixed on one host: the older has it."""
        first, first_route = owner.setdefault(domain, (resource, route))
        if first_route.kind == route.kind:
            return False
        self._report.error(
            resource,
            "route-conflict",
            f"{domain} is served by {first.key} already, which is of another kind",
            "/spec/hostnames",
            "use one kind of route for a host, or another host",
        )
        return True

    def _plans(
        self, bound: Bound, resource: Resource, route: Route, domain: str
    ) -> Iterator[tuple[_Key, RoutePlan]]:
        for number, rule in enumerate(route.http):
            matches: Sequence[HttpMatch | None] = rule.matches or (None,)
            plans = Spot(bound, resource, route, domain, self._destinations).plans(number, matches)
            for index, plan in enumerate(plans):
                yield _key(resource, route, number, index, plan.match), plan


def _key(
    resource: Resource, route: Route, number: int, index: int, match: HttpMatch | None
) -> _Key:
    """Sorts the match that decides first; total, so that no arrival order shows."""
    path: PathMatch | None = None if match is None else match.path
    rank = _PATH_RANK[PathKind.SEGMENTS if path is None else path.kind]
    return (
        rank,
        -len("/" if path is None else path.text),
        match is None or match.method is None,
        0 if match is None else -len(match.headers),
        0 if match is None else -len(match.query),
        route.created or NO_TIME,
        resource.key.namespace,
        resource.key.name,
        number,
        index,
    )


def _domains(resource: Resource, route: Route, bound: Bound) -> list[str]:
    """The hosts of a route at a listener; none if it does not attach."""
    key, listener = bound.resource.key, bound.listener
    attached = any(
        (p.namespace, p.name) == (key.namespace, key.name)
        and p.listener in ("", listener.name)
        and p.port in (0, listener.port)
        for p in route.parents
    )
    if not attached or route.kind not in listener.kinds:
        return []
    own = (ANY, resource.key.namespace)
    granted = [grant.host for grant in listener.grants if grant.namespace in own]
    if not route.hosts:
        return list(dict.fromkeys(granted))
    met = (host_intersection(wide, host) for wide in granted for host in route.hosts)
    return list(dict.fromkeys(host for host in met if host is not None))
