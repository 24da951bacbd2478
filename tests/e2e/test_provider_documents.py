"""Providers as MeshSettings declares them, at a workload and at a gateway: each field."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.core.compiler import build as b
from tests.core.tokens.signing import ec_key, jwk, sign

from limen.core.compiler.explain import Explainer
from limen.core.compiler.explanation import ExplainQuery
from limen.core.compiler.graph import MeshGraph
from limen.core.dialects import read_resources
from limen.core.model.diagnostic import has_errors
from limen.core.model.names import InstanceName, WorkloadName
from limen.core.model.snapshot import Snapshot
from limen.core.model.workload import SERVICE_TAG, Inbound, Protocol
from limen.core.xds.events import Confirmed

from .edge_harness import EdgeMesh
from .envoy_harness import LOOPBACK, Connection, Response, TestMesh, Workload, client_tls, policy
from .test_edge_istio import ALLOWED, HOST, TO_ITEMS, gateway, routes, server
from .test_envoy_providers import Answer, GrpcProvider, HttpProvider

if TYPE_CHECKING:
    from collections.abc import Sequence

ISSUER = "https://login.example.com"
KEYS = json.dumps({"keys": [jwk(ec_key(), kid="1", alg="ES256")]})


def settings(*providers: str) -> str:
    return (
        "---\napiVersion: limen.dev/v1\nkind: MeshSettings\nmetadata: {name: default}\n"
        f"spec: {{defaultAction: Allow, extensionProviders: [{', '.join(providers)}]}}\n"
    )


def security(kind: str, spec: str, namespace: str = "default", name: str = "p") -> str:
    return (
        f"---\napiVersion: security.istio.io/v1\nkind: {kind}\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )


def custom(rules: str, provider: str = "authz", more: str = "") -> str:
    return f"{{{more} action: CUSTOM, provider: {{name: {provider}}}, rules: [{rules}]}}"


ASKED = "{to: [{operation: {paths: ['/asked*']}}]}"


async def enforce(workload: Workload, text: str) -> Explainer:
    """Guard the workload's port as the documents say."""
    found, _, findings = read_resources(text.encode(), "documents.yaml")
    assert not has_errors(findings), [str(f) for f in findings]
    inbound = Inbound(workload.port, workload.port, Protocol.HTTP, ((SERVICE_TAG, "items"),))
    items = b.dataplane("items", address=LOOPBACK, inbounds=(inbound,))
    world = Snapshot({r.key: r for r in (*found, items, b.dataplane("users"))})
    graph = MeshGraph("default", world.resources.values())
    name = InstanceName(WorkloadName("default", "default", "items"), "items-1")
    (wanted,) = graph.plan(name).inbounds
    kept = workload.plan.inbounds[0]
    service = {"service_address": kept.service_address, "service_port": kept.service_port}
    event = await workload.apply(
        inbounds=(replace(wanted, cutover=kept.cutover + 1, **service),)  # type: ignore[arg-type] # checked by replace
    )
    assert isinstance(event, Confirmed), event
    return Explainer(world)


async def ask(
    mesh: TestMesh,
    workload: Workload,
    target: str,
    headers: Sequence[tuple[str, str]] = (),
    **more: Any,
) -> Response:
    tls = client_tls(mesh.authority.issue(mesh.identity("users")))
    connection = await Connection.open(workload.port, tls)
    try:
        async with asyncio.timeout(20):
            return await connection.request(
                more.get("method", "GET"), target, headers, more.get("body", b"")
            )
    finally:
        await connection.close()


def token(**claims: Any) -> tuple[str, str]:
    whole = {"iss": ISSUER, "exp": int(time.time()) + 600, **claims}
    signed = sign({"alg": "ES256", "kid": "1"}, whole, ec_key(), "ES256")
    return ("authorization", f"Bearer {signed}")


async def test_every_field_of_an_http_provider_counts_on_a_unix_socket() -> None:
    async with TestMesh() as mesh:
        items = await mesh.start("items", policy=policy())
        provider, path = HttpProvider(), str(mesh.directory / "authz.sock")
        await provider.start(path)
        declared = f"""{{name: authz, envoyExtAuthzHttp: {{service: 'unix://{path}', timeout: 700ms,
          statusOnError: "503", pathPrefix: /check,
          includeRequestHeadersInCheck: [X-A, x-b-*, '*-c'],
          includeAdditionalHeadersInCheck: {{X-Fixed: 50% one}},
          includeRequestBodyInCheck: {{maxRequestBytes: 16}},
          headersToUpstreamOnAllow: [X-Ext-User],
          headersToDownstreamOnDeny: [x-why, 'x-more-*'],
          headersToDownstreamOnAllow: [x-seen]}}}}"""
        text = settings(declared) + security("AuthorizationPolicy", custom(ASKED))
        explainer = await enforce(items, text)
        provider.answer = Answer(
            headers={"x-ext-user": "anna", "x-seen": "1", "x-why": "no", "x-role": "root"}
        )
        sent = [("x-a", "1"), ("x-b-z", "2"), ("z-c", "3"), ("x-z", "4"), ("x-fixed", "forged"),
                ("x-ext-user", "forged")]  # fmt: skip
        answer = await ask(mesh, items, "/asked?x=1", sent, method="POST", body=b"0123456789")
        assert answer.status == 200, answer
        (seen,) = provider.asked
        assert (seen["method"], seen["path"], seen["body"]) == (
            "POST", "/check/asked?x=1", "0123456789",
        )  # fmt: skip
        headers = seen["headers"]
        assert (headers["x-a"], headers["x-b-z"], headers["z-c"]) == ("1", "2", "3")
        assert headers["x-fixed"] == "50% one"
        assert not {"x-z", "x-ext-user"} & set(headers)
        arrived = dict(answer.json["headers"])
        assert arrived["x-ext-user"] == "anna"
        assert "x-role" not in arrived
        assert answer.headers["x-seen"] == "1"
        assert not {"x-why", "x-role"} & set(answer.headers)

        said = {"x-why": "you are late", "x-more-1": "a", "x-seen": "1", "x-role": "root"}
        provider.answer = Answer(consents=False, status=429, headers=said)
        answer = await ask(mesh, items, "/asked", sent)
        assert (answer.status, answer.body) == (429, b"the provider says no\n")
        assert (answer.headers["x-why"], answer.headers["x-more-1"]) == ("you are late", "a")
        assert not {"x-seen", "x-role"} & set(answer.headers)

        too_long = await ask(mesh, items, "/asked", method="POST", body=b"0" * 17)
        assert too_long.status == 413
        provider.answer = Answer(silent=True)
        before = asyncio.get_running_loop().time()
        assert (await ask(mesh, items, "/asked")).status == 503
        assert asyncio.get_running_loop().time() - before >= 0.6
        await provider.stop()
        assert (await ask(mesh, items, "/asked")).status == 503
        assert (await ask(mesh, items, "/free")).status == 200
        for consents, allowed in (((), False), (("authz",), True)):
            query = ExplainQuery("users", "items", path="/asked", consents=consents)
            assert explainer.explain(query).allowed is allowed


async def test_a_grpc_provider_of_a_document_gets_bytes_and_claims_after_tokens() -> None:
    async with TestMesh() as mesh:
        items = await mesh.start("items", policy=policy())
        provider = GrpcProvider()
        port = await provider.start()
        declared = f"""{{name: authz, envoyExtAuthzGrpc: {{service: 127.0.0.1, port: {port},
          stage: AfterTokens, headersToUpstreamOnAllow: [x-ext-user],
          includeRequestBodyInCheck: {{maxRequestBytes: 16, packAsBytes: true}}}}}}"""
        rules = "{from: [{source: {requestPrincipals: ['*/anna']}}]}"
        text = (
            settings(declared)
            + security("AuthorizationPolicy", custom(rules))
            + security(
                "RequestAuthentication", f"{{jwtRules: [{{issuer: '{ISSUER}', jwks: '{KEYS}'}}]}}"
            )
        )
        await enforce(items, text)
        provider.answer = Answer(headers={"x-ext-user": "anna", "x-role": "root"})
        body = b"\xff\x00raw"
        answer = await ask(mesh, items, "/", [token(sub="anna")], method="POST", body=body)
        assert answer.status == 200
        arrived = dict(answer.json["headers"])
        assert arrived["x-ext-user"] == "anna"
        assert "x-role" not in arrived
        (check,) = provider.checks
        assert check.attributes.request.http.raw_body == body
        known = check.attributes.metadata_context.filter_metadata
        assert dict(known["envoy.filters.http.jwt_authn"]["payload"])["sub"] == "anna"
        assert (await ask(mesh, items, "/", [token(sub="bob")])).status == 200
        assert len(provider.checks) == 1, "its rules do not match bob"
        provider.answer = Answer(consents=False)
        assert (await ask(mesh, items, "/", [token(sub="anna")])).status == 403
        await provider.stop()


async def test_a_gateway_asks_before_and_after_tokens_and_its_client_reads_the_answer() -> None:
    async with EdgeMesh() as edge:
        await edge.serve("items")
        first, second = HttpProvider(), HttpProvider()
        login = f"""{{name: login, envoyExtAuthzHttp: {{service: 127.0.0.1,
          port: {await first.start()}, headersToDownstreamOnDeny: [location, set-cookie],
          headersToUpstreamOnAllow: [x-session]}}}}"""
        claims = f"""{{name: claims, envoyExtAuthzHttp: {{service: 127.0.0.1,
          port: {await second.start()}, stage: AfterTokens}}}}"""
        gate = "selector: {matchLabels: {istio: ingressgateway}},"
        text = (
            gateway(server(edge, f"[{HOST}]", "{mode: SIMPLE, credentialName: cert}"))
            + routes(f"[{{{TO_ITEMS}}}]")
            + ALLOWED
            + edge.company.secret("cert", HOST)
            + settings(login, claims)
            + security(
                "RequestAuthentication",
                f"{{{gate} jwtRules: [{{issuer: '{ISSUER}', jwks: '{KEYS}'}}]}}",
                "istio-system",
            )
            + security("AuthorizationPolicy", custom(ASKED, "login", gate), "istio-system", "a")
            + security(
                "AuthorizationPolicy",
                custom("{from: [{source: {requestPrincipals: ['*']}}]}", "claims", gate),
                "istio-system",
                "b",
            )
        )
        await edge.start(text)
        bearer = token(sub="anna")
        forged = ("x-session", "forged")
        first.answer = Answer(headers={"x-session": "7"})
        free = await edge.get("/free", host=HOST, headers=[forged])
        assert free.status == 200
        assert "x-session" not in dict(free.json["headers"])
        answer = await edge.get("/asked/x", host=HOST, headers=[forged, bearer])
        assert dict(answer.json["headers"])["x-session"] == "7"
        assert (len(first.asked), len(second.asked)) == (1, 1)
        assert "x-limen-claims" not in first.asked[0]["headers"]
        assert json.loads(second.asked[0]["headers"]["x-limen-claims"])["sub"] == "anna"

        page = {"location": "https://login.example/", "set-cookie": "a=1", "x-inside": "1"}
        first.answer = Answer(consents=False, status=302, headers=page)
        answer = await edge.get("/asked", host=HOST)
        assert (answer.status, answer.headers["location"]) == (302, "https://login.example/")
        assert answer.headers["set-cookie"] == "a=1"
        assert "x-inside" not in answer.headers
        for status in (401, 403):
            first.answer = Answer(consents=False, status=status)
            answer = await edge.get("/asked", host=HOST)
            assert (answer.status, answer.body) == (status, b"the provider says no\n")
        first.answer, second.answer = Answer(), Answer(consents=False)
        assert (await edge.get("/asked", host=HOST, headers=[bearer])).status == 403
        assert (await edge.get("/asked", host=HOST)).status == 200
        await first.stop()
        assert (await edge.get("/asked", host=HOST)).status == 403
        assert (await edge.get("/free", host=HOST)).status == 200
        await second.stop()
