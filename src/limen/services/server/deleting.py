"""Deleting a resource: with the same care as `apply`, because a denial may go with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.adapters.store import AuditEntry, Delete
from limen.core.model.diagnostic import has_errors
from limen.core.model.names import DEFAULT_MESH
from limen.core.model.resource import MESH, ResourceKey
from limen.errors import Conflict, InvalidInput, NotFound
from limen.services.server.access import Verb, authorize
from limen.services.server.applying import cutovers
from limen.services.server.judging import judge_changes, users_of_mesh
from limen.services.server.policy_history import POLICY_KINDS, next_epoch, publish_writes

if TYPE_CHECKING:
    from limen.adapters.store import Write
    from limen.core.model.snapshot import Snapshot
    from limen.services.server.access import Who
    from limen.services.server.control import Control


async def delete_resource(
    control: Control, who: Who, key: ResourceKey, expected: int | None
) -> int:
    """Delete `key`; the revision. NotFound, Conflict, InvalidInput if the rest would not hold."""
    authorize(who, Verb.DELETE, key.kind, key.mesh, key.namespace)
    async with control.writing:
        snapshot = control.mirror.snapshot
        if key not in snapshot.resources:
            raise missing(key)
        _require_unused(snapshot, key)
        judged = await judge_changes(control, [key])
        if has_errors(list(judged.findings)):
            raise InvalidInput(
                f"{key} is needed by others", code="refused", diagnostics=judged.findings
            )
        now_s = control.clock.now_s()
        writes: list[Write] = [
            Delete(key, control.mirror.revision_of(key) if expected is None else expected),
            *cutovers(judged.narrowed, snapshot.revision + 1),
        ]
        if key.kind in POLICY_KINDS:
            writes += publish_writes(key, await next_epoch(control, key), None, who.name, now_s)
        entry = AuditEntry(now_s, who.name, "delete", key.kind, key.mesh, key.namespace, key.name)
        return await control.commit(writes, [entry])


def missing(key: ResourceKey) -> NotFound:
    """The error for a resource that nobody wrote."""
    hint = "`limen get KIND` lists what there is"
    if key.kind == MESH and key.name == DEFAULT_MESH:
        hint = "mesh default is there all the same: strict, with every setting's default"
    return NotFound(f"there is no document {key}", hint=hint)


def _require_unused(snapshot: Snapshot, key: ResourceKey) -> None:
    if key.kind == MESH and (users := users_of_mesh(snapshot, key.mesh)):
        raise Conflict(
            f"mesh {key.mesh} still has {len(users)} resources, {users[0]} among them",
            code="mesh-in-use",
            hint="delete them first",
        )
