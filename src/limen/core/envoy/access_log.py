"""Access logs: one JSON line on standard output for each request that was refused or failed.

Only those, unless the mesh wants all: a line for every request costs a tenth of the proxy's CPU
(facts). Envoy escapes the values, so that a caller cannot forge lines. A line holds what a decision
was made of, so that it can be made again (`core/compiler/past.py`): never a token, a cookie or a
header that no rule looks at.
"""

from __future__ import annotations

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

if TYPE_CHECKING:
    from collections.abc import Mapping

RBAC = "envoy.filters.http.rbac"
DECIDING_RULE = f"%DYNAMIC_METADATA({RBAC}:enforced_effective_policy_id)%"
"""Absent or `[none]`: no rule decided."""
GUARDED = 407
"""What the guard of a way out answers to whom it does not know."""
PLAINTEXT = "plaintext"
"""In a line about a caller without mTLS; nothing stands there for the others."""

_COMMON = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "authority": "%REQ(:AUTHORITY)%",
    "path": "%PATH(NQ)%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "duration_ms": "%DURATION%",
}


_DECIDED = {
    "peer": "%DOWNSTREAM_PEER_URI_SAN%",
    "peer_address": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
    "rule": DECIDING_RULE,
    "shadow_rule": f"%DYNAMIC_METADATA({RBAC}:shadow_effective_policy_id)%",
    "audit_rule": f"%DYNAMIC_METADATA({RBAC}:{AUDIT_PREFIX}shadow_effective_policy_id)%",
    "traceparent": "%REQ(TRACEPARENT)%",
    "port": "%DOWNSTREAM_LOCAL_PORT%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
}
_NEVER_LOGGED = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
HEADER_PREFIX = "header."
"""Of the fields that hold a header which a rule looks at; empty ones are left out."""
LOOKED_AT = "looked_at"
"""The names of those headers, so that one that was not sent can be told from one not looked at."""


def inbound_log(
    callee: str,
    *,
    tokens: bool,
    plaintext: bool,
    providers: tuple[str, ...] = (),
    headers: tuple[str, ...] = (),
    all_: bool = False,
) -> accesslog_pb2.AccessLog:
    """Refused, reported and failed requests at a guarded port; `all_`: every request.

    `rule` decided, `shadow_rule` is on trial, `audit_rule` wants to be reported. `token`: why a
    token was not accepted. `transport` is there for callers that spoke plaintext. `headers`: those
    that rules look at. `asked PROVIDER`: the rule because of which it was asked.
    """
    line = {"edge": "inbound", "callee": callee, **_DECIDED, **_COMMON}
    if plaintext:
        line["transport"] = PLAINTEXT
    return _guarded_log(line, tokens=tokens, providers=providers, headers=headers, all_=all_)


def edge_log(
    gateway: str,
    listener: str,
    *,
    tokens: bool,
    providers: tuple[str, ...] = (),
    headers: tuple[str, ...] = (),
    all_: bool = False,
) -> accesslog_pb2.AccessLog:
    """Refused, reported and failed requests at a gateway; `client` as trusted proxies say it."""
    line = {
        "edge": "gateway",
        "callee": gateway,
        "listener": listener,
        "server_name": "%REQUESTED_SERVER_NAME%",
        "route": "%ROUTE_NAME%",
        "upstream": "%UPSTREAM_CLUSTER%",
        "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
        **_DECIDED,
        **_COMMON,
    }
    return _guarded_log(line, tokens=tokens, providers=providers, headers=headers, all_=all_)


def tunnel_log(gateway: str, listener: str) -> accesslog_pb2.AccessLog:
    """Connections that a gateway could not pass on."""
    line = {
        "edge": "gateway-connection",
        "callee": gateway,
        "listener": listener,
        "server_name": "%REQUESTED_SERVER_NAME%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "upstream": "%UPSTREAM_CLUSTER%",
        "time": "%START_TIME%",
        "flags": "%RESPONSE_FLAGS%",
        "duration_ms": "%DURATION%",
    }
    return _log(line, _failed())


def _guarded_log(
    line: dict[str, str],
    *,
    tokens: bool,
    providers: tuple[str, ...],
    headers: tuple[str, ...],
    all_: bool,
) -> accesslog_pb2.AccessLog:
    kept = [name for name in headers if name not in _NEVER_LOGGED]
    line.update({f"{HEADER_PREFIX}{name}": f"%REQ({name.upper()})%" for name in kept})
    line[LOOKED_AT] = ",".join(kept).replace("%", "%%")
    logged = [_refused("enforced_engine_result"), _refused("shadow_engine_result")]
    logged += [_refused(f"{AUDIT_PREFIX}shadow_engine_result"), _failed()]
    for name in providers:
        rule = f"{ask_prefix(name)}shadow_effective_policy_id"
        line[f"asked {name}"] = f"%DYNAMIC_METADATA({RBAC}:{rule})%"
    if tokens:
        failure = f"{names.JWT_METADATA}:{names.JWT_FAILURE}:message"
        line["token"] = f"%DYNAMIC_METADATA({failure})%"
        line["tokens"] = "verified"
        line["claims"] = f"%DYNAMIC_METADATA({names.JWT_METADATA}:{names.JWT_PAYLOAD})%"
        logged.append(_unauthenticated())
    return _log(line, None if all_ else _any(*logged))


def plaintext_log(callee: str) -> accesslog_pb2.AccessLog:
    """One line for each plaintext connection, when it ends: who still sends plaintext."""
    line = {
        "edge": "inbound-connection",
        "callee": callee,
        "transport": PLAINTEXT,
        "peer_address": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
        "time": "%START_TIME%",
        "duration_ms": "%DURATION%",
    }
    return _log(line, expression_filter("!connection.mtls"))


def outbound_log(caller: str) -> accesslog_pb2.AccessLog:
    """Requests that found no way out."""
    line = {
        "edge": "outbound",
        "caller": caller,
        "upstream": "%UPSTREAM_CLUSTER%",
        "upstream_address": "%UPSTREAM_HOST%",
        "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
        **_COMMON,
    }
    nowhere = expression_filter("response.code_details == 'direct_response'")
    return _log(line, _any(status_filter(GUARDED), nowhere, _failed()))


def _refused(key: str) -> accesslog_pb2.AccessLogFilter:
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
    log = stream_pb2.StdoutAccessLog(
        log_format=substitution_format_string_pb2.SubstitutionFormatString(
            json_format=struct_pb2.Struct(fields=fields),
            omit_empty_values=True,
        )
    )
    return accesslog_pb2.AccessLog(
        name="envoy.access_loggers.stdout", filter=condition, typed_config=pack(log)
    )
