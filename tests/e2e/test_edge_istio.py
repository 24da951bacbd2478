"""A gateway of Istio's documents, on real traffic through real Envoys."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
import tempfile
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from tests.core.tokens.signing import ec_key, jwk, sign
from tests.e2e.edge_harness import INSTANCE, Company, EdgeMesh, client_context
from tests.e2e.envoy_harness import Connection

from limen.core.compiler.explain import Explainer
from limen.core.compiler.explanation import ExplainQuery
from limen.core.envoy import names
from limen.core.model.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.e2e.envoy_harness import Response

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALLOWED = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: services, namespace: default}
spec:
  rules: [{from: [{source: {principals: [cluster.local/ns/istio-system/sa/ingress]}}]}]
"""
HOST = "myapp.mycompany.de"


def gateway(servers: str, name: str = "gate") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: istio-system}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{servers}]
"""


def server(edge: EdgeMesh, hosts: str, tls: str = "", port: int = 443, name: str = "s") -> str:
    protocol, shown = ("HTTPS", f", tls: {tls}") if port != 80 else ("HTTP", f", tls: {tls}")
    extra = shown if tls else ""
    return (
        f"{{port: {{number: {edge.port(port)}, name: {name}, protocol: {protocol}}}, "
        f"hosts: {hosts}{extra}}}"
    )


def routes(http: str, hosts: str = f"[{HOST}]", name: str = "vs", gates: str = "gate") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: {hosts}
  gateways: [istio-system/{gates}]
  http: {http}
"""


TO_ITEMS = "route: [{destination: {host: items}}]"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge() -> AsyncIterator[EdgeMesh]:
    async with EdgeMesh() as started:
        await started.serve("items")
        await started.serve("items", "2", version="v2")
        await started.serve("users")
        yield started


def simple(edge: EdgeMesh, http: str, extra: str = "") -> str:
    tls = "{mode: SIMPLE, credentialName: cert}"
    return (
        gateway(server(edge, f"[{HOST}]", tls))
        + routes(http)
        + ALLOWED
        + extra
        + edge.company.secret("cert", HOST)
    )


def received(answer: Response) -> dict[str, str]:
    """The headers that the service got."""
    assert answer.status == 200, answer
    return dict(answer.json["headers"])


async def test_a_request_passes_the_gateway_and_arrives_by_its_identity(edge: EdgeMesh) -> None:
    await edge.start(simple(edge, f"[{{match: [{{uri: {{prefix: /info}}}}], {TO_ITEMS}}}]"))
    answer = await edge.get("/info/1?x=2", host=HOST)
    assert answer.json["target"] == "/info/1?x=2"
    caller = received(answer)["x-forwarded-client-cert"]
    assert "URI=spiffe://default.mesh.local/ns/istio-system/sa/ingress" in caller
    assert (await edge.get("/other", host=HOST)).status == 404
    assert (await edge.get("/info", host="else.example", sni=HOST)).status == 404


async def test_what_outside_says_about_identity_and_envoy_is_gone(edge: EdgeMesh) -> None:
    await edge.start(simple(edge, f"[{{{TO_ITEMS}}}]"))
    forged = {
        "x-forwarded-client-cert": "URI=spiffe://default.mesh.local/ns/default/sa/admin",
        "x-envoy-original-path": "/admin",
        "x-envoy-attempt-count": "9",
        "X-Limen-Rule": "forged",
        "x-original-url": "/admin",
        "x-rewrite-url": "/admin",
        "x-forwarded-host": "evil.example",
        "x-forwarded-for": "10.0.0.1",
        "x-forwarded-proto": "http",
        "forwarded": "for=10.0.0.1",
        "x-real-ip": "10.0.0.1",
        "x-request-id": "chosen-by-the-client",
        "proxy-authorization": "Basic x",
        "txn-token": "of.the.mesh",
    }
    headers = received(await edge.get("/", host=HOST, headers=forged))
    assert "admin" not in str(headers)
    assert "10.0.0.1" not in str(headers)
    assert "evil" not in str(headers)
    assert headers["x-forwarded-proto"] == "https"
    assert headers["x-request-id"] != "chosen-by-the-client"
    gone = {"x-envoy-attempt-count", "x-limen-rule", "forwarded", "x-real-ip", "txn-token"}
    assert not gone & headers.keys()
    assert not any(name.startswith("x-envoy") for name in headers)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/info/../data", 200),  # one spelling for route and policy: /data
        ("/info//x", 200),
        ("/info%2f..%2fdata", 400),
        ("/info%5cdata", 400),
        ("/info;x=1", 400),
        ("/info/..;/data", 200),
        ("/info%3bx", 400),
        ("/info%00", 400),
        ("/info?a=1;b=%2f", 200),
    ],
)
async def test_odd_paths_are_brought_into_one_spelling_or_refused(
    edge: EdgeMesh, target: str, status: int
) -> None:
    """CVE-2019-9901, CVE-2021-31920, CVE-2026-73511: `..`, `%2F`, `;` at a gateway."""
    if target == "/info/../data":
        await edge.start(simple(edge, f"[{{{TO_ITEMS}}}]"))
    answer = await edge.get(target, host=HOST)
    assert answer.status == status
    if status == 200:
        assert answer.json["target"].startswith(("/data", "/info"))
        assert ".." not in answer.json["target"]


async def test_large_and_ambiguous_headers_are_refused(edge: EdgeMesh) -> None:
    await edge.start(simple(edge, f"[{{{TO_ITEMS}}}]"))
    assert (await edge.get("/", host=HOST, headers={"x-big": "a" * 70_000})).status == 431
    many = [(f"x-{number}", "1") for number in range(150)]
    assert (await edge.get("/", host=HOST, headers=many)).status == 431
    assert (await edge.get("/", host=HOST, headers={"x_user": "1"})).status == 400


async def test_hosts_are_compared_without_case_port_and_final_dot(edge: EdgeMesh) -> None:
    """CVE-2021-39155: host case; host with port."""
    for host in ("MyApp.MyCompany.DE", f"{HOST}:8443", f"{HOST}."):
        assert (await edge.get("/", host=host, sni=HOST)).status == 200, host


MATCHES = """[
  {match: [{uri: {exact: /exact}, method: {exact: POST}}], ROUTE-A},
  {match: [{uri: {regex: "/re/[0-9]+"}}], ROUTE-B},
  {match: [{headers: {x-team: {exact: red}}, queryParams: {v: {exact: "2"}}}], ROUTE-C},
  {match: [{uri: {prefix: /Fold}, ignoreUriCase: true}], ROUTE-D},
  {match: [{uri: {prefix: /without}, withoutHeaders: {x-no: {}}}], ROUTE-E},
  {match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}], ROUTE-F}
]"""


async def test_matches_decide_in_the_order_written(edge: EdgeMesh) -> None:
    text = MATCHES
    for letter in "ABCDEF":
        text = text.replace(
            f"ROUTE-{letter}", f"headers: {{request: {{set: {{x-route: {letter}%%}}}}}}, {TO_ITEMS}"
        )
    await edge.start(simple(edge, text))
    cases: list[tuple[str, str, dict[str, str], str]] = [
        ("POST", "/exact", {}, "A"),
        ("GET", "/exact", {}, ""),
        ("POST", "/exact/", {}, ""),
        ("GET", "/re/12?x=1", {}, "B"),
        ("GET", "/re/12x", {}, ""),
        ("GET", "/a?v=2", {"x-team": "red"}, "C"),
        ("GET", "/a?v=2", {"x-team": "blue"}, "F"),
        ("GET", "/fOLD/x", {}, "D"),
        ("GET", "/without", {}, "E"),
        ("GET", "/without", {"x-no": "1"}, ""),
        ("GET", "/bc", {}, "F"),
    ]
    for method, target, headers, letter in cases:
        answer = await edge.get(target, host=HOST, method=method, headers=headers)
        if letter:
            assert received(answer)["x-route"] == f"{letter}%", (method, target)
        else:
            assert answer.status == 404, (method, target)


async def test_rewrites_redirects_and_headers(edge: EdgeMesh) -> None:
    await edge.start(
        simple(
            edge,
            f"""[
  {{match: [{{uri: {{prefix: /old}}}}], rewrite: {{uri: /new}}, {TO_ITEMS},
    headers: {{request: {{add: {{x-a: "1"}}, remove: [x-b]}}, response: {{set: {{x-r: "%%5"}}}}}}}},
  {{match: [{{uri: {{prefix: /cut}}}}], rewrite: {{uri: "/"}}, {TO_ITEMS}}},
  {{match: [{{uri: {{prefix: /host}}}}], rewrite: {{authority: other.example}}, {TO_ITEMS}}},
  {{match: [{{uri: {{prefix: /go}}}}],
    redirect: {{uri: /there, authority: b.example, redirectCode: 308}}}}
]""",
        )
    )
    answer = await edge.get("/old/x?q=1", host=HOST, headers={"x-b": "1"})
    assert answer.json["target"] == "/new/x?q=1"
    assert answer.headers["x-r"] == "%5"
    assert received(answer)["x-a"] == "1"
    assert "x-b" not in received(answer)
    assert (await edge.get("/cut", host=HOST)).json["target"] == "/"
    assert received(await edge.get("/host", host=HOST))["host"] == "other.example"
    gone = await edge.get("/go?x=1", host=HOST)
    assert gone.status == 308
    assert gone.headers["location"] == "https://b.example/there?x=1"


async def test_weights_and_subsets_send_where_they_say(edge: EdgeMesh) -> None:
    rule = """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: items, namespace: default}
spec:
  host: items
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: none, labels: {version: v9}}
"""
    http = """[
  {match: [{uri: {prefix: /two}}], route: [{destination: {host: items, subset: v2}}]},
  {match: [{uri: {prefix: /none}}], route: [{destination: {host: items, subset: none}}]},
  {match: [{uri: {prefix: /mixed}}], route: [
    {destination: {host: items, subset: v1}, weight: 50, headers: {request: {set: {x-s: one}}}},
    {destination: {host: users}, weight: 50, headers: {request: {set: {x-s: two}}}}]}
]"""
    await edge.start(simple(edge, http, rule))
    second = edge.services["items-2"].application
    assert second is not None
    before = len(second.requests)
    for _ in range(4):
        assert (await edge.get("/two", host=HOST)).status == 200
    assert len(second.requests) == before + 4
    assert (await edge.get("/none", host=HOST)).status == 503
    seen = {received(await edge.get("/mixed", host=HOST))["x-s"] for _ in range(40)}
    assert seen == {"one", "two"}
    assert len(second.requests) == before + 4


async def test_a_service_that_does_not_let_the_gateway_in_is_not_reached(edge: EdgeMesh) -> None:
    denied = simple(edge, f"[{{{TO_ITEMS}}}]").replace("istio-system/sa/ingress", "x/sa/y")
    await edge.start(denied)
    application = edge.services["items-1"].application
    assert application is not None
    before = len(application.requests)
    assert (await edge.get("/", host=HOST)).status == 403
    assert len(application.requests) == before


async def test_preflights_pass_before_tokens_and_policies(edge: EdgeMesh) -> None:
    http = f"""[{{corsPolicy: {{allowOrigins: [{{exact: https://app.example}}],
      allowMethods: [GET, POST], allowHeaders: [x-a], maxAge: 1h}}, {TO_ITEMS}}}]"""
    closed = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  rules: [{to: [{operation: {methods: [GET]}}], when: [{key: 'request.headers[x-a]', values: [b]}]}]
"""
    await edge.start(simple(edge, http, closed))
    ask = {"origin": "https://app.example", "access-control-request-method": "POST"}
    answer = await edge.get("/", host=HOST, method="OPTIONS", headers=ask)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert answer.headers["access-control-max-age"] == "3600"
    other = {**ask, "origin": "https://evil.example"}
    assert (await edge.get("/", host=HOST, method="OPTIONS", headers=other)).status == 403
    origin = {"origin": "https://app.example"}
    refused = await edge.get("/", host=HOST, headers=origin)
    assert refused.status == 403
    assert "request ID" in refused.body.decode()
    allowed = await edge.get("/", host=HOST, headers={**origin, "x-a": "b"})
    assert allowed.status == 200
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"


async def test_plaintext_is_redirected_to_https(edge: EdgeMesh) -> None:
    tls = "{mode: SIMPLE, credentialName: cert}"
    servers = f"{server(edge, f'[{HOST}]', tls)}, "
    servers += server(edge, f"[{HOST}, '*.wild.example']", "{httpsRedirect: true}", 80, "plain")
    await edge.start(
        gateway(servers) + routes(f"[{{{TO_ITEMS}}}]") + ALLOWED + edge.company.secret("cert", HOST)
    )
    for host in (HOST, "a.wild.example"):
        answer = await edge.get("/x?y=1", host=host, port=80)
        assert answer.status == 301
        assert answer.headers["location"] == f"https://{host}:{edge.port(443)}/x?y=1"


async def test_rotating_a_certificate_drops_no_connection(edge: EdgeMesh) -> None:
    text = simple(edge, f"[{{{TO_ITEMS}}}]")
    await edge.start(text)
    connection = await edge.open(443, HOST)
    assert (await connection.request("GET", "/1", host=HOST)).status == 200
    gateway_proxy = edge.gateway
    assert gateway_proxy is not None
    listeners = gateway_proxy.resources()[names.LISTENER]
    old = await served(edge)
    await edge.start(simple(edge, f"[{{{TO_ITEMS}}}]"))
    assert await served(edge) != old
    assert gateway_proxy.resources()[names.LISTENER] == listeners
    assert (await connection.request("GET", "/2", host=HOST)).status == 200


async def served(edge: EdgeMesh) -> bytes:
    """The certificate that a new connection gets."""
    connection = await edge.open(443, HOST)
    found: Any = connection.writer.get_extra_info("ssl_object")
    await connection.close()
    certificate: bytes = found.getpeercert(binary_form=True)
    return certificate


async def test_no_private_key_is_in_any_repr(edge: EdgeMesh) -> None:
    graph = edge.graph(simple(edge, f"[{{{TO_ITEMS}}}]"))
    plan = graph.plan(INSTANCE)
    assert plan.edge is not None
    assert plan.edge.secrets
    assert "PRIVATE" not in repr(plan)
    assert "PRIVATE" not in str(plan.edge.secrets)


# --- TLS


async def handshake(
    edge: EdgeMesh, sni: str, certificate: tuple[bytes, bytes] | None = None, port: int = 443
) -> int:
    """Status of a request to `sni`; 0 if there is no connection."""
    try:
        return (await edge.get("/", host=sni, port=port, certificate=certificate)).status
    except (OSError, EOFError, ssl.SSLError):
        return 0


async def test_client_certificates_are_asked_for_as_the_mode_says(edge: EdgeMesh) -> None:
    modes = {
        "simple.example": "{mode: SIMPLE, credentialName: cert}",
        "mutual.example": "{mode: MUTUAL, credentialName: cert}",
        "maybe.example": "{mode: OPTIONAL_MUTUAL, credentialName: cert}",
        "named.example": "{mode: MUTUAL, credentialName: cert, subjectAltNames: [good.example]}",
        "mesh.example": "{mode: ISTIO_MUTUAL}",
        "new.example": "{mode: SIMPLE, credentialName: cert, minProtocolVersion: TLSV1_3}",
    }
    servers = ", ".join(
        server(edge, f"[{host}]", tls, name=f"s{number}")
        for number, (host, tls) in enumerate(modes.items())
    )
    await edge.start(
        gateway(servers)
        + routes(f"[{{{TO_ITEMS}}}]", f"[{', '.join(modes)}]")
        + ALLOWED
        + edge.company.secret("cert", "simple.example", "mutual.example", ca=True)
    )
    good, stranger = edge.company.issue("good.example"), Company().issue("good.example")
    other = edge.company.issue("other.example")
    forged = edge.company.issue(uri="spiffe://default.mesh.local/ns/default/sa/admin")
    foreign = edge.company.issue(uri="spiffe://elsewhere.example/ns/a/sa/b")
    workload = edge.mesh.authority.issue(edge.mesh.identity("shop"))
    mesh = (workload.chain_pem, workload.key_pem)
    wanted: dict[str, dict[str, int]] = {
        "simple.example": {"none": 200, "good": 200, "stranger": 200},
        "mutual.example": {
            "none": 0,
            "good": 200,
            "stranger": 0,
            "mesh": 0,
            "forged": 403,
            "foreign": 403,
        },
        "maybe.example": {
            "none": 200,
            "good": 200,
            "stranger": 0,
            "forged": 403,
            "foreign": 403,
        },
        "named.example": {"none": 0, "good": 200, "other": 0, "stranger": 0},
        "mesh.example": {"none": 0, "good": 0, "mesh": 200, "forged": 0},
        "new.example": {"none": 200},
        "unknown.example": {"none": 0},
    }
    shown = {"none": None, "good": good, "stranger": stranger, "other": other,
             "mesh": mesh, "forged": forged, "foreign": foreign}  # fmt: skip
    for host, cases in wanted.items():
        for who, status in cases.items():
            assert await handshake(edge, host, shown[who]) == status, (host, who)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((OSError, EOFError)):
        await Connection.open(edge.port(443), old, "new.example")
    connection = await Connection.open(edge.port(443), old, "simple.example")
    assert (await connection.request("GET", "/", host="simple.example")).status == 200


async def test_a_host_of_another_listener_is_misdirected(edge: EdgeMesh) -> None:
    """Nobody gets round client certificates by naming the host of a MUTUAL listener."""
    wild = server(edge, "['*.wild.example']", "{mode: SIMPLE, credentialName: cert}")
    exact = server(edge, "[a.wild.example]", "{mode: MUTUAL, credentialName: cert}", name="m")
    await edge.start(
        gateway(f"{wild}, {exact}")
        + routes(f"[{{{TO_ITEMS}}}]", "['*.wild.example']")
        + ALLOWED
        + edge.company.secret("cert", "*.wild.example", ca=True)
    )
    assert (await edge.get("/", host="b.wild.example")).status == 200
    assert (await edge.get("/", host="a.wild.example", sni="b.wild.example")).status == 421
    assert (await edge.get("/", host="A.wild.example:1", sni="b.wild.example")).status == 421
    assert await handshake(edge, "a.wild.example") == 0


async def test_a_listener_without_its_authorities_does_not_open(edge: EdgeMesh) -> None:
    """MUTUAL never falls back to SIMPLE."""
    await edge.start(
        gateway(server(edge, f"[{HOST}]", "{mode: MUTUAL, credentialName: cert}"))
        + routes(f"[{{{TO_ITEMS}}}]")
        + ALLOWED
        + edge.company.secret("cert", HOST)
    )
    assert await handshake(edge, HOST) == 0


async def test_policies_of_the_gateway_see_the_client_behind_trusted_proxies(
    edge: EdgeMesh,
) -> None:
    only = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  rules: [{from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]}]
"""
    trusted = """
---
apiVersion: limen.dev/v1
kind: MeshSettings
metadata: {name: default}
spec: {gateways: {numTrustedProxies: 1}}
"""
    says = {"x-forwarded-for": "198.51.100.1, 203.0.113.9"}
    await edge.start(simple(edge, f"[{{{TO_ITEMS}}}]", only))
    assert (await edge.get("/", host=HOST, headers=says)).status == 403
    await edge.start(simple(edge, f"[{{{TO_ITEMS}}}]", only + trusted))
    assert (await edge.get("/", host=HOST, headers=says)).status == 200
    liar = {"x-forwarded-for": "203.0.113.9, 198.51.100.1"}
    assert (await edge.get("/", host=HOST, headers=liar)).status == 403


async def test_a_proxy_header_is_wanted_where_the_mesh_says_so(edge: EdgeMesh) -> None:
    settings = """
---
apiVersion: limen.dev/v1
kind: MeshSettings
metadata: {name: default}
spec: {gateways: {proxyProtocol: true}}
"""
    text = gateway(server(edge, f"[{HOST}]", port=80)) + routes(f"[{{{TO_ITEMS}}}]") + ALLOWED
    await edge.start(text + settings)
    connection = await Connection.open(edge.port(80))
    connection.writer.write(b"PROXY TCP4 203.0.113.9 192.0.2.1 4000 80\r\n")
    answer = await connection.request("GET", "/", host=HOST)
    assert received(answer)["x-forwarded-for"].startswith("203.0.113.9")
    bare = await Connection.open(edge.port(80))
    with pytest.raises((OSError, EOFError)):
        await bare.request("GET", "/", host=HOST)
    event = await edge.start(text)
    assert event is not None


async def test_a_refused_request_is_logged_with_listener_route_and_client(edge: EdgeMesh) -> None:
    await edge.start(
        simple(
            edge,
            f"[{{{TO_ITEMS}}}]",
            ALLOWED.replace(
                "name: services, namespace: default", "name: x, namespace: istio-system"
            )
            .replace("principals: [cluster", "notPrincipals: [cluster")
            .replace("spec:", "spec:\n  action: DENY"),
        )
    )
    assert (await edge.get("/logged", host=HOST)).status == 403
    proxy = edge.gateway
    assert proxy is not None
    line = (await proxy.envoy.wait_logged("/logged"))[-1]
    assert line["edge"] == "gateway"
    assert line["callee"] == "istio-system/ingress"
    assert line["server_name"] == HOST
    assert line["client"] == "127.0.0.1"
    assert "AuthorizationPolicy/istio-system/x" in line["rule"].replace(" ", "/")


async def test_passthrough_leads_unopened_to_an_application_that_ends_tls(edge: EdgeMesh) -> None:
    """Through mutual TLS of the mesh, by the gateway's identity, and not for others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(edge.company.issue("bank.example")))
        file.flush()
        context.load_cert_chain(file.name)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbank")
        await writer.drain()
        writer.close()

    application = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with application:
        await edge.serve_tls("bank", application.sockets[0].getsockname()[1])
        port = edge.port(443)
        tunnel = f"""
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: bank, namespace: default}}
spec:
  hosts: [bank.example]
  gateways: [istio-system/gate]
  tls:
  - match: [{{port: {port}, sniHosts: [bank.example]}}]
    route: [{{destination: {{host: bank}}}}]
"""
        servers = (
            server(edge, "['*.example']", "{mode: PASSTHROUGH}", name="through")
            + ", "
            + server(edge, f"[{HOST}]", "{mode: SIMPLE, credentialName: cert}")
        )
        text = gateway(servers) + routes(f"[{{{TO_ITEMS}}}]") + tunnel
        text += edge.company.secret("cert", HOST)
        await edge.start(text + ALLOWED)
        through = await edge.get("/", host="bank.example")
        assert (through.status, through.body) == (200, b"bank")
        assert (await edge.get("/", host=HOST)).status == 200
        assert await handshake(edge, "other.example") == 0
        for closed in (
            ALLOWED.replace("sa/ingress", "sa/else"),
            ALLOWED.replace("rules: [{", "rules: [{to: [{operation: {notPaths: [/x]}}], "),
            ALLOWED
            + ALLOWED.replace("services,", "deny,").replace(
                "rules: [{from", "action: DENY\n  rules: [{to: [{operation: {paths: [/x]}}], from"
            ),
        ):
            await edge.start(text + closed)
            assert await handshake(edge, "bank.example") == 0, closed
    del edge.services["bank-1"]


TOKENS = f"""
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: idp, namespace: istio-system}}
spec:
  selector: {{matchLabels: {{istio: ingressgateway}}}}
  jwtRules:
  - issuer: https://id.example
    jwks: '{json.dumps({"keys": [jwk(ec_key(), kid="1", alg="ES256")]})}'
    forwardOriginalToken: true
    outputClaimToHeaders: [{{header: x-user, claim: sub}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: edge, namespace: istio-system}}
spec:
  selector: {{matchLabels: {{istio: ingressgateway}}}}
  rules:
  - {{to: [{{operation: {{paths: [/open]}}}}]}}
  - {{from: [{{source: {{requestPrincipals: ["https://id.example/*"]}}}}]}}
"""


async def test_tokens_are_verified_at_the_gateway_as_at_a_service(edge: EdgeMesh) -> None:
    """A token header from outside is never taken for a verified one."""
    await edge.start(simple(edge, f"[{{{TO_ITEMS}}}]", TOKENS))
    claims = {"iss": "https://id.example", "sub": "ann", "exp": int(time.time()) + 600}
    good = sign({"alg": "ES256", "kid": "1"}, claims, ec_key(), "ES256")
    forged = {"x-user": "root"}
    assert (await edge.get("/closed", host=HOST)).status == 403
    bad = {"authorization": f"Bearer {good[:-6]}AAAAAA"}
    refused = await edge.get("/open", host=HOST, headers=bad)
    assert refused.status == 401
    assert "www-authenticate" in refused.headers
    headers = {"authorization": f"Bearer {good}", **forged}
    assert received(await edge.get("/closed", host=HOST, headers=headers))["x-user"] == "ann"
    assert "x-user" not in received(await edge.get("/open", host=HOST, headers=forged))


AGREED = """[
  {match: [{uri: {exact: /a}}, {uri: {prefix: /b/}, method: {exact: POST}}], ROUTE},
  {match: [{uri: {regex: "/c/[a-z]+"}, queryParams: {q: {prefix: x}}}], ROUTE},
  {match: [{headers: {x-h: {regex: "a|b,c"}}}], redirect: {uri: /r}},
  {match: [{uri: {prefix: /D}, ignoreUriCase: true, withoutHeaders: {x-no: {exact: "1"}}}], ROUTE},
  {match: [{authority: {prefix: api.}, uri: {prefix: /e}}], ROUTE}
]"""


async def test_explain_says_what_the_proxy_answers(edge: EdgeMesh) -> None:
    marked = f"headers: {{response: {{set: {{x-route: NUMBER}}}}}}, {TO_ITEMS}"
    http = AGREED
    for number in range(5):
        http = http.replace("ROUTE", marked.replace("NUMBER", f'"{number}"'), 1)
    tls = "{mode: SIMPLE, credentialName: cert}"
    servers = server(edge, "['*.agreed.example']", tls) + ", "
    servers += server(edge, "[m.agreed.example]", "{mode: MUTUAL, credentialName: cert}", name="m")
    text = gateway(servers) + routes(http, "['*.agreed.example']") + ALLOWED
    graph_text = text + edge.company.secret("cert", "*.agreed.example", ca=True)
    graph = await edge.start(graph_text)
    explainer = Explainer(Snapshot(dict(graph.resources)))
    hosts = ["api.agreed.example", "x.agreed.example", "M.agreed.example", "else.example"]
    targets = "/a /a/ /a?x=1 /b/1 /b /c/abc?q=xy /c/abc?p=1&q=xy /c/abc?q=y /c/ab1?q=x /d/x /D /e"
    targets += " /e;x /x/../a /z /%61 /a%2f"
    heads = [{}, {"x-h": "a"}, {"x-no": "1"}]
    statuses: set[int] = set()
    connection = await edge.open(443, "any.agreed.example")
    for host, target, headers, method in itertools.product(
        hosts, targets.split(), heads, ("GET", "POST")
    ):
        seen = await connection.request(method, target, headers, host=host)
        if seen.headers.get("connection") == "close":
            connection = await edge.open(443, "any.agreed.example")
        answer = explainer.explain(
            ExplainQuery(
                "anonymous",
                "istio-system/ingress",
                method=method,
                path=target,
                headers=(("host", host), *headers.items()),
                port=edge.port(443),
                sni="any.agreed.example",
            )
        )
        case = (host, target, headers, method, answer)
        assert seen.status == answer.status, case
        if seen.status == 200:
            assert answer.route is not None
            numbered = [0, 1, None, 2, 3][answer.route.index]
            assert seen.headers["x-route"] == str(numbered), case
        statuses.add(seen.status)
    assert statuses == {200, 301, 400, 404, 421}


DENIED = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: edge, namespace: istio-system}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  action: DENY
  rules:
  - {to: [{operation: {paths: [/admin]}}]}
  - {to: [{operation: {hosts: [closed.example]}}]}
  - {when: [{key: 'request.headers[x-user]', values: [root]}]}
"""


async def test_policies_of_the_gateway_see_what_the_service_sees(edge: EdgeMesh) -> None:
    """Spellings that slipped past a policy elsewhere, each by its mechanism."""
    await edge.start(
        gateway(server(edge, "['*']", "{mode: SIMPLE, credentialName: cert}"))
        + routes(f"[{{{TO_ITEMS}}}]", "['*']")
        + ALLOWED
        + DENIED
        + edge.company.secret("cert", HOST)
    )
    for target in (
        "/admin?x=1",  # CVE-2021-39156: a query after an exact path
        "/x/../admin",  # CVE-2019-9901
        "//admin",  # CVE-2021-31920
        "/./admin",
        "/%61dmin",
        "/x/..;/admin",  # CVE-2026-73511
        f"https://{HOST}/admin",
        f"HTTPS://{HOST}/admin",  # CVE-2023-35944: a scheme in another case
    ):
        assert (await edge.get(target, host=HOST)).status in (400, 403), target
    for target in ("/admin#x", "/admin%00", "/x%2f..%2fadmin"):  # CVE-2020-8595
        assert (await edge.get(target, host=HOST)).status == 400, target
    for host in ("Closed.EXAMPLE", "closed.example:8443", "closed.example."):  # CVE-2021-39155
        assert (await edge.get("/", host=host, sni=HOST)).status == 403, host
    for headers in (
        [("x-user", "ann"), ("x-user", "root")],  # CVE-2020-25017, CVE-2026-26308
        [("x-user", "root"), ("x-user", "ann")],  # CVE-2021-32777
        [("x-user", "root \t")],  # CVE-2019-18802: whitespace behind it
    ):
        assert (await edge.get("/", host=HOST, headers=headers)).status == 403, headers
    forged = {"x-envoy-original-path": "/x", "x-envoy-internal": "true"}  # CVE-2023-27487
    assert (await edge.get("/admin", host=HOST, headers=forged)).status == 403
    assert (await edge.get("/open", host=HOST)).status == 200


EDGE_PORTS = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: ports, namespace: istio-system}}
spec:
  selector: {{matchLabels: {{istio: ingressgateway}}}}
  action: {action}
  rules: [{{to: [{{operation: {{ports: ["{port}"]}}}}]}}]
"""


async def test_ports_of_a_policy_at_the_gateway_are_those_of_the_gateway(edge: EdgeMesh) -> None:
    """Never those of a service or container behind it, which are what it calls a port elsewhere."""
    text = simple(edge, f"[{{{TO_ITEMS}}}]")
    behind = (edge.services["items-1"].port, 8080)
    for action, own, others in (("ALLOW", 200, 403), ("DENY", 403, 200)):
        await edge.start(text + EDGE_PORTS.format(action=action, port=edge.port(443)))
        assert (await edge.get("/", host=HOST)).status == own
        for port in behind:
            await edge.start(text + EDGE_PORTS.format(action=action, port=port))
            assert (await edge.get("/", host=HOST)).status == others


async def test_an_upgrade_is_decided_as_a_request_and_opens_one_tunnel(edge: EdgeMesh) -> None:
    """WebSockets pass where a GET would; no other protocol is switched to at the gateway."""
    only = EDGE_PORTS.format(action="ALLOW", port=1).replace(
        '{ports: ["1"]}', "{paths: [/ws], methods: [GET]}"
    )
    await edge.start(simple(edge, f"[{{{TO_ITEMS}}}]", only))
    asking = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    connection = await edge.open(443, HOST)
    assert (await connection.request("GET", "/ws", asking, host=HOST)).status == 101
    hidden = f"GET /closed HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode()
    connection.writer.write(hidden)
    async with asyncio.timeout(20):  # to the application as bytes, and from it as an echo
        assert await connection.reader.readexactly(len(hidden)) == hidden
    await connection.close()
    assert (await edge.get("/closed", host=HOST, headers=asking)).status == 403
    before = len(edge.services["items-1"].application.requests)  # type: ignore[union-attr]
    switched = {"connection": "upgrade, http2-settings", "upgrade": "h2c", "http2-settings": ""}
    connection = await edge.open(443, HOST)
    answer = await connection.request("GET", "/ws", switched, host=HOST)
    assert answer.status in (200, 403)
    received = edge.services["items-1"].application.requests[before:]  # type: ignore[union-attr]
    assert all(request.get("upgrade") is None for request in received)
    await connection.close()


@pytest.mark.parametrize("bind", ["::", "::1"])
async def test_a_gateway_listens_on_ipv6_where_it_is_told_to(edge: EdgeMesh, bind: str) -> None:
    text = simple(edge, f"[{{{TO_ITEMS}}}]")
    at = f"{{port: {{number: {edge.port(443)}"
    assert at in text
    await edge.start(text.replace(at, f"{{bind: '{bind}', port: {{number: {edge.port(443)}", 1))
    reader, writer = await asyncio.open_connection(
        "::1", edge.port(443), ssl=client_context(), server_hostname=HOST
    )
    connection = Connection(reader, writer)
    assert (await connection.request("GET", "/", host=HOST)).status == 200
    await connection.close()
    await edge.start(text)
