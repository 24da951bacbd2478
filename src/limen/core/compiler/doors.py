"""What guards a mesh's ports, compiled when asked for and kept while it holds."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from limen.core.compiler.authorization import authorization_layer, names_ports
from limen.core.compiler.documents import Documents, concern_anchors
from limen.core.compiler.permissions import Concerned, choose, in_scope, permission_layer
from limen.core.compiler.port_modes import port_mode
from limen.core.compiler.registry import (
    GATEWAYS,
    Registry,
    dataplane_of,
    label_anchor,
    labels_of,
    name_anchor,
    signature,
)
from limen.core.compiler.scopes import ScopedSpec, reaches
from limen.core.compiler.selectors import anchors
from limen.core.compiler.token_plans import key_sources, token_plans
from limen.core.compiler.undeclared import Undeclared
from limen.core.compiler.user_contexts import UserDoor, user_door
from limen.core.model.authorization import AuthorizationPolicy
from limen.core.model.permission import TrafficPermission
from limen.core.model.request_authentication import RequestAuthentication
from limen.core.model.workload import Protocol
from limen.core.plan.node import ExchangePlan, HopPlan, JwtPlan, PortMode
from limen.core.policy.connections import for_connections
from limen.core.policy.rule import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.compiler.environment import Environment
    from limen.core.compiler.registry import Signature
    from limen.core.compiler.user_contexts import TokenService
    from limen.core.model.names import SpiffeId, WorkloadName
    from limen.core.model.permission import Tags
    from limen.core.model.resource import Resource, ResourceKey
    from limen.core.model.workload import Dataplane, Inbound

_PolicyKey = tuple[tuple["ResourceKey", ...], tuple[tuple[int, int], ...], tuple[bool, bool]]
"""The documents of a policy; the ports that it depends on, none for most; whether a gateway's, and
whether of a port that passes connections on."""


@dataclass(frozen=True, slots=True)
class Door:
    """What guards one port. `tokens`: the issuers whose tokens it verifies; the rest: its user."""

    policy: Policy
    mode: PortMode
    tokens: tuple[JwtPlan, ...] = ()
    exchange: ExchangePlan | None = None
    context_header: str = ""
    hop: HopPlan | None = None

    @property
    def anonymous(self) -> bool:
        """Whether nobody who comes here has an identity."""
        return self.mode is PortMode.DISABLE


@dataclass(slots=True)
class _Port:
    """What is kept of a port: `door` is worth something while nothing was forgotten since."""

    inbound: Inbound
    concerned: Concerned
    door: Door | None = None
    compiled_at: int = -1


class Doors:
    """Registry, documents and policies of one mesh in one environment.

    `keys`: fetched key sets by `KeySource.name`.
    """

    def __init__(self, environment: Environment, keys: Mapping[str, str] | None = None) -> None:
        self.environment = environment
        self.registry = Registry(environment.trust_domain)
        self.documents = Documents(environment)
        self.undeclared = Undeclared(environment.mesh, self.registry.taken)
        self.keys: Mapping[str, str] = MappingProxyType(dict(keys or {}))
        self.token_service: TokenService | None = None
        self._ports: dict[int, dict[int, _Port]] = {}  # by id() of what the registry holds
        self._forgotten = 0
        self._policies: dict[_PolicyKey, Policy] = {}
        self._used_by: dict[ResourceKey, set[_PolicyKey]] = {}
        self._naming_ports: set[ResourceKey] = set()
        self._tokens: dict[tuple[ResourceKey, ...], tuple[JwtPlan, ...]] = {}

    def concerned(self, dataplane: Resource, inbound: Inbound) -> Concerned:
        """The documents that decide about a port; kept for those that are registered."""
        return self._port(dataplane, inbound).concerned

    def _port(self, dataplane: Resource, inbound: Inbound) -> _Port:
        ports = self._ports.get(id(dataplane))
        if ports is None:
            return _Port(inbound, self._choose(dataplane, inbound))
        known = ports.get(inbound.port)
        if known is None or known.inbound is not inbound:
            known = ports[inbound.port] = _Port(inbound, self._choose(dataplane, inbound))
        return known

    def _choose(self, dataplane: Resource, inbound: Inbound) -> Concerned:
        found = anchors(inbound.tags)
        found.add(name_anchor(dataplane.key.name))
        if dataplane_of(dataplane).gateway:
            found.add(GATEWAYS)
        found.update(label_anchor(k, v) for k, v in labels_of(dataplane).items())
        candidates = self.documents.concerning(found)
        return choose(self.environment, candidates, dataplane, inbound)

    def policy(self, dataplane: Resource, inbound: Inbound) -> Policy:
        """The policy of a port; the same object as long as nothing in it changes."""
        return self._policy(self.concerned(dataplane, inbound), dataplane, inbound)

    def door(self, dataplane: Resource, inbound: Inbound) -> Door:
        """All that guards a port."""
        port = self._port(dataplane, inbound)
        if port.door is None or port.compiled_at != self._forgotten:
            concerned = port.concerned
            unopened = inbound.protocol is Protocol.TLS
            user = UserDoor() if unopened else self._user_door(concerned.users, dataplane)
            tokens = () if unopened else self._token_plans(concerned.tokens)
            port.door = Door(
                self._policy(concerned, dataplane, inbound),
                self._mode(concerned, dataplane, inbound),
                tokens + user.tokens,
                user.exchange,
                user.context_header,
                user.hop,
            )
            port.compiled_at = self._forgotten
        return port.door

    def _mode(self, concerned: Concerned, dataplane: Resource, inbound: Inbound) -> PortMode:
        """What a port speaks. At a gateway its listeners say it; anybody may come."""
        if dataplane_of(dataplane).gateway:
            return PortMode.PERMISSIVE
        return port_mode(self.environment, concerned.peers, dataplane_of(dataplane), inbound)

    def mode(self, dataplane: Resource, inbound: Inbound) -> PortMode:
        """What a port speaks."""
        if not self.documents.peers:
            return PortMode.STRICT if self.environment.mtls else PortMode.DISABLE
        peers = self.concerned(dataplane, inbound).peers
        return port_mode(self.environment, peers, dataplane_of(dataplane), inbound)

    def _policy(self, concerned: Concerned, dataplane: Resource, inbound: Inbound) -> Policy:
        gateway = dataplane_of(dataplane).gateway
        deciding = concerned.authorization
        if not gateway:
            deciding = concerned.permissions + deciding
        ports: tuple[tuple[int, int], ...] = ()
        if any(r.key in self._naming_ports for r in concerned.authorization):
            others = sorted((i.service_port, i.port) for i in dataplane_of(dataplane).inbounds)
            ports = ((inbound.service_port, inbound.port), *others)
        unopened = inbound.protocol is Protocol.TLS
        asked = (tuple(r.key for r in deciding), ports, (gateway, unopened))
        known = self._policies.get(asked)
        if known is None:
            known = self._compile(concerned, dataplane, inbound)
            known = self._policies[asked] = for_connections(known) if unopened else known
            for resource in deciding:
                self._used_by.setdefault(resource.key, set()).add(asked)
        return known

    def _compile(self, concerned: Concerned, dataplane: Resource, inbound: Inbound) -> Policy:
        """In a mesh without mTLS permissions count for nothing, as in Kuma; Istio's rules do.

        At a gateway Kuma's permissions say nothing, and routes say what is open: without a rule
        everybody comes in, and the service behind decides.
        """
        env = self.environment
        if dataplane_of(dataplane).gateway:
            layer = authorization_layer(
                env, concerned.authorization, dataplane_of(dataplane), inbound
            )
            return Policy(() if layer is None else (layer,), default_allow=True)
        layers = (
            permission_layer(env, concerned.traffic, concerned.mesh_traffic, self._resolve),
            authorization_layer(env, concerned.authorization, dataplane_of(dataplane), inbound),
        )
        found = tuple(layer for layer in layers if layer is not None)
        return Policy(found, env.default_allow or not env.mtls)

    def _user_door(self, documents: tuple[Resource, ...], dataplane: Resource) -> UserDoor:
        if not documents:
            return UserDoor()
        found = dataplane_of(dataplane)
        own = found.spiffe_id(self.environment.trust_domain)
        return user_door(documents, self.token_service, own, gateway=found.gateway)

    def set_token_service(self, service: TokenService | None) -> None:
        """Take in what the mesh's token service says of itself."""
        self.token_service = service
        self._tokens.clear()
        self._forgotten += 1

    def _token_plans(self, documents: tuple[Resource, ...]) -> tuple[JwtPlan, ...]:
        if not documents:
            return ()
        asked = tuple(r.key for r in documents)
        known = self._tokens.get(asked)
        if known is None:
            own = self.token_service.issuer if self.token_service is not None else ""
            known = self._tokens[asked] = token_plans(documents, self.keys, own)
        return known

    def set_keys(self, keys: Mapping[str, str]) -> None:
        """Take in all fetched key sets."""
        self.keys = MappingProxyType(dict(keys))
        self._tokens.clear()
        self._forgotten += 1

    def with_other_keys(self, keys: Mapping[str, str]) -> list[Resource]:
        """The documents whose issuers have other keys in `keys` than now."""
        names = {*self.keys, *keys}
        changed = {name for name in names if self.keys.get(name) != keys.get(name)}
        if not changed:
            return []
        return [
            r
            for r in self.documents.resources.values()
            if isinstance(r.spec, RequestAuthentication)
            and any(source.name in changed for source in key_sources(r))
        ]

    def _resolve(self, selector: Tags) -> list[SpiffeId]:
        return self.registry.resolve(selector)[0]

    def add_document(self, resource: Resource) -> None:
        """Index a document."""
        self._forget(resource.key)
        self._choose_anew(resource)
        self.documents.add(resource)
        if isinstance(resource.spec, AuthorizationPolicy) and names_ports(resource):
            self._naming_ports.add(resource.key)
        self.undeclared.add(resource)

    def remove_document(self, resource: Resource) -> None:
        """Take a document out."""
        self._forget(resource.key)
        self._choose_anew(resource)
        self.documents.remove(resource)
        self._naming_ports.discard(resource.key)
        self.undeclared.add(resource, -1)

    def _choose_anew(self, document: Resource) -> None:
        """Forget which documents concern the ports that this one could concern."""
        for workload in self.workloads_concerned(document):
            for instance in self.registry.workloads[workload]:
                self._ports[id(self.registry.instances[instance])].clear()

    def add_instance(self, resource: Resource, dataplane: Dataplane) -> None:
        """Register an instance."""
        before = self._shown(dataplane)
        self.registry.add(resource)
        self._ports[id(resource)] = {}
        self._reread(before, dataplane)

    def remove_instance(self, resource: Resource, dataplane: Dataplane) -> None:
        """Take an instance out."""
        before = self._shown(dataplane)
        del self._ports[id(self.registry.instances[dataplane.name])]
        self.registry.remove(resource)
        self._reread(before, dataplane)

    def _shown(self, dataplane: Dataplane) -> frozenset[Signature]:
        return frozenset(self.registry.signatures(self.registry.identity(dataplane)))

    def _reread(self, before: frozenset[Signature], dataplane: Dataplane) -> None:
        """Forget what sources meant, if the identity now shows other tags than before."""
        after = self._shown(dataplane)
        if before != after:
            for resource in self.documents.naming(before | after):
                self._forget(resource.key)

    def _forget(self, key: ResourceKey) -> None:
        self._forgotten += 1
        for asked in self._used_by.pop(key, set()):
            self._policies.pop(asked, None)
            for other in asked[0]:
                if other != key and other in self._used_by:
                    self._used_by[other].discard(asked)
        for documents in [d for d in self._tokens if key in d]:
            del self._tokens[documents]

    def shifted_sources(self, dataplane: Dataplane, step: int) -> list[Resource]:
        """Permissions whose meaning changes if `dataplane` comes (`step` 1) or goes (-1)."""
        account = self.registry.identity(dataplane)
        shown = self.registry.signatures(account)
        own = signature(dataplane)
        count = shown.get(own, 0)
        if (step > 0 and count) or (step < 0 and count > 1):
            return []
        return self.documents.naming({*shown, own})

    def workloads_concerned(self, resource: Resource) -> set[WorkloadName]:
        """Workloads with a port that the document could concern."""
        found: set[WorkloadName] = set()
        for each in concern_anchors(self.environment, resource):
            found.update(self.registry.having(each))
        if isinstance(resource.spec, TrafficPermission):  # the namespace has no part in it
            return found
        if isinstance(resource.spec, ScopedSpec):
            scope = resource.spec.scope
            return {w for w in found if reaches(self.environment, scope, w.namespace)}
        return {w for w in found if in_scope(self.environment, resource, w.namespace)}
