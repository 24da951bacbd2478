"""Which workloads an Istio document concerns: its namespace, selector and targets.

Source: istio/api `type/v1beta1/selector.proto`; labels are those of the workload and the tags of
the port. A document of the mesh's root namespace concerns every namespace, but one with targets
names workloads of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.registry import GATEWAYS, NAMESPACE_LABEL, label_anchor, labels_of
from limen.core.compiler.selectors import NO_ANCHOR, Anchor
from limen.core.model.authorization import AuthorizationPolicy
from limen.core.model.peer_authentication import PeerAuthentication
from limen.core.model.request_authentication import RequestAuthentication
from limen.core.model.selector import TargetKind
from limen.core.model.user_context import UserContext
from limen.core.model.workload import SERVICE_TAG

if TYPE_CHECKING:
    from limen.core.compiler.environment import Environment
    from limen.core.model.resource import Resource
    from limen.core.model.selector import PolicyTarget, Scope
    from limen.core.model.workload import Dataplane, Inbound

GATEWAY_TAG = "gateway "
"""Before the name of a Gateway in the tags of a gateway's port; no tag of a document has a space.
The value is the Gateway's namespace."""

ScopedSpec = AuthorizationPolicy | PeerAuthentication | RequestAuthentication | UserContext
"""The kinds that have a scope."""


def scope_of(resource: Resource) -> Scope:
    """The scope of one of Istio's security documents."""
    if not isinstance(resource.spec, ScopedSpec):
        raise TypeError(f"{resource.key} has no scope")
    return resource.spec.scope


def scope_anchors(env: Environment, scope: Scope) -> set[Anchor]:
    """Where an index finds the ports that a scope could concern: by label or by tag."""
    if scope.targets:
        services = (t.name for t in scope.targets if t.kind is TargetKind.SERVICE)
        gateways = {GATEWAYS} if _targets_gateway(scope) else set()
        return {*gateways, *((SERVICE_TAG, name) for name in services)}
    if scope.labels:
        return {label_anchor(*scope.labels[0]), scope.labels[0]}
    if scope.namespace == env.root_namespace:
        return {NO_ANCHOR}
    return {label_anchor(NAMESPACE_LABEL, scope.namespace)}


def reaches(env: Environment, scope: Scope, namespace: str) -> bool:
    """Whether a scope may concern workloads of `namespace` at all."""
    if scope.namespace == namespace or _targets_gateway(scope):
        return True
    return scope.namespace == env.root_namespace and not scope.targets


def scope_concerns(env: Environment, scope: Scope, dataplane: Resource, inbound: Inbound) -> bool:
    """Whether a scope concerns a port of a Dataplane."""
    if not reaches(env, scope, dataplane.key.namespace):
        return False
    if scope.targets:
        return any(_is_target(target, scope, dataplane, inbound) for target in scope.targets)
    labels = dict(inbound.tags) | labels_of(dataplane)
    return all(labels.get(key) == value for key, value in scope.labels)


def _targets_gateway(scope: Scope) -> bool:
    return any(target.kind is TargetKind.GATEWAY for target in scope.targets)


def _is_target(target: PolicyTarget, scope: Scope, dataplane: Resource, inbound: Inbound) -> bool:
    """A service by name, of the document's namespace; or a port of a Gateway of that namespace."""
    tags = dict(inbound.tags)
    if target.kind is TargetKind.GATEWAY:
        return tags.get(GATEWAY_TAG + target.name) == scope.namespace
    if dataplane.key.namespace != scope.namespace:
        return False
    return tags.get(SERVICE_TAG) == target.name


def means_port(dataplane: Dataplane, inbound: Inbound, port: int) -> bool:
    """Whether a port number in a document means `inbound`.

    It is the application's port; where no application has it, the guarded one.
    """
    if inbound.service_port == port:
        return True
    if any(other.service_port == port for other in dataplane.inbounds):
        return False
    return inbound.port == port
