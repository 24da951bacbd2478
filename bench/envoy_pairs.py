"""Envoy configurations to compare with: a backend, a pair by hand, a usual mesh pair."""

from __future__ import annotations

import datetime as dt
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
    tls: str
    json_log: bool
    lean_stats: bool


BY_HAND = Style(http2=True, rsa=False, tls="TLSv1_3", json_log=False, lean_stats=True)
USUAL = Style(http2=False, rsa=True, tls="TLSv1_3", json_log=True, lean_stats=False)


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
    san = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier("spiffe://bench.mesh.local/ns/default/sa/bench")]
    )
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
    if style is None or style.lean_stats:
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
    if style is not None and style.json_log:
        fields = [
            "START_TIME",
            "REQ(:METHOD)",
            "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)",
            "PROTOCOL",
            "RESPONSE_CODE",
            "RESPONSE_FLAGS",
            "BYTES_RECEIVED",
            "BYTES_SENT",
            "DURATION",
            "REQ(X-FORWARDED-FOR)",
            "REQ(USER-AGENT)",
            "REQ(X-REQUEST-ID)",
            "REQ(:AUTHORITY)",
            "UPSTREAM_HOST",
            "UPSTREAM_CLUSTER",
            "DOWNSTREAM_REMOTE_ADDRESS",
            "REQUESTED_SERVER_NAME",
            "ROUTE_NAME",
        ]
        hcm["access_log"] = [
            {
                "name": "file",
                "typed_config": {
                    "@type": f"{EXT}.access_loggers.file.v3.FileAccessLog",
                    "path": "/dev/null",
                    "log_format": {"json_format": {f.lower(): f"%{f}%" for f in fields}},
                },
            }
        ]
    chain: dict[str, Any] = {"filters": [{"name": "hcm", "typed_config": hcm}]}
    if tls is not None:
        chain["transport_socket"] = tls
    return {"name": "l", "address": _address(port), "filter_chains": [chain]}


def _tls(directory: Path, style: Style, *, server: bool) -> dict[str, Any]:
    kind = "DownstreamTlsContext" if server else "UpstreamTlsContext"
    context: dict[str, Any] = {
        "@type": f"{EXT}.transport_sockets.tls.v3.{kind}",
        "common_tls_context": {
            "tls_params": {
                "tls_minimum_protocol_version": style.tls,
                "tls_maximum_protocol_version": style.tls,
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
    route = {"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "0s"}}
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
