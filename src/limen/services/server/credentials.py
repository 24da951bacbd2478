"""Operators' bearer tokens. The server keeps only a SHA-256 of each: they are 256 random bits.

A record of kind `limen.dev/Credential` per token: `{hash, created_s}`; its name is the operator's.
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

if TYPE_CHECKING:
    from limen.adapters.store import JsonValue, Store

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

    def __init__(self, hashes: dict[str, str]) -> None:
        """`hashes`: SHA-256 by operator's name."""
        self._hashes = dict(hashes)

    def replace(self, name: str, token: str) -> None:
        """From now on `name` is known by `token` alone."""
        self._hashes[name] = hash_token(token)

    def knows(self, token: str) -> bool:
        """Whether this is a token of this server."""
        return hash_token(token) in self._hashes.values()

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
        for name, known in self._hashes.items():
            if hmac.compare_digest(presented, known):
                found = name
        if found is None:
            raise Unauthenticated("the bearer token is not known to this server")
        return Who(found, (ADMIN,))


async def load_credentials(store: Store) -> Credentials:
    """All credentials in the store."""
    records, _ = await store.list(CREDENTIAL)
    return Credentials({r.key.name: str(r.body["hash"]) for r in records})
