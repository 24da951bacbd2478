"""A small server of the node contract for agent tests: join, node service, ADS. All in memory.

Everybody may call everybody, unless `forbid` says otherwise. It can be stopped and started again
on the same ports with the same authority, can sign short-lived certificates, and can send a
resource that Envoy refuses.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import duration_pb2
from grpc import aio

from limen.core.envoy import names
from limen.core.envoy.encoded import Encoded, encode, merged
from limen.core.envoy.endpoints import endpoints_resource
from limen.core.envoy.resources import node_resources
from limen.core.envoy.secret import bundle_resource
from limen.core.model.names import InstanceName, SpiffeId, WorkloadName, parse_instance_name
from limen.core.model.workload import Probe, Protocol
from limen.core.pki.builder import build_certificate
from limen.core.pki.join_token import (
    JoinToken,
    fingerprint_of,
    format_join_token,
    parse_join_token,
)
from limen.core.pki.pem import certificates_to_pem
from limen.core.pki.profile import Profile, Request, node_uri
from limen.core.plan.node import (
    Edge,
    Endpoint,
    EndpointsPlan,
    InboundPlan,
    LocalSide,
    NodePlan,
    ProbePlan,
)
from limen.core.policy.rule import Authenticated, Effect, Layer, LayerKind, Policy, Rule, RuleRef
from limen.core.xds.delta import DeltaStream
from limen.core.xds.view import View

LOOPBACK = "127.0.0.1"
DOMAIN = "default.mesh.local"
DAY = 86400


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


class Authority:
    """A root and the leaves that it signs through one intermediate."""

    def __init__(self, root: Profile, intermediate: Profile, domain: str = "") -> None:
        root_key, self._key = ec.generate_private_key(ec.SECP256R1()), None
        now = int(time.time())
        self.root = build_certificate(
            Request(root, _public(root_key), b"", self.serial(), now - 10, now + DAY, "root"),
            root_key,
        )
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.intermediate = build_certificate(
            Request(
                intermediate,
                _public(self._key),
                self.root,
                self.serial(),
                now - 10,
                now + DAY,
                "intermediate",
                trust_domain=domain,
            ),
            root_key,
        )

    @staticmethod
    def serial() -> int:
        return secrets.randbits(150)

    @property
    def bundle_pem(self) -> str:
        return certificates_to_pem([self.root])

    def issue(
        self,
        profile: Profile,
        public_key: bytes,
        lifetime_s: int,
        *,
        uri: str = "",
        dns: tuple[str, ...] = (),
        ips: tuple[str, ...] = (),
    ) -> str:
        now = int(time.time())
        leaf = build_certificate(
            Request(
                profile,
                public_key,
                self.intermediate,
                self.serial(),
                now - 10,
                now + lifetime_s,
                uri=uri,
                dns_names=dns,
                ip_addresses=ips,
            ),
            self._key,
        )
        return certificates_to_pem([leaf, self.intermediate])


class FakeServer:
    """Use as `async with FakeServer() as server`."""

    def __init__(self) -> None:
        self.control = Authority(Profile.CONTROL_ROOT, Profile.CONTROL_INTERMEDIATE)
        self.mesh = Authority(Profile.MESH_ROOT, Profile.MESH_INTERMEDIATE, DOMAIN)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.tokens: dict[str, bool] = {}
        self.lifetime_s = DAY
        self.renew_after_s: float = DAY / 2
        self.settings: dict[str, Any] = {}
        self.epoch = "epoch-1"
        self.node_roots = ""
        self.node_lifetime_s = DAY
        self.entitled: set[str] | None = None
        self.signed = 0
        self.statuses: list[dict[str, Any]] = []
        self.refusals: list[str] = []
        self.places: dict[str, dict[str, Any]] = {}
        self.extra: dict[str, Encoded] = {}
        self.api_port = 0
        self.node_port = 0
        self._revision = 0
        self._streams: dict[int, tuple[str, DeltaStream, asyncio.Queue[bytes | None]]] = {}
        self._http: asyncio.Server | None = None
        self._grpc: aio.Server | None = None
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        chain = self.control.issue(
            Profile.SERVER, _public(self.key), DAY, dns=("localhost",), ips=(LOOPBACK,)
        )
        key = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "server.pem"
            path.write_bytes(key + chain.encode() + self.control.bundle_pem.encode())
            context.load_cert_chain(path)
        self._http = await asyncio.start_server(self._on_http, LOOPBACK, self.api_port, ssl=context)
        self.api_port = self._http.sockets[0].getsockname()[1]
        server = aio.server()
        server.add_generic_rpc_handlers((self._handlers(),))
        credentials = grpc.ssl_server_credentials(
            [(key, chain.encode())],
            (self.node_roots or self.control.bundle_pem).encode(),
            require_client_auth=True,
        )
        self.node_port = server.add_secure_port(f"{LOOPBACK}:{self.node_port}", credentials)
        await server.start()
        self._grpc = server

    async def stop(self) -> None:
        """As a crash: streams break."""
        if self._http is not None:
            self._http.close()
            self._http = None
        if self._grpc is not None:
            await self._grpc.stop(0)
            self._grpc = None
        self._streams.clear()

    def token(self, fingerprint: str = "") -> str:
        token_id = secrets.token_hex(8)
        self.tokens[token_id] = True
        pin = fingerprint or fingerprint_of(self.control.root)
        url = f"https://{LOOPBACK}:{self.api_port}"
        return format_join_token(JoinToken(url, pin, token_id, secrets.token_urlsafe(32)))

    async def wait(self, condition: Any, timeout_s: float = 15) -> None:
        """Wait until `condition()` holds; it is looked at whenever something happens."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 0.2)

    # -- join

    async def _on_http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            status, answer = self._join(json.loads(await reader.readexactly(length)))
            body = json.dumps(answer).encode()
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            writer.write(body)
            await writer.drain()
        except (asyncio.IncompleteReadError, OSError, ssl.SSLError):
            pass
        finally:
            writer.close()

    def _join(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        token = parse_join_token(body["token"])
        if not self.tokens.pop(token.token_id, False):
            return 401, {"code": "token-refused", "message": "the token is not valid", "hint": ""}
        node_id = secrets.token_hex(8)
        return 200, {
            "node_id": node_id,
            "mesh": "default",
            "certificate_pem": self._node_certificate(body["csr_pem"], node_id),
            "control_bundle_pem": self.control.bundle_pem,
            "node_address": f"{LOOPBACK}:{self.node_port}",
            "entitlements": [],
        }

    def _node_certificate(self, csr_pem: str, node_id: str) -> str:
        return self.control.issue(
            Profile.NODE, _csr_key(csr_pem), self.node_lifetime_s, uri=node_uri(node_id)
        )

    # -- node service

    def _handlers(self) -> Any:
        async def stream(requests: Any, context: Any) -> Any:
            async for item in self._ads(requests):
                yield item

        methods = {
            "/limen.node.v1.Node/Renew": self._renew,
            "/limen.node.v1.Node/Register": self._register,
            "/limen.node.v1.Node/Deregister": self._deregister,
            "/limen.node.v1.Node/Sign": self._sign,
            "/limen.node.v1.Node/Status": self._status,
        }
        ads = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"

        class Handlers(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                if details.method == ads:
                    return grpc.stream_stream_rpc_method_handler(stream)
                method = methods.get(details.method)
                if method is None:
                    return None

                async def call(raw: bytes, context: Any) -> bytes:
                    answer = await method(json.loads(raw), context)
                    return json.dumps(answer).encode()

                return grpc.unary_unary_rpc_method_handler(call)

        return Handlers()

    async def _renew(self, message: dict[str, Any], _: Any) -> dict[str, Any]:
        return {"certificate_pem": self._node_certificate(message["csr_pem"], "0123456789abcdef")}

    async def _register(self, message: dict[str, Any], context: Any) -> dict[str, Any]:
        workload = f"{message['namespace']}/{message['service']}"
        if self.entitled is not None and workload not in self.entitled:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"not-entitled: this node may not run {workload}",
            )
        key = f"{workload}/{message['instance']}"
        self.places[key] = message
        self.publish()
        return {
            "instance": key,
            "spiffe_id": str(self.identity(message["namespace"], message["service"])),
            "dns_names": [f"{message['service']}.{message['namespace']}.mesh"],
            "trust_domain": DOMAIN,
            "lifetime_s": self.lifetime_s,
            "settings": self.settings,
            "epoch": self.epoch,
        }

    async def _deregister(self, message: dict[str, Any], _: Any) -> dict[str, Any]:
        self.places.pop(message["instance"], None)
        self.publish()
        return {}

    async def _sign(self, message: dict[str, Any], _: Any) -> dict[str, Any]:
        name = parse_instance_name(message["instance"])
        workload = name.workload
        self.signed += 1
        self._changed.set()
        return {
            "certificate_pem": self.mesh.issue(
                Profile.WORKLOAD,
                _csr_key(message["csr_pem"]),
                self.lifetime_s,
                uri=str(self.identity(workload.namespace, workload.name)),
                dns=(workload.dns_san,),
            ),
            "bundle_pem": self.mesh.bundle_pem,
            "not_after_s": time.time() + self.lifetime_s,
            "renew_at_s": time.time() + self.renew_after_s,
        }

    async def _status(self, message: dict[str, Any], _: Any) -> dict[str, Any]:
        self.statuses.append(message)
        self._changed.set()
        return {}

    @staticmethod
    def identity(namespace: str, service: str) -> SpiffeId:
        return SpiffeId(DOMAIN, namespace, service)

    # -- ADS

    async def _ads(self, requests: Any) -> Any:
        out: asyncio.Queue[bytes | None] = asyncio.Queue()
        local = DeltaStream()
        number = secrets.randbits(60)

        async def read() -> None:
            try:
                async for data in requests:
                    output = local.on_request(data)
                    if number not in self._streams:
                        self._streams[number] = (local.node_id, local, out)
                        for item in local.on_view(self._view(local.node_id)).responses:
                            out.put_nowait(item)
                    self._note(data)
                    for item in output.responses:
                        out.put_nowait(item)
            finally:
                out.put_nowait(None)

        reading = asyncio.create_task(read())
        try:
            while (item := await out.get()) is not None:
                yield item
        finally:
            reading.cancel()
            self._streams.pop(number, None)

    def _note(self, data: bytes) -> None:
        request = discovery_pb2.DeltaDiscoveryRequest.FromString(data)
        if request.HasField("error_detail"):
            self.refusals.append(request.error_detail.message)
        self._changed.set()

    @property
    def connected(self) -> list[str]:
        """Instances with an open stream."""
        return [node for node, _, _ in self._streams.values()]

    def publish(self) -> None:
        """Send everybody the present state."""
        self._revision += 1
        for node, local, out in list(self._streams.values()):
            for item in local.on_view(self._view(node)).responses:
                out.put_nowait(item)
        self._changed.set()

    def send_broken_cluster(self) -> None:
        """A cluster that Envoy refuses: its timeout is negative."""
        bad = cluster_pb2.Cluster(
            name="broken", type="EDS", connect_timeout=duration_pb2.Duration(seconds=-1)
        )
        self.extra = {"broken": encode("broken", bad)}
        self.publish()

    def send_poison(self) -> None:
        """A cluster that Envoy takes; an Envoy made for the test dies of it."""
        good = cluster_pb2.Cluster(name="poison", type="STATIC")
        self.extra = {"poison": encode("poison", good)}
        self.publish()

    def _view(self, node: str) -> View:
        place = self.places.get(node)
        if place is None:
            return View(str(self._revision), {})
        edges = self._edges()
        plan = self._plan(node, place, edges)
        endpoints = {
            e.name: e for e in (endpoints_resource(self._endpoints(edge)) for edge in edges)
        }
        bundle = bundle_resource(self.mesh.bundle_pem.encode())
        resources = merged(
            node_resources(plan),
            {names.ENDPOINTS: endpoints, names.SECRET: {bundle.name: bundle}},
            {names.CLUSTER: self.extra},
        )
        return View(str(self._revision), resources)

    def _plan(self, node: str, place: dict[str, Any], edges: tuple[Edge, ...]) -> NodePlan:
        name: InstanceName = parse_instance_name(node)
        probes = tuple(
            Probe(p["path"], p["inbound_port"], p["inbound_path"]) for p in place["probes"]
        )
        return NodePlan(
            instance=name,
            spiffe_id=self.identity(name.workload.namespace, name.workload.name),
            trusted_domains=(DOMAIN,),
            inbounds=tuple(
                InboundPlan(
                    place["address"],
                    i["port"],
                    LOOPBACK,
                    i["service_port"],
                    Protocol(i["protocol"]),
                    _everybody(),
                )
                for i in place["inbounds"]
            ),
            edges=edges,
            local=LocalSide(place["local"]["outbound_port"], place["local"]["outbound_socket"]),
            probes=ProbePlan(place["address"], place["probe_port"], probes)
            if place["probe_port"] and probes
            else None,
        )

    def _edges(self) -> tuple[Edge, ...]:
        found = sorted({(p["namespace"], p["service"]) for p in self.places.values()})
        return tuple(
            Edge(
                WorkloadName("default", namespace, service),
                (f"{service}.{namespace}.mesh", f"{service}.mesh"),
                (self.identity(namespace, service),),
            )
            for namespace, service in found
        )

    def _endpoints(self, edge: Edge) -> EndpointsPlan:
        places = [
            p
            for p in self.places.values()
            if (p["namespace"], p["service"]) == (edge.callee.namespace, edge.callee.name)
        ]
        endpoints = {Endpoint(p["address"], i["port"]) for p in places for i in p["inbounds"]}
        return EndpointsPlan(edge.callee, tuple(sorted(endpoints, key=str)))


def _everybody() -> Policy:
    ref = RuleRef("MeshTrafficPermission", "default", "default", "all", 0)
    rule = Rule(Effect.ALLOW, Authenticated(), "all", ref)
    return Policy((Layer(LayerKind.PERMISSION, (rule,), allows=True),))


def _csr_key(csr_pem: str) -> bytes:
    request = x509.load_pem_x509_csr(csr_pem.encode())
    return request.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
