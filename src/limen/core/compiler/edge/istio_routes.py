"""Istio: which VirtualServices bind to a server, and their rules in the order written.

Source: istio/istio `pilot/pkg/networking/core/route`, `pilot/pkg/model/gateway.go`;
docs/semantics/edge-and-routing.md, sections 5 and 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.edge.routing import Spot, ref_of, scheme_of, to_https
from limen.core.model.gateway import ANY, Family, host_intersection
from limen.core.model.route import PathChangeKind, PathKind
from limen.core.plan.edge import TunnelChain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from limen.core.compiler.edge.destinations import Destinations
    from limen.core.compiler.edge.documents import EdgeDocuments, Report
    from limen.core.compiler.edge.listeners import Bound
    from limen.core.compiler.edge.routing import Table
    from limen.core.model.resource import Resource
    from limen.core.model.route import HttpMatch, HttpRule, ParentRef, Route
    from limen.core.plan.edge import RoutePlan


class IstioRoutes:
    """The VirtualServices that gateways in `namespace` (of the workload) may use."""

    def __init__(
        self,
        documents: EdgeDocuments,
        namespace: str,
        destinations: Destinations,
        report: Report,
    ) -> None:
        self._routes = [
            (resource, route)
            for resource, route in documents.routes(Family.ISTIO)
            if not route.exported_to or namespace in route.exported_to
        ]
        self._destinations = destinations
        self._report = report

    def fill(self, table: Table, bounds: Sequence[Bound], everything: Sequence[Bound]) -> None:
        """Add the routes of servers that share one table."""
        seen: set[tuple[str, RoutePlan]] = set()
        for resource, route in self._routes:
            for bound in bounds:
                for domain in _domains(resource, route, bound):
                    self._report.bound.add(resource.key)
                    table.routes.setdefault(domain, [])
                    spot = Spot(bound, resource, route, domain, self._destinations)
                    for index, rule in enumerate(route.http):
                        matches = _matches(rule, bound)
                        if matches is None:
                            continue
                        self._warn(resource, rule, index)
                        for plan in spot.plans(index, matches):
                            if (domain, plan) not in seen:
                                seen.add((domain, plan))
                                table.routes[domain].append(plan)
                    if bound.listener.https_redirect:
                        table.redirecting[domain] = to_https(bound, domain, everything)
        for bound in bounds:
            for host in bound.listener.hosts if bound.listener.https_redirect else ():
                table.redirecting[host] = to_https(bound, host, everything)
        for domain, routes in table.routes.items():
            table.routes[domain] = sorted(routes, key=_catches_all)  # stable

    def tunnels(self, bound: Bound) -> Iterator[TunnelChain]:
        """Chains of a PASSTHROUGH server: server names come from the routes."""
        for resource, route in self._routes:
            if not _domains(resource, route, bound):
                continue
            for index, rule in enumerate(route.tls):
                names = [
                    name
                    for match in rule.matches
                    if _here(match.port, match.parents, bound)
                    for name in _met(match.names, _granted(resource, bound))
                ]
                if not names:
                    continue
                self._report.bound.add(resource.key)
                path = f"/spec/tls/{index}"
                yield TunnelChain(
                    f"{bound.name}/{resource.key.namespace}/{resource.key.name}/{index}",
                    tuple(dict.fromkeys(names)),
                    self._destinations.shares(resource, route, rule.destinations, path),
                    ref_of(resource, index, path),
                )

    def _warn(self, resource: Resource, rule: HttpRule, index: int) -> None:
        action = rule.action
        rewrite = getattr(action, "rewrite", None)
        path = None if rewrite is None else rewrite.path
        if path is None or path.kind is not PathChangeKind.MATCHED or path.text.endswith("/"):
            return
        if not rule.matches or any(match.path is None for match in rule.matches):
            self._report.warn(
                resource,
                "rewrite-without-path",
                f"the rewrite replaces the first slash of every path: /x becomes {path.text}x",
                f"/spec/http/{index}/rewrite",
                "match a prefix of the path, or end the text with /",
            )


def _domains(resource: Resource, route: Route, bound: Bound) -> list[str]:
    """The hosts of a route at a server; none if it does not bind there."""
    key = bound.resource.key
    if not any((p.namespace, p.name) == (key.namespace, key.name) for p in route.parents):
        return []
    return list(dict.fromkeys(_met(route.hosts, _granted(resource, bound))))


def _granted(resource: Resource, bound: Bound) -> list[str]:
    own = (ANY, resource.key.namespace)
    return [grant.host for grant in bound.listener.grants if grant.namespace in own]


def _met(hosts: Iterable[str], granted: Sequence[str]) -> Iterator[str]:
    for host in hosts:
        for wide in granted:
            found = host_intersection(wide, host)
            if found is not None:
                yield found


def _here(port: int, parents: Sequence[ParentRef], bound: Bound) -> bool:
    key = bound.resource.key
    meant = not parents or any((p.namespace, p.name) == (key.namespace, key.name) for p in parents)
    return meant and port in (0, bound.listener.port)


def _matches(rule: HttpRule, bound: Bound) -> list[HttpMatch | None] | None:
    """The matches that count here; None if the rule does not: it never becomes "everything"."""
    if not rule.matches:
        return [None]
    found: list[HttpMatch | None] = [
        match
        for match in rule.matches
        if _here(match.port, match.parents, bound) and match.scheme in ("", scheme_of(bound))
    ]
    return found or None


def _catches_all(plan: RoutePlan) -> bool:
    """Moved behind all others, as Istio does when it combines documents."""
    match = plan.match
    if match is None:
        return True
    path = match.path
    any_path = path is None or (path.kind is PathKind.PREFIX and path.text == "/")
    bare = match.method is None and match.authority is None
    return any_path and bare and not match.headers and not match.query
