"""The resource types that are served, and in which order they may change."""

from __future__ import annotations

_TYPES = "type.googleapis.com/"

LISTENER = _TYPES + "envoy.config.listener.v3.Listener"
CLUSTER = _TYPES + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = _TYPES + "envoy.config.endpoint.v3.ClusterLoadAssignment"
ROUTES = _TYPES + "envoy.config.route.v3.RouteConfiguration"
SECRET = _TYPES + "envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSION = _TYPES + "envoy.config.core.v3.TypedExtensionConfig"

POLICIES = _TYPES + "limen.policy.v1.PolicySet"
"""Ours: what the decision point beside a proxy holds. Agents take it, no Envoy does."""

ORDER = (SECRET, EXTENSION, CLUSTER, ENDPOINTS, LISTENER, ROUTES)
"""What Envoy takes, in the order in which changes leave. Keys and permissions wait for nothing."""

SERVED = (POLICIES, *ORDER)
"""What agents may ask for: policies first, so that what asks for them finds them there."""

WILDCARD_BY_DEFAULT = frozenset({LISTENER, CLUSTER})
"""Types of which a first request without names means all."""
