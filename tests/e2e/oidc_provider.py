"""An OpenID Connect provider that is none of ours, in a process of its own, behind TLS.

`oidc-provider-mock` (PyPI) has discovery, authorization code and token endpoint, and signs RS256.
It names as issuer what it was called by, so one process is as many issuers as it has names.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from socket import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
from tests.services.jwks_provider import make_authority, server_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_BACK = "https://app.example/back"
"""Where a browser would be sent back to; nobody calls it."""


@dataclass
class OidcProvider:
    """A running one. `ca_pem`: the authority of its certificate."""

    port: int
    ca_pem: str
    http: httpx.AsyncClient

    def issuer(self, name: str = "localhost") -> str:
        return f"https://{name}:{self.port}"

    async def token(self, user: str, client: str, name: str = "localhost", **claims: Any) -> str:
        """Log in as `user` at application `client`, as a browser and its application do: ID token.

        `claims` go over those that the provider would write.
        """
        at = self.issuer(name)
        await self._ok(self.http.put(f"{at}/users/{user}", json=claims))
        query = {
            "response_type": "code",
            "client_id": client,
            "redirect_uri": _BACK,
            "scope": "openid",
            "state": "s",
        }
        answer = await self.http.post(f"{at}/oauth2/authorize", params=query, data={"sub": user})
        assert answer.status_code == 302, answer.text
        (code,) = parse_qs(urlsplit(answer.headers["location"]).query)["code"]
        body = {"grant_type": "authorization_code", "code": code, "redirect_uri": _BACK}
        answer = await self._ok(
            self.http.post(f"{at}/oauth2/token", data=body, auth=(client, "secret"))
        )
        return str(answer.json()["id_token"])

    async def _ok(self, call: Any) -> httpx.Response:
        answer: httpx.Response = await call
        assert answer.is_success, answer.text
        return answer


@asynccontextmanager
async def oidc_provider(folder: Path) -> AsyncIterator[OidcProvider]:
    """Started, answering, and gone afterwards."""
    authority = make_authority()
    server_context(authority, folder, "localhost", "127.0.0.1")
    with socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port: int = listening.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-m", "uvicorn", "oidc_provider_mock:app"),
            *("--factory", "--interface", "wsgi", "--fd", str(listening.fileno())),
            *("--ssl-certfile", str(folder / "localhost1.pem"), "--log-level", "warning"),
            pass_fds=(listening.fileno(),),
        )
    try:
        context = ssl.create_default_context(cadata=authority.pem)
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=60) as http:
            # the socket listens already: the answer is awaited while the process starts
            yield OidcProvider(port, authority.pem, http)
    finally:
        process.terminate()
        async with asyncio.timeout(20):
            await process.wait()
