"""What a certificate may be: the profiles, and the request that was authorised.

Values only, shared by the builder (which makes a certificate from a request) and the judge (which
compares the certificate with the request). No rule about extensions lives here: builder and judge
each hold their own, so that one slip does not hide in both.

Profiles (RFC 5280; SPIFFE X509-SVID): a control authority for servers, nodes and operators, and per
mesh an authority for workloads. Roots sign intermediates only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from limen.errors import InvalidInput

BACKDATE_S = 10
"""Certificates are valid from this long before they were asked for: clocks differ."""
CONTROL_TRUST_DOMAIN = "limen.control"
"""Trust domain of nodes. Never a mesh's: the authority keeps it for itself."""
MAX_DNS_NAME = 253
MAX_URI = 2048
MAX_SERIAL_BITS = 159
"""RFC 5280, 4.1.2.2: at most 20 octets, positive."""

_NODE_ID = re.compile(r"[a-z0-9]{8,64}", re.ASCII)
_DNS_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9])?", re.ASCII)
_IP_ADDRESS = re.compile(r"[0-9a-f.:]{2,45}", re.ASCII)


class Profile(Enum):
    """Which kind of certificate. The value is what people and records see."""

    CONTROL_ROOT = "control-root"
    CONTROL_INTERMEDIATE = "control-intermediate"
    SERVER = "server"
    NODE = "node"
    MESH_ROOT = "mesh-root"
    MESH_INTERMEDIATE = "mesh-intermediate"
    WORKLOAD = "workload"


@dataclass(frozen=True, slots=True)
class Request:
    """A certificate that was authorised, in full. Nothing else may stand in the certificate.

    `public_key` is the subject's SubjectPublicKeyInfo (DER). `issuer` is the issuing certificate
    (DER), empty for a root. Times are whole seconds since 1970. `common_name` names an authority
    and is empty for leaves. `trust_domain` is what a mesh intermediate is confined to.
    """

    profile: Profile
    public_key: bytes
    issuer: bytes
    serial: int
    not_before_s: int
    not_after_s: int
    common_name: str = ""
    uri: str = ""
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    trust_domain: str = ""


def node_uri(node_id: str) -> str:
    """`spiffe://limen.control/node/<id>`. Raises InvalidInput (`invalid-node-id`)."""
    if not _NODE_ID.fullmatch(node_id):
        raise InvalidInput(
            f"node id {node_id[:80]!a} is not valid",
            code="invalid-node-id",
            hint="8 to 64 lower-case letters and digits",
        )
    return f"spiffe://{CONTROL_TRUST_DOMAIN}/node/{node_id}"


def parse_node_uri(uri: str) -> str:
    """The node id in `uri`. Raises InvalidInput (`invalid-node-id`)."""
    prefix = f"spiffe://{CONTROL_TRUST_DOMAIN}/node/"
    node_id = uri.removeprefix(prefix)
    if node_id == uri or not _NODE_ID.fullmatch(node_id):
        raise InvalidInput(
            f"{uri[:200]!a} is not a node's identity",
            code="invalid-node-id",
            hint="join with a token from `limen token create`",
        )
    return node_id


def parse_dns_name(text: str) -> str:
    """`text` if it can be a DNS SAN: lower-case, no wildcard. InvalidInput (`invalid-san`)."""
    if not _DNS_NAME.fullmatch(text) or ".." in text:
        raise InvalidInput(
            f"{text[:80]!a} cannot be a DNS name in a certificate",
            code="invalid-san",
            hint=f"lower-case ASCII letters, digits, '-', '_' and '.', {MAX_DNS_NAME} at most",
        )
    return text


def is_ip_text(text: str) -> bool:
    """Whether `text` looks like an IP address (digits, hex, dots, colons) rather than a name."""
    return bool(_IP_ADDRESS.fullmatch(text)) and (":" in text or text.replace(".", "").isdigit())
