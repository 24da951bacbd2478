"""What a guarded port speaks: Istio's PeerAuthentications, from the widest to the narrowest.

Source: istio/api `security/v1/peer_authentication.proto`, istio/istio `pilot/pkg/security/authn`.
Two differences on purpose: without a document a port is STRICT (Istio: PERMISSIVE), and one of the
root namespace with a selector counts (the code of Istio overlooks it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.scopes import means_port
from limen.core.model.peer_authentication import MtlsMode, PeerAuthentication
from limen.core.plan.node import PortMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from limen.core.compiler.environment import Environment
    from limen.core.model.resource import Resource
    from limen.core.model.workload import Dataplane, Inbound

_MODES = {
    MtlsMode.STRICT: PortMode.STRICT,
    MtlsMode.PERMISSIVE: PortMode.PERMISSIVE,
    MtlsMode.DISABLE: PortMode.DISABLE,
}
_NO_TIME = "~"
"""Sorts behind every time: a document without one counts as the newest."""


def peer_of(resource: Resource) -> PeerAuthentication:
    """The meaning of a PeerAuthentication resource."""
    if not isinstance(resource.spec, PeerAuthentication):
        raise TypeError(f"{resource.key} is not a PeerAuthentication")
    return resource.spec


def age(resource: Resource) -> tuple[str, str, str]:
    """Sorts the oldest first, then by name."""
    return (peer_of(resource).created or _NO_TIME, resource.key.name, resource.key.namespace)


def level(env: Environment, resource: Resource) -> int:
    """How narrow: 0 mesh, 1 namespace, 2 workloads of the whole mesh, 3 workloads of its own."""
    scope = peer_of(resource).scope
    root = scope.namespace == env.root_namespace
    if scope.labels:
        return 2 if root else 3
    return 0 if root else 1


def deciding(env: Environment, documents: Iterable[Resource]) -> tuple[Resource, ...]:
    """Of the documents that concern a port, the one that counts on each level; widest first."""
    chosen: dict[int, Resource] = {}
    for resource in sorted(documents, key=age):
        chosen.setdefault(level(env, resource), resource)
    return tuple(chosen[number] for number in sorted(chosen))


def port_mode(
    env: Environment, documents: Sequence[Resource], dataplane: Dataplane, inbound: Inbound
) -> PortMode:
    """The mode of a port that these documents concern. In a mesh without mTLS: DISABLE."""
    if not env.mtls:
        return PortMode.DISABLE
    mode = PortMode.STRICT
    for resource in deciding(env, documents):
        spec = peer_of(resource)
        mode = _MODES.get(spec.mode, mode)
        for port, wanted in spec.port_modes:
            if means_port(dataplane, inbound, port):
                mode = _MODES.get(wanted, mode)
    return mode
