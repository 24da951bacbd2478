"""The bootstrap: who this Envoy is, where its agent listens, how much it may use. Lean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2, extension_pb2, grpc_service_pb2
from envoy.config.metrics.v3 import stats_pb2
from envoy.config.overload.v3 import overload_pb2
from envoy.extensions.bootstrap.internal_listener.v3 import internal_listener_pb2
from envoy.extensions.resource_monitors.downstream_connections.v3 import (
    downstream_connections_pb2,
)
from envoy.type.matcher.v3 import string_pb2
from google.protobuf import json_format, struct_pb2

from limen.core.envoy import names
from limen.core.envoy.address import ads_source, pipe_address
from limen.core.envoy.encoded import pack
from limen.core.envoy.endpoints import load_assignment
from limen.core.envoy.http_options import http2_only
from limen.core.envoy.wrapped import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_MAX_CONNECTIONS = 20_000
DRAIN_TIME_S = 1
MAX_REGEX_SIZE = 10_000

_KEPT_STATS_PREFIXES = ("server.", "listener_manager.", "cluster_manager.", "control_plane.")
_KEPT_STATS_SUFFIXES = (
    "downstream_cx_active",
    "downstream_rq_active",
    "downstream_rq_total",
    "downstream_rq_4xx",
    "downstream_rq_5xx",
    "rbac.allowed",
    "rbac.denied",
    "rbac.shadow_denied",
    "upstream_rq_total",
    "upstream_cx_connect_fail",
    "ssl.fail_verify_error",
    "ssl.fail_verify_san",
    "update_rejected",
)


def build_bootstrap(
    *,
    node_id: str,
    cluster: str,
    ads_socket: str,
    admin_socket: str,
    token_socket: str = "",
    max_connections: int = DEFAULT_MAX_CONNECTIONS,
) -> bytes:
    """The bootstrap as JSON, for a file given to `envoy --config-path`.

    `node_id` is `NAMESPACE/NAME/INSTANCE`, `cluster` the workload; `ads_socket` and `admin_socket`
    are paths of Unix sockets, the first served by the agent, the second made by Envoy (0600);
    `token_socket`: the agent's door for exchanges, if it has one.
    Connections beyond `max_connections` are refused. It holds no secret.
    """
    bootstrap = bootstrap_pb2.Bootstrap(
        node=base_pb2.Node(id=node_id, cluster=cluster),
        static_resources=bootstrap_pb2.Bootstrap.StaticResources(
            clusters=[
                _ads_cluster(ads_socket),
                *([_door_cluster(token_socket)] if token_socket else []),
            ]
        ),
        dynamic_resources=bootstrap_pb2.Bootstrap.DynamicResources(
            ads_config=_ads(), lds_config=ads_source(), cds_config=ads_source()
        ),
        admin=bootstrap_pb2.Admin(address=pipe_address(admin_socket, 0o600)),
        layered_runtime=_runtime(),
        stats_config=stats_pb2.StatsConfig(stats_matcher=_stats()),
        deferred_stat_options=bootstrap_pb2.Bootstrap.DeferredStatOptions(
            enable_deferred_creation_stats=True
        ),
        overload_manager=_limits(max_connections),
        bootstrap_extensions=[
            extension_pb2.TypedExtensionConfig(
                name="envoy.bootstrap.internal_listener",
                typed_config=pack(internal_listener_pb2.InternalListener()),
            )
        ],
    )
    text = json_format.MessageToJson(bootstrap, preserving_proto_field_name=True, sort_keys=True)
    return text.encode()


def envoy_arguments(
    envoy: str, config_path: str, *, concurrency: int = 1, log_level: str = "warning"
) -> Sequence[str]:
    """Command line of one proxy. Connections that must go are closed within `DRAIN_TIME_S`."""
    return (
        envoy,
        *("--config-path", config_path),
        "--disable-hot-restart",
        *("--concurrency", str(concurrency)),
        *("--drain-time-s", str(DRAIN_TIME_S)),
        *("--drain-strategy", "immediate"),
        *("--file-flush-interval-msec", "1000"),
        *("--log-level", log_level),
        *("--log-format", "%Y-%m-%dT%T.%e %l %n %v"),
    )


def _ads() -> config_source_pb2.ApiConfigSource:
    agent = grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=names.ADS)
    return config_source_pb2.ApiConfigSource(
        api_type="DELTA_GRPC",
        transport_api_version="V3",
        grpc_services=[grpc_service_pb2.GrpcService(envoy_grpc=agent)],
        set_node_on_first_message_only=True,
    )


def _ads_cluster(socket: str) -> cluster_pb2.Cluster:
    return cluster_pb2.Cluster(
        name=names.ADS,
        type="STATIC",
        connect_timeout=seconds(1),
        load_assignment=load_assignment(names.ADS, [pipe_address(socket)]),
        typed_extension_protocol_options=http2_only(),
    )


def _door_cluster(socket: str) -> cluster_pb2.Cluster:
    return cluster_pb2.Cluster(
        name=names.TOKEN_DOOR,
        type="STATIC",
        connect_timeout=seconds(1),
        load_assignment=load_assignment(names.TOKEN_DOOR, [pipe_address(socket)]),
    )


def _runtime() -> bootstrap_pb2.LayeredRuntime:
    """RE2 programs up to a size that paths with templates and tokens need (default: 100)."""
    sizes = struct_pb2.Struct()
    sizes.update({"re2.max_program_size.error_level": MAX_REGEX_SIZE})
    layer = bootstrap_pb2.RuntimeLayer(name="limen", static_layer=sizes)
    return bootstrap_pb2.LayeredRuntime(layers=[layer])


def _stats() -> stats_pb2.StatsMatcher:
    patterns = [
        *(string_pb2.StringMatcher(prefix=p) for p in _KEPT_STATS_PREFIXES),
        *(string_pb2.StringMatcher(suffix=s) for s in _KEPT_STATS_SUFFIXES),
    ]
    return stats_pb2.StatsMatcher(inclusion_list=string_pb2.ListStringMatcher(patterns=patterns))


def _limits(max_connections: int) -> overload_pb2.OverloadManager:
    monitor = downstream_connections_pb2.DownstreamConnectionsConfig(
        max_active_downstream_connections=max_connections
    )
    return overload_pb2.OverloadManager(
        resource_monitors=[
            overload_pb2.ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections",
                typed_config=pack(monitor),
            )
        ]
    )
