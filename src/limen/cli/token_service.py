"""The token service as a role: inside `limen server run`, or as a process of its own."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvloop

from limen.adapters.clock import SystemClock
from limen.adapters.judged_https import FetchRules
from limen.adapters.keys import find_kek
from limen.adapters.server_link import ServerPlace
from limen.cli.client import load_client_file
from limen.errors import InvalidInput
from limen.services.server import data_dir, logs
from limen.services.server.roles import Role, RoleKind
from limen.services.server.settings import Address, parse_address
from limen.services.tokens.run import serving
from limen.services.tokens.settings import TokenSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from limen.adapters.clock import Clock
    from limen.services.server.run import StartedRole
    from limen.services.server.settings import ServerSettings

LOCAL_NAME = "server"
"""The token service of a server's own process."""


@dataclass(frozen=True, slots=True)
class TokenOptions:
    """As the command line has them; `address` empty: chosen by the API's port."""

    address: str
    issuer: str
    mesh: str
    rate_per_s: float


def roles_of(settings: ServerSettings, options: TokenOptions) -> Mapping[Role, StartedRole]:
    """The token service that runs in the server's process."""
    address = _address(settings, options)
    names = _names(settings, address)

    @asynccontextmanager
    async def start(place: ServerPlace, clock: Clock) -> AsyncIterator[str]:
        tokens = _settings(settings, options, address, names, settings.data / "tokens")
        kek = find_kek(settings.kek, settings.data, os.environ)
        async with serving(tokens, place, kek, clock) as parts:
            yield f"tokens   {parts.url}"

    return {Role(LOCAL_NAME, RoleKind.TOKENS, options.mesh, names): start}


def run_apart(settings: ServerSettings, options: TokenOptions, config: Path | None) -> None:
    """A token service of its own until SIGTERM or SIGINT. Raises what keeps it from starting."""
    if config is None:
        raise InvalidInput(
            "a token service of its own needs its credential",
            code="no-config",
            hint="write `limen server add-role NAME -o FILE` at the server, then --config FILE",
        )
    logs.configure(as_json=settings.log_json)
    client = load_client_file(config)
    address = _address(settings, options)
    tokens = _settings(settings, options, address, _names(settings, address), settings.data)
    place = ServerPlace(client.server, client.ca_pem, client.token)
    gc.set_threshold(50_000, 20, 50)
    data_dir.prepare(settings.data)
    with data_dir.locked(settings.data):
        uvloop.run(_run(settings, tokens, place))


async def _run(settings: ServerSettings, tokens: TokenSettings, place: ServerPlace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    kek = find_kek(settings.kek, settings.data, os.environ)
    async with serving(tokens, place, kek, SystemClock()) as parts:
        print(
            f"limen token service is up\n  tokens   {parts.url}\n  issuer   {parts.issuer}",
            flush=True,
        )
        gc.collect()
        gc.freeze()
        await stop.wait()


def _address(settings: ServerSettings, options: TokenOptions) -> Address:
    if options.address:
        return parse_address(options.address)
    api = settings.api
    return Address(api.host, api.port + 2 if api.port else 0)


def _names(settings: ServerSettings, address: Address) -> tuple[str, ...]:
    wildcard = {"0.0.0.0", "::"}  # noqa: S104 - told apart here, not bound
    hosts = [*settings.advertise, address.host, "localhost", "127.0.0.1", "::1"]
    return tuple(dict.fromkeys(host for host in hosts if host not in wildcard))


def _settings(
    settings: ServerSettings,
    options: TokenOptions,
    address: Address,
    names: tuple[str, ...],
    data: Path,
) -> TokenSettings:
    return TokenSettings(
        data=data,
        host=address.host,
        port=address.port,
        names=names,
        issuer=options.issuer,
        fetch=FetchRules(settings.jwks_allowed, settings.jwks_ca_pem),
        rate_per_s=options.rate_per_s,
        burst=int(options.rate_per_s * 2) + 1,
    )
