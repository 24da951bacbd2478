"""HTTP connection managers: of a guarded port, of the ways out, of health probes.

The order of the HTTP filters of a guarded port stands in `guards` and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from envoy.config.core.v3 import address_pb2, config_source_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from google.protobuf import wrappers_pb2

from limen.core.envoy import names
from limen.core.envoy.access_log import inbound_logs, outbound_log
from limen.core.envoy.address import ads_source
from limen.core.envoy.encoded import pack
from limen.core.envoy.ext_authz import filled_headers
from limen.core.envoy.http_options import DEFAULT_CONNECTION_AGE_S, from_clients, http2_options
from limen.core.envoy.jwt_authn import output_headers
from limen.core.envoy.local_reply import inbound_denial, outbound_refusals
from limen.core.envoy.rbac import audit_rules, headers_of, standing_filter
from limen.core.envoy.route import (
    application_routes,
    callee_routes,
    connection_routes,
    probe_routes,
)
from limen.core.envoy.short_way import SKIPPING_TYPE
from limen.core.envoy.wrapped import seconds, true, uint32
from limen.core.model.provider import Stage
from limen.core.model.workload import Protocol
from limen.core.plan.node import PortMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from envoy.config.route.v3 import route_pb2
    from google.protobuf import duration_pb2

    from limen.core.model.names import SpiffeId, WorkloadName
    from limen.core.model.provider import ExtensionProvider
    from limen.core.plan.edge import EdgeListener
    from limen.core.plan.node import Edge, InboundPlan, ProbePlan

_FILTERS = "type.googleapis.com/envoy.extensions.filters.http."
_RBAC_TYPE = _FILTERS + "rbac.v3.RBAC"
_BASIC_AUTH_TYPE = _FILTERS + "basic_auth.v3.BasicAuth"
_JWT_TYPE = _FILTERS + "jwt_authn.v3.JwtAuthentication"
_ASK_TYPE = _FILTERS + "ext_authz.v3.ExtAuthz"
_HEADERS_TYPE = _FILTERS + "header_mutation.v3.HeaderMutation"
_LUA_TYPE = _FILTERS + "lua.v3.Lua"
_FOR_THE_AGENT = _FILTERS + "set_metadata.v3.Config"
"""Of a filter that is subscribed to and disabled: its agent reads it."""
_HEADERS_WITHIN_S = 10
_CLOSED_WITHIN_S = 0.1
"""A program whose stream was cut off is told so at once; Envoy would wait 1 s for it to hang up."""

Manager = hcm_pb2.HttpConnectionManager


class Hardened(TypedDict):
    """Settings of every manager.

    No time limit on streams; one on the arrival of request headers. Paths reach policy and
    application in one spelling. No address counts as internal, so that `x-envoy-…` headers are
    dropped; a request ID that came along stays.
    """

    request_headers_timeout: duration_pb2.Duration
    stream_idle_timeout: duration_pb2.Duration
    drain_timeout: duration_pb2.Duration
    normalize_path: wrappers_pb2.BoolValue
    merge_slashes: bool
    path_with_escaped_slashes_action: str
    server_header_transformation: str
    internal_address_config: hcm_pb2.HttpConnectionManager.InternalAddressConfig
    preserve_external_request_id: bool


_NOBODY = address_pb2.CidrRange(address_prefix="192.0.2.0", prefix_len=uint32(32))
"""An address that nobody has (RFC 5737): no range at all would mean Envoy's default."""

HARDENED = Hardened(
    request_headers_timeout=seconds(_HEADERS_WITHIN_S),
    stream_idle_timeout=seconds(0),
    drain_timeout=seconds(0.5),
    normalize_path=true(),
    merge_slashes=True,
    path_with_escaped_slashes_action="REJECT_REQUEST",
    server_header_transformation="PASS_THROUGH",
    internal_address_config=Manager.InternalAddressConfig(cidr_ranges=[_NOBODY]),
    preserve_external_request_id=True,
)

_AS_SENT: Hardened = {
    **HARDENED,
    "normalize_path": wrappers_pb2.BoolValue(value=False),
    "merge_slashes": False,
    "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
}
"""Of a way out: its routes look at no path. Who decides by paths, the callee's proxy, brings them
into one spelling; twice would cost a caller 2,000 instructions a request."""


def inbound_manager(
    inbound: InboundPlan, callee: WorkloadName, max_age_s: int | None, *, plaintext: bool = False
) -> Manager:
    """What a request meets at a guarded port; `plaintext`: from callers without identity.

    `forward_client_cert_details` replaces what a caller says about certificates by what Envoy
    knows, which without TLS is nothing. Plaintext is counted where mTLS is spoken too. To callers
    with a proxy that proxy says the request's ID: saying it between the two, where only refusals
    do, would cost 8,000 instructions an answer.
    """
    counted = plaintext and inbound.mode is PortMode.PERMISSIVE
    return Manager(
        stat_prefix=f"inbound_{inbound.port}" + ("_plaintext" if plaintext else ""),
        route_config=connection_routes(inbound.port)
        if inbound.protocol is Protocol.TLS
        else application_routes(
            inbound.port,
            inbound.rule_header,
            user=bool(output_headers(inbound.tokens, inbound.context_header)),
        ),
        http_filters=[*guards(inbound), router()],
        common_http_protocol_options=from_clients(max_age_s or DEFAULT_CONNECTION_AGE_S),
        http2_protocol_options=http2_options(),
        use_remote_address=true(),
        strip_trailing_host_dot=True,
        forward_client_cert_details="SANITIZE_SET",
        set_current_client_cert_details=Manager.SetCurrentClientCertDetails(uri=True),
        always_set_request_id_in_response=plaintext,
        access_log=inbound_logs(
            callee,
            tokens=inbound.tokens,
            plaintext=plaintext,
            counted=counted,
            headers=headers_of(inbound.policy),
            all_=inbound.log_all,
            providers=inbound.providers,
        ),
        access_log_options=Manager.HcmAccessLogOptions(flush_access_log_on_new_request=True)
        if counted
        else None,
        local_reply_config=inbound_denial(
            str(callee),
            tokens=bool(inbound.tokens),
            rule_header=inbound.rule_header,
            providers=asking_order(inbound.providers),
        ),
        upgrade_configs=[upgrade("CONNECT" if inbound.protocol is Protocol.TLS else "websocket")],
        **HARDENED,
    )


def guards(guarded: InboundPlan | EdgeListener) -> list[hcm_pb2.HttpFilter]:
    """The filters of a guarded port in their order: who asks, by which token, for what."""
    port, policy, tokens = guarded.port, guarded.policy, guarded.tokens
    outputs = output_headers(tokens, guarded.context_header)
    exchanged = guarded.exchange is not None
    order = (
        (names.token_outputs(port), _HEADERS_TYPE, bool(outputs)),
        (names.TOKEN_SERVICE, _FOR_THE_AGENT, exchanged),
        (names.token_exchange(port), _LUA_TYPE, exchanged),
        (names.provider_headers(port), _HEADERS_TYPE, bool(filled_headers(guarded.providers))),
        *_asking(guarded, Stage.BEFORE_TOKENS),
        (names.token_places(port), _RBAC_TYPE, bool(tokens)),
        (names.tokens(port), _JWT_TYPE, bool(tokens)),
        (names.token_claims(port), _RBAC_TYPE, bool(tokens)),
        (names.user_context(port), _LUA_TYPE, bool(guarded.context_header)),
        *_asking(guarded, Stage.AFTER_TOKENS),
        (names.audit(port), _RBAC_TYPE, bool(audit_rules(policy))),
        (names.permission_deny(port), _RBAC_TYPE, True),
    )
    found = [discovered_filter(name, kind) for name, kind, wanted in order if wanted]
    standing = hcm_pb2.HttpFilter(name=names.standing(port), typed_config=pack(standing_filter()))
    allowing = discovered_filter(names.permission_allow(port), _RBAC_TYPE, SKIPPING_TYPE)
    return [*found, standing, allowing]


def _asking(guarded: InboundPlan | EdgeListener, stage: Stage) -> list[tuple[str, str, bool]]:
    """The providers of a stage: each is asked about what the filter before it marked."""
    return [
        entry
        for p in guarded.providers
        if p.stage is stage
        for entry in (
            (names.ask(guarded.port, p.name), _RBAC_TYPE, True),
            (names.provider(guarded.port, p.name), _ASK_TYPE, True),
        )
    ]


def asking_order(providers: Iterable[ExtensionProvider]) -> tuple[str, ...]:
    """Names of providers as they are asked."""
    listed = tuple(providers)
    stages = (Stage.BEFORE_TOKENS, Stage.AFTER_TOKENS)
    return tuple(p.name for stage in stages for p in listed if p.stage is stage)


def outbound_manager(caller: SpiffeId, mesh: str, *, guarded: bool, hop: bool) -> Manager:
    """A way out by proxy address or socket: absolute form, Host, HTTP/2, CONNECT."""
    guard = [discovered_filter(names.LOCAL_GUARD, _BASIC_AUTH_TYPE)] if guarded else []
    return _way_out(
        caller,
        mesh,
        filters=[*guard, *_hop(wanted=hop), router()],
        upgrades=["websocket", "CONNECT"],
        guarded=guarded,
    )


def tunnel_manager(caller: SpiffeId, mesh: str, *, hop: bool) -> Manager:
    """What comes out of a CONNECT: requests, never another CONNECT."""
    return _way_out(caller, mesh, filters=[*_hop(wanted=hop), router()], upgrades=["websocket"])


def local_manager(caller: SpiffeId, edge: Edge, *, hop: bool) -> Manager:
    """A plain local port that leads to one callee."""
    return _way_out(
        caller,
        edge.callee.mesh,
        filters=[*_hop(wanted=hop), router()],
        upgrades=["websocket"],
        routes=callee_routes(edge, hop=hop),
    )


def _hop(*, wanted: bool) -> list[hcm_pb2.HttpFilter]:
    """How the user of a request goes on, where the workload's document says so."""
    if not wanted:
        return []
    return [
        discovered_filter(names.TOKEN_SERVICE, _FOR_THE_AGENT),
        discovered_filter(names.HOP, _LUA_TYPE),
    ]


def probes_manager(plan: ProbePlan) -> Manager:
    """Health paths in plain text."""
    return Manager(
        stat_prefix=names.PROBES,
        route_config=probe_routes(plan),
        http_filters=[router()],
        common_http_protocol_options=from_clients(),
        http2_protocol_options=http2_options(),
        use_remote_address=true(),
        **HARDENED,
    )


def _way_out(
    caller: SpiffeId,
    mesh: str,
    *,
    filters: Sequence[hcm_pb2.HttpFilter],
    upgrades: Iterable[str],
    routes: route_pb2.RouteConfiguration | None = None,
    guarded: bool = False,
) -> Manager:
    """A connection manager for the program on this host, by `routes` or the shared ones.

    It adds no address to `x-forwarded-for`, and what the program says about certificates is
    dropped.
    """
    shared = hcm_pb2.Rds(config_source=ads_source(), route_config_name=names.OUTBOUND)
    return Manager(
        stat_prefix=names.OUTBOUND,
        rds=shared if routes is None else None,
        route_config=routes,
        http_filters=filters,
        common_http_protocol_options=from_clients(),
        http2_protocol_options=http2_options(),
        use_remote_address=true(),
        skip_xff_append=True,
        delayed_close_timeout=seconds(_CLOSED_WITHIN_S),
        strip_trailing_host_dot=True,
        always_set_request_id_in_response=True,
        access_log=[outbound_log(caller, mesh)],
        local_reply_config=outbound_refusals(guarded=guarded),
        upgrade_configs=[upgrade(kind) for kind in upgrades],
        **_AS_SENT,
    )


def discovered_filter(name: str, *type_urls: str) -> hcm_pb2.HttpFilter:
    """A filter whose configuration comes by itself; until it is there, nothing passes."""
    return hcm_pb2.HttpFilter(
        name=name,
        config_discovery=config_source_pb2.ExtensionConfigSource(
            config_source=ads_source(), type_urls=type_urls
        ),
        disabled=type_urls == (_FOR_THE_AGENT,),
    )


def router() -> hcm_pb2.HttpFilter:
    """The last filter of all.

    Statistics by response code cost a callee 5 % of its instructions for each request, even where
    the bootstrap keeps none of them: off.
    """
    settings = router_pb2.Router(
        suppress_envoy_headers=True, dynamic_stats=wrappers_pb2.BoolValue(value=False)
    )
    return hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=pack(settings))


def upgrade(kind: str) -> hcm_pb2.HttpConnectionManager.UpgradeConfig:
    """A protocol that a request may change to."""
    return hcm_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type=kind)
