"""Short builders of resources for tests of the compiler."""

from __future__ import annotations

from dataclasses import replace

from limen.core.model.authorization import AuthorizationPolicy
from limen.core.model.mesh import Mesh, MeshSettings
from limen.core.model.names import InstanceName, SpiffeId, WorkloadName
from limen.core.model.peer_authentication import PeerAuthentication
from limen.core.model.permission import (
    MatchType,
    MeshTrafficPermission,
    PermissionRule,
    SpiffeIdMatch,
    TargetRef,
    TrafficPermission,
)
from limen.core.model.request_authentication import RequestAuthentication
from limen.core.model.resource import (
    AUTHORIZATION_POLICY,
    CUTOVER,
    DATAPLANE,
    MESH,
    MESH_SETTINGS,
    MESH_TRAFFIC_PERMISSION,
    PEER_AUTHENTICATION,
    REQUEST_AUTHENTICATION,
    TRAFFIC_PERMISSION,
    Origin,
    Resource,
    ResourceKey,
)
from limen.core.model.workload import SERVICE_TAG, Cutover, Dataplane, Inbound, Protocol

TD = "default.mesh.local"


def tags(service: str = "", **more: str) -> tuple[tuple[str, str], ...]:
    pairs = dict(more)
    if service:
        pairs[SERVICE_TAG] = service
    return tuple(sorted(pairs.items()))


def who(name: str, namespace: str = "default", domain: str = TD) -> SpiffeId:
    return SpiffeId(domain, namespace, name)


def workload(name: str, namespace: str = "default", mesh: str = "default") -> WorkloadName:
    return WorkloadName(mesh, namespace, name)


def instance(name: str, number: str = "", namespace: str = "default", mesh: str = "default"):
    return InstanceName(workload(name, namespace, mesh), number or f"{name}-1")


def dataplane(
    service: str,
    number: str = "",
    *,
    namespace: str = "default",
    mesh: str = "default",
    account: str = "",
    address: str = "127.0.0.1",
    port: int = 8080,
    labels: dict[str, str] | None = None,
    inbounds: tuple[Inbound, ...] = (),
    **more: str,
) -> Resource:
    name = instance(service, number, namespace, mesh)
    own = Inbound(port, port + 1, Protocol.HTTP, tags(service, **more))
    spec = Dataplane(name, account or service, address, inbounds or (own,))
    shown = {"app": service} if labels is None else labels
    key = ResourceKey(DATAPLANE, mesh, namespace, name.instance)
    return Resource(key, spec, tuple(sorted(shown.items())), Origin("dp.yaml", {"": 1}))


def permission(
    name: str,
    sources: list[tuple[tuple[str, str], ...]],
    destinations: list[tuple[tuple[str, str], ...]],
    *,
    mesh: str = "default",
    created: str = "",
) -> Resource:
    key = ResourceKey(TRAFFIC_PERMISSION, mesh, "default", name)
    spec = TrafficPermission(tuple(sources), tuple(destinations), created)
    lines = {"": 1, "/spec": 5, "/spec/sources": 6, "/spec/destinations": 20} | {
        f"/spec/sources/{i}": 7 + i for i in range(len(sources))
    }
    return Resource(key, spec, (), Origin("permissions.yaml", lines))


def exact(*values: object) -> tuple[SpiffeIdMatch, ...]:
    return tuple(SpiffeIdMatch(MatchType.EXACT, str(v)) for v in values)


def prefix(*values: str) -> tuple[SpiffeIdMatch, ...]:
    return tuple(SpiffeIdMatch(MatchType.PREFIX, v) for v in values)


def mesh_permission(
    name: str,
    *rules: PermissionRule,
    target: TargetRef | None = None,
    namespace: str = "",
    mesh: str = "default",
) -> Resource:
    target = replace(target or TargetRef(), namespace=namespace)
    key = ResourceKey(MESH_TRAFFIC_PERMISSION, mesh, namespace or "default", name)
    spec = MeshTrafficPermission(target, rules)
    lines = {"": 1, "/spec": 5} | {f"/spec/rules/{i}": 10 + i for i in range(len(rules))}
    return Resource(key, spec, (), Origin("mtp.yaml", lines))


def labelled(section: str = "", **labels: str) -> TargetRef:
    return TargetRef(whole_mesh=False, labels=tuple(sorted(labels.items())), section=section)


def mesh(name: str = "default", *, mtls: bool = True) -> Resource:
    return Resource(ResourceKey(MESH, name, "", name), Mesh(name, mtls), (), Origin("mesh.yaml"))


def settings(name: str = "default", **fields) -> Resource:
    key = ResourceKey(MESH_SETTINGS, name, "", name)
    return Resource(key, MeshSettings(**fields), (), Origin("settings.yaml"))


def cutover(name: str, revision: int, namespace: str = "default") -> Resource:
    return Resource(ResourceKey(CUTOVER, "default", namespace, name), Cutover(revision))


def istio(name: str, spec) -> Resource:
    """One of Istio's security kinds, in the namespace of its scope."""
    kind = {
        AuthorizationPolicy: AUTHORIZATION_POLICY,
        PeerAuthentication: PEER_AUTHENTICATION,
        RequestAuthentication: REQUEST_AUTHENTICATION,
    }[type(spec)]
    return Resource(ResourceKey(kind, "default", spec.scope.namespace, name), spec)
