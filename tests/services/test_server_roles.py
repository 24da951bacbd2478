"""What token services and decision points ask of a server, and what they may not."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.services.server_harness import anonymous, make_csr, running

from limen.core.audit import verify_chain
from limen.services.server.watching import Watchers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx
    from tests.services.server_harness import Running

ISSUER = """
apiVersion: limen.dev/v1
kind: TrustedIssuer
metadata: {name: idp}
spec:
  issuer: https://idp.example.com
  introspection:
    url: https://idp.example.com/introspect
    clientId: limen
    clientSecretRef: {name: idp}
  audiences: [shop]
"""
SECRET = """
apiVersion: v1
kind: Secret
metadata: {name: %s}
stringData: {client-secret: s3cr3ts3cr3t}
"""
KINDS = {"kind": ["limen.dev/TrustedIssuer", "limen.dev/Revocation"]}
GONE = {"issuer": "https://t", "by": "jti", "value": "j1", "until_s": 4e9}


@asynccontextmanager
async def role(
    server: Running, kind: str = "tokens", **body: Any
) -> AsyncIterator[httpx.AsyncClient]:
    asked = {"name": f"{kind}-1", "role": kind, **body}
    made = await server.api.post("/v1/roles", json=asked)
    assert made.status_code == 200, made.text
    async with anonymous(server.client, made.json()["token"]) as client:
        yield client


class Lines:
    """The lines of a watch, without those that only say that the server lives."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while True:
                line: dict[str, Any] = json.loads(await anext(self._lines))
                if line["changes"] or line["reset"]:
                    return line


async def test_a_role_follows_the_whole_and_then_what_changes(tmp_path: Path) -> None:
    async with running(tmp_path) as server, role(server) as client:
        assert (await server.apply(SECRET % "idp", ISSUER)).status_code == 200
        async with client.stream("GET", "/v1/roles/watch", params=KINDS) as response:
            lines = Lines(response)
            first = await lines.next()
            assert [c["name"] for c in first["changes"]] == ["idp"]
            assert first["reset"] is True
            answer = await client.post("/v1/revocations", json=GONE)
            assert answer.status_code == 200, answer.text
            second = await lines.next()
            assert second["reset"] is False
            assert second["changes"][0]["body"] == GONE
        after = {"after": second["revision"], "epoch": second["epoch"]}
        await server.api.delete("/v1/resources/TrustedIssuer/idp")
        async with client.stream("GET", "/v1/roles/watch", params={**KINDS, **after}) as response:
            third = await Lines(response).next()
            assert (third["reset"], third["changes"][0]["body"]) == (False, None)
        async with client.stream(
            "GET", "/v1/roles/watch", params={**KINDS, **after, "epoch": "another"}
        ) as response:
            assert (await Lines(response).next())["reset"] is True


@pytest.mark.parametrize(
    "kind", ["limen.dev/Credential", "limen.dev/Authority", "/Secret", "*", "limen.dev/JoinToken"]
)
async def test_a_role_follows_only_what_is_its_own(tmp_path: Path, kind: str) -> None:
    async with running(tmp_path) as server, role(server) as client:
        answer = await client.get("/v1/roles/watch", params={"kind": kind})
        assert answer.status_code == 403


async def test_a_role_has_no_rights_of_an_operator(tmp_path: Path) -> None:
    async with running(tmp_path) as server, role(server) as client, role(server, "pdp") as other:
        for method, path in [
            ("GET", "/v1/resources"),
            ("GET", "/v1/watch"),
            ("GET", "/v1/audit"),
            ("POST", "/v1/admin/rotate"),
            ("DELETE", "/v1/resources/TrustedIssuer/idp"),
        ]:
            assert (await client.request(method, path)).status_code == 403, path
        made = {"name": "x", "role": "tokens"}
        assert (await client.post("/v1/roles", json=made)).status_code == 403
        said = {"issuer": "https://t", "url": "https://t", "jwks": "{}"}
        assert (await other.post("/v1/roles/service", json=said)).status_code == 403
        assert (await other.get("/v1/roles/secrets/default/idp")).status_code == 403
        assert (await server.api.get("/v1/roles/mesh")).json()["code"] == "not-a-role"


async def test_a_role_that_was_ended_is_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as server, role(server) as client:
        assert (await client.get("/v1/roles/mesh")).status_code == 200
        assert (await server.api.delete("/v1/roles/tokens-1")).status_code == 200
        assert (await client.get("/v1/roles/mesh")).status_code == 401
        assert (await server.api.delete("/v1/roles/admin")).status_code == 404


async def test_a_token_service_gets_the_secrets_of_its_issuers_and_no_others(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as server, role(server) as client:
        await server.apply(SECRET % "idp", SECRET % "other", ISSUER)
        found = await client.get("/v1/roles/secrets/default/idp")
        assert found.json() == {"client_secret": "s3cr3ts3cr3t"}
        assert (await client.get("/v1/roles/secrets/default/other")).status_code == 404
        shown = (await server.api.get("/v1/resources/secrets")).text
        assert "s3cr3t" not in shown
        assert '"client_secret":true' in shown.replace(" ", "")


async def test_an_id_is_spent_once_whoever_asks(tmp_path: Path) -> None:
    async with running(tmp_path) as server, role(server) as one, role(server, name="b") as two:
        spent = {"purpose": "assertion", "value": "batch\nj1", "until_s": 4e9}
        answers = await asyncio.gather(
            *(c.post("/v1/roles/spend", json=spent) for c in (one, two) for _ in range(5))
        )
        assert sorted(a.json()["first"] for a in answers) == [False] * 9 + [True]
        other = {**spent, "value": "batch\nj2"}
        assert (await two.post("/v1/roles/spend", json=other)).json() == {"first": True}


async def test_a_roles_events_are_in_the_chain_once_and_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as server, role(server) as client:

        async def send(after: int, *names: str) -> int:
            entries = [{"time_s": 1, "verb": "issue", "name": n, "detail": {"a": 1}} for n in names]
            body = {"source": "s1", "after": after, "entries": entries}
            answer = await client.post("/v1/roles/audit", json=body)
            assert answer.status_code == 200, answer.text
            return int(answer.json()["seq"])

        assert await send(0, "a", "b") == 2
        assert await send(0, "a", "b", "c") == 3
        assert await send(0, "a") == 3
        assert await send(5, "f") == 6
        events = await server.control.store.audit(0, 1000)
        mine = [(e.entry.verb, e.entry.name) for e in events if e.entry.kind == "limen.dev/Token"]
        assert mine == [("issue", n) for n in "abc"] + [("lost", ""), ("issue", "f")]
        tokens = [e.entry for e in events if e.entry.kind == "limen.dev/Token"]
        assert {entry.actor for entry in tokens} == {"tokens:tokens-1"}
        verify_chain(events)


async def test_a_roles_certificate_is_for_its_own_names_only(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as server,
        role(server, names=["t.example", "127.0.0.1"]) as client,
    ):
        _, csr = make_csr()
        asked = {"csr_pem": csr, "names": ["t.example", "127.0.0.1"]}
        answer = await client.post("/v1/roles/certificate", json=asked)
        assert answer.status_code == 200, answer.text
        foreign = {"csr_pem": csr, "names": ["server.example"]}
        assert (await client.post("/v1/roles/certificate", json=foreign)).status_code == 403


async def test_a_watch_ends_with_the_server_and_there_is_a_bound(tmp_path: Path) -> None:
    async with running(tmp_path) as server, role(server) as client:
        server.control.watchers = Watchers(server.control.store, 1)
        async with client.stream("GET", "/v1/roles/watch", params=KINDS) as response:
            lines = Lines(response)
            assert (await lines.next())["reset"] is True
            answer = await client.get("/v1/roles/watch", params=KINDS)
            assert (answer.status_code, answer.json()["code"]) == (503, "too-many-watches")
            server.control.watchers.close()
            with pytest.raises(StopAsyncIteration):
                await lines.next()
