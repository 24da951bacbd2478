"""Who comes from outside: a person by a web app, a machine by its key, and the provider itself."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ipaddress
import json
import os
import re
import secrets
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from limen.adapters.ports import free_port
from limen.cli.demo.processes import limen_command
from limen.core.tokens.signing import public_members, sign_token
from limen.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

    from limen.cli.demo.world import World

SCOPES = "orders.read stock.read"
REDIRECT = "https://app.example/back"
TOKEN_LIFE_S = 20
_MACHINE = "nightly"
_DAY = dt.timedelta(days=1)


@dataclass(slots=True)
class Provider:
    """The provider's process: where it is, and what was agreed with it."""

    url: str
    ca_file: Path
    password: str = field(repr=False)
    web_secret: str = field(repr=False)
    introspection_secret: str = field(repr=False)

    def client(self) -> httpx.AsyncClient:
        """A browser of our own: cookies, and no other authority than the provider's."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        return httpx.AsyncClient(base_url=self.url, verify=context, trust_env=False, timeout=20)

    async def log_in(self) -> str:
        """A person logs in at the provider, by a browser; the web app gets an opaque token."""
        verifier = secrets.token_urlsafe(40)
        digest = hashlib.sha256(verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        wanted = {
            "response_type": "code",
            "client_id": "web",
            "redirect_uri": REDIRECT,
            "scope": SCOPES,
            "state": secrets.token_urlsafe(8),
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        async with self.client() as browser:
            form = (await browser.get("/o/authorize/", params=wanted)).headers["location"]
            page = (await browser.get(form)).text
            token = re.search(r'csrfmiddlewaretoken" value="([^"]+)', page)
            typed = {
                "csrfmiddlewaretoken": token[1] if token else "",
                "username": "ann",
                "password": self.password,
            }
            answer = await browser.post(form, data=typed, headers={"referer": self.url + form})
            back = (await browser.get(answer.headers["location"])).headers["location"]
            code = parse_qs(urlsplit(back).query)["code"][0]
        async with self.client() as app:
            answer = await app.post(
                "/o/token/",
                data={
                    "grant_type": "authorization_code",
                    "code": code,
                    "redirect_uri": REDIRECT,
                    "code_verifier": verifier,
                },
                auth=("web", self.web_secret),
            )
        return str(answer.json()["access_token"])


async def start_provider(world: World) -> Provider:
    """Start the provider in a process of its own. Raises Unavailable: it is not installed."""
    try:
        import oauth2_provider  # noqa: F401, PLC0415 - only to say it early and well
    except ImportError:
        raise Unavailable(
            "the demo's provider is not installed",
            code="demo-provider",
            hint="pip install 'limen[demo]' (django-oauth-toolkit)",
        ) from None
    except Exception as error:
        if type(error).__name__ != "ImproperlyConfigured":
            raise
    port = free_port()
    directory = world.base / "provider"
    directory.mkdir(mode=0o700)
    chain, key = directory / "chain.pem", directory / "key.pem"
    _write_certificate(chain, key)
    provider = Provider(
        f"https://localhost:{port}", chain, *(secrets.token_urlsafe(24) for _ in range(3))
    )
    settings = {
        "port": port,
        "chain": str(chain),
        "key": str(key),
        "database": str(directory / "db.sqlite3"),
        "secret": secrets.token_urlsafe(40),
        "password": provider.password,
        "web_secret": provider.web_secret,
        "introspection_secret": provider.introspection_secret,
        "redirect": REDIRECT,
        "life_s": TOKEN_LIFE_S,
    }
    file = directory / "settings.json"
    _write_private(file, json.dumps(settings).encode())
    program = await world.programs.start_other(
        "provider",
        [limen_command()[0], "-m", "limen.cli.demo.user_context.provider", str(file)],
    )

    async def ready() -> bool:
        try:
            async with provider.client() as client:
                return (await client.get("/login")).is_success
        except httpx.HTTPError:
            return False

    await world.programs.wait_until("the provider starts", ready, program, 60)
    return provider


@dataclass(slots=True)
class Machine:
    """A client that is nobody's user: known to the token service by its key."""

    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1()), repr=False
    )

    @property
    def jwks(self) -> str:
        """Its public key, as it stands in the policy."""
        member = {**public_members(self.key.public_key()), "alg": "ES256", "kid": _MACHINE}
        return json.dumps({"keys": [member]})

    def assertion(self, audience: str) -> str:
        """Who it is (RFC 7523): used once."""
        now = int(time.time())
        claims = {
            "iss": _MACHINE,
            "sub": _MACHINE,
            "aud": audience,
            "iat": now,
            "exp": now + 60,
            "jti": secrets.token_urlsafe(16),
        }
        return sign_token({"kid": _MACHINE, "typ": "JWT"}, claims, self.key)

    async def token(self, service: str, roots_pem: str, audience: str) -> str:
        """Its own token, for the gateway."""
        context = ssl.create_default_context(cadata=roots_pem)
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": self.assertion(service),
            "audience": audience,
            "scope": SCOPES,
        }
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=20) as client:
            answer = await client.post(f"{service}/token", data=form)
        found: dict[str, Any] = answer.json()
        if not answer.is_success:
            raise Unavailable(f"no token for the machine: {found}", code="demo")
        return str(found["access_token"])


def forged_token(issuer: str, audience: str, subject: str) -> str:
    """Well made, by a key of our own."""
    now = int(time.time())
    claims = {
        "iss": issuer,
        "sub": subject,
        "aud": [audience],
        "scope": SCOPES,
        "iat": now,
        "exp": now + 300,
        "act": {"sub": audience},
    }
    key = ec.generate_private_key(ec.SECP256R1())
    return sign_token({"typ": "at+jwt", "kid": "forged"}, claims, key)


def _write_certificate(chain: Path, key_file: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    chain.write_bytes(certificate.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write_private(key_file, pem)


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
