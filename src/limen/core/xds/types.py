"""The resource types that are served, and in which order they may change."""

from __future__ import annotations

_TYPES = "type.googleapis.com/"

LISTENER = _TYPES + "envoy.config.listener.v3.Listener"
CLUSTER = _TYPES + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = _TYPES + "envoy.config.endpoint.v3.ClusterLoadAssignment"
ROUTES = _TYPES + "envoy.config.route.v3.RouteConfiguration"
SECRET = _TYPES + "envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSION = _TYPES + "envoy.config.core.v3.TypedExtensionConfig"

ORDER = (SECRET, EXTENSION, CLUSTER, ENDPOINTS, LISTENER, ROUTES)
"""Order in which changes leave. Keys and permissions wait for nothing."""

WILDCARD_BY_DEFAULT = frozenset({LISTENER, CLUSTER})
"""Types of which a first request without names means all."""
