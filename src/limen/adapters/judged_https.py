"""Ask an address that somebody wrote into a document, over HTTPS, so that asking opens nothing.

Only `https`, no redirect, no proxy of the environment, no compression, a bound on bytes and on the
time of it all. The name is resolved once, every address is judged, and the connection goes to one
of those that were judged (no DNS rebinding); the certificate is still checked for the name.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

import h11

from limen.errors import InvalidInput, Unavailable, Untrusted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

Network = IPv4Network | IPv6Network
IpAddress = IPv4Address | IPv6Address
MAX_URL_CHARS = 2048
MAX_ADDRESSES = 8
MAX_HEAD_BYTES = 32 * 1024
READ_BYTES = 64 * 1024
HTTPS_PORT = 443
_PCHAR = r"A-Za-z0-9._~!$&'()*+,;=:@%/-"
_URL = re.compile(
    r"https://(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
    rf"(?::(?P<port>[0-9]{{1,5}}))?(?P<path>/[{_PCHAR}]*)?(?P<query>\?[{_PCHAR}?]*)?",
    re.ASCII,
)
_JSON_TYPE = re.compile(r"(application/([a-z0-9.-]+\+)?json|text/plain)\s*(;.*)?", re.IGNORECASE)
_GLOBAL_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC_V4 = tuple(
    IPv4Network(text) for text in ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24")
)
"""Called global by some versions of `ipaddress`: platforms' own services, protocol assignments."""


@dataclass(frozen=True, slots=True)
class FetchRules:
    """What may be asked, and how much of it.

    `allowed`: networks that may be reached though they are private, loopback, link-local or
    metadata; none by default. `ca_pem`: these authorities instead of the system's. `timeout_s`
    covers everything: discovery, name resolution, connecting, and the last byte.
    """

    allowed: tuple[Network, ...] = ()
    ca_pem: str = ""
    timeout_s: float = 10.0
    max_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. `context`: TLS with a certificate of ours, instead of none.

    Neither `repr` nor an error shows headers or body: there may be secrets in them.
    """

    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    context: ssl.SSLContext | None = None


GET = Question()


@dataclass(frozen=True, slots=True)
class Place:
    """A URL that may be asked, in parts."""

    host: str
    port: int
    target: str


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """Addresses of a host, as the system resolves it. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def ask(
    url: str,
    rules: FetchRules,
    max_bytes: int,
    resolve: Resolve = resolve_host,
    question: Question = GET,
) -> bytes:
    """The body of a JSON answer with status 200. The caller bounds the whole time.

    Raises InvalidInput (`fetch-url`, `fetch-content`, `fetch-too-large`), Untrusted
    (`fetch-address`, `fetch-redirected`, `fetch-certificate`), Unavailable (`fetch-failed`,
    `fetch-status`).
    """
    place = parse_url(url)
    addresses = await _judged_addresses(place, rules, resolve)
    context = question.context or tls_context(rules.ca_pem)
    for address in addresses:
        try:
            async with asyncio.timeout(rules.timeout_s / len(addresses)):
                reader, writer = await asyncio.open_connection(
                    address, place.port, ssl=context, server_hostname=place.host
                )
        except ssl.SSLCertVerificationError:
            raise Untrusted(
                f"{place.host} shows a certificate that is not trusted for it",
                code="fetch-certificate",
                hint="give the authority that issued it in the server's settings",
            ) from None
        except (OSError, TimeoutError):
            continue
        try:
            return await _converse(place, question, reader, writer, max_bytes)
        except (OSError, h11.ProtocolError):
            raise _failed(place, "the answer broke off or is not HTTP") from None
        finally:
            writer.transport.abort()
    raise _failed(place, "it cannot be reached")


def parse_url(url: str) -> Place:
    """The parts of an `https` URL without user, fragment or odd characters. Raises InvalidInput."""
    found = _URL.fullmatch(url) if len(url) <= MAX_URL_CHARS else None
    if found is None:
        raise refused_url(url, "it is not a plain https URL")
    port = int(found["port"] or HTTPS_PORT)
    if not 0 < port < 65536:
        raise refused_url(url, "its port is not one")
    target = (found["path"] or "/") + (found["query"] or "")
    return Place(found["host"].strip("[]"), port, target)


def is_allowed(address: IpAddress, allowed: Sequence[Network]) -> bool:
    """Whether an address may be asked: a public one, or one that is allowed by name.

    An IPv4 address inside an IPv6 one (mapped, 6to4, Teredo, NAT64) is judged as well.
    """
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if any(address in network for network in allowed):
        return True
    if isinstance(address, IPv4Address):
        return _is_public_v4(address)
    inside = [address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        return _is_public_v4(IPv4Address(int(address) & 0xFFFFFFFF))
    return (
        address in _GLOBAL_V6
        and address.is_global
        and all(_is_public_v4(one) for one in inside if one is not None)
    )


def _is_public_v4(address: IPv4Address) -> bool:
    listed = any(address in network for network in _NOT_PUBLIC_V4)
    return address.is_global and not address.is_multicast and not listed


async def _judged_addresses(
    place: Place,
    rules: FetchRules,
    resolve: Resolve,
) -> list[str]:
    """The addresses of the place. One that may not be asked spoils them all."""
    try:
        found = list(await resolve(place.host, place.port))[:MAX_ADDRESSES]
    except (OSError, UnicodeError):
        raise _failed(place, "its name cannot be resolved") from None
    for text in found:
        if not is_allowed(ip_address(text), rules.allowed):
            raise Untrusted(
                f"{place.host} is at an address that is not asked: private, loopback, link-local "
                "or of a metadata service",
                code="fetch-address",
                hint="if the provider really is inside, allow its network in the server's settings",
            )
    return found


async def _converse(
    place: Place,
    question: Question,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    max_bytes: int,
) -> bytes:
    """One request on a new connection; the body of its answer. Raises ProtocolError, OSError."""
    named = f"[{place.host}]" if ":" in place.host else place.host
    headers = [
        ("Host", named if place.port == HTTPS_PORT else f"{named}:{place.port}"),
        ("Accept", "application/json"),
        ("Accept-Encoding", "identity"),
        ("User-Agent", "limen"),
        ("Connection", "close"),
        *question.headers,
    ]
    if question.body:
        headers.append(("Content-Length", str(len(question.body))))
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    request = h11.Request(method=question.method, target=place.target, headers=headers)
    sent = (h11.Data(data=question.body),) if question.body else ()
    for event in (request, *sent, h11.EndOfMessage()):
        writer.write(http.send(event) or b"")
    await writer.drain()
    body = bytearray()
    while True:
        match http.next_event():
            case h11.NEED_DATA:
                http.receive_data(await reader.read(READ_BYTES))
            case h11.Response() as response:
                _check_head(place, response)
            case h11.Data(data=data):
                body += data
                if len(body) > max_bytes:
                    raise _too_large(place, max_bytes)
            case h11.EndOfMessage():
                return bytes(body)
            case h11.InformationalResponse():
                continue
            case _:
                raise h11.RemoteProtocolError("the connection ended")


def _check_head(place: Place, response: h11.Response) -> None:
    """A 200 answer in JSON, not compressed."""
    if 300 <= response.status_code < 400:
        raise Untrusted(
            f"{place.host} redirects, which is not followed",
            code="fetch-redirected",
            hint="write the address to which it leads",
        )
    if response.status_code != 200:
        raise Unavailable(
            f"{place.host} answered {response.status_code}",
            code="fetch-status",
            hint="look whether the address is right and the provider is well",
        )
    headers = {bytes(name): bytes(value) for name, value in response.headers}
    if b"content-encoding" in headers:
        raise _bad_content(place, "it is compressed although that was not asked for")
    kind = headers.get(b"content-type", b"application/json").decode("latin-1")
    if not _JSON_TYPE.fullmatch(kind):
        raise _bad_content(place, "its content type is not JSON")


@lru_cache(maxsize=16)
def tls_context(ca_pem: str) -> ssl.SSLContext:
    """TLS 1.2 at least, names checked. Raises InvalidInput for an authority that is none."""
    try:
        context = ssl.create_default_context(cadata=ca_pem or None)
    except (ssl.SSLError, ValueError):
        raise InvalidInput(
            "the certificate authority of providers is not PEM",
            code="fetch-ca",
            hint="give one or more certificates, each between its BEGIN and END lines",
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def refused_url(url: str, why: str) -> InvalidInput:
    """The error for a URL that is not asked."""
    return InvalidInput(
        f"{url[:200]!a} cannot be fetched: {why}",
        code="fetch-url",
        hint="write https://HOST/PATH, without user, password or fragment",
    )


def _bad_content(place: Place, why: str) -> InvalidInput:
    return InvalidInput(
        f"what {place.host} sends cannot be used: {why}",
        code="fetch-content",
        hint="look what the address really is",
    )


def _too_large(place: Place, max_bytes: int) -> InvalidInput:
    return InvalidInput(
        f"{place.host} sends more than {max_bytes} bytes",
        code="fetch-too-large",
        hint="no answer is that large: look what the address really is",
    )


def _failed(place: Place, why: str) -> Unavailable:
    return Unavailable(
        f"{place.host} gives no answer: {why}",
        code="fetch-failed",
        hint="look whether the provider is up and reachable from the server",
    )
