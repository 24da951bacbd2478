"""A gateway of documents in front of real Envoys: compiled as the server compiles it.

async with EdgeMesh() as edge:
    await edge.start(DOCUMENTS)
    answer = await edge.get("/info", host="a.example", port=edge.port(443))
"""

from __future__ import annotations

import datetime as dt
import ssl
import tempfile
from base64 import b64encode
from dataclasses import replace
from textwrap import dedent
from typing import TYPE_CHECKING, Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.e2e.envoy_harness import (
    LOOPBACK,
    Connection,
    Response,
    TestMesh,
    Workload,
    allow,
    policy,
)

from limen.adapters.ports import free_port
from limen.core.compiler.graph import MeshGraph
from limen.core.dialects import read_resources
from limen.core.model.diagnostic import has_errors
from limen.core.model.names import InstanceName, SpiffeId, WorkloadName
from limen.core.model.resource import DATAPLANE, Resource, ResourceKey
from limen.core.model.workload import SERVICE_TAG, Dataplane, Inbound, Protocol
from limen.core.plan.node import LocalSide
from limen.core.xds.events import Confirmed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DOMAIN = "default.mesh.local"
GATEWAY = WorkloadName("default", "istio-system", "ingress")
INSTANCE = InstanceName(GATEWAY, "edge-1")
IDENTITY = SpiffeId(DOMAIN, "istio-system", "ingress")
_DAY = dt.timedelta(days=1)


class Company:
    """An authority outside the mesh."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "company")])
        self.certificate = self._sign(self._key, self.name, (), ca=True)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self, *names: str, uri: str = "", lifetime: dt.timedelta = 10 * _DAY
    ) -> tuple[bytes, bytes]:
        """Chain and key of a leaf, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "leaf")])
        sans: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        sans += [x509.UniformResourceIdentifier(uri)] if uri else []
        leaf = self._sign(key, subject, sans, ca=False, lifetime=lifetime)
        return leaf.public_bytes(Encoding.PEM), key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )

    def secret(
        self,
        name: str,
        *names: str,
        ca: bool = False,
        namespace: str = "istio-system",
        lifetime: dt.timedelta = 10 * _DAY,
    ) -> str:
        """A `v1` Secret, of the gateway's namespace, with a new certificate."""
        chain, key = self.issue(*names, lifetime=lifetime)
        data = {"tls.crt": chain, "tls.key": key, **({"ca.crt": self.pem} if ca else {})}
        lines = [
            "---",
            "apiVersion: v1",
            "kind: Secret",
            f"metadata: {{name: {name}, namespace: {namespace}}}",
            "type: kubernetes.io/tls",
            "data:",
            *(f"  {entry}: {b64encode(value).decode()}" for entry, value in data.items()),
        ]
        return "\n".join(lines) + "\n"

    def _sign(
        self,
        key: ec.EllipticCurvePrivateKey,
        subject: x509.Name,
        sans: Sequence[x509.GeneralName],
        *,
        ca: bool,
        lifetime: dt.timedelta = 10 * _DAY,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def client_context(
    certificate: tuple[bytes, bytes] | None = None, alpn: Sequence[str] = ("http/1.1",)
) -> ssl.SSLContext:
    """A client that trusts any server, with a certificate or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn))
    if certificate is not None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"".join(certificate))
            file.flush()
            context.load_cert_chain(file.name)
    return context


class EdgeMesh:
    """A gateway `istio-system/ingress` and services of namespace `default`."""

    def __init__(self) -> None:
        self.mesh = TestMesh()
        self.company = Company()
        self.services: dict[str, Workload] = {}
        self.gateway: Workload | None = None
        self._ports: dict[int, int] = {}
        self._version: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        await self.mesh.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.mesh.__aexit__(*error)

    async def serve(self, name: str, instance: str = "1", version: str = "v1") -> Workload:
        """Start an echoing service that lets the gateway in."""
        started = await self.mesh.start(name, instance=instance, policy=allow(IDENTITY))
        self.services[f"{name}-{instance}"] = started
        self._version[f"{name}-{instance}"] = version
        return started

    async def serve_tls(self, name: str, service_port: int) -> Workload:
        """A service whose application, on `service_port`, ends TLS itself."""
        started = await self.mesh.start(
            name, policy=allow(IDENTITY), protocol=Protocol.TLS, service_port=service_port
        )
        self.services[f"{name}-1"] = started
        self._version[f"{name}-1"] = "v1"
        return started

    def port(self, number: int) -> int:
        """The free port that stands for `number` in documents, written `port(NUMBER)`."""
        return self._ports.setdefault(number, free_port())

    def graph(self, text: str) -> MeshGraph:
        """The mesh as documents and started services have it."""
        found, _, findings = read_resources(dedent(text).encode(), "edge.yaml")
        assert not has_errors(findings), [str(f) for f in findings]
        own = [self._resource(key, w) for key, w in self.services.items()]
        return MeshGraph("default", [*found, *own, gateway_resource()])

    async def start(self, text: str) -> MeshGraph:
        """Let the gateway be as `text` says, with the policies of the services in force."""
        graph = self.graph(text)
        for key, workload in self.services.items():
            name, number = key.rsplit("-", 1)
            instance = InstanceName(WorkloadName("default", "default", name), f"{name}-{number}")
            (wanted,) = graph.plan(instance).inbounds
            kept = workload.plan.inbounds[0]
            service = {"service_address": kept.service_address, "service_port": kept.service_port}
            event = await workload.apply(inbounds=(replace(wanted, **service),))
            assert isinstance(event, Confirmed), event
        plan = graph.plan(INSTANCE, LocalSide())
        if self.gateway is None:
            self.gateway = await self.mesh.start("ingress")
            self.gateway.certificate = self.mesh.authority.issue(IDENTITY)
        self.gateway.plan = plan
        self.gateway.endpoints = {
            edge.callee: graph.endpoints(edge.callee).endpoints for edge in plan.edges
        }
        event = await self.gateway.envoy.ads.apply(self.gateway.resources())
        assert isinstance(event, Confirmed), event
        return graph

    async def open(
        self, port: int, sni: str = "", certificate: tuple[bytes, bytes] | None = None
    ) -> Connection:
        """A connection to a port of the gateway; with TLS if `sni` is given."""
        context = client_context(certificate) if sni else None
        return await Connection.open(self.port(port), context, sni or "unused")

    async def get(
        self,
        target: str,
        *,
        host: str,
        port: int = 443,
        method: str = "GET",
        sni: str = "",
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        certificate: tuple[bytes, bytes] | None = None,
    ) -> Response:
        """One request from outside; plaintext on port 80, else TLS with `sni` or the host."""
        name = "" if port == 80 else sni or host.partition(":")[0]
        connection = await self.open(port, name, certificate)
        try:
            return await connection.request(method, target, headers, host=host)
        finally:
            await connection.close()

    def _resource(self, key: str, workload: Workload) -> Resource:
        name, number = key.rsplit("-", 1)
        full = WorkloadName("default", "default", name)
        tags = ((SERVICE_TAG, name), ("version", self._version[key]))
        protocol = workload.plan.inbounds[0].protocol
        inbound = Inbound(workload.port, 8080, protocol, tags)
        spec = Dataplane(InstanceName(full, f"{name}-{number}"), name, LOOPBACK, (inbound,))
        where = ResourceKey(DATAPLANE, "default", "default", f"{name}-{number}")
        return Resource(where, spec, (("app", name), ("version", self._version[key])))


def gateway_resource(**labels: str) -> Resource:
    """The gateway's registration, with the label of Istio's own gateway."""
    spec = Dataplane(
        INSTANCE,
        "ingress",
        LOOPBACK,
        (),
        gateway=True,
        tags=((SERVICE_TAG, "ingress"),),
    )
    key = ResourceKey(DATAPLANE, "default", "istio-system", "edge-1")
    shown: dict[str, Any] = {"app": "ingress", "istio": "ingressgateway", **labels}
    return Resource(key, spec, tuple(sorted(shown.items())))


__all__ = ["GATEWAY", "IDENTITY", "Company", "EdgeMesh", "client_context", "policy"]
