"""Joining: a token becomes a node, once; a node may run what its token named, nothing else.

Whoever redeems a token gets the same answer for unknown, wrong, expired, used and revoked; the
audit log tells them apart. A node's certificate is worth what its record says: no record, revoked,
or a certificate that the record does not know, and it opens nothing.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from limen.adapters.store import AuditEntry, Delete, Put
from limen.core.model.names import parse_name
from limen.core.pki.chain import parse_leaf
from limen.core.pki.join_token import JoinToken, fingerprint_of, format_join_token
from limen.core.pki.pem import parse_certificates
from limen.core.pki.profile import parse_node_uri
from limen.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthenticated
from limen.services.server.joining_records import (
    JOIN_TOKEN,
    KEPT_CERTIFICATES,
    NODE,
    Entitlement,
    Node,
    NodeCertificate,
    TokenRecord,
    check_text,
    hash_secret,
    merge_entitlements,
    node_from_record,
    node_key,
    node_to_body,
    parse_entitlements,
    token_from_record,
    token_key,
    token_to_body,
)
from limen.services.server.joining_refusals import RefusalLimit, certificate_expired, refusal_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from limen.adapters.clock import Clock
    from limen.adapters.store import JsonValue, Store
    from limen.services.server.authority import Authority, Issued

DEFAULT_TTL_S = 600
MAX_TTL_S = 7 * 86400
MAX_VERSIONS = 16
_ATTEMPTS = 8
_TOKEN_ID = re.compile(r"[a-z0-9]{8,64}", re.ASCII)

__all__ = ["CreatedToken", "Entitlement", "Joined", "Joining", "Node", "TokenRecord"]


@dataclass(frozen=True, slots=True)
class CreatedToken:
    """A new token. `text` is shown once and kept nowhere."""

    token_id: str
    text: str = field(repr=False)
    expires_s: float


@dataclass(frozen=True, slots=True)
class Joined:
    """A redeemed token: the node, and its first certificate."""

    node: Node
    issued: Issued


class Joining:
    """See the module. Safe from many tasks of one loop and from several servers on one store."""

    def __init__(self, store: Store, authority: Authority, clock: Clock) -> None:
        self._store = store
        self._authority = authority
        self._clock = clock
        self._refusals = RefusalLimit(clock)

    # --- tokens --------------------------------------------------------------------------------

    async def create_token(
        self,
        mesh: str,
        workloads: Sequence[Entitlement],
        *,
        server_url: str,
        actor: str,
        ttl_s: float = DEFAULT_TTL_S,
    ) -> CreatedToken:
        """A token that lets one node join `mesh` and run `workloads`. Raises InvalidInput.

        `server_url` is where agents reach the API: `https://HOST:PORT`. That the mesh exists is
        for the caller to check.
        """
        if not 1 <= ttl_s <= MAX_TTL_S:
            raise InvalidInput(
                f"a token that lives {ttl_s} s",
                code="invalid-ttl",
                hint=f"1 second to {MAX_TTL_S // 86400} days",
            )
        now_s = self._clock.now_s()
        token_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        record = TokenRecord(
            token_id=token_id,
            mesh=parse_name(mesh, "mesh"),
            entitlements=parse_entitlements(workloads),
            created_by=actor,
            created_s=now_s,
            expires_s=now_s + ttl_s,
            secret_hash=hash_secret(token_id, secret),
        )
        names: list[JsonValue] = [f"{e.namespace}/{e.service}" for e in record.entitlements]
        detail: dict[str, JsonValue] = {"expires_s": record.expires_s, "workloads": names}
        await self._store.commit(
            [Put(token_key(token_id), token_to_body(record), expected=0)],
            [AuditEntry(now_s, actor, "create", JOIN_TOKEN, mesh, "", token_id, detail)],
        )
        pin = self._authority.control_fingerprint
        text = format_join_token(JoinToken(server_url, pin, token_id, secret))
        return CreatedToken(token_id, text, record.expires_s)

    async def list_tokens(self, mesh: str | None = None) -> Sequence[TokenRecord]:
        """All tokens, or those of one mesh; never a secret."""
        records, _ = await self._store.list(JOIN_TOKEN)
        tokens = [replace(token_from_record(r), secret_hash="") for r in records]
        return [t for t in tokens if mesh is None or t.mesh == mesh]

    async def revoke_token(self, token_id: str, actor: str) -> None:
        """Make a token useless. The node that joined with it stays. Raises NotFound."""
        for _ in range(_ATTEMPTS):
            token = await self._token(token_id)
            if token is None:
                raise NotFound(f"there is no join token {token_id[:64]!a}")
            now_s = self._clock.now_s()
            entry = AuditEntry(now_s, actor, "revoke", JOIN_TOKEN, token.mesh, "", token_id)
            revoked = replace(token, revoked_s=now_s)
            try:
                await self._store.commit(
                    [Put(token_key(token_id), token_to_body(revoked), token.revision)], [entry]
                )
            except Conflict:
                continue
            return
        raise Conflict("the token is being changed all the time", hint="try again")

    async def prune_tokens(self, keep_s: float = 7 * 86400) -> int:
        """Forget tokens that ended more than `keep_s` ago; how many. The audit log stays."""
        now_s = self._clock.now_s()
        old = [t for t in await self.list_tokens() if t.expires_s + keep_s < now_s]
        for token in old:
            entry = AuditEntry(
                now_s, "system:joining", "prune", JOIN_TOKEN, token.mesh, "", token.token_id
            )
            await self._store.commit([Delete(token_key(token.token_id), token.revision)], [entry])
        return len(old)

    # --- becoming a node -----------------------------------------------------------------------

    async def redeem(
        self,
        token_id: str,
        secret: str,
        csr_pem: str,
        *,
        hostname: str = "",
        versions: Mapping[str, str] | None = None,
    ) -> Joined:
        """A new node with its first certificate, if the token is good; then it is used up.

        Raises Unauthenticated (`join-refused`, whatever the reason), InvalidInput (the CSR, host
        name or versions: the token stays good), Unavailable. Of two who race, one gets the node.
        """
        for _ in range(_ATTEMPTS):
            token = await self._accepted(token_id, secret)
            try:
                return await self._join(token, csr_pem, hostname, versions or {})
            except Conflict:
                continue  # used or revoked meanwhile: the next round says so
        raise Unauthenticated("the join token is being changed all the time", code="join-refused")

    async def entitle(self, node_id: str, token_id: str, secret: str) -> Node:
        """A node that has joined may run what one more token names; then the token is used up.

        Of a workload that it could run already the newer token says account and tags. Raises
        Unauthenticated (`join-refused`), Forbidden (`wrong-mesh`: the token stays good;
        `node-revoked`), InvalidInput (`invalid-entitlement`: too many workloads).
        """
        for _ in range(_ATTEMPTS):
            token = await self._accepted(token_id, secret)
            node = await self.node(node_id)
            if token.mesh != node.mesh:
                raise Forbidden(
                    f"the token is for another mesh than {node.mesh}",
                    code="wrong-mesh",
                    hint="an agent serves one mesh: run one more with --mesh",
                )
            wider = replace(node, entitlements=merge_entitlements(node, token))
            now_s = self._clock.now_s()
            used = replace(token, used_s=now_s, used_by=node_id)
            names: list[JsonValue] = [f"{e.namespace}/{e.service}" for e in token.entitlements]
            entry = AuditEntry(
                now_s,
                f"token:{token_id}",
                "entitle",
                NODE,
                node.mesh,
                "",
                node_id,
                {"workloads": names},
            )
            writes = [
                Put(token_key(token_id), token_to_body(used), token.revision),
                Put(node_key(node_id), node_to_body(wider), node.revision),
            ]
            try:
                await self._authority.commits.commit(writes, [entry])
            except Conflict:
                continue
            return wider
        raise Conflict("the node is being changed all the time", hint="try again")

    async def renew(self, node_id: str, csr_pem: str) -> Issued:
        """A new certificate for a node that is still known; its entitlements stay.

        Raises Forbidden (`node-revoked`), InvalidInput (the CSR). A deletion that happens meanwhile
        wins: the certificate and the node's record are one transaction.
        """
        for _ in range(_ATTEMPTS):
            node = await self.node(node_id)
            actor = f"node:{node_id}"
            prepared = await self._authority.prepare_node(node_id, csr_pem, node.mesh, actor)
            renewed = _with_certificate(node, prepared.issued, self._clock.now_s())
            put = Put(node_key(node_id), node_to_body(renewed), node.revision)
            try:
                await self._authority.commits.commit([put, *prepared.writes], prepared.audit)
            except Conflict:
                continue
            return prepared.issued
        raise Conflict("the node is being changed all the time", hint="try again")

    # --- nodes ---------------------------------------------------------------------------------

    async def authenticate(self, certificate_der: bytes) -> Node:
        """The node that showed this certificate in a finished TLS handshake.

        Raises Unauthenticated if it is not a node's, or has expired since (a connection may be
        older), Forbidden (`node-revoked`) if the node's record is gone, revoked, or does not know
        this very certificate.
        """
        leaf = parse_leaf(certificate_der)
        if leaf.not_after_s < self._clock.now_s():
            raise certificate_expired()
        try:
            if len(leaf.uris) != 1:
                raise Unauthenticated("the certificate has not exactly one URI name")
            node_id = parse_node_uri(leaf.uris[0])
        except InvalidInput as error:
            raise Unauthenticated(error.message, hint=error.hint) from error
        node = await self.node(node_id)
        shown = fingerprint_of(certificate_der)
        if not any(c.sha256 == shown for c in node.certificates):
            raise Forbidden(
                f"node {node_id} shows a certificate that is not among its newest",
                code="node-revoked",
                hint="join again with a new token",
            )
        return node

    async def node(self, node_id: str) -> Node:
        """A node that is known and not revoked. Raises Forbidden (`node-revoked`)."""
        record = await self._store.get(node_key(node_id)) if _TOKEN_ID.fullmatch(node_id) else None
        node = None if record is None else node_from_record(record)
        if node is None or node.revoked_s:
            raise Forbidden(
                f"node {node_id[:64]!a} is not known, or was revoked",
                code="node-revoked",
                hint="join again with a new token from `limen token create`",
            )
        return node

    async def authorize(self, node_id: str, service: str, namespace: str) -> Entitlement:
        """What the node may be when it runs this workload. Raises Forbidden (`not-entitled`)."""
        return entitlement_of(await self.node(node_id), service, namespace)

    async def list_nodes(self, mesh: str | None = None) -> Sequence[Node]:
        """All nodes, or those of one mesh, revoked ones too."""
        records, _ = await self._store.list(NODE)
        nodes = [node_from_record(r) for r in records]
        return [n for n in nodes if mesh is None or n.mesh == mesh]

    async def revoke_node(self, node_id: str, actor: str) -> None:
        """Refuse the node from now on and keep its record. Raises NotFound."""
        await self._change_node(node_id, actor, "revoke")

    async def delete_node(self, node_id: str, actor: str) -> None:
        """Forget the node: it is refused from now on. Raises NotFound."""
        await self._change_node(node_id, actor, "delete")

    # --- inside --------------------------------------------------------------------------------

    async def _change_node(self, node_id: str, actor: str, verb: str) -> None:
        for _ in range(_ATTEMPTS):
            record = await self._store.get(node_key(node_id))
            if record is None:
                raise NotFound(f"there is no node {node_id[:64]!a}")
            node, now_s = node_from_record(record), self._clock.now_s()
            write: Put | Delete = Delete(record.key, record.revision)
            if verb == "revoke":
                body = node_to_body(replace(node, revoked_s=now_s))
                write = Put(record.key, body, record.revision)
            entry = AuditEntry(now_s, actor, verb, NODE, node.mesh, "", node_id)
            try:
                await self._store.commit([write], [entry])
            except Conflict:
                continue
            return
        raise Conflict("the node is being changed all the time", hint="try again")

    async def _token(self, token_id: str) -> TokenRecord | None:
        record = await self._store.get(token_key(token_id))
        return None if record is None else token_from_record(record)

    async def _accepted(self, token_id: str, secret: str) -> TokenRecord:
        """The token if it may be redeemed now. Raises Unauthenticated, the same for all reasons."""
        readable = bool(_TOKEN_ID.fullmatch(token_id))
        token = await self._token(token_id) if readable else None
        given = hash_secret(token_id, secret).encode("ascii")
        stored = token.secret_hash.encode("ascii") if token else b"0" * 64
        matches = hmac.compare_digest(given, stored)
        reason = refusal_of(token, self._clock.now_s(), matches=matches)
        if token is not None and reason is None:
            return token
        shown = token_id if readable else "malformed"
        await self._audit_refusal(shown, token.mesh if token else "", reason or "unknown")
        raise Unauthenticated(
            "the join token is not accepted",
            code="join-refused",
            hint="it is unknown, expired, used already or revoked: make a new one with "
            "`limen token create`",
        )

    async def _audit_refusal(self, token_id: str, mesh: str, reason: str) -> None:
        unheard = self._refusals.admit()
        if unheard is None:
            return
        entry = AuditEntry(
            self._clock.now_s(),
            "anonymous",
            f"join-refused-{reason}",
            JOIN_TOKEN,
            mesh,
            "",
            token_id,
            {"refusals_not_listed": unheard},
        )
        await self._authority.commits.commit([], [entry])

    async def _join(
        self, token: TokenRecord, csr_pem: str, hostname: str, versions: Mapping[str, str]
    ) -> Joined:
        now_s = self._clock.now_s()
        node_id = secrets.token_hex(8)
        actor = f"token:{token.token_id}"
        prepared = await self._authority.prepare_node(node_id, csr_pem, token.mesh, actor)
        node = Node(
            node_id=node_id,
            mesh=token.mesh,
            entitlements=token.entitlements,
            certificates=(),
            token_id=token.token_id,
            created_s=now_s,
            renewed_s=now_s,
            hostname=check_text(hostname, "host name", 253),
            versions=_check_versions(versions),
        )
        node = _with_certificate(node, prepared.issued, now_s)
        used = replace(token, used_s=now_s, used_by=node_id)
        writes = [
            Put(token_key(token.token_id), token_to_body(used), token.revision),
            Put(node_key(node_id), node_to_body(node), expected=0),
            *prepared.writes,
        ]
        entry = AuditEntry(
            now_s, actor, "join", NODE, token.mesh, "", node_id, {"hostname": node.hostname}
        )
        await self._authority.commits.commit(writes, [entry, *prepared.audit])
        return Joined(node, prepared.issued)


def entitlement_of(node: Node, service: str, namespace: str) -> Entitlement:
    """The node's entitlement to one workload. Raises Forbidden (`not-entitled`)."""
    for entitlement in node.entitlements:
        if (entitlement.service, entitlement.namespace) == (service, namespace):
            return entitlement
    raise Forbidden(
        f"node {node.node_id} may not run {namespace[:80]!a}/{service[:80]!a}",
        code="not-entitled",
        hint="make a token that names this service: `limen token create --service …`",
    )


def _check_versions(versions: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    if len(versions) > MAX_VERSIONS:
        raise InvalidInput(f"more than {MAX_VERSIONS} versions", code="invalid-text")
    return tuple(
        sorted(
            (check_text(name, "version's name", 64), check_text(value, "version", 128))
            for name, value in versions.items()
        )
    )


def _with_certificate(node: Node, issued: Issued, now_s: float) -> Node:
    (leaf, *_) = parse_certificates(issued.chain_pem)
    certificate = NodeCertificate(issued.serial, fingerprint_of(leaf), issued.not_after_s)
    kept = (*node.certificates, certificate)[-KEPT_CERTIFICATES:]
    return replace(node, certificates=kept, renewed_s=now_s)
