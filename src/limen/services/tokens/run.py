"""One token service: parts made in order, served while the context lasts."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from limen.adapters.mtls import load_chain
from limen.core.rate import RateLimit
from limen.errors import LimenError, Unavailable
from limen.services.tokens.clients import read_peer
from limen.services.tokens.doors import answer
from limen.services.tokens.endpoint import Parts
from limen.services.tokens.following import Following
from limen.services.tokens.introspection import Credential, Introspector
from limen.services.tokens.keyring import Keyring
from limen.services.tokens.link import TokenLink
from limen.services.tokens.serving import listen
from limen.services.tokens.spool import Spool
from limen.services.tokens.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from limen.adapters.clock import Clock
    from limen.adapters.keys import KeyEncryption
    from limen.adapters.server_link import ServerPlace
    from limen.core.model.token_service import Introspection
    from limen.services.tokens.clients import Peer
    from limen.services.tokens.serving import Connection
    from limen.services.tokens.settings import TokenSettings

START_S = 30.0
CARE_S = 30.0
KEEP_CREDENTIAL_S = 10.0
_log = logging.getLogger("limen.tokens")


@asynccontextmanager
async def serving(
    settings: TokenSettings, place: ServerPlace, kek: KeyEncryption, clock: Clock
) -> AsyncIterator[Parts]:
    """A token service, its port open and its documents read, while the context lasts.

    Raises Unavailable if the server does not answer within 30 s, or the port is taken.
    """
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        link = TokenLink(place)
        stack.push_async_callback(link.close)
        keyring = Keyring(
            settings.data, kek, clock, life_s=settings.key_life_s, lead_s=settings.key_lead_s
        )
        await keyring.load()
        spool = Spool(settings.data / "audit", link)
        spool.load()
        stack.push_async_callback(spool.close)
        parts = _parts(settings, link, keyring, spool, clock)
        identity = _Identity(link, settings.names)
        await identity.renew()
        parts.following.on_roots = identity.trust
        server, open_ = await _listen(settings, parts, identity.context)
        stack.push_async_callback(_close, server, open_)
        _name(settings, parts, server)
        for work in (parts.following.run(), spool.run()):
            stack.push_async_callback(_cancel, asyncio.create_task(work))
        await _ready(parts)
        await link.announce(parts.issuer, parts.url, keyring.published())
        care = asyncio.create_task(_care(parts, identity))
        stack.push_async_callback(_cancel, care)
        yield parts


def _parts(
    settings: TokenSettings, link: TokenLink, keyring: Keyring, spool: Spool, clock: Clock
) -> Parts:
    credentials = _Credentials(link, settings, clock)
    introspector = Introspector(settings.fetch, clock, credentials.find)
    following = Following(link, clock, settings.max_stale_s, introspector.forget)
    return Parts(
        issuer="",
        url="",
        following=following,
        keyring=keyring,
        subjects=Subjects(introspector),
        spool=spool,
        link=link,
        limit=RateLimit(settings.rate_per_s, settings.burst),
        addresses=RateLimit(settings.rate_per_s / 10, max(1, settings.burst // 10)),
        clock=clock,
    )


def _name(settings: TokenSettings, parts: Parts, server: asyncio.Server) -> None:
    """What it is called is known once its port is."""
    port = int(server.sockets[0].getsockname()[1])
    host = settings.names[0]
    parts.url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    parts.issuer = settings.issuer or parts.url
    parts.following.issuer = parts.subjects.issuer = parts.issuer


async def _listen(
    settings: TokenSettings, parts: Parts, context: ssl.SSLContext
) -> tuple[asyncio.Server, set[Connection]]:
    def peer(chain: list[bytes], address: str) -> Peer:
        return read_peer(chain, address, parts.following.known, parts.clock.now_s())

    try:
        return await listen(
            partial(answer, parts),
            peer,
            context,
            settings.host,
            settings.port,
            maximum=settings.max_connections,
        )
    except OSError as error:
        raise Unavailable(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}",
            code="address-in-use",
            hint="choose another with --tokens",
        ) from None


async def _ready(parts: Parts) -> None:
    try:
        async with asyncio.timeout(START_S):
            await parts.following.ready.wait()
    except TimeoutError:
        raise Unavailable(
            "the server does not answer",
            code="server-unavailable",
            hint="start `limen server run` first, and look at the credential of this role",
        ) from None


async def _care(parts: Parts, identity: _Identity) -> None:
    """Turn keys and renew the certificate as it is time to."""
    while True:
        await asyncio.sleep(CARE_S)
        try:
            if await parts.keyring.turn():
                await parts.link.announce(parts.issuer, parts.url, parts.keyring.published())
                event = {
                    "time_s": parts.clock.now_s(),
                    "verb": "rotate",
                    "name": parts.keyring.signing.kid,
                    "detail": {},
                }
                await parts.spool.write(event)
            if parts.clock.now_s() >= identity.renew_at_s:
                await identity.renew()
        except LimenError as error:
            fields = {"code": error.code, "error": str(error)[:300]}
            _log.warning("care for keys failed", extra={"fields": fields})


class _Identity:
    """The service's own certificate, of the control authority; clients' certificates are asked for.

    OpenSSL takes any chain that it can build to a root of the mesh; `read_peer` judges it in full.
    """

    def __init__(self, link: TokenLink, names: tuple[str, ...]) -> None:
        self._link = link
        self._names = names
        self._trusted: set[str] = set()
        self.renew_at_s = 0.0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.verify_mode = ssl.CERT_OPTIONAL

    def trust(self, bundle_pem: str) -> None:
        """Ask clients for certificates of these authorities."""
        if bundle_pem and bundle_pem not in self._trusted:
            self.context.load_verify_locations(cadata=bundle_pem)
            self._trusted.add(bundle_pem)

    async def renew(self) -> None:
        """A new key and certificate. Raises Unavailable."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        pem = csr.sign(key, SHA256()).public_bytes(Encoding.PEM).decode("ascii")
        issued = await self._link.certificate(pem, self._names)
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain = str(issued["certificate_pem"]) + str(issued["bundle_pem"])
        load_chain(self.context, chain, key_pem.decode("ascii"))
        self.renew_at_s = float(issued["renew_at_s"])


class _Credentials:
    """By which issuers know us: asked of the server, and kept for some seconds."""

    def __init__(self, link: TokenLink, settings: TokenSettings, clock: Clock) -> None:
        self._link = link
        self._ca_pem = settings.fetch.ca_pem
        self._clock = clock
        self._kept: dict[Introspection, tuple[float, Credential]] = {}

    async def find(self, asked: Introspection) -> Credential:
        """The credential that the issuer's document names. Raises LimenError."""
        now = self._clock.monotonic_s()
        until, found = self._kept.get(asked, (0.0, None))
        if found is None or now >= until:
            found = await self._ask(asked)
            self._kept = {k: v for k, v in self._kept.items() if v[0] > now}
            self._kept[asked] = (now + KEEP_CREDENTIAL_S, found)
        return found

    async def _ask(self, asked: Introspection) -> Credential:
        named = asked.secret or asked.certificate
        if named is None:
            raise Unavailable("no credential is named", code="no-secret")
        held = await self._link.secret(named.namespace, named.name)
        if asked.secret is not None:
            return Credential(str(held.get("client_secret", "")))
        context = ssl.create_default_context(cadata=self._ca_pem or None)
        load_chain(context, str(held.get("chain_pem", "")), str(held.get("key_pem", "")))
        return Credential(context=context)


async def _close(server: asyncio.Server, open_: set[Connection]) -> None:
    server.close()
    for one in list(open_):
        one.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(2):
            await server.wait_closed()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
