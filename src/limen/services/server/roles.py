"""Roles that run beside the server or apart: whose token it is, and what it may ask of the API.

A role is a token service or a decision point of one mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from limen.core.model.resource import (
    ATTRIBUTE_SOURCE,
    DATAPLANE,
    JWKS_CACHE,
    MESH,
    MESH_SETTINGS,
    REGO_POLICY,
    REVOCATION,
    TOKEN_EXCHANGE_POLICY,
    TOKEN_SERVICE,
    TRUSTED_ISSUER,
    XACML_POLICY,
)
from limen.services.server.access import ANY, Grant, Who

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.store import JsonValue

ROLE = "limen.dev/Role"
"""The kind of the calls that only roles make."""


class RoleKind(Enum):
    """What runs apart."""

    TOKENS = "tokens"
    PDP = "pdp"


_WATCHED = {
    RoleKind.TOKENS: frozenset(
        {
            MESH, MESH_SETTINGS, DATAPLANE, TRUSTED_ISSUER, TOKEN_EXCHANGE_POLICY, REVOCATION,
            TOKEN_SERVICE, JWKS_CACHE,
        }
    ),
    RoleKind.PDP: frozenset(
        {MESH, MESH_SETTINGS, DATAPLANE, REVOCATION, XACML_POLICY, REGO_POLICY, ATTRIBUTE_SOURCE}
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Role:
    """Whose token this is: one role of one mesh."""

    name: str
    kind: RoleKind
    mesh: str
    names: tuple[str, ...] = ()

    @property
    def actor(self) -> str:
        """As the audit log names it."""
        return f"{self.kind.value}:{self.name}"


def who_is(role: Role) -> Who:
    """The caller, with the rights of its role in its mesh and nowhere else."""
    meshes = frozenset({role.mesh, ""})
    anywhere = frozenset({ANY})
    return Who(
        role.actor,
        (
            Grant(frozenset({"watch"}), _WATCHED[role.kind], meshes, anywhere),
            Grant(frozenset({"create", "get"}), frozenset({ROLE}), meshes, anywhere),
        ),
        role,
    )


def role_of(name: str, body: Mapping[str, JsonValue]) -> Role | None:
    """The role of a credential's record; None if it is an operator's."""
    if "role" not in body:
        return None
    names = body.get("names")
    listed = tuple(str(one) for one in names) if isinstance(names, list) else ()
    return Role(name, RoleKind(str(body["role"])), str(body["mesh"]), listed)
