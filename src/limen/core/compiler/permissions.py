"""Kuma's two permission kinds to the `Policy` of one guarded port.

TrafficPermission: one is chosen per port, by `destinations` only, the most specific; its `sources`
alone say who may call (kumahq/kuma `pkg/core/policy/connection_matcher.go`). MeshTrafficPermission
`rules`: all that concern the port are merged; deny, then shadow deny, then allow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, assert_never

from limen.core.compiler.registry import dataplane_of, labels_of
from limen.core.compiler.rules import any_of, rule_at, sorted_rules
from limen.core.compiler.scopes import ScopedSpec, scope_concerns
from limen.core.compiler.selectors import ANY_SERVICE, matches, rank
from limen.core.model.authorization import AuthorizationPolicy
from limen.core.model.names import DEFAULT_NAMESPACE
from limen.core.model.peer_authentication import PeerAuthentication
from limen.core.model.permission import MatchType, MeshTrafficPermission, TrafficPermission
from limen.core.model.request_authentication import RequestAuthentication
from limen.core.model.user_context import UserContext
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    Authenticated,
    Condition,
    Effect,
    Layer,
    LayerKind,
    Principal,
    Rule,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from limen.core.compiler.environment import Environment
    from limen.core.model.names import SpiffeId
    from limen.core.model.permission import PermissionRule, SpiffeIdMatch, Tags
    from limen.core.model.resource import Resource
    from limen.core.model.workload import Inbound

Rank = tuple[int, int, str]

_TRIAL = "allowWithShadowDeny"
_SHADOW = "/shadow"
_BY_NAME = attrgetter("key.name", "key.namespace", "key.kind")


def traffic_of(resource: Resource) -> TrafficPermission:
    """The meaning of a TrafficPermission resource."""
    if not isinstance(resource.spec, TrafficPermission):
        raise TypeError(f"{resource.key} is not a TrafficPermission")
    return resource.spec


def mesh_traffic_of(resource: Resource) -> MeshTrafficPermission:
    """The meaning of a MeshTrafficPermission resource."""
    if not isinstance(resource.spec, MeshTrafficPermission):
        raise TypeError(f"{resource.key} is not a MeshTrafficPermission")
    return resource.spec


@dataclass(frozen=True, slots=True)
class Concerned:
    """The documents that decide about one port, and the TrafficPermissions that lost.

    `tied` are those of `lost` that are exactly as specific as `traffic`. All are sorted by name.
    """

    traffic: Resource | None = None
    mesh_traffic: tuple[Resource, ...] = ()
    lost: tuple[Resource, ...] = ()
    tied: tuple[Resource, ...] = ()
    authorization: tuple[Resource, ...] = ()
    peers: tuple[Resource, ...] = ()
    tokens: tuple[Resource, ...] = ()
    users: tuple[Resource, ...] = ()

    @property
    def permissions(self) -> tuple[Resource, ...]:
        """The permissions that count, one TrafficPermission first."""
        return self.mesh_traffic if self.traffic is None else (self.traffic, *self.mesh_traffic)

    @property
    def istio(self) -> tuple[Resource, ...]:
        """Istio's documents, and those with a scope like theirs."""
        return self.authorization + self.peers + self.tokens + self.users


def rank_for(permission: TrafficPermission, tags: dict[str, str]) -> Rank | None:
    """How specific `permission` is for a port with these tags; None if it does not concern it."""
    return _ranked(permission, tags, {})


def _ranked(
    permission: TrafficPermission,
    tags: dict[str, str],
    known: dict[tuple[Tags, ...], tuple[int, int] | None],
) -> Rank | None:
    """`rank_for`; `known` keeps the ranks of destinations: many documents have the same ones."""
    wanted = permission.destinations
    if wanted not in known:
        known[wanted] = max((rank(d) for d in wanted if matches(d, tags)), default=None)
    found = known[wanted]
    return None if found is None else (*found, permission.created)


def in_scope(env: Environment, policy: Resource, namespace: str) -> bool:
    """Whether a MeshTrafficPermission may concern workloads of `namespace` at all.

    `TargetRef.namespace` is the namespace that the document states ("": none, the whole mesh), or
    that of the one Dataplane it names. A policy of one namespace never reaches another, unless its
    namespace is the system's or the mesh's root.
    """
    target = mesh_traffic_of(policy).target
    own = policy.key.namespace
    if target.namespace and own != DEFAULT_NAMESPACE and not env.covers(own, target.namespace):
        return False
    if target.name and target.namespace:
        return target.namespace == namespace
    return env.covers(target.namespace, namespace)


def concerns(env: Environment, policy: Resource, dataplane: Resource, inbound: Inbound) -> bool:
    """Whether a MeshTrafficPermission concerns a port of a Dataplane."""
    target = mesh_traffic_of(policy).target
    if not in_scope(env, policy, dataplane.key.namespace):
        return False
    if target.section and target.section not in (inbound.name, str(inbound.port)):
        return False
    if target.whole_mesh:
        return True
    if target.name and target.name != dataplane.key.name:
        return False
    labels = labels_of(dataplane)
    return all(labels.get(key) == value for key, value in target.labels)


def choose(
    env: Environment, candidates: Iterable[Resource], dataplane: Resource, inbound: Inbound
) -> Concerned:
    """The documents that decide about `inbound`, of those that could concern it."""
    dataplane_of(dataplane)
    tags = dict(inbound.tags)
    ranked: list[tuple[Rank, Resource]] = []
    ranks: dict[tuple[Tags, ...], tuple[int, int] | None] = {}
    by_type: dict[type[object], list[Resource]] = {}
    for resource in sorted(candidates, key=_BY_NAME):
        spec = resource.spec
        if isinstance(spec, TrafficPermission):
            found = _ranked(spec, tags, ranks)
            if found is not None:
                ranked.append((found, resource))
            continue
        if isinstance(spec, ScopedSpec):
            concerned = scope_concerns(env, spec.scope, dataplane, inbound)
        else:
            concerned = concerns(env, resource, dataplane, inbound)
        if concerned:
            by_type.setdefault(type(spec), []).append(resource)
    rest = Concerned(
        mesh_traffic=tuple(by_type.get(MeshTrafficPermission, ())),
        authorization=tuple(by_type.get(AuthorizationPolicy, ())),
        peers=tuple(by_type.get(PeerAuthentication, ())),
        tokens=tuple(by_type.get(RequestAuthentication, ())),
        users=tuple(by_type.get(UserContext, ())),
    )
    if not ranked:
        return rest
    best, winner = max(ranked, key=lambda pair: pair[0])
    lost = tuple(r for _, r in ranked if r is not winner)
    tied = tuple(r for found, r in ranked if r is not winner and found[:2] == best[:2])
    return replace(rest, traffic=winner, lost=lost, tied=tied)


def permission_layer(
    env: Environment,
    traffic: Resource | None,
    mesh_traffic: Sequence[Resource],
    resolve: Callable[[Tags], Sequence[SpiffeId]],
) -> Layer | None:
    """The layer of these permissions; None if there are none, or the mesh has no mTLS.

    `resolve` knows the registered. Both kinds together are refused at `apply`; should they meet all
    the same, nothing is allowed.
    """
    if not env.mtls or (traffic is None and not mesh_traffic):
        return None
    rules = [rule for resource in mesh_traffic for rule in mesh_traffic_rules(env, resource)]
    trial = [rule for resource in mesh_traffic for rule in shadow_rules(env, resource)]
    if traffic is not None:
        rules = [r for r in rules if r.effect is Effect.DENY]
        if not mesh_traffic:
            rules += traffic_rules(traffic, resolve)
    trials = sorted_rules(trial)
    return Layer(LayerKind.PERMISSION, sorted_rules(rules), allows=True, dry_run=trials)


def traffic_rules(resource: Resource, resolve: Callable[[Tags], Sequence[SpiffeId]]) -> list[Rule]:
    """One rule per source that means somebody."""
    rules: list[Rule] = []
    for index, source in enumerate(traffic_of(resource).sources):
        condition: Condition
        if source == ANY_SERVICE:
            condition = Authenticated()
        else:
            parts = [Principal(StringMatch(How.EXACT, str(i))) for i in resolve(source)]
            if not parts:
                continue
            condition = any_of(parts)
        path = f"/sources/{index}"
        rules.append(rule_at(resource, Effect.ALLOW, condition, index=index, path=path))
    return rules


def mesh_traffic_rules(env: Environment, resource: Resource) -> list[Rule]:
    """Up to three rules per entry of `rules`, one for each list that is not empty.

    Shadow deny allows; that it would deny is said by `shadow_rules`.
    """
    rules: list[Rule] = []
    for index, entry in enumerate(mesh_traffic_of(resource).rules):
        for effect, field, wanted in _lists(entry):
            if wanted:
                condition = _listed(env, wanted)
                path = f"/rules/{index}/default/{field}"
                suffix = _SHADOW if field == _TRIAL else ""
                rules.append(
                    rule_at(resource, effect, condition, index=index, path=path, suffix=suffix)
                )
    return rules


def shadow_rules(env: Environment, resource: Resource) -> list[Rule]:
    """The denials on trial."""
    rules: list[Rule] = []
    for index, entry in enumerate(mesh_traffic_of(resource).rules):
        if entry.allow_with_shadow_deny:
            condition = _listed(env, entry.allow_with_shadow_deny)
            path = f"/rules/{index}/default/{_TRIAL}"
            rules.append(
                rule_at(resource, Effect.DENY, condition, index=index, path=path, suffix=_SHADOW)
            )
    return rules


def _lists(entry: PermissionRule) -> tuple[tuple[Effect, str, tuple[SpiffeIdMatch, ...]], ...]:
    return (
        (Effect.DENY, "deny", entry.deny),
        (Effect.ALLOW, _TRIAL, entry.allow_with_shadow_deny),
        (Effect.ALLOW, "allow", entry.allow),
    )


def _listed(env: Environment, wanted: Sequence[SpiffeIdMatch]) -> Condition:
    return any_of([_principal(env, w) for w in wanted])


def _principal(env: Environment, wanted: SpiffeIdMatch) -> Principal:
    value = env.canonical(wanted.value)
    match wanted.type:
        case MatchType.EXACT:
            return Principal(StringMatch(How.EXACT, value))
        case MatchType.PREFIX:
            return Principal(StringMatch(How.PATH_PREFIX, value))
    assert_never(wanted.type)
