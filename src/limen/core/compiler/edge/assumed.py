"""Gateways and services that edge documents need and nobody declares: assumed, and said so.

An Istio Gateway names labels, not a workload. A gateway workload that is asked for by name is
assumed to have them; else one is assumed in the namespace of the secret that the Gateway names, or
in its own. Its service account is its name, or the only one of its namespace that policies name and
nobody has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from limen.core.compiler.assume import ASSUMED_INSTANCE, assumed_dataplane
from limen.core.compiler.registry import dataplane_of
from limen.core.compiler.scopes import ScopedSpec, scope_of
from limen.core.model.authorization import AuthorizationPolicy
from limen.core.model.gateway import Family, Gateway
from limen.core.model.names import (
    InstanceName,
    WorkloadName,
    parse_name,
    parse_spiffe_id,
    parse_workload_name,
)
from limen.core.model.resource import DATAPLANE, SECRET, Resource, ResourceKey
from limen.core.model.route import Forward, Route, ServiceRef
from limen.core.model.selector import PolicyTarget, TargetKind
from limen.core.model.workload import SERVICE_TAG, Dataplane, Protocol
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.compiler.graph import MeshGraph
    from limen.core.model.names import SpiffeId
    from limen.core.model.route import Destination

_LOOPBACK = "127.0.0.1"


def assumed_edge(
    graph: MeshGraph, wanted: WorkloadName | None = None, instance: str = ASSUMED_INSTANCE
) -> tuple[list[Resource], tuple[str, ...]]:
    """What to add to `graph` so that every Gateway is served, and the sentences that say so.

    Services are assumed only where no workload at all is declared. `wanted` is asked for by name:
    it is assumed to be a gateway if it is not known to be something else; `instance` is its name.
    """
    documents = graph.view.edges
    documents.assume_secrets = True
    gateways = _gateways(graph, wanted, instance)
    said = tuple(
        f"{dataplane_of(r).name.workload} is not declared: assumed to be a gateway with service "
        f"account {dataplane_of(r).service_account} and the labels "
        + ", ".join(f"{key}={value}" for key, value in r.labels)
        for r in gateways
    )
    named = any(
        listener.tls is not None and listener.tls.certificates
        for _, gateway in documents.gateways()
        for listener in gateway.listeners
    )
    if named and documents.assumes_secrets():
        said = (*said, "no Secret is known: those that Gateways name are assumed to be there")
    declared = any(not dataplane_of(graph.resource(n)).gateway for n in graph.instances)
    return [*gateways, *([] if declared else _services(graph))], said


def _gateways(graph: MeshGraph, wanted: WorkloadName | None, instance: str) -> list[Resource]:
    registry = graph.view.doors.registry
    known = [registry.instances[name] for name in registry.gateways]
    labels: dict[WorkloadName, dict[str, str]] = {}
    if wanted is not None and not _may_be_gateway(graph, wanted):
        wanted = None
    for resource, gateway in graph.view.edges.gateways():
        if any(graph.view.edges.serves(one, resource, gateway) for one in known):
            continue
        if gateway.family is Family.GATEWAY_API:
            labels.setdefault(parse_workload_name(gateway.workload, graph.mesh), {})
            continue
        workload = wanted or _home(graph, resource, gateway)
        own = labels.setdefault(workload, {})
        if all(own.get(key, value) == value for key, value in gateway.selector):
            own.update(gateway.selector)
    accounts = _accounts(graph)
    return [
        gateway_dataplane(
            workload,
            {"app": workload.name, **found},
            accounts.get(workload.namespace, workload.name),
            instance if workload == wanted else ASSUMED_INSTANCE,
        )
        for workload, found in sorted(labels.items())
        if workload not in graph.workloads
    ]


def _may_be_gateway(graph: MeshGraph, wanted: WorkloadName) -> bool:
    """Not a known workload, not where a route leads, not an application, not a host name."""
    known = wanted in graph.workloads or _is_destination(graph, wanted)
    return not known and not _is_application(graph, wanted) and "." not in wanted.name


def _is_application(graph: MeshGraph, workload: WorkloadName) -> bool:
    """Whether a policy of its namespace means it by its name; gateways live in the root one."""
    if workload.namespace == graph.environment.root_namespace:
        return False
    documents = graph.view.doors.documents.resources.values()
    scopes = [scope_of(each) for each in documents if isinstance(each.spec, ScopedSpec)]
    return any(
        scope.namespace == workload.namespace
        and (
            dict(scope.labels).get("app") == workload.name
            or PolicyTarget(TargetKind.SERVICE, workload.name) in scope.targets
        )
        for scope in scopes
    )


def _accounts(graph: MeshGraph) -> dict[str, str]:
    """Of each namespace the one account that policies name and nobody declares."""
    known = {str(account) for account in graph.view.doors.registry.accounts}
    env = graph.environment
    found: dict[str, set[str]] = {}
    for resource in graph.view.doors.documents.resources.values():
        if not isinstance(resource.spec, AuthorizationPolicy):
            continue
        for rule in resource.spec.rules:
            for text in (p for source in rule.sources for p in source.principals):
                identity = _identity(env.canonical(f"spiffe://{text}"))
                if identity is not None and str(identity) not in known and env.trusts(identity):
                    found.setdefault(identity.namespace, set()).add(identity.service_account)
    return {namespace: names.pop() for namespace, names in found.items() if len(names) == 1}


def _identity(text: str) -> SpiffeId | None:
    try:
        return parse_spiffe_id(text)
    except InvalidInput:
        return None


def gateway_dataplane(
    workload: WorkloadName, labels: dict[str, str], account: str, instance: str = ASSUMED_INSTANCE
) -> Resource:
    """The instance that a gateway workload is assumed to have."""
    spec = Dataplane(
        InstanceName(workload, instance),
        account,
        _LOOPBACK,
        (),
        gateway=True,
        tags=((SERVICE_TAG, workload.name),),
    )
    key = ResourceKey(DATAPLANE, workload.mesh, workload.namespace, f"{workload.name}.{instance}")
    return Resource(key, spec, tuple(sorted(labels.items())))


def _home(graph: MeshGraph, resource: Resource, gateway: Gateway) -> WorkloadName:
    names = {
        ref.name for listener in gateway.listeners if listener.tls
        for ref in listener.tls.certificates
    }  # fmt: skip
    homes = {
        key.namespace
        for key in graph.view.edges.resources
        if key.kind == SECRET and key.name in names
    }
    namespace = homes.pop() if len(homes) == 1 else resource.key.namespace
    selector = dict(gateway.selector)
    for text in (selector.get("app", ""), selector.get("istio", "")):
        try:
            return WorkloadName(graph.mesh, namespace, parse_name(text))
        except InvalidInput:
            continue
    return WorkloadName(graph.mesh, namespace, "gateway")


def _destinations(graph: MeshGraph) -> Iterator[Destination]:
    for resource in graph.view.edges.resources.values():
        if not isinstance(resource.spec, Route):
            continue
        for rule in resource.spec.http:
            if isinstance(rule.action, Forward):
                yield from rule.action.destinations
        for tunnel in resource.spec.tls:
            yield from tunnel.destinations


def _is_destination(graph: MeshGraph, workload: WorkloadName) -> bool:
    return any(
        (d.service.namespace, d.service.name) == (workload.namespace, workload.name)
        for d in _destinations(graph)
    )


def _services(graph: MeshGraph) -> list[Resource]:
    """The services that routes name, each with the ports that they name."""
    ports: dict[WorkloadName, set[int]] = {}
    unopened = {
        destination.service
        for resource in graph.view.edges.resources.values()
        if isinstance(resource.spec, Route)
        for rule in resource.spec.tls
        for destination in rule.destinations
    }
    for one in _destinations(graph):
        workload = WorkloadName(graph.mesh, one.service.namespace, one.service.name)
        ports.setdefault(workload, set()).update({one.port} - {0})
    found: list[Resource] = []
    for workload, numbers in sorted(ports.items()):
        made = assumed_dataplane(workload)
        (inbound,) = dataplane_of(made).inbounds
        if ServiceRef(workload.namespace, workload.name) in unopened:
            inbound = replace(inbound, protocol=Protocol.TLS)
        inbounds = tuple(replace(inbound, port=n, service_port=n) for n in sorted(numbers))
        spec = replace(dataplane_of(made), inbounds=inbounds or (inbound,))
        found.append(replace(made, spec=spec))
    return found
