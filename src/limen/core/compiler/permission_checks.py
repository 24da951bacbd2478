"""Findings about permissions: contradictions, identities split, rules without effect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.core.compiler.documents import concern_anchors
from limen.core.compiler.findings import error_at, warning_at
from limen.core.compiler.permissions import mesh_traffic_of, traffic_of
from limen.core.compiler.registry import dataplane_of
from limen.core.compiler.selectors import ANY_SERVICE
from limen.core.model.names import WorkloadName
from limen.core.model.permission import TrafficPermission

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from limen.core.compiler.graph import MeshGraph
    from limen.core.compiler.permissions import Concerned
    from limen.core.compiler.selectors import Anchor
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.names import InstanceName, SpiffeId
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


def check_permissions(
    graph: MeshGraph, only: Collection[ResourceKey] | None = None
) -> Iterator[Diagnostic]:
    """Every finding about the permissions of one mesh; with `only`, those about these."""
    if only is None:
        documents = graph.view.doors.documents.permissions()
        near, free = set(graph.instances), graph.view.doors.undeclared.ports()
    else:
        known = graph.view.doors.documents.resources
        documents = {key: known[key] for key in only if key in known}
        near, free = ports_near(graph, documents.values())
    if not documents:
        return
    declared = _effects(graph, each_port([graph.resource(name) for name in near]))
    assumed = _effects(graph, each_port(free))
    winning = declared.winning | assumed.winning
    yield from _both_kinds(graph, documents, {**assumed.both, **declared.both})
    yield from _ties(graph, documents, {**assumed.tied, **declared.tied})
    split: dict[Tags, list[SpiffeId]] = {}
    declares = bool(graph.view.doors.registry.instances)
    for key, resource in documents.items():
        if declares and key not in declared.concerning:
            yield _matches_nothing(resource)
        elif key in declared.beaten and key not in winning:
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


def ports_near(
    graph: MeshGraph, permissions: Iterable[Resource]
) -> tuple[set[InstanceName], list[Resource]]:
    """Instances, and assumed Dataplanes, with a port that one of these could concern."""
    doors = graph.view.doors
    names: set[InstanceName] = set()
    found: set[Anchor] = set()
    for permission in permissions:
        found |= concern_anchors(graph.environment, permission)
        for workload in doors.workloads_concerned(permission):
            names |= doors.registry.workloads[workload]
    return names, doors.undeclared.having(found)


def each_port(dataplanes: Iterable[Resource]) -> Iterator[tuple[WorkloadName, Resource, Inbound]]:
    """The ports of these Dataplanes and the workload of each, by instance."""
    for resource in sorted(dataplanes, key=lambda r: dataplane_of(r).name.sort_key):
        dataplane = dataplane_of(resource)
        for inbound in dataplane.inbounds:
            yield dataplane.workload_of(inbound), resource, inbound


def _at(resource: Resource) -> str:
    """`TrafficPermission p (file:line)`."""
    kind = resource.key.kind.rpartition("/")[2]
    origin = resource.origin
    return f"{kind} {resource.key.name}" + (
        f" ({origin.file}:{origin.line()})" if origin.file else ""
    )


Documents = dict["ResourceKey", "Resource"]
Pairs = dict[tuple["ResourceKey", "ResourceKey"], WorkloadName]


def _both_kinds(graph: MeshGraph, only: Documents, both: Pairs) -> Iterator[Diagnostic]:
    documents = graph.view.doors.documents.resources
    for (traffic, mesh_traffic), workload in both.items():
        if mesh_traffic not in only:
            continue
        yield error_at(
            documents[mesh_traffic],
            "both-permission-kinds",
            f"MeshTrafficPermission {mesh_traffic.name} and {_at(documents[traffic])} both concern "
            f"{workload}",
            "/spec/targetRef",
            "say it in one kind: remove one of the two, or narrow what it concerns",
        )


def _ties(graph: MeshGraph, only: Documents, tied: Pairs) -> Iterator[Diagnostic]:
    documents = graph.view.doors.documents.resources
    for (loser, winner), workload in tied.items():
        if loser not in only:
            continue
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
