"""Findings about Istio's security documents: what they refer to, and where they have no effect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.core.compiler.assume import assumed_dataplane
from limen.core.compiler.authorization import authorization_of
from limen.core.compiler.findings import error_at, warning_at
from limen.core.compiler.port_modes import deciding
from limen.core.compiler.provider_checks import check_decides, check_provider, check_reach
from limen.core.compiler.registry import dataplane_of
from limen.core.compiler.scopes import means_port, scope_of
from limen.core.model.authorization import Action, AuthorizationPolicy
from limen.core.model.names import WorkloadName
from limen.core.model.peer_authentication import MtlsMode, PeerAuthentication
from limen.core.model.resource import Resource
from limen.core.policy.callers import implies
from limen.core.policy.impossible import is_impossible
from limen.core.policy.rule import Claim, Effect, RequestPrincipal, parts_of, reads_token

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from limen.core.compiler.doors import Door
    from limen.core.compiler.graph import MeshGraph
    from limen.core.compiler.permissions import Concerned
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.resource import ResourceKey
    from limen.core.model.workload import Inbound
    from limen.core.policy.rule import Condition, Rule

_Place = tuple[str, "ResourceKey", int]
"""A rule: its action, its document, its index."""


@dataclass(frozen=True, slots=True)
class _Port:
    """One guarded port, what concerns it and what comes of that; an assumed one has no number."""

    dataplane: Resource
    inbound: Inbound
    concerned: Concerned
    door: Door
    number: int | None


@dataclass
class _Seen:
    """What was found on all ports together."""

    concerning: set[ResourceKey] = field(default_factory=set)
    deciding: set[ResourceKey] = field(default_factory=set)
    unread: dict[_Place, str] = field(default_factory=dict)
    applies: set[_Place] = field(default_factory=set)
    blocked: dict[_Place, Rule] = field(default_factory=dict)
    impossible: set[_Place] = field(default_factory=set)
    ports: set[tuple[ResourceKey, int]] = field(default_factory=set)
    reading: set[tuple[ResourceKey, int]] = field(default_factory=set)
    guarded: dict[ResourceKey, list[Resource]] = field(default_factory=dict)


def check_istio(graph: MeshGraph) -> Iterator[Diagnostic]:
    """Every finding about Istio's documents of one mesh."""
    documents = graph.view.doors.documents.istio()
    if not documents:
        return
    declared = [_port(graph, r, i, i.port) for r, i in _declared(graph)]
    assumed = () if declared else _assumed(graph, documents.values())
    ports = declared or [_port(graph, r, i, None) for r, i in assumed]
    seen = _Seen()
    for port in ports:
        _note(graph, port, seen)
    for key, resource in documents.items():
        if declared and key not in seen.concerning:
            yield _matches_nothing(resource)
        if isinstance(resource.spec, PeerAuthentication):
            yield from _peer(graph, resource, resource.spec, seen)
        elif isinstance(resource.spec, AuthorizationPolicy):
            yield from _authorization(graph, resource, resource.spec, seen)
    yield from _nothing_allowed(graph, declared)


def _port(graph: MeshGraph, resource: Resource, inbound: Inbound, number: int | None) -> _Port:
    doors = graph.view.doors
    concerned = doors.concerned(resource, inbound)
    return _Port(resource, inbound, concerned, doors.door(resource, inbound), number)


def _declared(graph: MeshGraph) -> Iterator[tuple[Resource, Inbound]]:
    for name in sorted(graph.instances):
        resource = graph.resource(name)
        gateway = dataplane_of(resource).gateway
        ports = graph.view.edge(name, ()).ports if gateway else dataplane_of(resource).inbounds
        for inbound in ports:
            yield resource, inbound


def _assumed(graph: MeshGraph, documents: Iterable[Resource]) -> Iterator[tuple[Resource, Inbound]]:
    """For files without workloads: one for every scope, with what the scope asks for."""
    for scope in dict.fromkeys(scope_of(resource) for resource in documents):
        labels = dict(scope.labels)
        target = next((t.name for t in scope.targets), "")
        name = target or labels.get("app", "any-workload")
        assumed = assumed_dataplane(WorkloadName(graph.mesh, scope.namespace, name))
        shown = {**dict(assumed.labels), **labels}
        resource = Resource(assumed.key, assumed.spec, tuple(sorted(shown.items())))
        yield resource, dataplane_of(resource).inbounds[0]


def _note(graph: MeshGraph, port: _Port, seen: _Seen) -> None:
    concerned, door = port.concerned, port.door
    seen.concerning.update(r.key for r in concerned.istio)
    seen.deciding.update(r.key for r in deciding(graph.environment, concerned.peers))
    for resource in concerned.peers:
        for number, _ in _peer_ports(resource):
            if means_port(dataplane_of(port.dataplane), port.inbound, number):
                seen.ports.add((resource.key, number))
    by_name = {r.key.name: r.key for r in concerned.authorization}
    enforced = [r for layer in door.policy.layers for r in layer.rules]
    rules = [*enforced, *(r for layer in door.policy.layers for r in layer.dry_run)]
    issuers = {plan.issuer for plan in door.tokens}
    for rule in rules:
        if rule.ref.kind != "AuthorizationPolicy" or rule.ref.name not in by_name:
            continue
        key = next(r.key for r in concerned.authorization if _is_of(rule, r))
        place = (rule.effect.value, key, rule.ref.index)
        if rule.effect is Effect.CUSTOM:
            seen.guarded.setdefault(key, []).append(port.dataplane)
            if reads_token(rule.condition):
                seen.reading.add((key, rule.ref.index))
        problem = _unread(rule.condition, issuers)
        if problem:
            seen.unread.setdefault(place, problem)
        denying = next((r for r in enforced if _denies(r, rule)), None)
        if is_impossible(rule.condition, port.number):
            seen.impossible.add(place)
        elif denying is None:
            seen.applies.add(place)
        else:
            seen.blocked.setdefault(place, denying)


def _is_of(rule: Rule, resource: Resource) -> bool:
    key, ref = resource.key, rule.ref
    return (key.namespace, key.name) == (ref.namespace, ref.name)


def _peer_ports(resource: Resource) -> tuple[tuple[int, MtlsMode], ...]:
    return resource.spec.port_modes if isinstance(resource.spec, PeerAuthentication) else ()


def _denies(denying: Rule, rule: Rule) -> bool:
    """Whether `denying` refuses all that an ALLOW lets in."""
    return (
        rule.effect is Effect.ALLOW
        and denying.effect is Effect.DENY
        and implies(rule.condition, denying.condition)
    )


def _unread(condition: Condition, issuers: set[str]) -> str:
    """Why a rule that looks at a token never sees the one that it wants, "" if it does."""
    if not reads_token(condition):
        return ""
    if not issuers:
        return "no RequestAuthentication concerns that workload: there are never any claims"
    parts = list(parts_of(condition))
    wanted = [p.issuer for p in parts if isinstance(p, RequestPrincipal)]
    wanted += [p.match for p in parts if isinstance(p, Claim) and p.path == ("iss",)]
    if wanted and not any(match.matches(issuer) for match in wanted for issuer in issuers):
        return f"no RequestAuthentication there knows the issuer {wanted[0]}"
    return ""


def _matches_nothing(resource: Resource) -> Diagnostic:
    return warning_at(
        resource,
        "matches-no-workload",
        f"{resource.key.name} concerns no workload that is declared in mesh {resource.key.mesh}",
        "/spec/targetRefs" if scope_of(resource).targets else "/spec/selector",
        "check namespace, labels and names, or declare the workload",
    )


_LOUD = {
    MtlsMode.DISABLE: "traffic to these ports is plaintext and nobody has an identity there",
    MtlsMode.PERMISSIVE: "callers without identity are let in to policy, in plaintext",
}


def _peer(
    graph: MeshGraph, resource: Resource, spec: PeerAuthentication, seen: _Seen
) -> Iterator[Diagnostic]:
    modes = [(spec.mode, "/spec/mtls")]
    modes += [(mode, f"/spec/portLevelMtls/{port}") for port, mode in spec.port_modes]
    for mode, path in modes:
        if not graph.environment.mtls and mode in (MtlsMode.STRICT, MtlsMode.PERMISSIVE):
            yield error_at(
                resource,
                "mtls-contradiction",
                f"{mode.value} cannot be had: mTLS is off in mesh {resource.key.mesh}",
                path,
                "turn mTLS on in the Mesh, or remove this",
            )
        elif mode in _LOUD:
            message = f"mTLS is {mode.value}: {_LOUD[mode]}"
            hint = "use STRICT, which is the default here, as soon as every caller is in the mesh"
            yield warning_at(resource, "mtls-not-strict", message, path, hint)
    if resource.key in seen.concerning - seen.deciding:
        yield warning_at(
            resource,
            "shadowed-policy",
            f"{resource.key.name} has no effect: an older one of the same scope counts",
            "/spec",
            "keep one PeerAuthentication for each scope",
        )
    for port, _ in spec.port_modes:
        if resource.key in seen.concerning and (resource.key, port) not in seen.ports:
            yield _unknown_port(resource, port, f"/spec/portLevelMtls/{port}")


def _unknown_port(resource: Resource, port: int, path: str) -> Diagnostic:
    return warning_at(
        resource,
        "unknown-port",
        f"no workload that {resource.key.name} concerns has the port {port}",
        path,
        "write the port of the application (servicePort)",
    )


def _authorization(
    graph: MeshGraph, resource: Resource, policy: AuthorizationPolicy, seen: _Seen
) -> Iterator[Diagnostic]:
    if policy.action is Action.CUSTOM:
        reading = {i for key, i in seen.reading if key == resource.key}
        yield from check_provider(graph, resource, policy, reading)
        guarded = seen.guarded.get(resource.key, [])
        yield from check_reach(graph, resource, policy.provider, guarded)
        yield from check_decides(graph, resource, policy.provider, guarded)
    yield from _foreign(graph, resource)
    effect = policy.action.value.lower()
    for index in range(len(policy.rules)):
        place = (effect, resource.key, index)
        path = f"/spec/rules/{index}"
        if place in seen.unread:
            yield warning_at(
                resource,
                "claims-not-verified",
                f"rule {index} looks at a token, but {seen.unread[place]}",
                path,
                "add a RequestAuthentication with that issuer for the same workload",
            )
        if place not in seen.applies:
            yield from _never_applies(resource, place, seen)


def _never_applies(resource: Resource, place: _Place, seen: _Seen) -> Iterator[Diagnostic]:
    index = place[2]
    if place in seen.blocked:
        why = f"{seen.blocked[place].ref} denies all of it"
        hint = "DENY goes before ALLOW: remove one of the two, or narrow the DENY"
    elif place in seen.impossible:
        why = "no request to a workload that it concerns can have all that it asks for"
        hint = "compare its identities with each other, its ports with those of the applications"
    else:
        return
    message = f"rule {index} never applies: {why}"
    yield warning_at(resource, "never-applies", message, f"/spec/rules/{index}", hint)


def _foreign(graph: MeshGraph, resource: Resource) -> Iterator[Diagnostic]:
    env = graph.environment
    for index, rule in enumerate(authorization_of(resource).rules):
        named = [p for s in rule.sources for p in (*s.principals, *s.not_principals)]
        for text in named:
            domain, slash, _ = text.partition("/")
            if not slash or "*" in domain or env.is_own(domain):
                continue
            yield warning_at(
                resource,
                "foreign-trust-domain",
                f"{text} never matches: mesh {env.mesh} has the trust domain {env.trust_domain}",
                f"/spec/rules/{index}/from",
                f"write {env.trust_domain}/… or cluster.local/…, or add an alias to MeshSettings",
            )


def _nothing_allowed(graph: MeshGraph, ports: list[_Port]) -> Iterator[Diagnostic]:
    """Istio lets everybody in where no ALLOW concerns a workload; Limen nobody."""
    if graph.environment.default_allow:
        return
    for port in ports:
        if dataplane_of(port.dataplane).gateway:
            continue  # routes say what is open, and the services behind decide
        if any(layer.allows for layer in port.door.policy.layers):
            continue
        yield warning_at(
            port.dataplane,
            "nothing-allowed",
            f"no document allows anything on port {port.inbound.port} of "
            f"{dataplane_of(port.dataplane).workload_of(port.inbound)}: every call is refused, "
            "where Istio would let everybody in",
            "",
            "write an ALLOW policy for it, or defaultAction: Allow in MeshSettings as in Istio",
        )
