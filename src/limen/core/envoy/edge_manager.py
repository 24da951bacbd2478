"""What a request from outside meets at a gateway, before any route counts.

Its path is brought into one spelling; headers that say something about identity, tokens or Envoy
itself are gone, unless this gateway wrote them; addresses are believed as far as trusted proxies
stand in front.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import extension_pb2, protocol_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as filter_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.type.matcher.v3 import string_pb2

from limen.core.envoy import names
from limen.core.envoy.access_log import edge_log
from limen.core.envoy.address import ads_source
from limen.core.envoy.edge_route import CORS
from limen.core.envoy.encoded import pack
from limen.core.envoy.hcm import HARDENED, Hardened, asking_order, guards, router, upgrade
from limen.core.envoy.http_options import DEFAULT_CONNECTION_AGE_S, from_clients
from limen.core.envoy.local_reply import edge_refusals
from limen.core.envoy.rbac import headers_of
from limen.core.envoy.wrapped import seconds, true, uint32
from limen.core.model.gateway import ServerTlsMode

if TYPE_CHECKING:
    from limen.core.plan.edge import EdgeListener, HttpChain
    from limen.core.plan.node import NodePlan

_HEADERS_KB = 60
_HEADERS = 100
_STREAMS = 100
_STREAM_WINDOW = 64 * 1024
_CONNECTION_WINDOW = 1024 * 1024
_IDLE_S = 300
_NEVER_FROM_OUTSIDE = (
    "proxy-authorization",
    "proxy-connection",
    "txn-token",
    "x-forwarded-client-cert",
    "x-original-url",
    "x-rewrite-url",
)
_FROM_TRUSTED_ONLY = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-real-ip",
)
_OURS = ("x-envoy-", "x-limen-")
OUTSIDE_IDENTITY = "outside-identity"
"""RBAC filter: a certificate of an authority from outside never makes an identity."""

Manager = hcm_pb2.HttpConnectionManager

_HARDENED: Hardened = {
    **HARDENED,
    "stream_idle_timeout": seconds(_IDLE_S),
    "preserve_external_request_id": False,
}


def edge_manager(plan: NodePlan, listener: EdgeListener, chain: HttpChain, hops: int) -> Manager:
    """The connection manager of one filter chain. CORS answers preflights before tokens count."""
    gateway = plan.instance.workload
    listening = names.edge_listener(listener.port, listener.bind)
    return Manager(
        stat_prefix=f"edge_{listener.port}",
        rds=hcm_pb2.Rds(
            config_source=ads_source(),
            route_config_name=names.edge_routes(listening, chain.name),
        ),
        http_filters=[
            hcm_pb2.HttpFilter(name=CORS, typed_config=pack(cors_pb2.Cors())),
            *_outside_identity(chain),
            *guards(listener),
            router(),
        ],
        common_http_protocol_options=_limits(plan.max_connection_age_s),
        http2_protocol_options=protocol_pb2.Http2ProtocolOptions(
            max_concurrent_streams=uint32(_STREAMS),
            initial_stream_window_size=uint32(_STREAM_WINDOW),
            initial_connection_window_size=uint32(_CONNECTION_WINDOW),
        ),
        max_request_headers_kb=uint32(_HEADERS_KB),
        use_remote_address=true(),
        xff_num_trusted_hops=hops,
        strip_trailing_host_dot=True,
        early_header_mutation_extensions=[_from_outside(hops)],
        forward_client_cert_details="SANITIZE_SET",
        set_current_client_cert_details=Manager.SetCurrentClientCertDetails(uri=True),
        always_set_request_id_in_response=True,
        access_log=[
            edge_log(
                gateway,
                listening,
                tokens=listener.tokens,
                headers=headers_of(listener.policy),
                all_=listener.log_all,
                providers=listener.providers,
            )
        ],
        local_reply_config=edge_refusals(
            tokens=bool(listener.tokens),
            rule_header=listener.rule_header,
            providers=asking_order(listener.providers),
        ),
        upgrade_configs=[upgrade("websocket")],
        **_HARDENED,
    )


def _limits(max_age_s: int | None) -> protocol_pb2.HttpProtocolOptions:
    options = from_clients(max_age_s or DEFAULT_CONNECTION_AGE_S)
    return protocol_pb2.HttpProtocolOptions(
        idle_timeout=options.idle_timeout,
        max_connection_duration=options.max_connection_duration,
        headers_with_underscores_action=options.headers_with_underscores_action,
        max_headers_count=uint32(_HEADERS),
    )


def _from_outside(hops: int) -> extension_pb2.TypedExtensionConfig:
    """Takes away what only this gateway, or a trusted proxy, may say."""
    gone = (*_NEVER_FROM_OUTSIDE, *(() if hops else _FROM_TRUSTED_ONLY))
    mutation = mutation_rules_pb2.HeaderMutation
    mutations = [mutation(remove=name) for name in gone]
    mutations += [
        mutation(
            remove_on_match=mutation.RemoveOnMatch(
                key_matcher=string_pb2.StringMatcher(prefix=prefix, ignore_case=True)
            )
        )
        for prefix in _OURS
    ]
    return extension_pb2.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=pack(header_mutation_pb2.HeaderMutation(mutations=mutations)),
    )


def _outside_identity(chain: HttpChain) -> list[hcm_pb2.HttpFilter]:
    """Where an authority from outside vouches for clients, no SPIFFE ID of theirs counts.

    Neither as a workload of this mesh, nor as "somebody with an identity" (`principals: ["*"]`).
    """
    if chain.tls is None or chain.tls.client is None:
        return []
    if chain.tls.mode is ServerTlsMode.ISTIO_MUTUAL:
        return []
    claim = rbac_pb2.Principal(
        authenticated=rbac_pb2.Principal.Authenticated(
            principal_name=string_pb2.StringMatcher(prefix="spiffe://", ignore_case=True)
        )
    )
    policy = rbac_pb2.Policy(permissions=[rbac_pb2.Permission(any=True)], principals=[claim])
    rules = rbac_pb2.RBAC(action=rbac_pb2.RBAC.DENY, policies={OUTSIDE_IDENTITY: policy})
    return [
        hcm_pb2.HttpFilter(name=OUTSIDE_IDENTITY, typed_config=pack(filter_pb2.RBAC(rules=rules)))
    ]
