"""Envoy configurations to compare with: a backend, a pair by hand, a usual mesh pair.

By hand: mutual TLS 1.3 and nothing that it does not need; the callee refuses certificates of other
meshes and permits every caller of this one. No identity for the application, no log, no limits.

Plain: four traits of usual meshes and nothing else: HTTP/1.1 between the proxies, RSA-2048, Envoy's
statistics, a JSON log on both sides.

Usual: what Istio's control plane sends a sidecar for one caller, one callee and an
AuthorizationPolicy that lets the caller in, as its sources say (`pilot/pkg/networking/core`:
`listener_builder.go`, `listener_inbound.go`, `route/retry`; `pilot/pkg/xds/filters/filters.go`;
`pilot/pkg/model/telemetry_logging.go`), as far as a plain Envoy has it:

- HTTP/1.1 between the proxies, RSA-2048;
- all of Envoy's statistics, and Istio's four standard metrics of a request (requests, duration,
  sizes), of which only the first carries its labels here: Envoy's logger would work out the labels
  anew for each, Istio's own filter does not;
- what `istio.metadata_exchange` sends: two headers about the peer on each request and each answer,
  taken off again by the other side (that it decodes them is left out);
- RBAC at the callee, then the filters grpc_stats, fault and cors on both sides;
- its JSON log, all fields, on both sides (to /dev/null: writing it out costs a real one more);
- the caller retries, on another address; the callee forwards certificate details
  (APPEND_FORWARD with subject, URI and DNS name); websockets; paths are normalised; no stream ends
  for idleness.

Left out, though each request pays for it there: what the two filters above do besides,
`istio.alpn`, tracing. So the real ones cost more than this stand-in;
Istio's own figure is 0.2 CPU seconds of each proxy for 1,000 requests (istio.io, "Performance and
Scalability").
"""

from __future__ import annotations

import base64
import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

EXT = "type.googleapis.com/envoy.extensions"
HCM = f"{EXT}.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = {
    "name": "router",
    "typed_config": {"@type": f"{EXT}.filters.http.router.v3.Router"},
}
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True)
class Style:
    """How the two proxies of a pair speak and what they record."""

    http2: bool
    rsa: bool
    logged: bool
    mesh: bool


BY_HAND = Style(http2=True, rsa=False, logged=False, mesh=False)
PLAIN = Style(http2=False, rsa=True, logged=True, mesh=False)
USUAL = Style(http2=False, rsa=True, logged=True, mesh=True)

_IDENTITY = "spiffe://bench.mesh.local/ns/default/sa/bench"
_LOGGED = {
    "start_time": "START_TIME",
    "route_name": "ROUTE_NAME",
    "method": "REQ(:METHOD)",
    "path": "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)",
    "protocol": "PROTOCOL",
    "response_code": "RESPONSE_CODE",
    "response_flags": "RESPONSE_FLAGS",
    "response_code_details": "RESPONSE_CODE_DETAILS",
    "connection_termination_details": "CONNECTION_TERMINATION_DETAILS",
    "bytes_received": "BYTES_RECEIVED",
    "bytes_sent": "BYTES_SENT",
    "duration": "DURATION",
    "upstream_service_time": "RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)",
    "x_forwarded_for": "REQ(X-FORWARDED-FOR)",
    "user_agent": "REQ(USER-AGENT)",
    "request_id": "REQ(X-REQUEST-ID)",
    "authority": "REQ(:AUTHORITY)",
    "upstream_host": "UPSTREAM_HOST",
    "upstream_cluster": "UPSTREAM_CLUSTER",
    "upstream_local_address": "UPSTREAM_LOCAL_ADDRESS",
    "downstream_local_address": "DOWNSTREAM_LOCAL_ADDRESS",
    "downstream_remote_address": "DOWNSTREAM_REMOTE_ADDRESS",
    "requested_server_name": "REQUESTED_SERVER_NAME",
    "upstream_transport_failure_reason": "UPSTREAM_TRANSPORT_FAILURE_REASON",
}


def write_certificates(directory: Path, *, rsa_keys: bool) -> None:
    """A root and one leaf with a SPIFFE ID, as PEM files `ca.pem`, `leaf.pem`, `leaf.key`."""

    def new_key() -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
        if rsa_keys:
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return ec.generate_private_key(ec.SECP256R1())

    now = dt.datetime.now(dt.UTC)
    root_key, leaf_key = new_key(), new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench root")])

    def builder(subject: x509.Name, key: Any) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=1))
            .not_valid_after(now + dt.timedelta(hours=2))
        )

    root = builder(name, root_key).add_extension(x509.BasicConstraints(True, 0), critical=True)
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(_IDENTITY)])
    leaf = builder(x509.Name([]), leaf_key).add_extension(san, critical=True)
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(root.sign(root_key, hashes.SHA256()).public_bytes(pem))
    (directory / "leaf.pem").write_bytes(leaf.sign(root_key, hashes.SHA256()).public_bytes(pem))
    (directory / "leaf.key").write_bytes(
        leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _config(style: Style | None, listener: dict[str, Any], clusters: list[Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }
    if style is None or not style.logged:
        config["stats_config"] = {"stats_matcher": {"reject_all": True}}
    return config


def _listener(port: int, route: dict[str, Any], style: Style | None, tls: Any) -> dict[str, Any]:
    hcm: dict[str, Any] = {
        "@type": HCM,
        "stat_prefix": "http",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}],
        },
        "http_filters": [ROUTER],
    }
    if style is not None and style.logged:
        hcm["access_log"] = [_json_log()]
    if style is not None and style.mesh:
        hcm |= _usual_manager(callee=tls is not None)
        hcm["route_config"] |= _peer_metadata(callee=tls is not None)
    chain: dict[str, Any] = {"filters": [{"name": "hcm", "typed_config": hcm}]}
    if tls is not None:
        chain["transport_socket"] = tls
    return {"name": "l", "address": _address(port), "filter_chains": [chain]}


def _json_log() -> dict[str, Any]:
    return {
        "name": "file",
        "typed_config": {
            "@type": f"{EXT}.access_loggers.file.v3.FileAccessLog",
            "path": "/dev/null",
            "log_format": {"json_format": {key: f"%{value}%" for key, value in _LOGGED.items()}},
        },
    }


def _usual_manager(*, callee: bool) -> dict[str, Any]:
    """What a mesh adds to a connection manager; see the module."""
    filters = [*([_permission()] if callee else []), *map(_filter, _USUAL_FILTERS), ROUTER]
    certificate = {
        "forward_client_cert_details": "APPEND_FORWARD",
        "set_current_client_cert_details": {"subject": True, "uri": True, "dns": True},
    }
    return {
        "access_log": [_json_log(), _standard_metrics("destination" if callee else "source")],
        "http_filters": filters,
        "normalize_path": True,
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        **(certificate if callee else {}),
    }


_USUAL_FILTERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("grpc_stats.v3.FilterConfig", {"emit_filter_state": True, "stats_for_all_methods": False}),
    ("fault.v3.HTTPFault", {}),
    ("cors.v3.Cors", {}),
)


def _filter(kind: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    name, settings = kind
    return {
        "name": f"envoy.filters.http.{name.split('.')[0]}",
        "typed_config": {"@type": f"{EXT}.filters.http.{name}", **settings},
    }


def _permission() -> dict[str, Any]:
    """One caller is permitted."""
    caller = {"authenticated": {"principal_name": {"exact": _IDENTITY}}}
    policy = {"permissions": [{"any": True}], "principals": [caller]}
    rules = {"action": "ALLOW", "policies": {"ns[default]-policy[callers]-rule[0]": policy}}
    return _filter(("rbac.v3.RBAC", {"rules": rules}))


def _standard_metrics(reporter: str) -> dict[str, Any]:
    """Istio's standard metrics, by the logger that Envoy has for such."""
    sides = {
        f"{side}_{label}": text
        for side in ("source", "destination")
        for label, text in _PEER_LABELS.items()
    }
    labels = {"reporter": reporter, **sides, **_REQUEST_LABELS}
    tags = [{"name": name, "value_format": text} for name, text in labels.items()]
    histograms = [
        {"stat": {"name": name}, "unit": unit, "value_format": text}
        for name, unit, text in (
            ("request_duration_milliseconds", "Milliseconds", "%DURATION%"),
            ("request_bytes", "Bytes", "%BYTES_RECEIVED%"),
            ("response_bytes", "Bytes", "%BYTES_SENT%"),
        )
    ]
    counter = {"stat": {"name": "requests_total", "tags": tags}, "value_fixed": 1}
    return {
        "name": "envoy.access_loggers.stats",
        "typed_config": {
            "@type": f"{EXT}.access_loggers.stats.v3.Config",
            "stat_prefix": "istio",
            "counters": [counter],
            "histograms": histograms,
        },
    }


_PEER_LABELS = {
    "workload": "bench-v1",
    "canonical_service": "bench",
    "canonical_revision": "v1",
    "workload_namespace": "default",
    "principal": _IDENTITY,
    "app": "bench",
    "version": "v1",
    "cluster": "Kubernetes",
}
_REQUEST_LABELS = {
    "destination_service": "%REQ(:AUTHORITY)%",
    "destination_service_name": "bench",
    "destination_service_namespace": "default",
    "request_protocol": "http",
    "response_code": "%RESPONSE_CODE%",
    "grpc_response_status": "%GRPC_STATUS%",
    "response_flags": "%RESPONSE_FLAGS%",
    "connection_security_policy": "mutual_tls",
}


def _peer_metadata(*, callee: bool) -> dict[str, Any]:
    """The headers by which two proxies tell each other what they stand before."""
    about = json.dumps({**_PEER_LABELS, "name": "bench-v1-5d4f8b7c9-x2x7k", "instance": "10.0.0.7"})
    values = {
        "x-envoy-peer-metadata": base64.b64encode(about.encode()).decode(),
        "x-envoy-peer-metadata-id": "sidecar~10.0.0.7~bench-v1-5d4f8b7c9-x2x7k.default~default",
    }
    headers = [{"header": {"key": key, "value": value}} for key, value in values.items()]
    sent, taken_off = ("response", "request") if callee else ("request", "response")
    return {f"{sent}_headers_to_add": headers, f"{taken_off}_headers_to_remove": [*values]}


def _retries() -> dict[str, Any]:
    """How a mesh's caller tries again."""
    name = "envoy.retry_host_predicates.previous_hosts"
    kind = f"{EXT}.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    return {
        "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        "num_retries": 2,
        "retriable_status_codes": [503],
        "retry_host_predicate": [{"name": name, "typed_config": {"@type": kind}}],
        "host_selection_retry_max_attempts": 5,
    }


def _tls(directory: Path, style: Style, *, server: bool) -> dict[str, Any]:
    kind = "DownstreamTlsContext" if server else "UpstreamTlsContext"
    context: dict[str, Any] = {
        "@type": f"{EXT}.transport_sockets.tls.v3.{kind}",
        "common_tls_context": {
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(directory / "leaf.pem")},
                    "private_key": {"filename": str(directory / "leaf.key")},
                }
            ],
            "validation_context": {
                "trusted_ca": {"filename": str(directory / "ca.pem")},
                "match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": {"prefix": "spiffe://bench.mesh.local/"}}
                ],
            },
            "alpn_protocols": ["h2"] if style.http2 else ["http/1.1"],
        },
    }
    if server:
        context["require_client_certificate"] = True
    return {"name": "tls", "typed_config": context}


def _cluster(port: int, tls: Any, *, http2: bool) -> dict[str, Any]:
    cluster: dict[str, Any] = {
        "name": "next",
        "type": "STATIC",
        "connect_timeout": "2s",
        "circuit_breakers": {
            "thresholds": [
                {"max_connections": 9999, "max_requests": 99999, "max_pending_requests": 9999}
            ]
        },
        "load_assignment": {
            "cluster_name": "next",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
        },
    }
    if tls is not None:
        cluster["transport_socket"] = tls
    if http2:
        cluster["typed_extension_protocol_options"] = {
            HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{HTTP_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return cluster


def backend(port: int) -> dict[str, Any]:
    """An Envoy that answers 200 with a short body by itself: the lightest application there is."""
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "x" * 100}},
    }
    return _config(None, _listener(port, route, None, None), [])


def caller_side(port: int, peer: int, directory: Path, style: Style) -> dict[str, Any]:
    """The caller's proxy: plaintext in, mTLS to `peer`."""
    retries = {} if not style.mesh else {"retry_policy": _retries()}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "0s", **retries}}
    tls = _tls(directory, style, server=False)
    return _config(
        style, _listener(port, route, style, None), [_cluster(peer, tls, http2=style.http2)]
    )


def callee_side(port: int, application: int, directory: Path, style: Style) -> dict[str, Any]:
    """The callee's proxy: mTLS in, plaintext HTTP/1.1 to the application."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "0s"}}
    tls = _tls(directory, style, server=True)
    return _config(
        style, _listener(port, route, style, tls), [_cluster(application, None, http2=False)]
    )
