"""Findings about permissions: contradictions, identities split, rules without effect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.core.compiler.assume import assumed_dataplane, declared_services
from limen.core.compiler.findings import error_at, warning_at
from limen.core.compiler.permissions import mesh_traffic_of, traffic_of
from limen.core.compiler.registry import dataplane_of, labels_of
from limen.core.compiler.selectors import ANY_SERVICE, exact_service
from limen.core.model.names import DEFAULT_NAMESPACE, WorkloadName
from limen.core.model.permission import TrafficPermission

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from limen.core.compiler.graph import MeshGraph
    from limen.core.compiler.permissions import Concerned
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.names import SpiffeId
    from limen.core.model.permission import SpiffeIdMatch, Tags
    from limen.core.model.resource import Resource, ResourceKey
    from limen.core.model.workload import Inbound


@dataclass
class _Effects:
    """Which documents concern a port, which decide about one, and which tie with which."""

    concerning: set[ResourceKey] = field(default_factory=set)
    winning: set[ResourceKey] = field(default_factory=set)
    beaten: dict[ResourceKey, Resource] = field(default_factory=dict)
    tied: dict[tuple[ResourceKey, ResourceKey], WorkloadName] = field(default_factory=dict)
    both: dict[tuple[ResourceKey, ResourceKey], WorkloadName] = field(default_factory=dict)

    def note(self, workload: WorkloadName, concerned: Concerned) -> None:
        """Take in what concerns one port."""
        traffic = list(concerned.lost)
        if concerned.traffic is not None:
            traffic.append(concerned.traffic)
            self.winning.add(concerned.traffic.key)
            for lost in concerned.lost:
                self.beaten.setdefault(lost.key, concerned.traffic)
            for tied in concerned.tied:
                self.tied.setdefault((tied.key, concerned.traffic.key), workload)
        self.concerning.update(r.key for r in (*traffic, *concerned.mesh_traffic))
        for one in traffic:
            for other in concerned.mesh_traffic:
                self.both.setdefault((one.key, other.key), workload)


def check_permissions(graph: MeshGraph) -> Iterator[Diagnostic]:
    """Every finding about the permissions of one mesh."""
    documents = graph.view.doors.documents.permissions()
    if not documents:
        return
    declared = _effects(graph, _declared_ports(graph))
    assumed = _effects(graph, _assumed_ports(graph))
    yield from _both_kinds(documents, {**assumed.both, **declared.both})
    yield from _ties(documents, {**assumed.tied, **declared.tied})
    split: dict[Tags, list[SpiffeId]] = {}
    declares = bool(graph.view.doors.registry.instances)
    for key, resource in documents.items():
        if declares and key not in declared.concerning:
            yield _matches_nothing(resource)
        elif key in declared.beaten and key not in declared.winning | assumed.winning:
            yield _shadowed(resource, declared.beaten[key])
        if isinstance(resource.spec, TrafficPermission):
            yield from _split_identities(graph, resource, split)
        else:
            yield from _foreign_identities(graph, resource)
            yield from _never_applies(graph, resource)


def _effects(graph: MeshGraph, ports: Iterable[tuple[WorkloadName, Resource, Inbound]]) -> _Effects:
    effects = _Effects()
    for workload, resource, inbound in ports:
        effects.note(workload, graph.view.doors.concerned(resource, inbound))
    return effects


def _declared_ports(graph: MeshGraph) -> Iterator[tuple[WorkloadName, Resource, Inbound]]:
    for name in sorted(graph.instances):
        resource = graph.resource(name)
        dataplane = dataplane_of(resource)
        for inbound in dataplane.inbounds:
            yield dataplane.workload_of(inbound), resource, inbound


def _assumed_ports(graph: MeshGraph) -> Iterator[tuple[WorkloadName, Resource, Inbound]]:
    """Ports of workloads that permissions name and nobody has declared yet."""
    known = [graph.resource(name) for name in graph.instances]
    taken = declared_services(known) | {labels_of(r).get("app", "") for r in known}
    named: set[tuple[str, str]] = set()
    for resource in graph.view.doors.documents.permissions().values():
        if isinstance(resource.spec, TrafficPermission):
            named |= {(DEFAULT_NAMESPACE, exact_service(d)) for d in resource.spec.destinations}
        else:
            target = mesh_traffic_of(resource).target
            app = dict(target.labels).get("app", "")
            named.add((target.namespace or DEFAULT_NAMESPACE, app))
    if not known:
        named.add((DEFAULT_NAMESPACE, "any-workload"))
    for namespace, name in sorted(named):
        if name and name not in taken:
            workload = WorkloadName(graph.mesh, namespace, name)
            assumed = assumed_dataplane(workload)
            yield workload, assumed, dataplane_of(assumed).inbounds[0]


def _at(resource: Resource) -> str:
    """`TrafficPermission p (file:line)`."""
    kind = resource.key.kind.rpartition("/")[2]
    origin = resource.origin
    return f"{kind} {resource.key.name}" + (
        f" ({origin.file}:{origin.line()})" if origin.file else ""
    )


Pairs = dict[tuple["ResourceKey", "ResourceKey"], WorkloadName]


def _both_kinds(documents: dict[ResourceKey, Resource], both: Pairs) -> Iterator[Diagnostic]:
    for (traffic, mesh_traffic), workload in both.items():
        yield error_at(
            documents[mesh_traffic],
            "both-permission-kinds",
            f"MeshTrafficPermission {mesh_traffic.name} and {_at(documents[traffic])} both concern "
            f"{workload}",
            "/spec/targetRef",
            "say it in one kind: remove one of the two, or narrow what it concerns",
        )


def _ties(documents: dict[ResourceKey, Resource], tied: Pairs) -> Iterator[Diagnostic]:
    for (loser, winner), workload in tied.items():
        yield warning_at(
            documents[loser],
            "equal-permissions",
            f"{_at(documents[winner])} is as specific for {workload} and is the one that counts: "
            f"TrafficPermission {loser.name} has no effect there",
            "/spec/destinations",
            "they do not add up: put all sources into one document",
        )


def _matches_nothing(resource: Resource) -> Diagnostic:
    traffic = isinstance(resource.spec, TrafficPermission)
    return warning_at(
        resource,
        "matches-no-workload",
        f"{resource.key.name} concerns no workload that is declared in mesh {resource.key.mesh}",
        "/spec/destinations" if traffic else "/spec/targetRef",
        "check the names, or declare the workload",
    )


def _shadowed(resource: Resource, winner: Resource) -> Diagnostic:
    return warning_at(
        resource,
        "shadowed-permission",
        f"{resource.key.name} has no effect: a more specific one counts everywhere, such as "
        f"{_at(winner)}",
        "/spec/destinations",
        "TrafficPermissions do not add up: put all sources into the most specific one",
    )


def _split_identities(
    graph: MeshGraph, resource: Resource, split: dict[Tags, list[SpiffeId]]
) -> Iterator[Diagnostic]:
    """`split` keeps what each source would split: many documents name the same ones."""
    for index, source in enumerate(traffic_of(resource).sources):
        if source == ANY_SERVICE:
            continue
        if source not in split:
            split[source] = graph.view.doors.registry.resolve(source)[1]
        for account in split[source]:
            yield error_at(
                resource,
                "split-identity",
                f"the source {_shown(source)} means some instances of {account} and not others; "
                "their certificates are the same",
                f"/spec/sources/{index}",
                "name tags that all its instances have, or give them service accounts of their own",
            )


def _shown(selector: Tags) -> str:
    return ", ".join(f"{key}={value}" for key, value in selector)


def _matches(resource: Resource) -> Iterator[tuple[str, str, SpiffeIdMatch]]:
    """Path, field and matcher of everything in `rules`."""
    for index, rule in enumerate(mesh_traffic_of(resource).rules):
        for name, matches in (
            ("deny", rule.deny),
            ("allowWithShadowDeny", rule.allow_with_shadow_deny),
            ("allow", rule.allow),
        ):
            for at, match in enumerate(matches):
                yield f"/spec/rules/{index}/default/{name}/{at}", name, match


def _foreign_identities(graph: MeshGraph, resource: Resource) -> Iterator[Diagnostic]:
    env = graph.environment
    for path, _, match in _matches(resource):
        domain = match.value.removeprefix("spiffe://").partition("/")[0]
        if not match.value.startswith("spiffe://") or not domain or env.is_own(domain):
            continue
        yield warning_at(
            resource,
            "foreign-trust-domain",
            f"{match.value} never matches: mesh {env.mesh} has the trust domain {env.trust_domain}",
            path,
            f"write spiffe://{env.trust_domain}/… or spiffe://cluster.local/…",
        )


def _never_applies(graph: MeshGraph, resource: Resource) -> Iterator[Diagnostic]:
    """An allowance of exactly what the same document denies."""
    canonical = graph.environment.canonical
    denied = {(m.type, canonical(m.value)) for _, name, m in _matches(resource) if name == "deny"}
    for path, name, match in _matches(resource):
        if name != "deny" and (match.type, canonical(match.value)) in denied:
            yield warning_at(
                resource,
                "never-applies",
                f"{match.value} is denied in the same document: this entry never applies",
                path,
                "deny wins, whatever the order: remove one of the two",
            )
