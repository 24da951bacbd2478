"""Join tokens and nodes as they are kept in the store, and read back strictly.

A token's record holds a hash of its secret. A node's record holds what the node may run: decided
when the token was made, never by the node.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.core.model.names import parse_name
from limen.core.model.resource import ResourceKey
from limen.core.model.workload import SERVICE_TAG
from limen.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limen.adapters.store import JsonValue, Record

JOIN_TOKEN = "limen.dev/JoinToken"  # noqa: S105 - a kind, not a secret
NODE = "limen.dev/Node"
MAX_WORKLOADS = 256
MAX_TAGS = 64
KEPT_CERTIFICATES = 8
"""A node's newest certificates; an older one is no longer accepted."""
_PRINTABLE = re.compile(r"[ -~]*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9._/-]{1,253}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Entitlement:
    """One workload that a node may run, under which account and with which tags. Sorted pairs.

    `gateway`: it is a gateway, and nothing else.
    """

    service: str
    namespace: str = "default"
    service_account: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    gateway: bool = False


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A join token without its secret. Times in seconds since 1970; 0 means "not"."""

    token_id: str
    mesh: str
    entitlements: tuple[Entitlement, ...]
    created_by: str
    created_s: float
    expires_s: float
    secret_hash: str = field(repr=False)
    used_s: float = 0.0
    used_by: str = ""
    revoked_s: float = 0.0
    revision: int = 0


@dataclass(frozen=True, slots=True)
class NodeCertificate:
    """A certificate of a node: serial and SHA-256 of its DER, both hex."""

    serial: str
    sha256: str
    not_after_s: int


@dataclass(frozen=True, slots=True)
class Node:
    """A host that has joined. `certificates` newest last."""

    node_id: str
    mesh: str
    entitlements: tuple[Entitlement, ...]
    certificates: tuple[NodeCertificate, ...]
    token_id: str
    created_s: float
    renewed_s: float
    hostname: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    revoked_s: float = 0.0
    revision: int = 0


def token_key(token_id: str) -> ResourceKey:
    """Where a token is stored. Tokens and nodes are found by id alone: no mesh in the key."""
    return ResourceKey(JOIN_TOKEN, "", "", token_id)


def node_key(node_id: str) -> ResourceKey:
    """Where a node is stored."""
    return ResourceKey(NODE, "", "", node_id)


def hash_secret(token_id: str, secret: str) -> str:
    """What is stored of a secret. It has 256 random bits: no slow hash is needed."""
    text = f"limen join 1\0{token_id}\0{secret}"
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def parse_entitlements(workloads: Iterable[Entitlement]) -> tuple[Entitlement, ...]:
    """Complete and check what a token shall allow. Raises InvalidInput (`invalid-entitlement`).

    The service account is the service's name unless given; the tag `kuma.io/service` is always the
    service's name and may not be set otherwise.
    """
    complete = tuple(_complete(workload) for workload in workloads)
    names = [(e.namespace, e.service) for e in complete]
    if not complete or len(complete) > MAX_WORKLOADS:
        raise _invalid(f"names {len(complete)} workloads", f"1 to {MAX_WORKLOADS}")
    if len(set(names)) != len(names):
        raise _invalid("names a workload twice", "one account and one set of tags per workload")
    return complete


def merge_entitlements(node: Node, token: TokenRecord) -> tuple[Entitlement, ...]:
    """What the node may run with the token too. Raises InvalidInput (`invalid-entitlement`)."""
    named = {(e.namespace, e.service) for e in token.entitlements}
    kept = [e for e in node.entitlements if (e.namespace, e.service) not in named]
    if len(kept) + len(named) > MAX_WORKLOADS:
        raise _invalid("names too many workloads for one node", f"{MAX_WORKLOADS} at most")
    return (*kept, *token.entitlements)


def check_text(text: str, what: str, limit: int) -> str:
    """Printable ASCII of at most `limit` characters: what a node says about itself."""
    if len(text) > limit or not _PRINTABLE.fullmatch(text):
        raise InvalidInput(
            f"the {what} is too long or not printable",
            code="invalid-text",
            hint=f"printable ASCII, {limit} characters at most",
        )
    return text


def token_to_body(token: TokenRecord) -> dict[str, JsonValue]:
    """The record's body."""
    return {
        "mesh": token.mesh,
        "entitlements": [_entitlement_to_json(e) for e in token.entitlements],
        "created_by": token.created_by,
        "created_s": token.created_s,
        "expires_s": token.expires_s,
        "secret_hash": token.secret_hash,
        "used_s": token.used_s,
        "used_by": token.used_by,
        "revoked_s": token.revoked_s,
    }


def token_from_record(record: Record) -> TokenRecord:
    """Read a token back. Raises Unavailable (`record-broken`)."""
    body = record.body
    return TokenRecord(
        token_id=record.key.name,
        mesh=_str(record, body, "mesh"),
        entitlements=_entitlements(record),
        created_by=_str(record, body, "created_by"),
        created_s=_number(record, body, "created_s"),
        expires_s=_number(record, body, "expires_s"),
        secret_hash=_str(record, body, "secret_hash"),
        used_s=_number(record, body, "used_s"),
        used_by=_str(record, body, "used_by"),
        revoked_s=_number(record, body, "revoked_s"),
        revision=record.revision,
    )


def node_to_body(node: Node) -> dict[str, JsonValue]:
    """The record's body."""
    return {
        "mesh": node.mesh,
        "entitlements": [_entitlement_to_json(e) for e in node.entitlements],
        "certificates": [
            {"serial": c.serial, "sha256": c.sha256, "not_after_s": c.not_after_s}
            for c in node.certificates
        ],
        "token": node.token_id,
        "created_s": node.created_s,
        "renewed_s": node.renewed_s,
        "hostname": node.hostname,
        "versions": dict(node.versions),
        "revoked_s": node.revoked_s,
    }


def node_from_record(record: Record) -> Node:
    """Read a node back. Raises Unavailable (`record-broken`)."""
    body = record.body
    versions = body.get("versions")
    if not isinstance(versions, dict):
        raise _broken(record)
    return Node(
        node_id=record.key.name,
        mesh=_str(record, body, "mesh"),
        entitlements=_entitlements(record),
        certificates=tuple(
            NodeCertificate(
                _str(record, c, "serial"),
                _str(record, c, "sha256"),
                int(_number(record, c, "not_after_s")),
            )
            for c in _objects(record, "certificates")
        ),
        token_id=_str(record, body, "token"),
        created_s=_number(record, body, "created_s"),
        renewed_s=_number(record, body, "renewed_s"),
        hostname=_str(record, body, "hostname"),
        versions=tuple(sorted((k, str(v)) for k, v in versions.items())),
        revoked_s=_number(record, body, "revoked_s"),
        revision=record.revision,
    )


def _complete(workload: Entitlement) -> Entitlement:
    service = parse_name(workload.service, "service")
    tags = dict(workload.tags)
    if len(tags) != len(workload.tags) or len(tags) > MAX_TAGS:
        raise _invalid("has a tag twice, or too many tags", f"{MAX_TAGS} at most, each once")
    if tags.get(SERVICE_TAG, service) != service:
        raise _invalid(f"sets {SERVICE_TAG} to another service", "leave that tag out")
    for key, value in tags.items():
        if not _TAG.fullmatch(key) or not _TAG.fullmatch(value):
            raise _invalid("has a malformed tag", "letters, digits, '.', '_', '/' and '-'")
    tags[SERVICE_TAG] = service
    return Entitlement(
        service,
        parse_name(workload.namespace, "namespace"),
        parse_name(workload.service_account or service, "service account"),
        tuple(sorted(tags.items())),
        workload.gateway,
    )


def _entitlement_to_json(entitlement: Entitlement) -> dict[str, JsonValue]:
    return {
        "service": entitlement.service,
        "namespace": entitlement.namespace,
        "service_account": entitlement.service_account,
        "tags": dict(entitlement.tags),
        "gateway": entitlement.gateway,
    }


def _entitlements(record: Record) -> tuple[Entitlement, ...]:
    found = []
    for item in _objects(record, "entitlements"):
        tags = item.get("tags")
        if not isinstance(tags, dict):
            raise _broken(record)
        found.append(
            Entitlement(
                _str(record, item, "service"),
                _str(record, item, "namespace"),
                _str(record, item, "service_account"),
                tuple(sorted((k, str(v)) for k, v in tags.items())),
                item.get("gateway") is True,
            )
        )
    return tuple(found)


def _objects(record: Record, name: str) -> list[dict[str, JsonValue]]:
    value = record.body.get(name)
    if not isinstance(value, list):
        raise _broken(record)
    objects = [item for item in value if isinstance(item, dict)]
    if len(objects) != len(value):
        raise _broken(record)
    return objects


def _str(record: Record, body: Mapping[str, JsonValue], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise _broken(record)
    return value


def _number(record: Record, body: Mapping[str, JsonValue], name: str) -> float:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _broken(record)
    return float(value)


def _broken(record: Record) -> Unavailable:
    return Unavailable(
        f"the stored {record.key} cannot be read",
        code="record-broken",
        hint="restore the store from a backup",
    )


def _invalid(problem: str, hint: str) -> InvalidInput:
    return InvalidInput(f"the token {problem}", code="invalid-entitlement", hint=hint)
