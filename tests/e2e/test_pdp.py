"""The decision point as a process, asked over its socket and by a real Envoy."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.core.xacml.builders import policy

from limen.core.policy.xacml.names import ACTION, STRING, V1

if TYPE_CHECKING:
    from collections.abc import Iterator

BIN = Path(sys.executable).parent
REGO = """package envoy.authz
import input.attributes.request.http
default allow := {"allowed": false, "http_status": 403, "body": "not for you"}
allow := {
    "allowed": true,
    "headers": {"x-user": "ann"},
    "request_headers_to_remove": ["x-gone"],
} if {
    http.method == "GET"
    input.parsed_path[0] == "open"
}
allow := {"allowed": true} if {
    input.parsed_path[0] == "slow"
    some i in numbers.range(1, 5000)
    some j in numbers.range(1, 5000)
    i + j == 0
}
"""


@contextmanager
def serving(
    files: Path, listen: str, suffix: str, text: str, *more: str
) -> Iterator[tuple[Any, str]]:
    """A decision point and its address."""
    file = files / f"policy.{suffix}"
    file.write_text(text)
    command = [str(BIN / "limen"), "pdp", "serve", "--policy", str(file), "--listen", listen]
    process = subprocess.Popen([*command, *more], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("ready "), line
        yield process, line.split()[1]
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def asking(path: str) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://pdp", timeout=30)


def test_process_answers_on_loopback_and_ends_when_told(tmp_path: Path):
    with serving(tmp_path, "127.0.0.1:0", "rego", REGO) as (process, address):
        found = httpx.get(f"{address}/.well-known/authzen-configuration").json()
        assert found["policy_decision_point"] == address
        assert httpx.get(f"{address}/envoy/open").headers["x-user"] == "ann"
    assert process.returncode == 0


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "192.0.2.1:80", "[::]:0", "host:1", "127.0.0.1:x"])
def test_address_that_others_could_reach_is_refused(tmp_path: Path, listen: str):
    (tmp_path / "p.rego").write_text(REGO)
    command = [BIN / "limen", "pdp", "serve", "--policy", tmp_path / "p.rego", "--listen", listen]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "callers are not authenticated" in done.stderr


@pytest.mark.parametrize(
    "message",
    [
        b"nonsense\r\n\r\n",
        b"GET /envoy/open HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"POST /envoy/open HTTP/1.1\r\ncontent-length: 2000000\r\n\r\n" + b"a" * 1_100_000,
        b"GET /envoy/open HTTP/1.1\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_malformed_request_is_refused_and_others_are_answered(tmp_path: Path, message: bytes):
    place = str(tmp_path / "s")
    with serving(tmp_path, f"unix:{place}", "rego", REGO):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(20)
            caller.connect(place)
            try:
                caller.sendall(message)
                answer = caller.recv(100)
            except (BrokenPipeError, ConnectionResetError):
                answer = b"HTTP/1.1 400 "
            assert answer.startswith(b"HTTP/1.1 400 ")
        with asking(place) as client:
            assert client.get("/envoy/open").status_code == 200


def test_socket_is_for_its_owner_and_gone_afterwards(tmp_path: Path):
    place = tmp_path / "s"
    with serving(tmp_path, f"unix:{place}", "rego", REGO):
        assert place.stat().st_mode & 0o077 == 0
    assert not place.exists()


def test_decision_without_end_ends_the_process_and_permits_nothing(tmp_path: Path):
    place = str(tmp_path / "s")
    with serving(tmp_path, f"unix:{place}", "rego", REGO) as (process, _):
        with asking(place) as client, pytest.raises(httpx.TransportError):
            client.get("/envoy/slow")
        assert process.wait(30) != 0


HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def envoy_config(pdp: str, *, grpc: bool) -> dict[str, Any]:
    """A listener that asks the decision point, and a route that answers with what it received."""
    authz = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "http_service": {
            "server_uri": {"uri": "http://pdp", "cluster": "pdp", "timeout": "10s"},
            "path_prefix": "/envoy",
            "authorization_response": {
                "allowed_upstream_headers": {"patterns": [{"prefix": "x-"}]},
            },
        },
    }
    if grpc:
        del authz["http_service"]
        authz["grpc_service"] = {"envoy_grpc": {"cluster_name": "pdp"}, "timeout": "10s"}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "forward_client_cert_details": "SANITIZE_SET",
        "http_filters": [
            {"name": "authz", "typed_config": authz},
            {
                "name": "router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            },
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "direct_response": {"status": 200},
                            "response_headers_to_add": [
                                {"header": {"key": "seen-user", "value": "%REQ(x-user)%"}},
                                {"header": {"key": "seen-gone", "value": "%REQ(x-gone)%"}},
                            ],
                        }
                    ],
                }
            ]
        },
    }
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                    "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "pdp",
                    "typed_extension_protocol_options": HTTP2 if grpc else {},
                    "load_assignment": {
                        "cluster_name": "pdp",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": pdp}}}}]}
                        ],
                    },
                }
            ],
        },
    }


@contextmanager
def proxy(files: Path, pdp: str, *, grpc: bool = False) -> Iterator[int]:
    """A real Envoy in front of nothing; the port that it listens on."""
    config = files / "envoy.json"
    admin = files / "admin"
    config.write_text(json.dumps(envoy_config(pdp, grpc=grpc)))
    process = subprocess.Popen(
        [
            BIN / "envoy", "-c", config, "--concurrency", "1", "--disable-hot-restart",
            "-l", "error", "--admin-address-path", admin,
        ],
    )  # fmt: skip
    try:
        yield listening_port(process, admin)
    finally:
        process.terminate()
        process.wait(20)


def listening_port(process: subprocess.Popen[bytes], admin: Path) -> int:
    """Ask Envoy's admin interface, as soon as it has one."""
    while process.poll() is None:
        try:
            found = httpx.get(f"http://{admin.read_text()}/listeners?format=json", timeout=20)
            statuses = found.json()["listener_statuses"]
            return int(statuses[0]["local_address"]["socket_address"]["port_value"])
        except (OSError, httpx.HTTPError, KeyError, ValueError, IndexError):
            continue
    raise AssertionError("Envoy ended")


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, body


def test_envoy_lets_through_what_rego_permits_and_refuses_the_rest(tmp_path: Path):
    place = str(tmp_path / "pdp.sock")
    with proxy(tmp_path, place) as port:
        assert get(port, "/open")[0] == 403, "no decision point, no access"
        with serving(tmp_path, f"unix:{place}", "rego", REGO) as (process, _):
            forged = {"x-user": "forged", "x-gone": "forged"}
            status, headers, _ = get(port, "/open/a?b=c", **forged)
            assert (status, headers["seen-user"], headers["seen-gone"]) == (200, "ann", None)
            assert get(port, "/closed")[::2] == (403, "not for you")
            assert get(port, "/open", "POST")[0] == 403
            assert get(port, "/slow")[0] == 403
            assert process.wait(30) != 0
        assert get(port, "/open")[0] == 403, "it ended: no access"


def test_envoy_asks_over_grpc_as_it_asked_the_plugin_of_opa(tmp_path: Path):
    text = """package envoy.authz
default allow := {"allowed": false, "http_status": 418, "headers": {"x-why": "no"}, "body": "no"}
allow := {
    "allowed": true,
    "headers": {"x-user": input.attributes.request.http.headers["x-name"]},
    "request_headers_to_remove": ["x-gone"],
    "response_headers_to_add": {"x-seen": "yes"},
} if {
    input.attributes.request.http.method == "GET"
    input.attributes.destination.address.socketAddress.portValue > 0
    input.parsed_query.a == ["b"]
}
"""
    place = f"unix:{tmp_path / 'grpc.sock'}"
    with proxy(tmp_path, place.removeprefix("unix:"), grpc=True) as port:
        assert get(port, "/?a=b")[0] == 403, "no decision point, no access"
        with serving(tmp_path, f"unix:{tmp_path / 's'}", "rego", text, "--grpc", place):
            while get(port, "/?a=b", **{"x-name": "ann"})[0] == 403:
                continue  # Envoy waits before it connects again
            asked = {"x-name": "ann", "x-gone": "forged", "x-user": "forged"}
            status, headers, _ = get(port, "/?a=b", **asked)
            assert (status, headers["seen-user"], headers["seen-gone"]) == (200, "ann", None)
            assert headers["x-seen"] == "yes"
            status, headers, body = get(port, "/?a=c")
            assert (status, headers["x-why"], body) == (418, "no", "no")


def test_envoy_enforces_an_xacml_policy(tmp_path: Path):
    method = (
        f'<Condition><Apply FunctionId="{V1}function:string-is-in"><AttributeValue '
        f'DataType="{STRING}">GET</AttributeValue><AttributeDesignator Category="{ACTION}" '
        f'AttributeId="{V1}action:action-id" DataType="{STRING}" MustBePresent="true"/>'
        "</Apply></Condition>"
    )
    text = policy("p", f'<Rule RuleId="r" Effect="Permit">{method}</Rule>')
    place = str(tmp_path / "pdp.sock")
    with (
        serving(tmp_path, f"unix:{place}", "xml", text),
        proxy(tmp_path, place) as port,
    ):
        assert get(port, "/")[0] == 200
        status, _, body = get(port, "/", "DELETE")
        assert (status, body) == (403, "NotApplicable\n")
