"""The one decision of the API: whether `who` may do `verb` to `kind` in a mesh and namespace.

Every handler asks `authorize`. Rights are data (grants): an admin has all, a role that runs apart
(`roles`) has those of its own mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from limen.errors import Forbidden

if TYPE_CHECKING:
    from limen.services.server.roles import Role

ANY = "*"


class Verb(Enum):
    """What one may want to do. Closed: a new verb is granted to nobody until a role names it."""

    GET = "get"
    LIST = "list"
    WATCH = "watch"
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    EXPLAIN = "explain"


@dataclass(frozen=True, slots=True)
class Grant:
    """Rights: every combination of these sets. `*` stands for all, new ones included."""

    verbs: frozenset[str]
    kinds: frozenset[str]
    meshes: frozenset[str]
    namespaces: frozenset[str]


@dataclass(frozen=True, slots=True)
class Who:
    """An authenticated caller: the name that the audit log shows, and its grants."""

    name: str
    grants: tuple[Grant, ...]
    role: Role | None = None


ADMIN = Grant(*(frozenset({ANY}) for _ in range(4)))


def may(who: Who, verb: Verb, kind: str, mesh: str = ANY, namespace: str = ANY) -> bool:
    """Whether a grant covers it. `mesh` or `namespace` `*` asks for all of them."""
    return any(
        _covers(g.verbs, verb.value)
        and _covers(g.kinds, kind)
        and _covers(g.meshes, mesh)
        and _covers(g.namespaces, namespace)
        for g in who.grants
    )


def authorize(who: Who, verb: Verb, kind: str, mesh: str = ANY, namespace: str = ANY) -> None:
    """Raise Forbidden unless `may`."""
    if not may(who, verb, kind, mesh, namespace):
        raise Forbidden(
            f"{who.name} may not {verb.value} {kind} in mesh {mesh}, namespace {namespace}",
            hint="ask an administrator of this server",
        )


def _covers(granted: frozenset[str], wanted: str) -> bool:
    return ANY in granted or wanted in granted
