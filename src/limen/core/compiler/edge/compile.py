"""The plan of a gateway's proxy, and every finding about the documents that make it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from limen.core.compiler.edge.api_routes import ApiRoutes
from limen.core.compiler.edge.destinations import Destinations, Services
from limen.core.compiler.edge.istio_routes import IstioRoutes
from limen.core.compiler.edge.listeners import listeners_of
from limen.core.compiler.edge.routing import Table
from limen.core.compiler.edge.secrets import Secrets
from limen.core.compiler.providers import asked_providers
from limen.core.compiler.registry import dataplane_of
from limen.core.compiler.scopes import GATEWAY_TAG
from limen.core.model.gateway import ANY, Family
from limen.core.model.workload import Inbound
from limen.core.model.workload import Protocol as Speech
from limen.core.plan.edge import EdgeListener, EdgePlan, HostPlan, HttpChain, TunnelChain

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from limen.core.compiler.doors import Door
    from limen.core.compiler.edge.documents import EdgeDocuments, Report
    from limen.core.compiler.edge.listeners import Bound
    from limen.core.model.names import WorkloadName
    from limen.core.model.resource import Resource
    from limen.core.plan.edge import RoutePlan

PLAIN = "http"
"""The one chain of a plaintext port."""


class Guarding(Protocol):
    """What guards ports."""

    def door(self, dataplane: Resource, inbound: Inbound) -> Door:
        """All that guards a port."""
        ...


@dataclass(frozen=True, slots=True)
class Edge:
    """A compiled gateway: its plan, what guards each port, and the ports as policies see them."""

    plan: EdgePlan
    doors: tuple[tuple[int, Door], ...]
    ports: tuple[Inbound, ...]


class EdgeCompiler:
    """Compiles gateways of one mesh."""

    def __init__(self, services: Services, guarding: Guarding, documents: EdgeDocuments) -> None:
        self._services = services
        self._guarding = guarding
        self._documents = documents

    def compile(
        self,
        resource: Resource,
        reachable: Collection[WorkloadName],
        cutover: int,
        report: Report,
    ) -> Edge:
        """The gateway that `resource` (a Dataplane) registers, as the documents stand."""
        namespace = resource.key.namespace
        destinations = Destinations(self._services, self._documents, namespace, reachable, report)
        one = _Gateway(
            Secrets(self._documents, namespace, report),
            IstioRoutes(self._documents, namespace, destinations, report),
            ApiRoutes(self._documents, destinations, report),
            report,
        )
        bound = listeners_of(self._documents, resource, report)
        everything = [b for bounds in bound.values() for b in bounds]
        env = self._services.environment
        listeners: list[EdgeListener] = []
        ports = _ports(resource, everything)
        doors = {i.port: self._guarding.door(resource, i) for i in ports}
        for (bind, port), bounds in sorted(bound.items()):
            door = doors[port]
            chains = one.chains(bounds, everything)
            if door.policy.layers:
                chains = one.opened(chains, bounds)
            if not chains:
                continue
            listeners.append(
                EdgeListener(
                    bind,
                    port,
                    chains,
                    door.policy,
                    door.tokens,
                    cutover,
                    env.rule_header,
                    env.proxy_protocol,
                    env.log_all,
                    asked_providers(env, door.policy),
                    door.exchange,
                )
            )
        return Edge(
            EdgePlan(tuple(listeners), one.secrets.plans(), destinations.parts(), env.trusted_hops),
            tuple(doors.items()),
            ports,
        )


def _ports(resource: Resource, everything: Sequence[Bound]) -> tuple[Inbound, ...]:
    """A gateway's ports as policies see them: with its own tags and the Gateways served there.

    Listeners on one port share its policy, whatever their addresses.
    """
    own = dataplane_of(resource).tags
    found: list[Inbound] = []
    for port in sorted({bound.listener.port for bound in everything}):
        keys = [
            b.resource.key
            for b in everything
            if b.listener.port == port and b.gateway.family is Family.GATEWAY_API
        ]
        names = {(GATEWAY_TAG + key.name, key.namespace) for key in keys}
        found.append(Inbound(port, port, Speech.HTTP, tuple(sorted({*own, *names}))))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Gateway:
    """The parts of one compilation."""

    secrets: Secrets
    istio: IstioRoutes
    api: ApiRoutes
    report: Report

    def chains(
        self, bounds: Sequence[Bound], everything: Sequence[Bound]
    ) -> tuple[HttpChain | TunnelChain, ...]:
        """The filter chains of one address and port."""
        plain = [bound for bound in bounds if bound.plaintext]
        if plain:
            return (HttpChain(PLAIN, (), None, self._hosts(plain, everything)),)
        found: list[HttpChain | TunnelChain] = []
        taken: dict[str, str] = {}
        for bound in bounds:
            if not bound.tunnels:
                found += self._ended(bound, everything)
                taken.update(dict.fromkeys(bound.listener.hosts, bound.name))
        for bound in bounds:
            if bound.tunnels:
                found += self._passed_on(bound, taken)
        return tuple(found)

    def opened(
        self, chains: Sequence[HttpChain | TunnelChain], bounds: Sequence[Bound]
    ) -> tuple[HttpChain | TunnelChain, ...]:
        """Those of a port with a policy; what it passes on unopened, the policy cannot judge."""
        kept = tuple(chain for chain in chains if isinstance(chain, HttpChain))
        for bound in bounds if len(kept) < len(chains) else ():
            if bound.tunnels:
                self.report.error(
                    bound.resource,
                    "policy-on-tunnel",
                    f"listener {bound.listener.name} passes connections on unopened, and a policy "
                    f"concerns port {bound.listener.port} of this gateway: it could not be asked, "
                    "so nothing is passed on",
                    bound.path,
                    "decide at the service, and let the policies of the gateway select other "
                    "workloads or Gateways",
                )
        return kept

    def _ended(self, bound: Bound, everything: Sequence[Bound]) -> list[HttpChain]:
        tls = bound.listener.tls
        made = None if tls is None else self.secrets.tls(bound, tls)
        if made is None:
            return []
        names = () if ANY in bound.listener.hosts else bound.listener.hosts
        return [HttpChain(bound.name, names, made, self._hosts([bound], everything))]

    def _passed_on(self, bound: Bound, taken: dict[str, str]) -> list[TunnelChain]:
        istio = bound.gateway.family is Family.ISTIO
        kept: list[TunnelChain] = []
        for chain in self.istio.tunnels(bound) if istio else self.api.tunnels(bound):
            clash = next((name for name in chain.server_names if name in taken), None)
            if clash is not None:
                self.report.error(
                    bound.resource,
                    "route-conflict",
                    f"the server name {clash} on port {bound.listener.port} is claimed by "
                    f"{chain.ref} and by {taken[clash]}",
                    bound.path,
                    "give each server name one route",
                )
                continue
            taken.update(dict.fromkeys(chain.server_names, str(chain.ref)))
            kept.append(chain)
        return kept

    def _hosts(self, bounds: Sequence[Bound], everything: Sequence[Bound]) -> tuple[HostPlan, ...]:
        table = Table()
        istio = [bound for bound in bounds if bound.gateway.family is Family.ISTIO]
        api = [bound for bound in bounds if bound.gateway.family is Family.GATEWAY_API]
        if istio:
            self.istio.fill(table, istio, everything)
        if api:
            self.api.fill(table, api)
        routes: dict[str, list[RoutePlan]] = {
            **table.routes,
            **{domain: [plan] for domain, plan in table.redirecting.items()},
        }
        return tuple(HostPlan(domain, tuple(found)) for domain, found in sorted(routes.items()))
