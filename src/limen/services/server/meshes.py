"""A mesh as its documents say, with strict defaults where they say nothing. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.model.mesh import Mesh, MeshSettings
from limen.core.model.names import DEFAULT_MESH
from limen.core.model.resource import MESH, MESH_SETTINGS

if TYPE_CHECKING:
    from limen.adapters.store import JsonValue
    from limen.core.model.snapshot import Snapshot


def mesh_of(snapshot: Snapshot, name: str) -> Mesh:
    """The mesh's document, or a strict mesh of that name."""
    for resource in snapshot.of_kind(MESH, name):
        if isinstance(resource.spec, Mesh):
            return resource.spec
    return Mesh(name)


def meshes_without_mtls(snapshot: Snapshot) -> list[str]:
    """Names of the meshes where nobody has an identity and no permission is enforced."""
    meshes = (r.spec for r in snapshot.of_kind(MESH) if isinstance(r.spec, Mesh))
    return sorted(mesh.name for mesh in meshes if not mesh.mtls_enabled)


def settings_of(snapshot: Snapshot, name: str) -> MeshSettings:
    """The mesh's settings, or the defaults."""
    for resource in snapshot.of_kind(MESH_SETTINGS, name):
        if isinstance(resource.spec, MeshSettings):
            return resource.spec
    return MeshSettings()


def exists(snapshot: Snapshot, name: str) -> bool:
    """Whether there is such a mesh: `default` always, others by their document."""
    return name == DEFAULT_MESH or any(True for _ in snapshot.of_kind(MESH, name))


def aliases_by_mesh(snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    """The trust domain aliases of every mesh that has some."""
    return {
        r.key.mesh: r.spec.trust_domain_aliases
        for r in snapshot.of_kind(MESH_SETTINGS)
        if isinstance(r.spec, MeshSettings) and r.spec.trust_domain_aliases
    }


def settings_to_json(settings: MeshSettings) -> dict[str, JsonValue]:
    """What an agent must know of the settings."""
    return {
        "max_staleness_s": settings.max_staleness_s,
        "when_stale": settings.when_stale.value,
        "min_outage_budget_s": settings.min_outage_budget_s,
        "min_isolation": settings.min_isolation.value,
        "max_connection_age_s": settings.max_connection_age_s,
    }
