"""Istio's security documents on a server: applied, explained, refused, seen by a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.services.server_harness import running

from limen.core.envoy import names

if TYPE_CHECKING:
    from pathlib import Path

KEYS = (
    '{"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", '
    '"x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", '
    '"y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}'
)


def document(kind: str, spec: str, name: str = "p", namespace: str = "default") -> str:
    return (
        f"apiVersion: security.istio.io/v1\nkind: {kind}\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )


POLICY = document(
    "AuthorizationPolicy",
    "{selector: {matchLabels: {app: items}}, rules: [{from: [{source: {principals: "
    "[cluster.local/ns/default/sa/users]}}], to: [{operation: {methods: [GET]}}], "
    "when: [{key: 'request.auth.claims[iss]', values: ['https://id.example']}]}]}",
)
TOKENS = document(
    "RequestAuthentication",
    f"{{jwtRules: [{{issuer: 'https://id.example', jwks: '{KEYS}'}}]}}",
    "login",
)


async def test_applied_and_explained_with_claims(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items", "users")
        await node.register("items")
        await node.register("users")
        applied = await server.apply(POLICY, TOKENS)
        assert applied.status_code == 200, applied.text
        question = {"from": "users", "to": "items", "method": "GET", "path": "/"}
        refused = (await server.api.post("/v1/explain", json=question)).json()
        assert (refused["allowed"], refused["status"]) == (False, 403)
        assert refused["near_misses"][0]["seen"] == "(no token)"
        question["claims"] = {"iss": "https://id.example", "sub": "ann"}
        allowed = (await server.api.post("/v1/explain", json=question)).json()
        assert allowed["allowed"]
        assert allowed["rule"]["name"] == "p"
        shown = await server.api.get("/v1/resources/authorizationpolicies/p")
        assert shown.status_code == 200


async def test_a_proxy_gets_what_guards_its_port(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        node = await server.join("items")
        await node.register("items")
        proxy = await node.open("default/items/1")
        allowing, tokens = names.permission_allow(9080), names.tokens(9080)
        await proxy.until(lambda: proxy.has(allowing))
        found = proxy.resources[names.EXTENSION]
        before = found[allowing]
        await server.apply(POLICY)
        await proxy.until(lambda: found[allowing] != before)
        assert not proxy.has(tokens)
        await server.apply(TOKENS)
        await proxy.until(lambda: proxy.has(tokens))
        listener = proxy.resources[names.LISTENER]
        strict = listener[names.inbound_listener(9080)]
        await server.apply(document("PeerAuthentication", "{mtls: {mode: PERMISSIVE}}"))
        await proxy.until(lambda: listener[names.inbound_listener(9080)] != strict)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (
            document("AuthorizationPolicy", "{action: CUSTOM, provider: {name: a}, rules: [{}]}"),
            "unknown-provider",
        ),
        (
            document("AuthorizationPolicy", "{rules: [{when: [{key: x.y, values: [a]}]}]}"),
            "unknown-condition",
        ),
        (document("AuthorizationPolicy", "{action: DENY}"), "missing-field"),
        (document("RequestAuthentication", "{jwtRules: [{issuer: a}]}"), "missing-field"),
    ],
)
async def test_what_would_not_be_enforced_is_refused(tmp_path: Path, text: str, code: str) -> None:
    async with running(tmp_path) as server:
        answer = await server.apply(text)
        assert answer.status_code == 400
        assert code in {d["code"] for d in answer.json()["diagnostics"]}


async def test_mtls_cannot_be_asked_for_where_it_is_off(tmp_path: Path) -> None:
    off = "type: Mesh\nname: default\nmtls: {enabledBackend: ''}\n"
    async with running(tmp_path) as server:
        assert (await server.apply(off)).status_code == 200
        answer = await server.apply(document("PeerAuthentication", "{mtls: {mode: STRICT}}"))
        assert answer.status_code == 400
        assert {d["code"] for d in answer.json()["diagnostics"]} == {"mtls-contradiction"}


def settings(*fields: str) -> str:
    return (
        "apiVersion: limen.dev/v1\nkind: MeshSettings\nmetadata: {name: default}\n"
        f"spec: {{{', '.join(fields)}}}\n"
    )


def provider(name: str, port: int = 9000) -> str:
    address = f"{{service: 127.0.0.1, port: {port}}}"
    return settings(f"extensionProviders: [{{name: {name}, envoyExtAuthzGrpc: {address}}}]")


CUSTOM = document("AuthorizationPolicy", "{action: CUSTOM, provider: {name: a}, rules: [{}]}")


async def test_a_provider_that_a_policy_asks_is_not_taken_away(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        assert (await server.apply(provider("a"), CUSTOM)).status_code == 200
        for without in (provider("b"), settings("defaultAction: Deny")):
            answer = await server.apply(without)
            assert answer.status_code == 400
            found = [d for d in answer.json()["diagnostics"] if d["severity"] == "error"]
            assert [d["code"] for d in found] == ["unknown-provider"]
        deleted = await server.api.delete("/v1/resources/meshsettings/default")
        assert deleted.status_code == 400, deleted.text
        assert "unknown-provider" in {d["code"] for d in deleted.json()["diagnostics"]}
        assert (await server.apply(provider("a", 9001))).status_code == 200, "it may move"
        assert (await server.api.delete("/v1/resources/authorizationpolicies/p")).status_code == 200
        assert (await server.apply(provider("b"))).status_code == 200
