"""A whole server inside the test's event loop, and a node that talks to it by hand."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from limen.adapters.clock import SystemClock
from limen.adapters.keys import MemoryKek
from limen.adapters.store_memory import MemoryStore
from limen.core.xds import types
from limen.services.server import data_dir
from limen.services.server.run import serving
from limen.services.server.settings import Address, ServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from limen.adapters.store import Store
    from limen.services.server.control import Control

KEK = MemoryKek(b"k" * 32)
ANY_PORT = Address("127.0.0.1", 0)
ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
NODE_SERVICE = "/limen.node.v1.Node/"


def settings_for(path: Path, **changes: Any) -> ServerSettings:
    data = path / "data"
    data_dir.prepare(data)
    return ServerSettings(
        data=data, api=ANY_PORT, node=ANY_PORT, **{"presence_grace_s": 0.2, **changes}
    )


@dataclass
class Running:
    control: Control
    api: httpx.AsyncClient
    client: dict[str, str]

    async def apply(self, *documents: str, **options: Any) -> httpx.Response:
        files = [{"name": f"f{i}.yaml", "text": d} for i, d in enumerate(documents)]
        return await self.api.post("/v1/apply", json={"files": files, **options})

    async def token(self, *services: str, **body: Any) -> str:
        answer = await self.api.post("/v1/tokens", json={"services": list(services), **body})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    async def join(self, *services: str, **body: Any) -> FakeNode:
        return await join(self, await self.token(*services, **body))


@asynccontextmanager
async def running(path: Path, store: Store | None = None, **changes: Any) -> AsyncIterator[Running]:
    settings = settings_for(path, **changes)
    async with serving(settings, store or MemoryStore(), KEK, SystemClock()) as control:
        client = json.loads((settings.data / "client.json").read_text())
        async with anonymous(client, token=client["token"]) as api:
            yield Running(control, api, client)


def anonymous(client: dict[str, str], token: str = "") -> httpx.AsyncClient:
    context = ssl.create_default_context(cadata=client["ca_pem"])
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(
        base_url=client["server"], verify=context, headers=headers, trust_env=False, timeout=120
    )


def make_csr(uri: str = "", key: ec.EllipticCurvePrivateKey | None = None) -> tuple[str, str]:
    """Key and certificate request, PEM."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if uri:
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(san, critical=True)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return pem.decode(), csr.decode()


@dataclass
class FakeNode:
    """A joined node: calls by hand, streams by hand."""

    node_id: str
    key_pem: str
    certificate_pem: str
    channel: grpc.aio.Channel
    streams: list[FakeProxy] = field(default_factory=list)

    async def call(self, method: str, message: dict[str, Any]) -> dict[str, Any]:
        call = self.channel.unary_unary(NODE_SERVICE + method)
        return dict(json.loads(await call(json.dumps(message).encode(), timeout=10)))

    async def register(self, service: str, instance: str = "1", **fields: Any) -> dict[str, Any]:
        message = {
            "service": service,
            "namespace": "default",
            "instance": instance,
            "address": "127.0.0.1",
            "inbounds": [{"port": 9080, "service_port": 8080, "protocol": "http"}],
            **fields,
        }
        return await self.call("Register", message)

    async def open(self, name: str, **options: Any) -> FakeProxy:
        proxy = FakeProxy(self.channel, name, **options)
        await proxy.start()
        self.streams.append(proxy)
        return proxy

    async def close(self) -> None:
        for stream in self.streams:
            await stream.close()
        await self.channel.close()


class FakeProxy:
    """A delta stream that acknowledges everything, unless told to refuse or to stay silent."""

    def __init__(
        self, channel: grpc.aio.Channel, name: str, *, silent: bool = False, refuse: str = ""
    ) -> None:
        self.resources: dict[str, dict[str, str]] = {url: {} for url in types.SERVED}
        self.received = b""
        self.silent = silent
        self.refuse = refuse
        self.error: grpc.aio.AioRpcError | None = None
        self.changed = asyncio.Event()
        self._greeted = asyncio.Event()
        self._name = name
        self._requests: asyncio.Queue[bytes] = asyncio.Queue()
        self._call = channel.stream_stream(ADS)(self._sending())
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        for url in types.SERVED:
            request = discovery_pb2.DeltaDiscoveryRequest(
                type_url=url, resource_names_subscribe=["*"]
            )
            request.node.id = self._name
            self._requests.put_nowait(request.SerializeToString())
        self._task = asyncio.create_task(self._run())

    async def _sending(self) -> AsyncIterator[bytes]:
        yield await self._requests.get()
        await self._greeted.wait()  # a write after a refusal would hide its status
        while True:
            yield await self._requests.get()

    async def _run(self) -> None:
        try:
            async for data in self._call:
                await self._receive(data)
        except grpc.aio.AioRpcError as error:
            self.error = error
        finally:
            self.changed.set()

    async def _receive(self, data: bytes) -> None:
        self._greeted.set()
        self.received += data
        response = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
        answer = discovery_pb2.DeltaDiscoveryRequest(
            type_url=response.type_url, response_nonce=response.nonce
        )
        refused = [r.name for r in response.resources if self.refuse and self.refuse in r.name]
        if refused:
            answer.error_detail.CopyFrom(status_pb2.Status(code=3, message=f"no {refused[0]}"))
        else:
            mine = self.resources[response.type_url]
            mine.update({r.name: r.version for r in response.resources})
            for name in response.removed_resources:
                mine.pop(name, None)
        self.changed.set()
        if not self.silent:
            self._requests.put_nowait(answer.SerializeToString())

    def has(self, name: str) -> bool:
        return any(name in found for found in self.resources.values())

    async def until(self, condition: Any, timeout_s: float = 5.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def ended(self) -> grpc.StatusCode:
        assert self._task is not None
        await asyncio.wait_for(asyncio.shield(self._task), 5)
        return self.error.code() if self.error else grpc.StatusCode.OK

    async def close(self) -> None:
        self._call.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)


async def join(server: Running, token: str) -> FakeNode:
    key_pem, csr_pem = make_csr()
    async with anonymous(server.client) as http:
        answer = await http.post("/v1/join", json={"token": token, "csr_pem": csr_pem})
    assert answer.status_code == 200, answer.text
    joined = answer.json()
    credentials = grpc.ssl_channel_credentials(
        joined["control_bundle_pem"].encode(), key_pem.encode(), joined["certificate_pem"].encode()
    )
    channel = grpc.aio.secure_channel(joined["node_address"], credentials)
    return FakeNode(joined["node_id"], key_pem, joined["certificate_pem"], channel)


def permission(source: str, destination: str, name: str = "") -> str:
    return f"""
type: TrafficPermission
mesh: default
name: {name or f"{source}-to-{destination}"}
sources: [{{match: {{kuma.io/service: "{source}"}}}}]
destinations: [{{match: {{kuma.io/service: "{destination}"}}}}]
"""
