"""The node's own identity: redeemed once with a token, kept 0600, renewed by itself."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization

from limen import __version__
from limen.adapters.runtime_dir import write_atomic
from limen.core.pki.join_token import JoinToken, parse_join_token, verify_pinned_chain
from limen.core.pki.pem import parse_certificates
from limen.core.pki.profile import BACKDATE_S
from limen.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    LimenError,
    Unauthenticated,
    Unavailable,
    Untrusted,
)
from limen.services.agent.identity import (
    build_request,
    certificate_times,
    key_to_pem,
    make_key,
)

if TYPE_CHECKING:
    from pathlib import Path

_TIMEOUT_S = 10
_MAX_ANSWER = 1 << 20
_REFUSALS: dict[int, type[LimenError]] = {
    400: InvalidInput,
    401: Unauthenticated,
    403: Forbidden,
    409: Conflict,
}


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """What `node.json` holds. `server_epoch` is the store's history this node has seen."""

    mesh: str
    node_id: str
    server: str
    node_address: str
    certificate_pem: str
    control_bundle_pem: str
    key_pem: str = field(repr=False)
    entitlements: tuple[str, ...] = ()
    server_epoch: str = ""

    def times(self) -> tuple[float, float]:
        """Not before and not after, seconds since the epoch."""
        return certificate_times(self.certificate_pem)


def load_node(path: Path) -> NodeIdentity | None:
    """The stored identity, None if there is none. Raises InvalidInput if it is damaged."""
    try:
        raw = json.loads(path.read_bytes())
        raw["entitlements"] = tuple(raw["entitlements"])
        return NodeIdentity(**raw)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidInput(
            f"{path} cannot be read",
            code="node-state-damaged",
            hint="remove it and join again with a new token",
        ) from error


def save_node(path: Path, node: NodeIdentity) -> None:
    """Write it 0600, all or nothing."""
    write_atomic(path, json.dumps(asdict(node)).encode())


def redeem_token(token_text: str, mesh: str, server: str, versions: dict[str, str]) -> NodeIdentity:
    """Become a node: blocking; one TLS connection, pinned to the root that the token names.

    Raises InvalidInput (no such token, wrong mesh), Untrusted (wrong fingerprint, token refused),
    Unavailable (no server). `server` overrides the address only, never the pin.
    """
    token = parse_join_token(token_text)
    url = server or token.server
    key = make_key()
    body = {
        "token": token_text.strip(),
        "csr_pem": build_request(key),
        "hostname": socket.gethostname()[:253],
        "versions": versions,
    }
    answer = _post_pinned(url, token, json.dumps(body).encode())
    node = _parse_answer(answer, key_to_pem(key), url)
    if node.mesh != mesh:
        raise InvalidInput(
            f"this token is for mesh {node.mesh}, not {mesh}",
            code="wrong-mesh",
            hint=f"start with --mesh {node.mesh}, or make a token for mesh {mesh}",
        )
    return node


def _parse_answer(answer: dict[str, Any], key_pem: str, url: str) -> NodeIdentity:
    try:
        return NodeIdentity(
            mesh=str(answer["mesh"]),
            node_id=str(answer["node_id"]),
            server=url,
            node_address=str(answer["node_address"]),
            certificate_pem=str(answer["certificate_pem"]),
            control_bundle_pem=str(answer["control_bundle_pem"]),
            key_pem=key_pem,
            entitlements=tuple(map(str, answer.get("entitlements") or ())),
        )
    except KeyError as error:
        raise Untrusted(f"the server's answer lacks {error}", code="bad-answer") from error


def _post_pinned(url: str, token: JoinToken, body: bytes) -> dict[str, Any]:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the chain is verified against the pin, host included, below
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), _TIMEOUT_S) as raw,
            context.wrap_socket(raw, server_hostname=host) as tls,
        ):
            verify_pinned_chain(_peer_chain(tls), token.fingerprint, host, time.time())
            connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
            connection.sock = tls
            headers = {"Content-Type": "application/json", "Host": parts.netloc}
            connection.request("POST", "/v1/join", body, headers)
            response = connection.getresponse()
            return _read_answer(response.status, response.read(_MAX_ANSWER))
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"the server at {url} cannot be reached: {error}",
            code="server-unreachable",
            hint="is `limen server run` running there, and is the port open?",
        ) from error


def _peer_chain(tls: ssl.SSLSocket) -> list[bytes]:
    """The chain as the server sent it, DER. Public from Python 3.13, private before."""
    public = getattr(tls, "get_unverified_chain", None)
    if public is not None:
        return [bytes(certificate) for certificate in public()]
    inner = tls._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 - the only way before 3.13
    return [
        ssl.PEM_cert_to_DER_cert(certificate.public_bytes())
        for certificate in inner.get_unverified_chain() or ()
    ]


def _read_answer(status: int, raw: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise Unavailable(f"the server answered {status} without JSON", code="bad-answer")
    if 200 <= status < 300:
        return answer
    kind = _REFUSALS.get(status, Unavailable)
    inner = answer.get("error")
    detail: dict[str, Any] = inner if isinstance(inner, dict) else answer
    message = str(detail.get("message") or detail.get("detail") or f"HTTP {status}")
    raise kind(
        f"the server refused to let this node join: {message}",
        code=str(detail.get("code") or kind.code),
        hint=str(detail.get("hint") or "make a new token with `limen token create`"),
    )


def next_renewal_s(node: NodeIdentity, jitter: float) -> float:
    """When to renew: half of its life, moved by up to a tenth of it; `jitter` in [-1, 1].

    Its life begins when it was issued: what it is dated back by does not count.
    """
    not_before, end = node.times()
    start = min(not_before + BACKDATE_S, end)
    return start + (end - start) * (0.5 + 0.1 * jitter)


def renewed(
    node: NodeIdentity, key_pem: str, certificate_pem: str, bundle_pem: str = ""
) -> NodeIdentity:
    """The same node with a new certificate, and with the control authority's present roots.

    Raises Untrusted if the certificate is not for the new key.
    """
    from cryptography import x509  # noqa: PLC0415 - loaded already by then

    leaf = x509.load_pem_x509_certificate(certificate_pem.encode())
    key = serialization.load_pem_private_key(key_pem.encode(), None)
    if leaf.public_key() != key.public_key():
        raise Untrusted("the server certified another key", code="bad-node-certificate")
    made = replace(node, key_pem=key_pem, certificate_pem=certificate_pem)
    return with_bundle(made, bundle_pem)


def with_bundle(node: NodeIdentity, bundle_pem: str) -> NodeIdentity:
    """The node trusting the roots that the server, which it trusts already, says; "": as before.

    Raises Untrusted if they cannot be read.
    """
    if not bundle_pem or bundle_pem == node.control_bundle_pem:
        return node
    try:
        parse_certificates(bundle_pem)
    except LimenError as error:
        raise Untrusted(f"the server's control bundle: {error}", code="bad-answer") from error
    return replace(node, control_bundle_pem=bundle_pem)


def agent_versions(envoy: str) -> dict[str, str]:
    """What this host runs, reported for skew checks."""
    return {"agent": __version__, "envoy": envoy}
