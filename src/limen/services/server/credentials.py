"""Bearer tokens of operators and roles. The server keeps a SHA-256 of each: 256 random bits.

A record of kind `limen.dev/Credential` per token: `{hash, created_s}`, of a role also `{role, mesh,
names}`; its name is the caller's.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING

from limen.adapters.store import AuditEntry, Put
from limen.core.model.resource import ResourceKey
from limen.errors import Unauthenticated
from limen.services.server.access import ADMIN, Who
from limen.services.server.roles import role_of, who_is

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limen.adapters.store import Change, JsonValue, Record, Store
    from limen.services.server.roles import Role, RoleKind

CREDENTIAL = "limen.dev/Credential"
ADMIN_NAME = "admin"
_ADMIN_KEY = ResourceKey(CREDENTIAL, "", "", ADMIN_NAME)
_PREFIX = "limen-admin-"


def hash_token(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


async def make_admin(
    store: Store, now_s: float, actor: str = "server", verb: str = "create"
) -> str:
    """A new admin token; the previous one, if any, ends. The caller saves it in a 0600 file."""
    token = _PREFIX + secrets.token_urlsafe(32)
    body: dict[str, JsonValue] = {"hash": hash_token(token), "created_s": now_s}
    entry = AuditEntry(now_s, actor, verb, CREDENTIAL, "", "", ADMIN_NAME)
    await store.commit([Put(_ADMIN_KEY, body)], [entry])
    return token


class Credentials:
    """The tokens of this server, in memory: verification touches no disk."""

    def __init__(self, known: Mapping[str, tuple[str, Who]] | None = None) -> None:
        """`known`: SHA-256 and caller by name."""
        self._known = dict(known or {})

    def replace(self, name: str, token: str, who: Who | None = None) -> None:
        """From now on `name` is known by `token` alone: an operator, unless `who` says else."""
        self._known[name] = (hash_token(token), who or Who(name, (ADMIN,)))

    def roles(self, kind: RoleKind, mesh: str) -> list[Role]:
        """Roles of a mesh that have a credential, by name."""
        found = (who.role for _, who in self._known.values())
        own = [r for r in found if r is not None and (r.kind, r.mesh) == (kind, mesh)]
        return sorted(own, key=lambda role: role.name)

    def take(self, changes: Iterable[Change]) -> None:
        """Follow what any server on this store writes."""
        for change in changes:
            if change.key.kind != CREDENTIAL:
                continue
            if change.body is None:
                self._known.pop(change.key.name, None)
            else:
                self._known[change.key.name] = _read(change.key.name, change.body)

    def knows(self, token: str) -> bool:
        """Whether this is a token of this server."""
        return hash_token(token) in {known for known, _ in self._known.values()}

    def verify(self, authorization: str | None) -> Who:
        """The caller of a request with this `Authorization` header. Raises Unauthenticated."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated(
                "this call needs a bearer token",
                hint="use the client file that the server wrote at its first start (--config)",
            )
        presented = hash_token(token.strip())
        found = None
        for known, who in self._known.values():
            if hmac.compare_digest(presented, known):
                found = who
        if found is None:
            raise Unauthenticated("the bearer token is not known to this server")
        return found


async def load_credentials(store: Store) -> Credentials:
    """All credentials in the store."""
    records, _ = await store.list(CREDENTIAL)
    return Credentials({r.key.name: _of(r) for r in records})


def _of(record: Record) -> tuple[str, Who]:
    return _read(record.key.name, record.body)


def _read(name: str, body: Mapping[str, JsonValue]) -> tuple[str, Who]:
    role = role_of(name, body)
    return str(body["hash"]), Who(name, (ADMIN,)) if role is None else who_is(role)
