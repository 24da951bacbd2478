"""Every route of the API, and of the token service, with input that its schema allows or does not.

Nothing that is sent makes a fault of the server: an answer is a success, or an error with a code.
The inputs come from the API's own description, with a seed, so that a failure can be had again.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from tests.services.server_harness import running
from tests.services.token_harness import WEB_POLICY, Signer, issuer_document, world

from limen.services.server.api.app import build_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from tests.services.server_harness import Running
    from tests.services.token_harness import World

TRIES = 12
SCHEMA = build_app(None).openapi()
ROUTES = sorted((path, method) for path, found in SCHEMA["paths"].items() for method in found)
LONG_LIVED = {"/v1/watch", "/v1/roles/watch", "/v1/admin/rotate"}
"""Streams do not end by themselves; a rotated credential would lock the test out."""
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 1e308, "", " ", "\x00", "\ud800".encode("utf-8", "replace").decode(),
    "../../etc/passwd", "a" * 5000, "💥", "' OR 1=1 --", "{{7*7}}", [], {}, [[]], {"$ref": "#"},
)  # fmt: skip
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Maker:
    """Values that a JSON schema allows, and now and then one that it does not."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - to be had again

    def odd(self) -> Any:
        return self._random.choice(ODD)

    def value(self, schema: dict[str, Any], depth: int = 0) -> Any:
        """One value."""
        if self._random.random() < 0.12 or depth > 6:
            return self.odd()
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return self.value(SCHEMA["components"]["schemas"][name], depth + 1)
        for several in ("anyOf", "oneOf", "allOf"):
            if several in schema:
                return self.value(self._random.choice(schema[several]), depth + 1)
        if "enum" in schema:
            return self._random.choice(schema["enum"])
        return self._typed(schema, depth)

    def _typed(self, schema: dict[str, Any], depth: int) -> Any:
        match schema.get("type"):
            case "object":
                known = schema.get("properties", {})
                wanted = set(schema.get("required", ()))
                keep = [n for n in known if n in wanted or self._random.random() < 0.5]
                found = {name: self.value(known[name], depth + 1) for name in keep}
                return found | ({"extra": 1} if self._random.random() < 0.1 else {})
            case "array":
                item = schema.get("items", {})
                return [self.value(item, depth + 1) for _ in range(self._random.randrange(4))]
            case "integer":
                return self._random.choice((0, 1, 2, 17, 10**6))
            case "number":
                return self._random.choice((0, 0.5, 1e9))
            case "boolean":
                return self._random.random() < 0.5
            case _:
                return self._random.choice(("default", "web", "x", "kuma.io/Mesh", "Mesh", "é"))


def request_of(maker: Maker, path: str, method: str) -> dict[str, Any]:
    """One request to a route, as httpx takes it."""
    operation = SCHEMA["paths"][path][method]
    params: dict[str, Any] = {}
    for one in operation.get("parameters", ()):
        found = maker.value(one["schema"])
        if one["in"] == "path":
            text = quote(str(found)[:200], safe="") or "x"
            path = path.replace("{" + one["name"] + "}", text)
        elif one["in"] == "query" and not isinstance(found, dict):
            params[one["name"]] = found if isinstance(found, list) else str(found)[:500]
    asked: dict[str, Any] = {"method": method.upper(), "url": path, "params": params}
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is not None:
        asked["json"] = finite(maker.value(content["schema"]))
    return asked


def finite(value: Any) -> Any:
    """What JSON can carry; waiting is cut short."""
    if isinstance(value, dict):
        return {k: 0 if k == "wait_s" else finite(v) for k, v in value.items()}
    return [finite(one) for one in value] if isinstance(value, list) else value


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(tmp_path_factory.mktemp("api")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tokens(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    documents = (issuer_document(Signer("https://login.example")), WEB_POLICY)
    async with world(tmp_path_factory.mktemp("tokens"), *documents) as found:
        yield found


@pytest.mark.parametrize(("path", "method"), ROUTES)
async def test_no_input_makes_a_fault_of_the_server(
    server: Running, path: str, method: str
) -> None:
    if path in LONG_LIVED:
        pytest.skip("a stream, or the credential of this test")
    for number in range(TRIES):
        maker = Maker(hash_of(path, method) + number)
        asked = request_of(maker, path, method)
        if path == "/v1/wait":
            asked["params"]["timeout"] = "0"
        answer = await server.api.request(**asked)
        assert answer.status_code < 500 or answer.status_code == 503, (asked, answer.text)
        if answer.status_code >= 400 and method != "head":
            assert answer.json()["code"] != "internal", (asked, answer.text)


NAMES = (
    "grant_type", "subject_token", "subject_token_type", "actor_token", "actor_token_type", "scope",
    "audience", "resource", "requested_token_type", "client_id", "client_assertion",
    "client_assertion_type", "expires_in", "subject_issuer", "token", "token_type_hint", "x",
)  # fmt: skip
VALUES = (
    "urn:ietf:params:oauth:grant-type:token-exchange", "client_credentials",
    "urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:access_token",
    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "items", "", "%", "%00", "%ff",
    "a.b.c",
    "eyJhbGciOiJub25lIn0.e30.", "eyJhbGciOiJFUzI1NiJ9.bnVsbA.AAAA", "1" * 40, "+", "x" * 17000,
)  # fmt: skip


async def ask_oddly(client: httpx.AsyncClient, maker: random.Random) -> httpx.Response:
    pairs = [f"{maker.choice(NAMES)}={maker.choice(VALUES)}" for _ in range(maker.randrange(1, 12))]
    body = maker.choice(("&", "&", "&&", ";")).join(pairs)
    if maker.random() < 0.1:
        body = bytes(maker.randrange(256) for _ in range(200)).decode("latin-1")
    path = maker.choice(("/token", "/token", "/introspect", "/revoke", "/jwks", "/token?x=1", "/"))
    kind = maker.choice(("application/x-www-form-urlencoded",) * 5 + ("text/plain", ""))
    method = maker.choice(("POST",) * 6 + ("GET", "PUT", "HEAD", "OPTIONS"))
    return await client.request(
        method, path, content=body.encode("latin-1"), headers={"content-type": kind}
    )


@pytest.mark.parametrize("seed", range(4))
async def test_no_form_makes_a_fault_of_the_token_service(tokens: World, seed: int) -> None:
    maker = random.Random(seed)  # noqa: S311 - to be had again
    clients = (await tokens.workload("web"), await tokens.client())
    for _ in range(100):
        answer = await ask_oddly(maker.choice(clients), maker)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400 and answer.request.method != "HEAD":
            assert answer.json()["error"] != "server_error"
    await asyncio.sleep(0)


def hash_of(*parts: str) -> int:
    """The same in every process."""
    return sum(ord(c) * 31**i for i, c in enumerate("".join(parts)[:12])) % 10**6
