"""Istio's AuthorizationPolicies that concern a port, as one layer.

All of them add up. A rule holds if any source, any operation and every `when` entry holds; a part
that is absent holds. An ALLOW policy that is enforced makes the layer need an ALLOW, even if it has
no rule. Source: istio/api `security/v1/authorization_policy.proto`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from limen.core.compiler.rules import all_of, any_of, rule_at, sorted_rules
from limen.core.compiler.scopes import means_port
from limen.core.compiler.sources import (
    cidrs,
    namespace,
    pair,
    pattern,
    principal,
    request_principal,
    service_account,
    source_condition,
)
from limen.core.model.authorization import Action, AuthorizationPolicy, ConditionKind
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    AnyOf,
    Authenticated,
    Claim,
    Condition,
    DestinationIp,
    Effect,
    HasToken,
    Header,
    Host,
    Layer,
    LayerKind,
    Method,
    Not,
    Path,
    PathTemplate,
    Port,
    RemoteIp,
    Sni,
    SourceIp,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from limen.core.compiler.environment import Environment
    from limen.core.model.authorization import AuthorizationRule, Operation, When
    from limen.core.model.resource import Resource
    from limen.core.model.workload import Dataplane, Inbound
    from limen.core.policy.rule import Rule

_EFFECTS = {
    Action.ALLOW: Effect.ALLOW,
    Action.DENY: Effect.DENY,
    Action.AUDIT: Effect.AUDIT,
    Action.CUSTOM: Effect.CUSTOM,
}

_PORT_KEYS = frozenset({ConditionKind.DESTINATION_PORT})


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a rule is compiled: in which mesh, at which port, and whether it allows."""

    env: Environment
    dataplane: Dataplane
    inbound: Inbound
    allow: bool


def authorization_of(resource: Resource) -> AuthorizationPolicy:
    """The meaning of an AuthorizationPolicy resource."""
    if not isinstance(resource.spec, AuthorizationPolicy):
        raise TypeError(f"{resource.key} is not an AuthorizationPolicy")
    return resource.spec


def names_ports(resource: Resource) -> bool:
    """Whether what a policy means depends on the number of the port that it guards."""
    return any(
        any(o.ports or o.not_ports for o in rule.operations)
        or any(when.condition.kind in _PORT_KEYS for when in rule.when)
        for rule in authorization_of(resource).rules
    )


def authorization_layer(
    env: Environment, documents: Sequence[Resource], dataplane: Dataplane, inbound: Inbound
) -> Layer | None:
    """The layer of the policies that concern `inbound`; None if there are none."""
    if not documents:
        return None
    rules: list[Rule] = []
    trial: list[Rule] = []
    for resource in documents:
        policy = authorization_of(resource)
        effect = _EFFECTS[policy.action]
        place = _Place(env, dataplane, inbound, effect is Effect.ALLOW)
        (trial if policy.dry_run else rules).extend(
            rule_at(
                resource,
                effect,
                rule_condition(place, rule),
                index=i,
                path=f"/rules/{i}",
                provider=policy.provider,
            )
            for i, rule in enumerate(policy.rules)
        )
    enforced = (authorization_of(r) for r in documents)
    allows = any(p.action is Action.ALLOW and not p.dry_run for p in enforced)
    return Layer(LayerKind.AUTHORIZATION, sorted_rules(rules), allows, sorted_rules(trial))


def rule_condition(place: _Place, rule: AuthorizationRule) -> Condition:
    """One rule: who, what, and under which conditions."""
    parts: list[Condition] = []
    if rule.sources:
        sources = [source_condition(place.env, s, allow=place.allow) for s in rule.sources]
        parts.append(any_of(list(dict.fromkeys(sources))))
    if rule.operations:
        parts.append(any_of([_operation(place, o) for o in rule.operations]))
    for when in rule.when:
        parts += _when(place, when)
    return all_of(parts)


def _operation(place: _Place, operation: Operation) -> Condition:
    def own_host(text: str) -> Condition:
        return Host(pattern(text, ignore_case=True), any_port=not place.allow)

    def any_host(text: str) -> Condition:
        return Host(pattern(text, ignore_case=True), any_port=True)

    parts = [
        *pair(own_host, operation.hosts, ()),
        *pair(any_host, (), operation.not_hosts),
        *_ports(place, operation.ports, operation.not_ports),
        *pair(_method, operation.methods, operation.not_methods),
        *pair(_path, operation.paths, operation.not_paths),
    ]
    return all_of(parts)


def _method(text: str) -> Condition:
    return Method(pattern(text))


def _path(text: str) -> Condition:
    if "{*}" in text or "{**}" in text:
        return PathTemplate(text)
    return Path(pattern(text))


def _ports(place: _Place, ports: Iterable[int], not_ports: Iterable[int]) -> list[Condition]:
    def port(text: str) -> Condition:
        return _port(place, int(text))

    return pair(port, [str(p) for p in ports], [str(p) for p in not_ports])


def _port(place: _Place, port: int) -> Condition:
    """Known here, and still shown as a port where it is another one."""
    own = place.inbound.port
    if means_port(place.dataplane, place.inbound, port):
        return Port(own)
    return AnyOf(()) if port == own else Port(port)


def _when(place: _Place, when: When) -> list[Condition]:
    """One `when` entry: any of its values, none of its `notValues`."""
    kind, names = when.condition.kind, when.condition.names
    addresses = _ADDRESSES.get(kind)
    if addresses is not None:
        found: list[Condition] = [addresses(cidrs(when.values))] if when.values else []
        return [*found, Not(addresses(cidrs(when.not_values)))] if when.not_values else found
    make, guard = _reader(place, kind, names)
    return pair(make, when.values, when.not_values, guard if place.allow else None)


_ADDRESSES: dict[ConditionKind, Callable[[tuple[str, ...]], Condition]] = {
    ConditionKind.SOURCE_IP: SourceIp,
    ConditionKind.REMOTE_IP: RemoteIp,
    ConditionKind.DESTINATION_IP: DestinationIp,
}


def _reader(
    place: _Place, kind: ConditionKind, names: tuple[str, ...]
) -> tuple[Callable[[str], Condition], Condition | None]:
    """What makes a condition of a value, and what an ALLOW needs before its negation counts."""
    peer, token = Authenticated(), HasToken()
    match kind:
        case ConditionKind.HEADER:
            return (lambda v: Header(names[0].lower(), _header_value(v))), None
        case ConditionKind.SOURCE_NAMESPACE:
            return namespace, peer
        case ConditionKind.SOURCE_PRINCIPAL:
            return (lambda v: principal(place.env, v)), peer
        case ConditionKind.SOURCE_SERVICE_ACCOUNT:
            return (lambda v: service_account(place.env, v)), peer
        case ConditionKind.REQUEST_PRINCIPAL:
            return request_principal, token
        case ConditionKind.AUDIENCES | ConditionKind.PRESENTER | ConditionKind.CLAIM:
            path = _CLAIMS.get(kind, names)
            return (lambda v: Claim(path, pattern(v))), token
        case ConditionKind.DESTINATION_PORT:
            return (lambda v: _port(place, int(v))), None
        case ConditionKind.SNI:
            return (lambda v: Sni(pattern(v))), None
        case ConditionKind.SOURCE_IP | ConditionKind.REMOTE_IP | ConditionKind.DESTINATION_IP:
            raise ValueError(f"{kind.value} is compared as a set of addresses")
    assert_never(kind)


_CLAIMS = {ConditionKind.AUDIENCES: ("aud",), ConditionKind.PRESENTER: ("azp",)}


def _header_value(text: str) -> StringMatch:
    """`*` is met by a header that is there, even if it is empty."""
    return StringMatch(How.PREFIX, "") if text == "*" else pattern(text)
