"""A gateway of the Gateway API's documents, on real traffic through real Envoys."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from tests.e2e.edge_harness import EdgeMesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOST = "a.example"

ALLOWED = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: services, namespace: default}
spec:
  rules: [{from: [{source: {principals: [cluster.local/ns/istio-system/sa/ingress]}}]}]
"""
GRANT = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: to-services, namespace: default}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: web}]
  to: [{group: "", kind: Service}]
"""


def gateway(edge: EdgeMesh, *, tls: str = "") -> str:
    anybody = "allowedRoutes: {namespaces: {from: All}}"
    listeners = [f"{{name: plain, port: {edge.port(80)}, protocol: HTTP, {anybody}}}"]
    if tls:
        listeners.append(
            f"{{name: tls, port: {edge.port(443)}, protocol: HTTPS, hostname: '*.example', "
            f"tls: {tls}, {anybody}}}"
        )
    return f"""
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: ingress, namespace: istio-system}}
spec:
  gatewayClassName: limen
  listeners: [{", ".join(listeners)}]
"""


def route(rules: str, name: str = "r", kind: str = "HTTPRoute", more: str = "") -> str:
    return f"""
---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: web{more}}}
spec:
  parentRefs: [{{name: ingress, namespace: istio-system}}]
  hostnames: [{HOST}]
  rules: {rules}
"""


def to(edge: EdgeMesh, mark: str = "", name: str = "items") -> str:
    port = 8080
    del edge
    backend = f"backendRefs: [{{name: {name}, namespace: default, port: {port}}}]"
    if not mark:
        return backend
    value = f"{{name: x-mark, value: {mark}}}"
    set_mark = f"{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{value}]}}}}"
    return f"filters: [{set_mark}], {backend}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge() -> AsyncIterator[EdgeMesh]:
    async with EdgeMesh() as started:
        await started.serve("items")
        yield started


async def mark(edge: EdgeMesh, target: str, method: str = "GET", **headers: str) -> str:
    """The mark of the route that decided; the status if none forwarded."""
    answer = await edge.get(target, host=HOST, port=80, method=method, headers=headers)
    if answer.status != 200:
        return str(answer.status)
    found: str = dict(answer.json["headers"])["x-mark"]
    return found


async def test_the_most_specific_match_decides_whatever_the_order(edge: EdgeMesh) -> None:
    rules = f"""[
  {{matches: [{{path: {{type: PathPrefix, value: /}}}}], {to(edge, "root")}}},
  {{matches: [{{path: {{type: PathPrefix, value: /a}}}}], {to(edge, "a")}}},
  {{matches: [{{path: {{type: PathPrefix, value: /a/b}}}}], {to(edge, "ab")}}},
  {{matches: [{{path: {{type: PathPrefix, value: /a/b}}, method: POST}}], {to(edge, "post")}}},
  {{matches: [{{path: {{type: PathPrefix, value: /a/b}}, headers: [{{name: x-h, value: "1"}}]}}],
    {to(edge, "header")}}},
  {{matches: [{{path: {{type: Exact, value: /a/b/c}}}}], {to(edge, "exact")}}}
]"""
    await edge.start(gateway(edge) + route(rules) + ALLOWED + GRANT)
    assert await mark(edge, "/x") == "root"
    assert await mark(edge, "/ab") == "root"
    assert await mark(edge, "/a") == "a"
    assert await mark(edge, "/a/") == "a"
    assert await mark(edge, "/a/b/x?y=1") == "ab"
    assert await mark(edge, "/a/b", "POST") == "post"
    assert await mark(edge, "/a/b", **{"x-h": "1"}) == "header"
    assert await mark(edge, "/a/b/c", "POST", **{"x-h": "1"}) == "exact"


async def test_of_equal_matches_the_older_route_decides(edge: EdgeMesh) -> None:
    rules = "[{matches: [{path: {type: PathPrefix, value: /}}], BACK}]"
    old = ", creationTimestamp: '2026-01-01T00:00:00Z'"
    young = ", creationTimestamp: '2026-02-01T00:00:00Z'"
    text = route(rules.replace("BACK", to(edge, "young")), "aaa", more=young)
    text += route(rules.replace("BACK", to(edge, "old")), "zzz", more=old)
    await edge.start(gateway(edge) + text + ALLOWED + GRANT)
    assert await mark(edge, "/") == "old"


async def test_without_a_grant_or_a_service_the_share_gets_500(edge: EdgeMesh) -> None:
    text = gateway(edge) + route(f"[{{{to(edge, 'x')}}}]") + ALLOWED
    await edge.start(text + GRANT)
    assert await mark(edge, "/") == "x"
    await edge.start(text)
    assert await mark(edge, "/") == "500"
    missing = route(f"[{{{to(edge, 'x', 'nobody')}}}]")
    await edge.start(gateway(edge) + missing + ALLOWED + GRANT)
    assert await mark(edge, "/") == "500"


async def test_prefixes_are_replaced_by_whole_segments(edge: EdgeMesh) -> None:
    def rule(prefix: str, text: str) -> str:
        change = f"path: {{type: ReplacePrefixMatch, replacePrefixMatch: {text}}}"
        return (
            f"{{matches: [{{path: {{type: PathPrefix, value: {prefix}}}}}], filters: "
            f"[{{type: URLRewrite, urlRewrite: {{{change}}}}}], {to(edge)}}}"
        )

    rules = ", ".join([rule("/foo", "/xyz"), rule("/bar", "/xyz/"), rule("/cut", "/")])
    await edge.start(gateway(edge) + route(f"[{rules}]") + ALLOWED + GRANT)
    wanted = {
        "/foo/bar": "/xyz/bar",
        "/foo": "/xyz",
        "/foo/": "/xyz/",
        "/bar/b?c=d": "/xyz/b?c=d",
        "/cut/bar": "/bar",
        "/cut": "/",
        "/cut/": "/",
    }
    for target, seen in wanted.items():
        answer = await edge.get(target, host=HOST, port=80)
        assert answer.json["target"] == seen, target
    assert (await edge.get("/foobar", host=HOST, port=80)).status == 404


async def test_redirects_leave_default_ports_out(edge: EdgeMesh) -> None:
    rules = """[
  {matches: [{path: {type: PathPrefix, value: /s}}],
   filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]},
  {matches: [{path: {type: PathPrefix, value: /p}}],
   filters: [{type: RequestRedirect, requestRedirect: {port: 8443, scheme: https}}]},
  {filters: [{type: RequestRedirect, requestRedirect: {hostname: b.example, path:
    {type: ReplaceFullPath, replaceFullPath: /new}}}]}
]"""
    await edge.start(gateway(edge) + route(rules))
    port = edge.port(80)
    wanted = {
        "/s/x?y=1": (301, f"https://{HOST}/s/x?y=1"),
        "/p": (302, f"https://{HOST}:8443/p"),
        "/": (302, f"http://b.example:{port}/new"),
    }
    for target, (status, location) in wanted.items():
        answer = await edge.get(target, host=f"{HOST}:{port}", port=80)
        assert (answer.status, answer.headers["location"]) == (status, location)


async def test_tls_ends_with_a_granted_certificate_only(edge: EdgeMesh) -> None:
    tls = "{certificateRefs: [{name: cert}]}"
    text = gateway(edge, tls=tls) + route(f"[{{{to(edge, 'x')}}}]") + ALLOWED + GRANT
    await edge.start(text + edge.company.secret("cert", "*.example"))
    assert (await edge.get("/", host=HOST)).status == 200
    assert (await edge.get("/", host="other.example")).status == 404
    foreign = text.replace("name: cert", "name: cert, namespace: vault")
    secret = edge.company.secret("cert", "*.example").replace("istio-system", "vault")
    await edge.start(foreign + secret)
    with pytest.raises((OSError, EOFError)):
        await edge.get("/", host=HOST)


async def test_policies_may_name_a_gateway(edge: EdgeMesh) -> None:
    named = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: edge, namespace: istio-system}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: NAME}]
  rules: [{to: [{operation: {paths: [/open]}}]}]
"""
    text = gateway(edge) + route(f"[{{{to(edge, 'x')}}}]") + ALLOWED + GRANT
    await edge.start(text + named.replace("NAME", "ingress"))
    assert await mark(edge, "/open") == "x"
    assert await mark(edge, "/closed") == "403"
    await edge.start(text + named.replace("NAME", "another"))
    assert await mark(edge, "/closed") == "x"


async def test_grpc_methods_are_paths(edge: EdgeMesh) -> None:
    rules = f"""[{{matches: [{{method: {{service: shop.Items, method: Get}}}}], {to(edge)}}}]"""
    grant = GRANT.replace("HTTPRoute", "GRPCRoute")
    await edge.start(gateway(edge) + route(rules, kind="GRPCRoute") + ALLOWED + grant)
    grpc = {"content-type": "application/grpc"}
    answer = await edge.get("/shop.Items/Get", host=HOST, port=80, method="POST", headers=grpc)
    assert answer.json["target"] == "/shop.Items/Get"
    other = await edge.get("/shop.Items/Put", host=HOST, port=80, method="POST", headers=grpc)
    assert other.headers["grpc-status"] == "12"


async def test_a_tls_route_leads_unopened_to_the_application_of_its_server_name(
    edge: EdgeMesh,
) -> None:
    """The client sees the application's own certificate, through mutual TLS of the mesh."""
    chain, key = edge.company.issue("bank.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(chain + key)
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
        documents = gateway(edge).replace(
            "listeners: [",
            f"listeners: [{{name: through, port: {edge.port(443)}, protocol: TLS, "
            "hostname: '*.example', tls: {mode: Passthrough}, "
            "allowedRoutes: {namespaces: {from: All}}}, ",
        )
        to_bank = f"[{{{to(edge, name='bank')}}}]"
        tunnel = route(to_bank, name="t", kind="TLSRoute").replace(HOST, "bank.example")
        plain = route(f"[{{{to(edge, 'x')}}}]")
        grants = GRANT + GRANT.replace("HTTPRoute", "TLSRoute").replace("to-services", "tls")
        await edge.start(documents + tunnel + plain + ALLOWED + grants)
        connection = await edge.open(443, "bank.example")
        shown = connection.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert shown == ssl.PEM_cert_to_DER_cert(chain.decode())
        through = await connection.request("GET", "/", host="bank.example")
        assert (through.status, through.body) == (200, b"bank")
        await connection.close()
        assert await mark(edge, "/") == "x"
        for refused, documents_then in (
            ("other.example", documents + tunnel + plain + ALLOWED + grants),
            ("bank.example", documents + tunnel + plain + ALLOWED + GRANT),
            ("bank.example", documents + tunnel + plain + grants
             + ALLOWED.replace("sa/ingress", "sa/else")),
        ):  # fmt: skip
            await edge.start(documents_then)
            with pytest.raises((OSError, EOFError)):
                await (await edge.open(443, refused)).request("GET", "/", host=refused)
    del edge.services["bank-1"]
