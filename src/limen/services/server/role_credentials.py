"""Credentials of roles: made and ended by operators.

A record is that of any credential with `role`, `mesh` and `names`.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from limen.adapters.store import AuditEntry, Delete, Put
from limen.core.model.names import parse_name
from limen.core.model.resource import ResourceKey
from limen.errors import Conflict, InvalidInput, NotFound
from limen.services.server.credentials import ADMIN_NAME, CREDENTIAL, hash_token
from limen.services.server.roles import role_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.adapters.store import JsonValue
    from limen.services.server.access import Who
    from limen.services.server.control import Control
    from limen.services.server.roles import Role, RoleKind


def make_token(kind: RoleKind) -> str:
    """A new token, 256 random bits."""
    return f"limen-{kind.value}-{secrets.token_urlsafe(32)}"


async def create_role(control: Control, who: Who, role: Role) -> str:
    """Store a credential for `role`; its token, which is nowhere else. Raises Conflict."""
    parse_name(role.name, "role")
    if role.name == ADMIN_NAME:
        raise InvalidInput("a role is not called admin", code="invalid-name")
    token = make_token(role.kind)
    now_s = control.clock.now_s()
    names: Sequence[JsonValue] = role.names
    body: dict[str, JsonValue] = {
        "hash": hash_token(token),
        "created_s": now_s,
        "role": role.kind.value,
        "mesh": role.mesh,
        "names": [*names],
    }
    entry = AuditEntry(now_s, who.name, "create", CREDENTIAL, role.mesh, "", role.name)
    try:
        await control.commit([Put(_key(role.name), body, expected=0)], [entry])
    except Conflict:
        raise Conflict(
            f"there is a role {role.name} already",
            code="role-exists",
            hint="choose another name, or delete it first",
        ) from None
    return token


async def delete_role(control: Control, who: Who, name: str) -> None:
    """A role's token opens nothing any more. Raises NotFound."""
    known = await control.store.get(_key(name))
    if known is None or role_of(name, known.body) is None:
        raise NotFound(f"there is no role {name[:80]!a}")
    entry = AuditEntry(control.clock.now_s(), who.name, "delete", CREDENTIAL, "", "", name)
    await control.commit([Delete(_key(name))], [entry])


def _key(name: str) -> ResourceKey:
    return ResourceKey(CREDENTIAL, "", "", name)
