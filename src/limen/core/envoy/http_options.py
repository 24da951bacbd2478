"""HTTP as the proxies speak it: windows, ages, limits, for both ends of a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.core.v3 import protocol_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from limen.core.envoy.encoded import pack
from limen.core.envoy.wrapped import seconds, uint32
from limen.core.model.workload import Protocol

if TYPE_CHECKING:
    from google.protobuf import any_pb2

OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

DEFAULT_CONNECTION_AGE_S = 3600
"""An open connection outlives the certificate that opened it (facts): so it does not live long."""

_STREAM_WINDOW = 1024 * 1024
_CONNECTION_WINDOW = 16 * 1024 * 1024
_STREAMS = 1024
_IDLE_BETWEEN_PROXIES_S = 300
_IDLE_TO_APPLICATION_S = 1.5
"""Below the keep-alive of common servers (gunicorn 2 s, Node and uvicorn 5 s): who closes an idle
connection must be us, or a request could meet a connection that the server just closed."""

_Wanted = http_protocol_options_pb2.HttpProtocolOptions


def http2_options(*, keepalive: bool = False) -> protocol_pb2.Http2ProtocolOptions:
    """HTTP/2 with bounded memory per connection; `keepalive` finds a peer that vanished."""
    return protocol_pb2.Http2ProtocolOptions(
        max_concurrent_streams=uint32(_STREAMS),
        initial_stream_window_size=uint32(_STREAM_WINDOW),
        initial_connection_window_size=uint32(_CONNECTION_WINDOW),
        allow_connect=True,
        connection_keepalive=protocol_pb2.KeepaliveSettings(
            interval=seconds(10), timeout=seconds(5)
        )
        if keepalive
        else None,
    )


def to_callee(max_age_s: int | None) -> dict[str, any_pb2.Any]:
    """Protocol options of a cluster that leads to another proxy.

    HTTP/2, whatever the applications speak, on connections of bounded age.
    """
    return _options(
        common=protocol_pb2.HttpProtocolOptions(
            idle_timeout=seconds(_IDLE_BETWEEN_PROXIES_S),
            max_connection_duration=seconds(max_age_s or DEFAULT_CONNECTION_AGE_S),
        ),
        explicit=_Wanted.ExplicitHttpConfig(http2_protocol_options=http2_options(keepalive=True)),
    )


def to_application(protocol: Protocol) -> dict[str, any_pb2.Any]:
    """Protocol options of the cluster that leads to the application; none for bare connections."""
    if protocol is Protocol.TLS:
        return {}
    explicit = {
        Protocol.HTTP: _Wanted.ExplicitHttpConfig(
            http_protocol_options=protocol_pb2.Http1ProtocolOptions()
        ),
        Protocol.HTTP2: _Wanted.ExplicitHttpConfig(http2_protocol_options=http2_options()),
        Protocol.GRPC: _Wanted.ExplicitHttpConfig(http2_protocol_options=http2_options()),
    }[protocol]
    return _options(
        common=protocol_pb2.HttpProtocolOptions(idle_timeout=seconds(_IDLE_TO_APPLICATION_S)),
        explicit=explicit,
    )


def http2_only() -> dict[str, any_pb2.Any]:
    """Protocol options of a cluster inside the host that speaks HTTP/2."""
    return _options(
        common=None,
        explicit=_Wanted.ExplicitHttpConfig(http2_protocol_options=http2_options(keepalive=True)),
    )


def from_clients(max_age_s: int | None = None) -> protocol_pb2.HttpProtocolOptions:
    """Limits of accepted connections.

    Headers with `_` are refused: servers that read `x_user` as `x-user` would take from a caller
    what policy and identity headers say.
    """
    return protocol_pb2.HttpProtocolOptions(
        idle_timeout=seconds(2 * _IDLE_BETWEEN_PROXIES_S),
        max_connection_duration=seconds(max_age_s) if max_age_s is not None else None,
        headers_with_underscores_action="REJECT_REQUEST",
    )


def _options(
    *,
    common: protocol_pb2.HttpProtocolOptions | None,
    explicit: http_protocol_options_pb2.HttpProtocolOptions.ExplicitHttpConfig,
) -> dict[str, any_pb2.Any]:
    options = _Wanted(common_http_protocol_options=common, explicit_http_config=explicit)
    return {OPTIONS: pack(options)}
