"""An OpenID provider and clients that are not ours: npm's, in processes of their own, over TLS.

async with OpenIdProvider(tmp_path) as provider:
    tokens = await provider.log_in("alice")  # authorization code with PKCE
    tokens = await provider.as_machine()  # client credentials
    answer = await provider.introspect(tokens["access_token"])

Access tokens are opaque. Packages come with hashes from `openid/package-lock.json`, once per file.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.core.tokens.signing import b64, jwk
from tests.e2e.edge_harness import Company

from limen.adapters.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent / "openid"
NODE_MAJOR = 20
CONFIDENTIAL = {
    "token_endpoint_auth_method": "client_secret_basic",
    "id_token_signed_response_alg": "ES256",
}


def node_parts() -> Path:
    """The directory of scripts and packages. Skips, visibly, where Node is missing or old."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("the independent OpenID provider needs node and npm")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.strip().removeprefix("v").split(".")[0]) < NODE_MAJOR:
        pytest.skip(
            f"the independent OpenID provider needs Node {NODE_MAJOR}, here is {version.strip()}"
        )
    lock = (HERE / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "limen-tests"
    place = cache / f"openid-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not (place / "node_modules").is_dir():
        fresh = place.with_name(f"{place.name}.{secrets.token_hex(4)}")
        fresh.mkdir(parents=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, fresh)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=fresh, check=True, capture_output=True)
        place.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):  # another test run was faster
            (fresh / "node_modules").rename(place / "node_modules")
        shutil.rmtree(fresh)
    for script in HERE.glob("*.mjs"):
        shutil.copy(script, place)
    return place


class OpenIdProvider:
    """A running provider with two clients: the web app (people log in) and a machine."""

    def __init__(
        self,
        directory: Path,
        *,
        access_token_s: int = 300,
        audience: str = "https://api.example.com",
    ) -> None:
        self.company = Company()
        self.audience = audience
        self.issuer = f"https://localhost:{free_port()}"
        self.app = _client(
            "web-app",
            grants=("authorization_code", "refresh_token"),
            redirect="https://app.example.com/back",
        )
        self.machine = _client("billing", grants=("client_credentials",))
        self._access_token_s = access_token_s
        self._ca = directory / "openid-ca.pem"
        self._ca.write_bytes(self.company.pem)
        self._process: asyncio.subprocess.Process | None = None
        self._keys = {"keys": [_private_jwk()]}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def ca_file(self) -> Path:
        return self._ca

    async def start(self) -> None:
        chain, key = self.company.issue("localhost")
        settings = {
            "issuer": self.issuer,
            "port": int(self.issuer.rpartition(":")[2]),
            "key": key.decode(),
            "cert": chain.decode(),
            "jwks": self._keys,
            "clients": [self.app, self.machine],
            "scopes": ["orders.read", "orders.write"],
            "audience": self.audience,
            "accessTokenTtl": self._access_token_s,
        }
        self._process = await self._node("provider.mjs")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(settings).encode() + b"\n")
        await self._process.stdin.drain()
        async with asyncio.timeout(60):
            while (line := await self._process.stdout.readline()) != b"listening\n":
                assert line, "the provider ended"

    async def stop(self) -> None:
        """Down: what it issued is forgotten, its keys are not."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        self._process = None

    async def rotate_keys(self) -> None:
        """New keys, the old ones gone, under the same address."""
        await self.stop()
        self._keys = {"keys": [_private_jwk()]}
        await self.start()

    async def log_in(self, user: str, scope: str = "openid orders.read") -> dict[str, Any]:
        """The token response of a web app whose person has logged in and consented."""
        return await self._tokens(
            self.app, scope, user=user, redirectUri=self.app["redirect_uris"][0]
        )

    async def as_machine(self, scope: str = "orders.read") -> dict[str, Any]:
        return await self._tokens(self.machine, scope, machine=True)

    async def introspect(self, token: str) -> dict[str, Any]:
        return await self._form("/token/introspection", token)

    async def revoke(self, token: str) -> None:
        await self._form("/token/revocation", token)

    async def _form(self, path: str, token: str) -> dict[str, Any]:
        async with httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=str(self._ca))
        ) as client:
            answer = await client.post(
                self.issuer + path,
                data={"token": token},
                auth=(self.app["client_id"], self.app["client_secret"]),
            )
        assert answer.status_code == httpx.codes.OK, answer.text
        return answer.json() if answer.content else {}

    async def _tokens(
        self, client: Mapping[str, Any], scope: str, **more: object
    ) -> dict[str, Any]:
        asked = {
            "issuer": self.issuer,
            "clientId": client["client_id"],
            "clientSecret": client["client_secret"],
            "scope": scope,
            **more,
        }
        status, answer = await run_node("login.mjs", asked, self._ca)
        assert status == 0, answer
        return answer

    async def _node(self, script: str) -> asyncio.subprocess.Process:
        return await _start_node(script, self._ca)


async def verify_with_jose(ca_file: Path, **asked: object) -> tuple[int, dict[str, Any]]:
    """npm jose's verdict: exit code, and claims or error code.

    `asked`: `jwksUri`, `token`, `issuer`, `audience`, `typ`, `algorithms`.
    """
    return await run_node("verify.mjs", asked, ca_file)


async def run_node(
    script: str, asked: Mapping[str, Any], ca_file: Path
) -> tuple[int, dict[str, Any]]:
    process = await _start_node(script, ca_file, asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        output, complaint = await process.communicate(json.dumps(asked).encode())
    assert process.returncode is not None
    return process.returncode, json.loads(output or json.dumps({"stderr": complaint.decode()}))


async def _start_node(
    script: str, ca_file: Path, stderr: int = asyncio.subprocess.DEVNULL
) -> asyncio.subprocess.Process:
    place = await asyncio.to_thread(node_parts)
    return await asyncio.create_subprocess_exec(
        "node",
        place / script,
        cwd=place,
        env={**os.environ, "NODE_EXTRA_CA_CERTS": str(ca_file), "NODE_ENV": "test"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )


def _client(name: str, *, grants: tuple[str, ...], redirect: str = "") -> dict[str, Any]:
    return {
        **CONFIDENTIAL,
        "client_id": name,
        "client_secret": secrets.token_urlsafe(32),
        "grant_types": list(grants),
        "redirect_uris": [redirect] if redirect else [],
        "response_types": ["code"] if redirect else [],
    }


def _private_jwk() -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_numbers().private_value.to_bytes(32, "big")
    return jwk(key, d=b64(secret), alg="ES256", use="sig", kid=secrets.token_hex(8))
