"""Rows that a server gives as JSON: HTTPS (mutual where a certificate is named), or loopback.

As with key sets (`adapters/judged_https`): no redirect, no proxy of the environment, no
compression; every address of the name is judged before one of them is asked; size and time are
bounded.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import h11

from limen.adapters.attributes.failure import (
    MAX_ANSWER_BYTES,
    MAX_DEPTH,
    MAX_ITEMS,
    SourceFailure,
    rows_of,
)
from limen.adapters.judged_https import MAX_ADDRESSES, READ_BYTES, is_allowed
from limen.core.policy.sources import to_text
from limen.core.tokens.encoding import Malformed, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.attributes.places import Places
    from limen.adapters.attributes.threads import Threads
    from limen.core.model.attribute_source import HttpOrigin
    from limen.core.policy.sources import Value

_MAX_HEAD_BYTES = 32 * 1024
_MAX_TARGET = 8 * 1024
_NONE = frozenset({404, 410})
"""The server knows no such thing: no row."""


@dataclass(frozen=True, slots=True)
class _Place:
    host: str
    port: int
    target: str
    tls: bool


async def http_rows(
    origin: HttpOrigin,
    values: Mapping[str, Value],
    places: Places,
    threads: Threads,
    *,
    max_rows: int,
) -> tuple[dict[str, Any], ...]:
    """The rows. Raises `SourceFailure`; whoever calls bounds the time of it all."""
    place = _place(origin.url, values)
    token = places.secret(origin.token_file)
    if token and not (token.isascii() and token.isprintable()):
        raise SourceFailure("its token is no text that a header can hold")
    context = _context(origin, places) if place.tls else None
    reader, writer = await _connect(place, await _addresses(place, origin, threads), context)
    try:
        status, body = await _ask(place, token, reader, writer)
    except (OSError, h11.ProtocolError):
        raise SourceFailure("its answer broke off, or is not HTTP") from None
    finally:
        writer.transport.abort()
    if status in _NONE:
        return ()
    if status != 200:
        redirected = 300 <= status < 400
        raise SourceFailure(f"it answers {status}{', which is not followed' * redirected}")
    try:
        return rows_of(parse_json(body, max_depth=MAX_DEPTH, max_items=MAX_ITEMS), max_rows)
    except Malformed:
        raise SourceFailure("its answer is not JSON that can be read") from None


def _place(url: str, values: Mapping[str, Value]) -> _Place:
    """The address with the parameters in it, each as one segment or value and nothing more."""
    for name, value in values.items():
        text = to_text(value, "boolean", "") if isinstance(value, bool) else str(value)
        if text in ("", ".", ".."):
            raise SourceFailure(f"its parameter {name} is no segment of a path")
        url = url.replace("{" + name + "}", quote(text, safe="", errors="replace"))
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise SourceFailure("its address cannot be read") from None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if len(target) > _MAX_TARGET or not target.isascii() or not target.isprintable():
        raise SourceFailure("its address is too long, or no address")
    return _Place(parts.hostname or "", port, target, parts.scheme == "https")


async def _addresses(place: _Place, origin: HttpOrigin, threads: Threads) -> list[str]:
    """Those of the host, if all of them may be asked. Plain HTTP goes to loopback only."""
    if not place.tls:
        if not ip_address(place.host).is_loopback:
            raise SourceFailure("plain HTTP is for loopback only")
        return [place.host]
    try:
        found: list[str] = (await threads.run(partial(_resolve, place)))[:MAX_ADDRESSES]
    except (OSError, UnicodeError):
        raise SourceFailure("its name cannot be resolved") from None
    allowed = [ip_network(network) for network in origin.allowed]
    if not all(is_allowed(ip_address(text), allowed) for text in found):
        raise SourceFailure(
            "its address is private, loopback, link-local or of a metadata service: "
            "name its network in allowedNetworks if it really is inside"
        )
    return found


def _resolve(place: _Place) -> list[str]:
    """The addresses as the system resolves the name. Blocks."""
    found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _connect(
    place: _Place, addresses: list[str], context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    name = place.host if context is not None else None
    for address in addresses:
        try:
            return await asyncio.open_connection(
                address, place.port, ssl=context, server_hostname=name
            )
        except ssl.SSLError:
            raise SourceFailure(
                "TLS fails: its certificate is not trusted, or ours is not"
            ) from None
        except OSError:
            continue
    raise SourceFailure("it cannot be reached")


def _context(origin: HttpOrigin, places: Places) -> ssl.SSLContext:
    """TLS 1.2 at least, names checked, with our certificate where one is named."""
    ca = places.secret(origin.ca_file)
    try:
        context = ssl.create_default_context(cadata=ca or None)
        if origin.certificate_file:
            context.load_cert_chain(
                places.resolve(origin.certificate_file), places.resolve(origin.key_file)
            )
    except (ssl.SSLError, ValueError, OSError):
        raise SourceFailure("its caFile, certificateFile or keyFile cannot be used") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def _ask(
    place: _Place, token: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[int, bytes]:
    """Status and body of one request on a new connection."""
    named = f"[{place.host}]" if ":" in place.host else place.host
    headers = [
        ("Host", f"{named}:{place.port}"),
        ("Accept", "application/json"),
        ("Accept-Encoding", "identity"),
        ("User-Agent", "limen"),
        ("Connection", "close"),
    ]
    if token:
        headers.append(("Authorization", f"Bearer {token}"))
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
    for event in (
        h11.Request(method="GET", target=place.target, headers=headers),
        h11.EndOfMessage(),
    ):
        writer.write(http.send(event) or b"")
    await writer.drain()
    status, body = 0, bytearray()
    while True:
        match http.next_event():
            case h11.NEED_DATA:
                http.receive_data(await reader.read(READ_BYTES))
            case h11.Response() as response:
                status = response.status_code
                _check_head(response)
            case h11.Data(data=data):
                body += data
                if len(body) > MAX_ANSWER_BYTES:
                    raise SourceFailure(f"it sends more than {MAX_ANSWER_BYTES} bytes")
            case h11.EndOfMessage():
                return status, bytes(body)
            case h11.InformationalResponse():
                continue
            case _:
                raise h11.RemoteProtocolError("the connection ended")


def _check_head(response: h11.Response) -> None:
    headers = {bytes(name): bytes(value) for name, value in response.headers}
    if b"content-encoding" in headers:
        raise SourceFailure("its answer is compressed although that was not asked for")
    kind = headers.get(b"content-type", b"application/json").decode("latin-1").partition(";")[0]
    if response.status_code == 200 and not kind.strip().lower().endswith("json"):
        raise SourceFailure("its answer is no JSON")
