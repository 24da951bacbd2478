"""A provider of keys on a real TLS port, as honest, slow, huge or lying as a test wants it."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

HOST = "keys.example"


@dataclass
class Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()


def make_authority() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a company's own authority")])
    constraints = x509.BasicConstraints(ca=True, path_length=0)
    certificate = _builder(name, name, key).add_extension(constraints, critical=True)
    return Authority(key, certificate.sign(key, hashes.SHA256()))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int = 1
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=2))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def server_context(
    authority: Authority, folder: Path, *names: str, days: int = 1
) -> ssl.SSLContext:
    """A server's context with a certificate for these names; expired if `days` is negative."""
    key = ec.generate_private_key(ec.SECP256R1())
    san = [_general_name(name) for name in names]
    certificate = (
        _builder(x509.Name([]), authority.certificate.subject, key, days)
        .add_extension(x509.SubjectAlternativeName(san), critical=True)
        .sign(authority.key, hashes.SHA256())
    )
    path = folder / f"{names[0]}{days}.pem".replace(":", "_")
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def answer(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    """A whole HTTP answer."""
    kind = "" if "content-type" in headers else "content-type: application/json\r\n"
    head = f"HTTP/1.1 {status}\r\n{kind}{headers}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass
class Provider:
    """Answers by path; `requests` holds the heads of all requests, `port` where it listens."""

    port: int = 0
    pages: dict[str, bytes] = field(default_factory=dict)
    behave: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None
    requests: list[str] = field(default_factory=list)
    connections: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str = "/jwks", host: str = HOST) -> str:
        return f"https://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            if self.behave is not None:
                await self.behave(writer)
            else:
                missing = answer(b"{}", status="404 Not Found")
                writer.write(self.pages.get(head.split(" ")[1], missing))
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError, ssl.SSLError):
            pass
        finally:
            writer.close()
            self.gone.set()


@asynccontextmanager
async def providing(
    context: ssl.SSLContext | None, host: str = "127.0.0.1"
) -> AsyncIterator[Provider]:
    """A provider that listens while the context lasts; without `context` it speaks plain HTTP."""
    provider = Provider()
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await provider.serve(reader, writer)
        except asyncio.CancelledError:
            return  # the test is over
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(accept, host, 0, ssl=context)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
