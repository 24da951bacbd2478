"""Routes: of the way out (one virtual host per callee), of a guarded port, of health probes."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.config.route.v3 import route_pb2 as config_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from google.protobuf import struct_pb2

from limen.core.envoy import names
from limen.core.envoy.access_log import DECIDING_RULE
from limen.core.envoy.encoded import encode, pack
from limen.core.envoy.local_reply import REFUSED_BY_ROUTE, header_of_reply, plain_text
from limen.core.envoy.short_way import plain_route
from limen.core.envoy.wrapped import seconds, uint32
from limen.core.model.names import MESH_DOMAIN
from limen.core.model.user_context import RESERVED_HEADERS

if TYPE_CHECKING:
    from limen.core.envoy.encoded import Encoded
    from limen.core.model.names import SpiffeId
    from limen.core.plan.node import Edge, ProbePlan

SENT_AGAIN = "connect-failure,refused-stream,reset-before-request"
"""The callee never saw the request: any method may be sent again."""
_SAFE_METHODS = "GET|HEAD|OPTIONS"
"""May be sent again even if the callee saw the request (RFC 9110, section 9.2.2)."""

ENVOYS_OWN = ("x-envoy-internal", "x-envoy-external-address")
"""What Envoy adds about the address of a caller: of no use behind a proxy on the same host."""
_NOT_FORWARDED = ("proxy-authorization", "proxy-connection", *ENVOYS_OWN, *RESERVED_HEADERS)


@lru_cache(maxsize=1024)
def outbound_routes(edges: tuple[Edge, ...], caller: SpiffeId, *, hop: bool) -> Encoded:
    """RouteConfiguration `outbound`. A host name that two callees claim goes to the first.

    `hop`: each route says for whom a token on it is.
    """
    hosts: list[route_pb2.VirtualHost] = []
    taken = {f"*.{MESH_DOMAIN}", "*"}
    for edge in edges:
        domains = [h for h in dict.fromkeys(edge.hostnames) if h not in taken]
        taken.update(domains)
        if domains:
            hosts.append(_callee_host(edge, domains, hop=hop))
    config = config_pb2.RouteConfiguration(
        name=names.OUTBOUND,
        virtual_hosts=[*hosts, _unknown_host(caller), _outside_host()],
        ignore_port_in_host_matching=True,
        request_headers_to_remove=_NOT_FORWARDED,
    )
    return encode(names.OUTBOUND, config)


def callee_routes(edge: Edge, *, hop: bool) -> config_pb2.RouteConfiguration:
    """Routes of a plain local port: everything to one callee."""
    host = route_pb2.VirtualHost(
        name=str(edge.callee), domains=["*"], routes=_callee_routes(edge, hop=hop)
    )
    return config_pb2.RouteConfiguration(
        name=str(edge.callee),
        virtual_hosts=[host],
        request_headers_to_remove=_NOT_FORWARDED,
    )


def application_routes(
    port: int, rule_header: str = "", *, user: bool = False
) -> config_pb2.RouteConfiguration:
    """Routes of a guarded port: everything to the application, without any timeout.

    `user`: the filters before have written, or removed, what says who the user is.
    `rule_header`: the response says in it which rule allowed the request.
    """
    action = route_pb2.RouteAction(
        cluster=names.application_cluster(port),
        timeout=seconds(0),
        retry_policy=_same_address(SENT_AGAIN, attempts=1),
    )
    rest = route_pb2.Route(match=route_pb2.RouteMatch(prefix="/"), route=action)
    name = names.inbound_listener(port)
    host = route_pb2.VirtualHost(name=name, domains=["*"], routes=[plain_route(port, action), rest])
    return config_pb2.RouteConfiguration(
        name=name,
        virtual_hosts=[host],
        request_headers_to_remove=ENVOYS_OWN if user else (*ENVOYS_OWN, *RESERVED_HEADERS),
        response_headers_to_add=[header_of_reply(rule_header, DECIDING_RULE)]
        if rule_header
        else [],
    )


def connection_routes(port: int) -> config_pb2.RouteConfiguration:
    """Routes of a port whose application ends TLS itself: CONNECT ends here, nothing else does."""
    name = names.inbound_listener(port)
    connect = _connect_to(names.application_cluster(port))
    host = route_pb2.VirtualHost(name=name, domains=["*"], routes=[connect])
    return config_pb2.RouteConfiguration(name=name, virtual_hosts=[host])


def _connect_to(cluster: str) -> route_pb2.Route:
    """What comes out of a CONNECT goes to `cluster` as it is."""
    action = route_pb2.RouteAction
    return route_pb2.Route(
        match=route_pb2.RouteMatch(connect_matcher=route_pb2.RouteMatch.ConnectMatcher()),
        route=action(
            cluster=cluster,
            timeout=seconds(0),
            upgrade_configs=[
                action.UpgradeConfig(
                    upgrade_type="CONNECT", connect_config=action.UpgradeConfig.ConnectConfig()
                )
            ],
        ),
    )


def probe_routes(plan: ProbePlan) -> config_pb2.RouteConfiguration:
    """GET and HEAD on exactly the declared paths; 404 for anything else."""
    routes = [
        route_pb2.Route(
            match=route_pb2.RouteMatch(path=probe.path, headers=[_method("GET|HEAD")]),
            route=route_pb2.RouteAction(
                cluster=names.application_cluster(probe.inbound_port),
                prefix_rewrite=probe.inbound_path,
                timeout=seconds(15),
            ),
        )
        for probe in plan.probes
    ]
    host = route_pb2.VirtualHost(
        name=names.PROBES,
        domains=["*"],
        routes=[*routes, _refusal(route_pb2.RouteMatch(prefix="/"), 404, "No such probe.\n")],
    )
    return config_pb2.RouteConfiguration(name=names.PROBES, virtual_hosts=[host])


def _callee_host(edge: Edge, domains: list[str], *, hop: bool) -> route_pb2.VirtualHost:
    connect = _connect_to(names.TUNNEL)
    return route_pb2.VirtualHost(
        name=str(edge.callee), domains=domains, routes=[connect, *_callee_routes(edge, hop=hop)]
    )


def _callee_routes(edge: Edge, *, hop: bool) -> list[route_pb2.Route]:
    safe = route_pb2.RouteMatch(prefix="/", headers=[_method(_SAFE_METHODS)])
    audience = _audience(edge) if hop else None
    return [
        _callee_route(edge, safe, f"{SENT_AGAIN},reset", audience),
        _callee_route(edge, route_pb2.RouteMatch(prefix="/"), SENT_AGAIN, audience),
    ]


def _callee_route(
    edge: Edge, match: route_pb2.RouteMatch, retry_on: str, audience: base_pb2.Metadata | None
) -> route_pb2.Route:
    return route_pb2.Route(
        match=match,
        metadata=audience,
        route=route_pb2.RouteAction(
            cluster=names.callee_cluster(edge.callee),
            timeout=seconds(0),
            retry_policy=retry_policy(retry_on, attempts=4),
        ),
    )


def _audience(edge: Edge) -> base_pb2.Metadata:
    """For whom a token on this way is: the identities that may answer. Read by `user_context`."""
    audience = struct_pb2.Struct()
    audience.update({"audience": " ".join(map(str, edge.principals))})
    return base_pb2.Metadata(filter_metadata={names.HOP: audience})


def retry_policy(retry_on: str, attempts: int) -> route_pb2.RetryPolicy:
    """Again, on another address if there is one, soon."""
    other = route_pb2.RetryPolicy.RetryHostPredicate(
        name="envoy.retry_host_predicates.previous_hosts",
        typed_config=pack(previous_hosts_pb2.PreviousHostsPredicate()),
    )
    policy = _same_address(retry_on, attempts)
    policy.retry_host_predicate.append(other)
    policy.host_selection_retry_max_attempts = 5
    return policy


def _same_address(retry_on: str, attempts: int) -> route_pb2.RetryPolicy:
    """Again, soon: an application has one address only."""
    return route_pb2.RetryPolicy(
        retry_on=retry_on,
        num_retries=uint32(attempts),
        retry_back_off=route_pb2.RetryPolicy.RetryBackOff(
            base_interval=seconds(0.025), max_interval=seconds(0.25)
        ),
    )


def _unknown_host(caller: SpiffeId) -> route_pb2.VirtualHost:
    text = (
        "No permission to call %REQ(:AUTHORITY)%, or no such service. "
        f"Why: limen explain --from {caller} --to NAMESPACE/NAME\n"
    )
    return _refusing_host("unknown", f"*.{MESH_DOMAIN}", text)


def _outside_host() -> route_pb2.VirtualHost:
    text = (
        "%REQ(:AUTHORITY)% is outside the mesh, and this proxy leads only into it. "
        f"Services are called SERVICE.{MESH_DOMAIN} or SERVICE.NAMESPACE.{MESH_DOMAIN}.\n"
    )
    return _refusing_host("outside", "*", text)


def _refusing_host(name: str, domain: str, text: str) -> route_pb2.VirtualHost:
    connect = route_pb2.RouteMatch(connect_matcher=route_pb2.RouteMatch.ConnectMatcher())
    return route_pb2.VirtualHost(
        name=name,
        domains=[domain],
        routes=[
            _refusal(connect, REFUSED_BY_ROUTE, text),
            _refusal(route_pb2.RouteMatch(prefix="/"), REFUSED_BY_ROUTE, text),
        ],
    )


def _refusal(match: route_pb2.RouteMatch, status: int, text: str) -> route_pb2.Route:
    return route_pb2.Route(
        match=match,
        direct_response=route_pb2.DirectResponseAction(status=status, body_format=plain_text(text)),
    )


def _method(pattern: str) -> route_pb2.HeaderMatcher:
    return route_pb2.HeaderMatcher(
        name=":method",
        string_match=string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=pattern)),
    )
