"""Every name and type URL of the resources that Limen's proxies are sent, and nothing else.

Server, agent and tests find resources by these names (ARCHITECTURE, "Resources of one proxy").
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limen.core.model.names import WorkloadName

_TYPES = "type.googleapis.com/"

LISTENER = _TYPES + "envoy.config.listener.v3.Listener"
CLUSTER = _TYPES + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = _TYPES + "envoy.config.endpoint.v3.ClusterLoadAssignment"
ROUTES = _TYPES + "envoy.config.route.v3.RouteConfiguration"
SECRET = _TYPES + "envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSION = _TYPES + "envoy.config.core.v3.TypedExtensionConfig"

BUNDLE = "bundle"
"""Secret: the trust bundle, from the server."""
SVID = "svid"
"""Secret: certificate and key, from the agent."""
LOCAL_GUARD = "local-guard"
"""ExtensionConfig: who may use the way out, from the agent."""

OUTBOUND = "outbound"
"""Listener and RouteConfiguration."""
OUTBOUND_SOCKET = "outbound-socket"
TUNNEL = "tunnel"
"""Internal listener, and the cluster that leads to it: where CONNECT ends."""
PROBES = "probes"
ADS = "ads"
"""Static cluster of the bootstrap: the agent."""

ONE_IDENTITY = "one-identity"
"""RBAC policy of every guarded port: refuses a certificate that names two callers."""


def inbound_listener(port: int) -> str:
    """Listener of a guarded port."""
    return f"inbound:{port}"


def local_listener(port: int) -> str:
    """Listener of a plain local port that leads to one callee."""
    return f"local:{port}"


def application_cluster(port: int) -> str:
    """Cluster of the application behind guarded port `port`."""
    return f"in:{port}"


def callee_cluster(callee: WorkloadName) -> str:
    """Cluster and ClusterLoadAssignment of a callee."""
    return f"out:{callee}"


def permission_deny(port: int) -> str:
    """ExtensionConfig: denials of a guarded port."""
    return f"permission.deny:{port}"


def permission_allow(port: int) -> str:
    """ExtensionConfig: allowances of a guarded port."""
    return f"permission.allow:{port}"


def filter_chain(port: int, cutover: int) -> str:
    """Filter chain of a guarded port; another name drains what is open on the old one."""
    return f"inbound:{port}/{cutover}"


def policy_id(index: int, rule_name: str) -> str:
    """Name of a rule inside RBAC. Envoy tries policies in name order, hence the padding."""
    return f"{index:06d} {rule_name}"


def rule_name(policy: str) -> str:
    """The rule's name in what Envoy reports as the deciding policy; `[none]` stays."""
    index, separator, name = policy.partition(" ")
    return name if separator and index.isdigit() else policy
