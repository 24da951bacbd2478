"""Access logs: one JSON line on standard output for each request that was refused or failed.

Only those, unless the mesh wants all: a line for every request costs a tenth of the proxy's CPU
(facts). Envoy escapes the values, so that a caller cannot forge lines. A line holds what a decision
was made of, so that it can be made again (`core/compiler/past.py`): never a token, a cookie or a
header that no rule looks at.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2, substitution_format_string_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from envoy.type.matcher.v3 import metadata_pb2, string_pb2, value_pb2
from google.protobuf import struct_pb2, wrappers_pb2

from limen.core.envoy import names
from limen.core.envoy.encoded import pack
from limen.core.envoy.rbac import AUDIT_PREFIX, ask_prefix
from limen.core.plan import request_log as log
from limen.core.plan.node import DEFAULT_TOKEN_PLACES, EPOCH_HEADER, token_places

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.model.names import SpiffeId, WorkloadName
    from limen.core.model.provider import ExtensionProvider
    from limen.core.plan.node import JwtPlan

RBAC = "envoy.filters.http.rbac"
DECIDING_RULE = f"%DYNAMIC_METADATA({RBAC}:enforced_effective_policy_id)%"
"""Absent or `[none]`: no rule decided."""
GUARDED = 407
"""What the guard of a way out answers to whom it does not know."""

_COMMON = {
    log.TIME: "%START_TIME%",
    log.METHOD: "%REQ(:METHOD)%",
    log.AUTHORITY: "%REQ(:AUTHORITY)%",
    log.PATH: "%PATH(NQ)%",
    log.STATUS: "%RESPONSE_CODE%",
    log.DETAILS: "%RESPONSE_CODE_DETAILS%",
    log.FLAGS: "%RESPONSE_FLAGS%",
    log.REQUEST_ID: "%REQ(X-REQUEST-ID)%",
    log.DURATION: "%DURATION%",
}
_DECIDED = {
    log.PEER: "%DOWNSTREAM_PEER_URI_SAN%",
    log.PEER_ADDRESS: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
    log.RULE: DECIDING_RULE,
    log.SHADOW_RULE: f"%DYNAMIC_METADATA({RBAC}:shadow_effective_policy_id)%",
    log.AUDIT_RULE: f"%DYNAMIC_METADATA({RBAC}:{AUDIT_PREFIX}shadow_effective_policy_id)%",
    log.TRACE_PARENT: "%REQ(TRACEPARENT)%",
    log.PORT: "%DOWNSTREAM_LOCAL_PORT%",
    log.CLIENT: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
}
_NEVER_LOGGED = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$&*+.^_`|~-]+", re.ASCII)
"""What can stand in a command of a log's format: RFC 9110, section 5.6.2, without % and quotes."""


def inbound_logs(
    callee: WorkloadName,
    *,
    tokens: tuple[JwtPlan, ...],
    plaintext: bool,
    counted: bool,
    providers: tuple[ExtensionProvider, ...],
    headers: tuple[str, ...],
    all_: bool,
) -> list[accesslog_pb2.AccessLog]:
    """Refused, reported and failed requests at a guarded port; `all_`: every request.

    `headers`: those that rules look at. `counted`: each request has a line of its own when it
    begins, however long it lasts (the manager has to write at that time too).
    """
    line = {log.EDGE: log.INBOUND, **_callee(callee), **_DECIDED, **_COMMON}
    if plaintext:
        line[log.TRANSPORT] = log.PLAINTEXT
    condition = _guard_line(line, tokens=tokens, providers=providers, headers=headers)
    ended = _type_filter(ended=True) if counted else None
    found = [_log(line, _all(ended, None if all_ else condition))]
    return (
        [*found, _log(_plaintext_request(callee), _type_filter(ended=False))] if counted else found
    )


def edge_log(
    gateway: WorkloadName,
    listener: str,
    *,
    tokens: tuple[JwtPlan, ...],
    providers: tuple[ExtensionProvider, ...] = (),
    headers: tuple[str, ...] = (),
    all_: bool = False,
) -> accesslog_pb2.AccessLog:
    """Refused, reported and failed requests at a gateway; `client` as trusted proxies say it."""
    line = {
        log.EDGE: log.GATEWAY,
        **_callee(gateway),
        log.LISTENER: listener,
        log.SERVER_NAME: "%REQUESTED_SERVER_NAME%",
        log.ROUTE: "%ROUTE_NAME%",
        log.UPSTREAM: "%UPSTREAM_CLUSTER%",
        log.FAILURE: "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
        **_DECIDED,
        **_COMMON,
    }
    condition = _guard_line(line, tokens=tokens, providers=providers, headers=headers)
    return _log(line, None if all_ else condition)


def tunnel_log(gateway: WorkloadName, listener: str) -> accesslog_pb2.AccessLog:
    """Connections that a gateway could not pass on."""
    line = {
        log.EDGE: log.GATEWAY_CONNECTION,
        **_callee(gateway),
        log.LISTENER: listener,
        log.SERVER_NAME: "%REQUESTED_SERVER_NAME%",
        log.CLIENT: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        log.UPSTREAM: "%UPSTREAM_CLUSTER%",
        log.TIME: "%START_TIME%",
        log.FLAGS: "%RESPONSE_FLAGS%",
        log.DURATION: "%DURATION%",
    }
    return _log(line, _failed())


def _callee(callee: WorkloadName) -> dict[str, str]:
    return {log.MESH: callee.mesh, log.CALLEE: str(callee)}


def _guard_line(
    line: dict[str, str],
    *,
    tokens: tuple[JwtPlan, ...],
    providers: tuple[ExtensionProvider, ...],
    headers: tuple[str, ...],
) -> accesslog_pb2.AccessLogFilter:
    """Add to `line` what a decision was made of; which requests are logged."""
    kept = [name for name in headers if name not in _NEVER_LOGGED and _HEADER_NAME.fullmatch(name)]
    for name in kept:
        line[log.first_value(name)] = f"%REQ({name.upper()})%"
        line[log.all_values(name)] = f"%CEL(request.headers['{name}'])%"
    line[log.LOOKED_AT] = ",".join(kept)
    logged = [refused_filter("enforced_engine_result"), refused_filter("shadow_engine_result")]
    logged += [refused_filter(f"{AUDIT_PREFIX}shadow_engine_result"), _failed()]
    for provider in providers:
        rule = f"{ask_prefix(provider.name)}shadow_effective_policy_id"
        line[log.asked(provider.name)] = f"%DYNAMIC_METADATA({RBAC}:{rule})%"
        if provider.policy is not None:
            line[log.POLICY] = f"%RESP({EPOCH_HEADER.upper()})%"
    if tokens:
        failure = f"{names.JWT_METADATA}:{names.JWT_FAILURE}:message"
        line[log.TOKEN] = f"%DYNAMIC_METADATA({failure})%"
        line[log.TOKENS] = log.VERIFIED
        line[log.CLAIMS] = f"%DYNAMIC_METADATA({names.JWT_METADATA}:{names.JWT_PAYLOAD})%"
        logged.append(_unauthenticated())
        if (places := token_places(tokens)) != DEFAULT_TOKEN_PLACES:
            line[log.TOKEN_PLACES] = json.dumps(sorted(places)).replace("%", "%%")
    return _any(*logged)


def _plaintext_request(callee: WorkloadName) -> dict[str, str]:
    return {
        log.EDGE: log.PLAINTEXT_REQUEST,
        **_callee(callee),
        log.PEER_ADDRESS: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
        log.PORT: "%DOWNSTREAM_LOCAL_PORT%",
        log.USER_AGENT: "%REQ(USER-AGENT):200%",
        log.TIME: "%START_TIME%",
        log.REQUEST_ID: "%REQ(X-REQUEST-ID)%",
    }


def plaintext_log(callee: WorkloadName) -> accesslog_pb2.AccessLog:
    """One line for each plaintext connection, when it ends: who still sends plaintext."""
    line = {
        log.EDGE: log.CONNECTION,
        **_callee(callee),
        log.TRANSPORT: log.PLAINTEXT,
        log.PEER_ADDRESS: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
        log.TIME: "%START_TIME%",
        log.DURATION: "%DURATION%",
    }
    return _log(line, expression_filter("!connection.mtls"))


def outbound_log(caller: SpiffeId, mesh: str) -> accesslog_pb2.AccessLog:
    """Requests that found no way out."""
    line = {
        log.EDGE: log.OUTBOUND,
        log.MESH: mesh,
        log.CALLER: str(caller),
        log.UPSTREAM: "%UPSTREAM_CLUSTER%",
        log.UPSTREAM_ADDRESS: "%UPSTREAM_HOST%",
        log.FAILURE: "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
        log.TRACE_PARENT: "%REQ(TRACEPARENT)%",
        **_COMMON,
    }
    return _log(line, _any(status_filter(GUARDED), _nowhere(), _failed()))


def _nowhere() -> accesslog_pb2.AccessLogFilter:
    """A refusing route answered. An expression costs 4,500 instructions: asked of a 403 only."""
    by_route = expression_filter("response.code_details == 'direct_response'")
    return accesslog_pb2.AccessLogFilter(
        and_filter=accesslog_pb2.AndFilter(filters=[status_filter(403), by_route])
    )


def _type_filter(*, ended: bool) -> accesslog_pb2.AccessLogFilter:
    """Lines written when a request begins, or all others."""
    begun = accesslog_pb2.LogTypeFilter(types=["DownstreamStart"], exclude=ended)
    return accesslog_pb2.AccessLogFilter(log_type_filter=begun)


def _all(*filters: accesslog_pb2.AccessLogFilter | None) -> accesslog_pb2.AccessLogFilter | None:
    """Of filters that are there; None if none is."""
    there = [each for each in filters if each is not None]
    if len(there) < 2:
        return there[0] if there else None
    return accesslog_pb2.AccessLogFilter(and_filter=accesslog_pb2.AndFilter(filters=there))


def refused_filter(key: str) -> accesslog_pb2.AccessLogFilter:
    """The verdict that an RBAC filter wrote under `key` is a refusal; no verdict is none."""
    verdict = metadata_pb2.MetadataMatcher(
        filter=RBAC,
        path=[metadata_pb2.MetadataMatcher.PathSegment(key=key)],
        value=value_pb2.ValueMatcher(string_match=string_pb2.StringMatcher(exact="denied")),
    )
    return accesslog_pb2.AccessLogFilter(
        metadata_filter=accesslog_pb2.MetadataFilter(
            matcher=verdict, match_if_key_not_found=wrappers_pb2.BoolValue(value=False)
        )
    )


def _unauthenticated() -> accesslog_pb2.AccessLogFilter:
    """`jwt_authn` answered with 401 (an application's own 401 has no such failure)."""
    found = metadata_pb2.MetadataMatcher(
        filter=names.JWT_METADATA,
        path=[
            metadata_pb2.MetadataMatcher.PathSegment(key=key)
            for key in (names.JWT_FAILURE, "message")
        ],
        value=value_pb2.ValueMatcher(present_match=True),
    )
    failure = accesslog_pb2.AccessLogFilter(
        metadata_filter=accesslog_pb2.MetadataFilter(
            matcher=found, match_if_key_not_found=wrappers_pb2.BoolValue(value=False)
        )
    )
    return accesslog_pb2.AccessLogFilter(
        and_filter=accesslog_pb2.AndFilter(filters=[status_filter(401), failure])
    )


def expression_filter(text: str) -> accesslog_pb2.AccessLogFilter:
    """A filter by an expression of CEL."""
    return accesslog_pb2.AccessLogFilter(
        extension_filter=accesslog_pb2.ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel",
            typed_config=pack(cel_pb2.ExpressionFilter(expression=text)),
        )
    )


def status_filter(code: int) -> accesslog_pb2.AccessLogFilter:
    """Responses with this status."""
    value = base_pb2.RuntimeUInt32(default_value=code, runtime_key="limen.unused")
    comparison = accesslog_pb2.ComparisonFilter(op="EQ", value=value)
    return accesslog_pb2.AccessLogFilter(
        status_code_filter=accesslog_pb2.StatusCodeFilter(comparison=comparison)
    )


def _failed() -> accesslog_pb2.AccessLogFilter:
    """The proxy itself ended the request (any response flag)."""
    return accesslog_pb2.AccessLogFilter(response_flag_filter=accesslog_pb2.ResponseFlagFilter())


def _any(*filters: accesslog_pb2.AccessLogFilter) -> accesslog_pb2.AccessLogFilter:
    return accesslog_pb2.AccessLogFilter(or_filter=accesslog_pb2.OrFilter(filters=filters))


def _log(
    line: Mapping[str, str], condition: accesslog_pb2.AccessLogFilter | None
) -> accesslog_pb2.AccessLog:
    fields = {key: struct_pb2.Value(string_value=text) for key, text in line.items()}
    settings = stream_pb2.StdoutAccessLog(
        log_format=substitution_format_string_pb2.SubstitutionFormatString(
            json_format=struct_pb2.Struct(fields=fields),
            omit_empty_values=True,
        )
    )
    return accesslog_pb2.AccessLog(
        name="envoy.access_loggers.stdout", filter=condition, typed_config=pack(settings)
    )
