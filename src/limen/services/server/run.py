"""One server process: parts made in order, served until a signal, taken down in reverse."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import uvicorn
import uvloop

from limen import __version__
from limen.adapters.clock import SystemClock
from limen.adapters.keys import find_kek
from limen.adapters.server_link import ServerPlace
from limen.adapters.store_sqlite import open_store
from limen.errors import Unavailable
from limen.services.server import data_dir, logs
from limen.services.server.api.app import build_guarded
from limen.services.server.authority import Authority
from limen.services.server.joining import Joining
from limen.services.server.meshes import meshes_without_mtls
from limen.services.server.node.ads import Discovery
from limen.services.server.node.peers import NodeAuthenticator
from limen.services.server.node.rpc import (
    MAX_CONFIGURATION_BYTES,
    MAX_MESSAGE_BYTES,
    GuardedService,
)
from limen.services.server.node.service import NodeService
from limen.services.server.operators import load_admin, save_places
from limen.services.server.publishing import PolicySigner
from limen.services.server.role_credentials import make_token
from limen.services.server.roles import who_is
from limen.services.server.settings import Address
from limen.services.server.tls import ServerIdentity
from limen.services.server.upkeep import upkeep
from limen.services.server.wiring import wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from limen.adapters.clock import Clock
    from limen.adapters.keys import KeyEncryption
    from limen.adapters.store import Store
    from limen.services.server.api.guard import Guard
    from limen.services.server.control import Control
    from limen.services.server.roles import Role
    from limen.services.server.settings import ServerSettings

    StartedRole = Callable[[ServerPlace, Clock], AbstractAsyncContextManager[str]]

STOP_GRACE_S = 3.0
GC_THRESHOLDS = (50_000, 20, 50)
"""The defaults walk the whole heap several times while a change for 1,000 proxies is compiled."""
_log = logging.getLogger("limen.server")


def run_server(
    settings: ServerSettings, say: Callable[[str], None], roles: Mapping[Role, StartedRole]
) -> None:
    """Run until SIGTERM or SIGINT. `say` gets the lines for the person who started it.

    `roles` run in this process too, over the API like those that run apart.

    Raises what keeps it from starting.
    """
    logs.configure(as_json=settings.log_json)
    gc.set_threshold(*GC_THRESHOLDS)
    uvloop.run(_run(settings, say, roles))


async def _run(
    settings: ServerSettings, say: Callable[[str], None], roles: Mapping[Role, StartedRole]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    data_dir.prepare(settings.data)
    with data_dir.locked(settings.data):
        store = await open_store(settings.data / "limen.db")
        kek = find_kek(settings.kek, settings.data, os.environ)
        clock = SystemClock()
        async with serving(settings, store, kek, clock) as control, AsyncExitStack() as stack:
            lines = [
                await stack.enter_async_context(start(_place(control, role), clock))
                for role, start in roles.items()
            ]
            await _announce(settings, control, say, lines)
            await stop.wait()
            _log.info("stopping")


@asynccontextmanager
async def serving(
    settings: ServerSettings, store: Store, kek: KeyEncryption, clock: Clock
) -> AsyncIterator[Control]:
    """A server on `store`, both ports open while the context lasts. Closes the store."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        authority = Authority(store, kek, clock)
        await authority.start()
        joining = Joining(store, authority, clock)
        control = await stack.enter_async_context(wire(settings, store, clock, authority, joining))
        identity = ServerIdentity(authority, settings.names)
        await identity.renew()
        signer = PolicySigner(identity, await store.epoch())
        control.loop.sign_policies = signer.sign
        await load_admin(control)
        api = await stack.enter_async_context(
            _serving_api(build_guarded(control, control.credentials), settings.api, identity)
        )
        port = await stack.enter_async_context(_serving_nodes(control, settings.node, identity))
        control.api_url = f"https://{Address(settings.public_host, api)}"
        control.node_address = str(Address(settings.public_host, port))
        save_places(control)
        await stack.enter_async_context(upkeep(control, identity))
        stack.callback(control.watchers.close)
        yield control
        control.accepting = False


def _place(control: Control, role: Role) -> ServerPlace:
    """A credential that lives as long as this process."""
    token = make_token(role.kind)
    control.credentials.replace(role.name, token, who_is(role))
    listens = control.settings.api.host
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listens, listens)  # noqa: S104 - told apart
    port = int(control.api_url.rpartition(":")[2])
    url = f"https://{Address(local, port)}"
    return ServerPlace(url, control.authority.control_bundle_pem, token)


async def _announce(
    settings: ServerSettings, control: Control, say: Callable[[str], None], lines: Sequence[str]
) -> None:
    epoch = await control.store.epoch()
    fields = {
        "version": __version__,
        "api": control.api_url,
        "node": control.node_address,
        "data": str(settings.data),
        "epoch": epoch,
        "revision": control.mirror.snapshot.revision,
    }
    _log.info("server is up", extra={"fields": fields})
    for mesh in meshes_without_mtls(control.mirror.snapshot):
        _log.warning(
            "mutual TLS is OFF: no permission is enforced", extra={"fields": {"mesh": mesh}}
        )
    say(f"limen server {__version__} is up")
    say(f"  API      {control.api_url}")
    say(f"  agents   {control.node_address}")
    for line in lines:
        say(f"  {line}")
    say(f"  client   {settings.data / 'client.json'}")
    say(f"  try      LIMEN_CONFIG={settings.data / 'client.json'} limen server status")


@asynccontextmanager
async def _serving_api(
    app: Guard, address: Address, identity: ServerIdentity
) -> AsyncIterator[int]:
    """Serve the API; the port."""
    listener = _listen(address)
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=2000,
        timeout_graceful_shutdown=int(STOP_GRACE_S),
        ssl_context_factory=lambda _config, _default: identity.context,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))  # noqa: SLF001 - serve() takes the signals
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def _serving_nodes(
    control: Control, address: Address, identity: ServerIdentity
) -> AsyncIterator[int]:
    """Serve the agents; the port."""
    service = NodeService(control)
    methods = service.methods() + Discovery(control, service).methods()
    quiet_ms = int(control.settings.quiet_s * 1000)
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_CONFIGURATION_BYTES),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.server.max_pending_requests", 100_000),
            ("grpc.server.max_pending_requests_hard_limit", 200_000),
            ("grpc.keepalive_time_ms", quiet_ms * 3 // 5),
            ("grpc.keepalive_timeout_ms", quiet_ms * 2 // 5),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.min_time_between_pings_ms", 500),
            ("grpc.http2.ping_timeout_ms", quiet_ms * 2 // 5),
            ("grpc.http2.min_ping_interval_without_data_ms", 500),
            ("grpc.http2.max_ping_strikes", 0),
        )
    )
    server.add_generic_rpc_handlers((GuardedService(methods, NodeAuthenticator(control.joining)),))
    try:
        port = server.add_secure_port(str(address), identity.node_credentials())
    except RuntimeError:
        raise _occupied(address) from None
    await server.start()
    try:
        yield port
    finally:
        for stream in control.loop.streams():
            stream.end(Unavailable("the server is stopping", code="stopping"))
        await server.stop(STOP_GRACE_S)


def _listen(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # else no TCP_NODELAY
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
    except OSError:
        listener.close()
        raise _occupied(address) from None
    return listener


def _occupied(address: Address) -> Unavailable:
    return Unavailable(
        f"cannot listen on {address}",
        code="address-in-use",
        hint="choose another with --api, --node",
    )
