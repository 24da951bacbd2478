"""Findings that need more than one document: what refers to what, and what contradicts what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.compiler.edge.checks import check_edge
from limen.core.compiler.findings import error_at, warning_at
from limen.core.compiler.graph import MeshGraph
from limen.core.compiler.istio_checks import check_istio
from limen.core.compiler.permission_checks import check_permissions
from limen.core.compiler.registration_checks import check_registrations
from limen.core.compiler.source_checks import check_sources
from limen.core.compiler.token_checks import check_tokens
from limen.core.compiler.user_checks import check_users
from limen.core.model.mesh import Mesh, MeshSettings
from limen.core.model.names import DEFAULT_MESH
from limen.core.model.resource import CUTOVER, MESH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.compiler.environment import Environment
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.resource import Resource
    from limen.core.model.snapshot import Snapshot


def check(snapshot: Snapshot, before: Snapshot | None = None) -> tuple[Diagnostic, ...]:
    """Every cross-document finding, by file, line and code.

    Errors refuse what is checked; warnings do not. `before` is what stood there until now: with it,
    a Dataplane that takes the name of another service's instance is refused.
    """
    by_mesh: dict[str, list[Resource]] = {DEFAULT_MESH: []}
    for key, resource in snapshot.resources.items():
        if key.kind != CUTOVER:
            by_mesh.setdefault(key.mesh, []).append(resource)
    graphs = {mesh: MeshGraph(mesh, resources) for mesh, resources in sorted(by_mesh.items())}
    found = [*_unknown_meshes(snapshot, by_mesh), *_shared_trust_domains(graphs, by_mesh)]
    for mesh, graph in graphs.items():
        found += _loud_settings(by_mesh[mesh])
        found += check_registrations(graph, before)
        found += check_permissions(graph)
        found += check_istio(graph)
        found += check_edge(graph)
        found += check_tokens(graph)
        found += check_users(graph)
        found += check_sources(graph)
    found = list(dict.fromkeys(found))
    found.sort(key=lambda d: (d.file, d.line, d.code, d.message))
    return tuple(found)


def _unknown_meshes(snapshot: Snapshot, by_mesh: dict[str, list[Resource]]) -> Iterator[Diagnostic]:
    known = {key.name for key in snapshot.resources if key.kind == MESH} | {DEFAULT_MESH}
    for mesh in sorted(by_mesh.keys() - known):
        for resource in by_mesh[mesh]:
            yield error_at(
                resource,
                "unknown-mesh",
                f"there is no mesh {mesh}",
                "/metadata",
                f"declare it (kind: Mesh, name {mesh}), or name one that exists: "
                f"{', '.join(sorted(known))}",
            )


@dataclass(frozen=True, slots=True)
class _Claim:
    mesh: str
    resource: Resource | None
    path: str


def _shared_trust_domains(
    graphs: dict[str, MeshGraph], by_mesh: dict[str, list[Resource]]
) -> Iterator[Diagnostic]:
    """A trust domain belongs to one mesh: with two, each would vouch for the other's workloads."""
    claims: dict[str, _Claim] = {}
    for mesh, graph in graphs.items():
        env = graph.environment
        settings = next((r for r in by_mesh[mesh] if isinstance(r.spec, MeshSettings)), None)
        for domain, path in _domains(env):
            first = claims.setdefault(domain, _Claim(mesh, settings, path))
            if first.mesh == mesh:
                continue
            at = _Claim(mesh, settings, path) if settings else first
            if at.resource is None:
                continue
            yield error_at(
                at.resource,
                "trust-domain-taken",
                f"the trust domain {domain} is claimed by the meshes {first.mesh} and {mesh}",
                at.path,
                "give each mesh a trust domain of its own",
            )


def _domains(env: Environment) -> Iterator[tuple[str, str]]:
    yield env.trust_domain, "/spec/trustDomain"
    for alias in sorted(env.aliases):
        yield alias, "/spec/trustDomainAliases"


def _loud_settings(resources: list[Resource]) -> Iterator[Diagnostic]:
    for resource in resources:
        name = resource.key.name
        if isinstance(resource.spec, Mesh) and not resource.spec.mtls_enabled:
            yield warning_at(
                resource,
                "mtls-off",
                f"mTLS is OFF in mesh {name}: traffic is plaintext, nobody has an identity, and NO "
                "permission is enforced: everybody who reaches a port may call it",
                "/spec/mtls",
                "name an enabled backend in spec.mtls, or leave spec.mtls out: mTLS is then on",
            )
        if isinstance(resource.spec, MeshSettings) and resource.spec.default_allow:
            yield warning_at(
                resource,
                "default-allow",
                f"workloads of mesh {name} that no permission concerns may be called by every "
                "workload of the mesh",
                "/spec/defaultAllow",
                "leave it out once every workload has a permission",
            )
