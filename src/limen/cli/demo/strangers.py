"""Identities that the demo's services do not have: forged ones, and ones of visiting nodes."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from limen.adapters.ports import free_port
from limen.cli.demo import direct
from limen.services.agent.identity import build_request, key_to_pem, make_key
from limen.services.agent.node_identity import agent_versions, redeem_token
from limen.services.agent.node_link import NodeLink

if TYPE_CHECKING:
    from limen.cli.demo.world import World

MESH = """
apiVersion: kuma.io/v1alpha1
kind: Mesh
metadata:
  name: {mesh}
spec:
  mtls:
    enabledBackend: ca-1
    backends:
      - name: ca-1
        type: builtin
"""
DAY = dt.timedelta(days=1)


def foreign_identity(spiffe_id: str) -> direct.Identity:
    """A certificate with `spiffe_id`, well made, by an authority of our own."""
    now = dt.datetime.now(dt.UTC)
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "somebody else")])

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )

    root = (
        builder(name, root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
    leaf = (
        builder(x509.Name([]), key.public_key())
        .add_extension(san, critical=True)
        .sign(root_key, hashes.SHA256())
    )
    chain = leaf.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM)
    return direct.identity(
        chain, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


async def visitor_identity(world: World, mesh: str, service: str) -> direct.Identity:
    """An SVID of `service` in `mesh`, got by joining as a node of our own and asking for it.

    The visitor's instance is registered only as long as this takes.
    """
    if mesh != "default":
        await world.apply(f"{mesh}.yaml", MESH.format(mesh=mesh))
    path = world.base / f"visitor-{mesh}-token"
    await world.new_token(path, mesh, (service,))
    text = path.read_text(encoding="ascii")
    node = await asyncio.to_thread(redeem_token, text, mesh, "", agent_versions("demo"))
    link = NodeLink(node)
    try:
        port = free_port()
        answer = await link.call(
            "Register",
            {
                "service": service,
                "namespace": "default",
                "instance": "visitor",
                "address": "127.0.0.1",
                "inbounds": [{"port": port, "service_port": port, "protocol": "http"}],
            },
        )
        key = make_key()
        request = build_request(key, answer["spiffe_id"], tuple(answer["dns_names"]))
        signed = await link.call("Sign", {"instance": answer["instance"], "csr_pem": request})
        await link.call("Deregister", {"instance": answer["instance"]})
    finally:
        await link.close()
    return direct.identity(signed["certificate_pem"].encode(), key_to_pem(key).encode())
