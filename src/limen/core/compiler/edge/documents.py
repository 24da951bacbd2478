"""The edge documents of one mesh, oldest first, and what they name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.core.compiler.findings import error_at, warning_at
from limen.core.compiler.registry import dataplane_of, labels_of
from limen.core.model.gateway import Family, Gateway, GrantSource, ReferenceGrant
from limen.core.model.resource import SECRET, ResourceKey
from limen.core.model.route import DestinationRule, Forward, Route, ServiceRef
from limen.core.model.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.compiler.environment import Environment
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.resource import Resource

EdgeSpec = Gateway | Route | DestinationRule | ReferenceGrant | Secret
"""The kinds that concern gateways only."""

NO_TIME = "~"
"""Sorts behind every time: a document without one counts as the newest."""


@dataclass
class Report:
    """Findings while gateways are compiled, and the routes that got a place."""

    found: list[Diagnostic] = field(default_factory=list)
    bound: set[ResourceKey] = field(default_factory=set)

    def error(self, at: Resource, code: str, message: str, path: str, hint: str) -> None:
        """What is refused."""
        self.found.append(error_at(at, code, message, path, hint))

    def warn(self, at: Resource, code: str, message: str, path: str, hint: str) -> None:
        """What is served, but hardly as meant."""
        self.found.append(warning_at(at, code, message, path, hint))


def age(resource: Resource) -> tuple[str, str, str]:
    """Sorts the oldest first, then by name and namespace."""
    created = getattr(resource.spec, "created", "")
    return (created or NO_TIME, resource.key.name, resource.key.namespace)


class EdgeDocuments:
    """Gateways, routes, subsets, grants and secrets of one mesh.

    `assume_secrets`: if no secret at all is known (files rarely hold any), those that are named are
    taken to be there; for questions only, never for a plan that is served.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._mesh = environment.mesh
        self.assume_secrets = False
        self.resources: dict[ResourceKey, Resource] = {}
        self._services: frozenset[ServiceRef] | None = None

    def add(self, resource: Resource) -> None:
        """Take a document in."""
        self.resources[resource.key] = resource
        self._services = None

    def remove(self, resource: Resource) -> None:
        """Take a document out."""
        del self.resources[resource.key]
        self._services = None

    def gateways(self) -> list[tuple[Resource, Gateway]]:
        """Oldest first."""
        return [(r, r.spec) for r in self._by_age() if isinstance(r.spec, Gateway)]

    def routes(self, family: Family) -> list[tuple[Resource, Route]]:
        """Routes of a family, oldest first."""
        found = [(r, r.spec) for r in self._by_age() if isinstance(r.spec, Route)]
        return [(resource, route) for resource, route in found if route.family is family]

    def rules(self) -> Iterator[tuple[Resource, DestinationRule]]:
        """DestinationRules, oldest first."""
        for resource in self._by_age():
            if isinstance(resource.spec, DestinationRule):
                yield resource, resource.spec

    def secret(self, namespace: str, name: str) -> Resource | None:
        """A `v1` Secret."""
        return self.resources.get(ResourceKey(SECRET, self._mesh, namespace, name))

    def has_secrets(self) -> bool:
        """Whether any secret is known: files without any say nothing about them."""
        return any(isinstance(r.spec, Secret) for r in self.resources.values())

    def serves(self, dataplane: Resource, resource: Resource, gateway: Gateway) -> bool:
        """Whether the workload that `dataplane` registers is meant by the Gateway `resource`."""
        env, home = self._environment, resource.key.namespace
        if env.scope_gateways and home not in (dataplane.key.namespace, env.root_namespace):
            return False
        return _means(dataplane, gateway)

    def assumes_secrets(self) -> bool:
        """Whether a secret that is not known is taken to be there."""
        return self.assume_secrets and not self.has_secrets()

    def permits(self, source: GrantSource, namespace: str, kind: str, name: str) -> bool:
        """Whether a ReferenceGrant of `namespace` lets `source` refer to something there."""
        return source.namespace == namespace or any(
            isinstance(r.spec, ReferenceGrant)
            and r.key.namespace == namespace
            and r.spec.permits(source, kind, name)
            for r in self.resources.values()
        )

    def services(self) -> frozenset[ServiceRef]:
        """Every service that a route leads to."""
        if self._services is None:
            self._services = frozenset(self._named())
        return self._services

    def _named(self) -> Iterator[ServiceRef]:
        for resource in self.resources.values():
            if not isinstance(resource.spec, Route):
                continue
            for rule in resource.spec.http:
                if isinstance(rule.action, Forward):
                    yield from (d.service for d in rule.action.destinations)
            for tunnel in resource.spec.tls:
                yield from (d.service for d in tunnel.destinations)

    def _by_age(self) -> list[Resource]:
        return sorted(self.resources.values(), key=age)


def _means(resource: Resource, gateway: Gateway) -> bool:
    """Whether the workload that `resource` (a Dataplane) registers is meant by a gateway."""
    dataplane = dataplane_of(resource)
    if gateway.family is Family.GATEWAY_API:
        return gateway.workload == str(dataplane.name.workload)
    labels = dict(dataplane.tags) | labels_of(resource)
    for inbound in dataplane.inbounds:
        labels = dict(inbound.tags) | labels
    return all(labels.get(key) == value for key, value in gateway.selector)
