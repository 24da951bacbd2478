"""Routes at the edge: one RouteConfiguration for each filter chain, never shared between chains.

With a shared table a client that passed a listener without client certificates could name a host
of one that asks for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.config.route.v3 import route_pb2 as config_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.type.matcher.v3 import regex_pb2
from google.protobuf import wrappers_pb2

from limen.core.envoy import names
from limen.core.envoy.access_log import DECIDING_RULE
from limen.core.envoy.edge_match import (
    header_fields,
    path_fields,
    to_route_match,
    to_string_matcher,
)
from limen.core.envoy.encoded import encode, pack
from limen.core.envoy.expressions import ANY
from limen.core.envoy.local_reply import header_of_reply, plain_text
from limen.core.envoy.route import ENVOYS_OWN, SENT_AGAIN, retry_policy
from limen.core.envoy.wrapped import seconds, uint32
from limen.core.model.route import UNCHANGED, PathChangeKind, UnmatchedPreflight
from limen.core.plan.edge import AnswerPlan, ForwardPlan, HttpChain, Missing, RedirectPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf import any_pb2

    from limen.core.envoy.encoded import Encoded
    from limen.core.model.route import Cors, HttpMatch
    from limen.core.plan.edge import EdgeListener, HostPlan, RoutePlan, Share

CORS = "envoy.filters.http.cors"
_ODD = rf"{ANY}(?:;|%00|%3[bB]){ANY}"
"""Paths that servers read each in their own way, wherever that stands in them."""
_MISDIRECTED = 421
_BAD_REQUEST = 400
_REDIRECTS = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}


def edge_routes(listener: EdgeListener, chain: HttpChain) -> Encoded:
    """RouteConfiguration of one filter chain."""
    name = names.edge_routes(names.edge_listener(listener.port, listener.bind), chain.name)
    own = {host.domain for host in chain.hosts}
    hosts = [_host(host) for host in chain.hosts]
    elsewhere = sorted(_domains_elsewhere(listener, chain) - own)
    if elsewhere:
        hosts.append(_misdirected(elsewhere))
    config = config_pb2.RouteConfiguration(
        name=name,
        virtual_hosts=hosts,
        ignore_port_in_host_matching=True,
        request_headers_to_remove=ENVOYS_OWN,
        response_headers_to_add=[header_of_reply(listener.rule_header, DECIDING_RULE)]
        if listener.rule_header
        else [],
    )
    return encode(name, config)


def _domains_elsewhere(listener: EdgeListener, chain: HttpChain) -> set[str]:
    """Hosts that another chain of this port serves: asked for here, they are misdirected.

    Otherwise a client could pass the listener of one host and speak to another (RFC 9110, 15.5.20).
    """
    found: set[str] = set()
    for other in listener.chains:
        if other is chain:
            continue
        found.update(other.server_names)
        if isinstance(other, HttpChain):
            found.update(host.domain for host in other.hosts if host.domain != "*")
    return found


def _misdirected(domains: Sequence[str]) -> route_pb2.VirtualHost:
    return route_pb2.VirtualHost(
        name="misdirected",
        domains=domains,
        routes=[
            route_pb2.Route(
                match=route_pb2.RouteMatch(prefix="/"),
                direct_response=_answer(_MISDIRECTED, "Misdirected request.\n"),
            )
        ],
    )


def _host(plan: HostPlan) -> route_pb2.VirtualHost:
    odd = route_pb2.Route(
        name="odd-path",
        match=route_pb2.RouteMatch(safe_regex=regex_pb2.RegexMatcher(regex=_ODD)),
        direct_response=_answer(_BAD_REQUEST, "This path is not accepted.\n"),
    )
    return route_pb2.VirtualHost(
        name=plan.domain,
        domains=[plan.domain],
        routes=[odd, *(_route(route) for route in plan.routes)],
    )


def _route(plan: RoutePlan) -> route_pb2.Route:
    forward, redirect, answer = None, None, None
    match plan.action:
        case ForwardPlan():
            forward = _forward(plan.action, plan.match)
        case RedirectPlan():
            redirect = _redirect(plan.action, plan.match)
        case AnswerPlan(status, text):
            answer = _answer(status, text)
        case _:
            assert_never(plan.action)
    return route_pb2.Route(
        name=str(plan.ref),
        match=to_route_match(plan.match),
        route=forward,
        redirect=redirect,
        direct_response=answer,
        typed_per_filter_config={CORS: _cors(plan.cors)} if plan.cors is not None else {},
        **header_fields(plan.request, plan.response),
    )


def _forward(plan: ForwardPlan, match: HttpMatch | None) -> route_pb2.RouteAction:
    shares = [share for share in plan.shares if share.weight]
    alone = shares[0] if len(shares) == 1 and shares[0].headers == UNCHANGED else None
    absent = any(share.missing is Missing.BACKEND for share in shares)
    rewrite = plan.rewrite
    return route_pb2.RouteAction(
        cluster=cluster_of(alone) if alone is not None else None,
        weighted_clusters=_weighted(shares) if alone is None else None,
        cluster_not_found_response_code="INTERNAL_SERVER_ERROR"
        if absent
        else "SERVICE_UNAVAILABLE",
        host_rewrite_literal=rewrite.host if rewrite is not None and rewrite.host else None,
        timeout=seconds(0),
        retry_policy=retry_policy(SENT_AGAIN, attempts=4),
        **path_fields(rewrite.path if rewrite is not None else None, match),
    )


def _weighted(shares: Sequence[Share]) -> route_pb2.WeightedCluster:
    return route_pb2.WeightedCluster(
        clusters=[
            route_pb2.WeightedCluster.ClusterWeight(
                name=cluster_of(share),
                weight=uint32(share.weight),
                **header_fields(share.headers.request, share.headers.response),
            )
            for share in shares
        ]
    )


def cluster_of(share: Share) -> str:
    """The cluster to which a share of the requests goes."""
    if share.missing is not None:
        return names.NOWHERE
    if share.part:
        return names.part_cluster(share.callee, share.part)
    return names.callee_cluster(share.callee)


def _redirect(plan: RedirectPlan, match: HttpMatch | None) -> route_pb2.RedirectAction:
    whole = plan.path is not None and plan.path.kind is PathChangeKind.WHOLE
    return route_pb2.RedirectAction(
        scheme_redirect=plan.scheme or None,
        host_redirect=plan.host,
        port_redirect=plan.port,
        path_redirect=plan.path.text if whole and plan.path is not None else None,
        response_code=_REDIRECTS[plan.status],
        **({} if whole else path_fields(plan.path, match)),
    )


def _answer(status: int, text: str) -> route_pb2.DirectResponseAction:
    return route_pb2.DirectResponseAction(
        status=status, body_format=plain_text(text.replace("%", "%%")) if text else None
    )


def _cors(plan: Cors) -> any_pb2.Any:
    forward = plan.unmatched is UnmatchedPreflight.FORWARD
    return pack(
        cors_pb2.CorsPolicy(
            allow_origin_string_match=[to_string_matcher(origin) for origin in plan.origins],
            allow_methods=",".join(plan.methods),
            allow_headers=",".join(plan.headers),
            expose_headers=",".join(plan.expose),
            max_age="" if plan.max_age_s is None else str(plan.max_age_s),
            allow_credentials=wrappers_pb2.BoolValue(value=True) if plan.credentials else None,
            forward_not_matching_preflights=wrappers_pb2.BoolValue(value=forward),
        )
    )
