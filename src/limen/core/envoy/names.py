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
POLICIES = _TYPES + "limen.policy.v1.PolicySet"
"""Ours, for the agent: see `policies`."""

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
ODD_PATH = "odd-path"
"""RBAC policy of every guarded port: refuses paths that servers read differently."""
NO_RULE = "[none]"
"""What Envoy reports where no rule decided."""

SERVER_NAME = "limen.server_name"
REACHED_ADDRESS = "limen.reached_address"
CALLER = "limen.caller"
"""Filter state of a connection to a guarded port: what only the connection knows.

`CALLER`: the URI names in the certificate, joined by commas; nothing without mTLS."""

JWT_METADATA = "envoy.filters.http.jwt_authn"
JWT_PAYLOAD = "payload"
JWT_HEADER = "header"
JWT_FAILURE = "failure"
"""Dynamic metadata of a request: the verified token, or why there is none."""
BAD_JWT = "bad-token"
"""RBAC policy: a token that `jwt_authn` lets pass and we do not. Answered with 401."""
TOKEN_SERVICE = "token-service"  # noqa: S105 - a name
"""ExtensionConfig: which token service counts, and the generation of what it has said."""
TOKEN_METADATA = "limen.tokens"  # noqa: S105 - a name
"""Dynamic metadata of a request: what `TOKEN_SERVICE` says."""
TOKEN_DOOR = "token-door"  # noqa: S105 - a name
"""Static cluster of the bootstrap: the agent's door for exchanges."""
HOP = "hop"
"""ExtensionConfig: how the user goes on to callees."""
NO_KEYS = "no-keys"
"""A cluster that there is never: where the keys of an issuer without known keys would be."""


NOWHERE = "nowhere"
"""A cluster that there is never: where a share of requests without a destination goes."""


def inbound_listener(port: int) -> str:
    """Listener of a guarded port."""
    return f"inbound:{port}"


def local_listener(port: int) -> str:
    """Listener of a plain local port that leads to one callee."""
    return f"local:{port}"


def edge_listener(port: int, bind: str = "") -> str:
    """Listener of a gateway: one address and port."""
    return f"edge:{bind}:{port}" if bind else f"edge:{port}"


def edge_routes(listener: str, chain: str) -> str:
    """RouteConfiguration of one filter chain of a gateway's listener."""
    return f"{listener}/{chain}"


def edge_certificate(namespace: str, name: str) -> str:
    """Secret (SDS) of a gateway: certificate and key of a `v1` Secret."""
    return f"edge:{namespace}/{name}"


def edge_authorities(namespace: str, name: str) -> str:
    """Secret (SDS) of a gateway: the authorities in a `v1` Secret."""
    return f"edge-ca:{namespace}/{name}"


def application_cluster(port: int) -> str:
    """Cluster of the application behind guarded port `port`."""
    return f"in:{port}"


def callee_cluster(callee: WorkloadName) -> str:
    """Cluster and ClusterLoadAssignment of a callee."""
    return f"out:{callee}"


def part_cluster(callee: WorkloadName, part: str) -> str:
    """Cluster and ClusterLoadAssignment of a part of a service."""
    return f"part:{callee}/{part}"


def service_cluster(namespace: str, name: str) -> str:
    """`callee_cluster` of the workload NAMESPACE/NAME."""
    return f"out:{namespace}/{name}"


def permission_deny(port: int) -> str:
    """ExtensionConfig: denials of a guarded port."""
    return f"permission.deny:{port}"


def standing(port: int) -> str:
    """Filter of a guarded port: what is denied whatever documents say."""
    return f"permission.standing:{port}"


def permission_allow(port: int) -> str:
    """ExtensionConfig: allowances of a guarded port."""
    return f"permission.allow:{port}"


def audit(port: int) -> str:
    """ExtensionConfig: reports of a guarded port."""
    return f"audit:{port}"


def tokens(port: int) -> str:
    """ExtensionConfig: whose tokens a guarded port verifies."""
    return f"tokens:{port}"


def token_places(port: int) -> str:
    """ExtensionConfig: where a token may stand in a request."""
    return f"token-places:{port}"


def token_claims(port: int) -> str:
    """ExtensionConfig: what a verified token must say besides."""
    return f"token-claims:{port}"


def token_exchange(port: int) -> str:
    """ExtensionConfig: what becomes of a token before it is verified."""
    return f"token-exchange:{port}"


def user_context(port: int) -> str:
    """ExtensionConfig: what the application passes on."""
    return f"user-context:{port}"


def token_outputs(port: int) -> str:
    """ExtensionConfig: headers that only a verified token may fill."""
    return f"token-outputs:{port}"


def provider_headers(port: int) -> str:
    """ExtensionConfig: headers that only a provider of CUSTOM rules may fill."""
    return f"provider-headers:{port}"


def ask(port: int, provider: str) -> str:
    """ExtensionConfig: which requests `provider` is asked about."""
    return f"ask:{port}/{provider}"


def provider(port: int, name: str) -> str:
    """ExtensionConfig: how provider `name` is asked."""
    return f"provider:{port}/{name}"


def provider_cluster(name: str) -> str:
    """Cluster of a provider on this host."""
    return f"provider:{name}"


def nothing_allows(index: int, layer: str) -> str:
    """RBAC policy: refuses what no rule of the layer `index` allows."""
    return f"nothing-allows {index} {layer}"


def filter_chain(port: int, cutover: int) -> str:
    """Filter chain of a guarded port; another name drains what is open on the old one."""
    return f"inbound:{port}/{cutover}"


def plaintext_chain(port: int, cutover: int) -> str:
    """Filter chain of a guarded port for callers without identity."""
    return f"{filter_chain(port, cutover)}/plaintext"


def policy_id(index: int, rule_name: str) -> str:
    """Name of a rule inside RBAC. Envoy tries policies in name order, hence the padding."""
    return f"{index:06d} {rule_name}"


def rule_name(policy: str) -> str:
    """The rule's name in what Envoy reports as the deciding policy; `[none]` stays."""
    index, separator, name = policy.partition(" ")
    return name if separator and index.isdigit() else policy
