"""Sets of policies as they come from the server: whose they are, checked before they are used."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_der_x509_certificate

from limen.core.envoy.policies import statement
from limen.core.pki.chain import verify_server_chain
from limen.core.pki.pem import parse_certificates
from limen.errors import InvalidInput, Untrusted

if TYPE_CHECKING:
    from limen.services.agent.node_identity import NodeIdentity


@dataclass(frozen=True, slots=True)
class Published:
    """A set, and the history of the store that its epochs belong to."""

    store: str
    content: bytes
    signature: bytes
    chain_pem: str


NONE = Published("", b"", b"", "")


def parse_published(offered: bytes) -> Published:
    """The parts of a set as it was sent. Raises Untrusted if it is not signed."""
    head, _, content = offered.partition(b"\n")
    try:
        header = json.loads(head)
        return Published(
            str(header["store"]), content, bytes.fromhex(header["signature"]), str(header["chain"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _untrusted("they are not signed") from error


def saved_policies(offered: bytes) -> Published:
    """What was in force here before, and checked when it came; `NONE` if it is nothing."""
    try:
        return parse_published(offered) if offered else NONE
    except Untrusted:
        return NONE


def verify_published(offered: bytes, node: NodeIdentity) -> Published:
    """The set, if the server that this node has joined signed it. Raises Untrusted."""
    found = parse_published(offered)
    host = node.node_address.rpartition(":")[0].strip("[]")
    try:
        chain = parse_certificates(found.chain_pem)
        roots = parse_certificates(node.control_bundle_pem)
    except InvalidInput as error:
        raise _untrusted("their certificate cannot be read") from error
    leaf = verify_server_chain(chain, roots, host, time.time())
    key = load_der_x509_certificate(leaf.der).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _untrusted("their signer has no EC key")
    try:
        key.verify(found.signature, statement(found.store, found.content), ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise _untrusted("they are not what the server signed") from error
    return found


def _untrusted(why: str) -> Untrusted:
    return Untrusted(f"the policies are not used: {why}", code="policies-not-signed")
