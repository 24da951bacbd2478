"""A server, a token service of its own beside it, and workloads with real certificates."""

from __future__ import annotations

import json
import ssl
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from tests.services.server_harness import KEK, make_csr, running

from limen.adapters.clock import SystemClock
from limen.adapters.judged_https import FetchRules
from limen.adapters.mtls import load_chain
from limen.adapters.server_link import ServerPlace
from limen.core.tokens.encoding import decode_base64url
from limen.core.tokens.signing import ALGORITHM, key_id, public_members, sign_token
from limen.services.tokens.run import serving
from limen.services.tokens.settings import TokenSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.services.server_harness import Running

    from limen.services.tokens.endpoint import Parts

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
LOGIN = "https://login.example"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS = "urn:ietf:params:oauth:token-type:access_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def spiffe(name: str) -> str:
    return f"spiffe://default.mesh.local/ns/default/sa/{name}"


@dataclass
class Signer:
    """An issuer or client with a key of its own."""

    name: str
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @property
    def jwks(self) -> str:
        public = self.key.public_key()
        entry = {**public_members(public), "alg": ALGORITHM, "kid": key_id(public), "use": "sig"}
        return json.dumps({"keys": [entry]})

    def sign(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        said = {"iss": self.name, "exp": int(time.time()) + 240, **claims}
        head = {"kid": key_id(self.key.public_key()), **(header or {})}
        return sign_token(head, said, self.key)


def issuer_document(signer: Signer, name: str = "login", extra: str = "") -> str:
    return f"""
apiVersion: limen.dev/v1
kind: TrustedIssuer
metadata: {{name: {name}}}
spec:
  issuer: {signer.name}
  jwt: {{jwks: '{signer.jwks}', algorithms: [ES256]}}
  audiences: [shop]
  claims: {{email: email}}
  {extra}
"""


def policy_document(spec: str, name: str = "p") -> str:
    return f"""
apiVersion: limen.dev/v1
kind: TokenExchangePolicy
metadata: {{name: {name}}}
spec: {spec}
"""


WEB_POLICY = policy_document("""
  from: [{serviceAccount: web}]
  subjects: [{issuer: login}, {issuer: mesh, audiences: [items]}]
  audiences: [items, '*.example.com']
  scopes: [r, w]
""")


def claims_of(token: str) -> dict[str, Any]:
    return dict(json.loads(decode_base64url(token.split(".")[1])))


@dataclass
class World:
    server: Running
    service: Parts
    stack: AsyncExitStack
    nodes: dict[str, httpx.AsyncClient] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.service.url

    async def apply(self, *documents: str) -> None:
        """Applied, and taken up by the token service."""
        answer = await self.server.apply(*documents)
        assert answer.status_code == 200, answer.text
        await self.taken_up()

    async def taken_up(self) -> None:
        """The service knows all that the server has."""
        wanted = max((r.revision for r in self.server.control.mirror.records()), default=0)
        await self.service.following.reached(wanted)

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.server.client["ca_pem"])

    async def client(self, context: ssl.SSLContext | None = None) -> httpx.AsyncClient:
        made = httpx.AsyncClient(
            base_url=self.url, verify=context or self.context(), trust_env=False, timeout=60
        )
        return await self.stack.enter_async_context(made)

    async def workload(self, name: str) -> httpx.AsyncClient:
        """An HTTP client that shows the certificate of this workload."""
        if name not in self.nodes:
            context = await self.workload_context(name)
            self.nodes[name] = await self.client(context)
        return self.nodes[name]

    async def workload_context(self, name: str) -> ssl.SSLContext:
        node = await self.server.join(name)
        self.stack.push_async_callback(node.close)
        registered = await node.register(name)
        key_pem, csr_pem = make_csr(spiffe(name))
        asked = {"instance": registered["instance"], "csr_pem": csr_pem}
        signed = await node.call("Sign", asked)
        context = self.context()
        load_chain(context, signed["certificate_pem"], key_pem)
        await self.taken_up()
        return context

    async def ask(self, name: str, **form: Any) -> httpx.Response:
        """A token exchange by a workload."""
        client = await self.workload(name)
        return await client.post("/token", data=exchange_form(**form))


def exchange_form(**form: Any) -> dict[str, Any]:
    base = {"grant_type": EXCHANGE, "subject_token_type": JWT, "audience": "items"}
    return {k: v for k, v in {**base, **form}.items() if v is not None}


@asynccontextmanager
async def world(
    path: Path, *documents: str, ca_pem: str = "", **changes: Any
) -> AsyncIterator[World]:
    jwks = {"jwks_allowed": LOOPBACK, "jwks_ca_pem": ca_pem}
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(path, **jwks))
        role = {"name": "t1", "role": "tokens", "names": ["127.0.0.1"]}
        made = (await server.api.post("/v1/roles", json=role)).json()
        settings = TokenSettings(
            path / "tokens", "127.0.0.1", 0, ("127.0.0.1",),
            fetch=FetchRules(LOOPBACK, ca_pem), **changes,
        )  # fmt: skip
        place = ServerPlace(made["server"], made["ca_pem"], made["token"])
        service = await stack.enter_async_context(serving(settings, place, KEK, SystemClock()))
        here = World(server, service, stack)
        if documents:
            await here.apply(*documents)
        yield here
