"""Calling a neighbour's mTLS port without one's own proxy, as an attacker would.

Also the identity to do so with: one's own from the SPIFFE Workload API, or one made up.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import grpc
import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from limen.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BROKEN = (httpx.HTTPError, ssl.SSLError, OSError)
"""How a connection ends that the other side does not want: alerts after a TLS 1.3 handshake too."""
TIMEOUT = httpx.Timeout(5, read=15)


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """A certificate chain (PEM, leaf first) and its key. `not_after`: seconds since the epoch."""

    spiffe_id: str
    serial: str
    not_after: float
    chain_pem: bytes
    key_pem: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a status, or 0 and the kind of error."""

    status: int
    body: str = ""
    error: str = ""


async def own_identity() -> Identity:
    """This process's X.509 SVID from the Workload API (`SPIFFE_ENDPOINT_SOCKET`).

    Raises Unavailable if the agent gives none.
    """
    from limen.adapters import spiffe_workload_pb2 as messages  # noqa: PLC0415 - only services

    target = os.environ["SPIFFE_ENDPOINT_SOCKET"]
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_stream(
            "/SpiffeWorkloadAPI/FetchX509SVID",
            request_serializer=messages.X509SVIDRequest.SerializeToString,
            response_deserializer=messages.X509SVIDResponse.FromString,
        )
        stream = call(messages.X509SVIDRequest(), metadata=(("workload.spiffe.io", "true"),))
        try:
            answer = cast("messages.X509SVIDResponse", await stream.read())
        except grpc.aio.AioRpcError as error:
            raise Unavailable(f"the Workload API gave no identity: {error.details()}") from error
        finally:
            stream.cancel()
    return _identity_of(answer.svids[0].x509_svid, answer.svids[0].x509_svid_key)


def _identity_of(chain_der: bytes, key_der: bytes) -> Identity:
    chain = _split_der(chain_der)
    key_pem = load_der_private_key(key_der, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    return identity(b"".join(c.public_bytes(Encoding.PEM) for c in chain), key_pem)


def identity(chain_pem: bytes, key_pem: bytes) -> Identity:
    """An identity from PEM; the SPIFFE ID is read from the leaf."""
    leaf = x509.load_pem_x509_certificates(chain_pem)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    end = leaf.not_valid_after_utc.timestamp()
    return Identity(uris[0] if uris else "", f"{leaf.serial_number:x}", end, chain_pem, key_pem)


def _split_der(data: bytes) -> list[x509.Certificate]:
    """Certificates from concatenated DER (SPIFFE Workload API, section 5.2.1)."""
    certificates = []
    while data:
        header = 2 + (data[1] & 0x7F if data[1] & 0x80 else 0)
        length = int.from_bytes(data[2:header]) if data[1] & 0x80 else data[1]
        certificates.append(x509.load_der_x509_certificate(data[: header + length]))
        data = data[header + length :]
    return certificates


def tls_context(caller: Identity | None) -> ssl.SSLContext:
    """TLS 1.3 with `caller`'s certificate. The peer is not verified: an attacker would not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if caller is not None:
        descriptor = os.memfd_create("svid")
        try:
            os.write(descriptor, caller.key_pem + caller.chain_pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    return context


def _client(caller: Identity | None) -> httpx.AsyncClient:
    return httpx.AsyncClient(verify=tls_context(caller), trust_env=False, timeout=TIMEOUT)


async def get(
    caller: Identity | None,
    host: str,
    port: int,
    path: str,
    scheme: str = "https",
    *,
    token: str = "",
) -> Answer:
    """GET once, with a bearer token if given. A broken connection is an `Answer` with status 0."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with _client(caller) as client:
        try:
            answer = await client.get(f"{scheme}://{host}:{port}{path}", headers=headers)
        except BROKEN as error:
            return Answer(0, error=str(error) or type(error).__name__)
        return Answer(answer.status_code, answer.text)


class Connection:
    """Requests one after the other on one open connection."""

    def __init__(self, caller: Identity, host: str, port: int) -> None:
        self._client = _client(caller)
        self._base = f"https://{host}:{port}"

    async def status(self, path: str) -> int:
        """The status of a GET. Raises httpx.HTTPError when the connection breaks."""
        return (await self._client.get(self._base + path)).status_code


async def hold(caller: Identity, host: str, port: int, path: str) -> AsyncIterator[str]:
    """Open an endless answer; yields `open STATUS`, then `closed` when it is cut."""
    try:
        async with (
            _client(caller) as client,
            client.stream("GET", f"https://{host}:{port}{path}") as answer,
        ):
            yield f"open {answer.status_code}"
            async for _ in answer.aiter_bytes():
                pass
    except BROKEN:
        pass
    yield "closed"
