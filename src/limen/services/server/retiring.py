"""An instance, or a whole node, is no more: what it registered is taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.adapters.store import AuditEntry, Delete, Put
from limen.core.model.resource import DATAPLANE
from limen.errors import Conflict, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.store import JsonValue
    from limen.core.model.resource import ResourceKey
    from limen.services.server.control import Control

_ATTEMPTS = 5


def is_of(body: Mapping[str, JsonValue], node_id: str) -> bool:
    """Whether this Dataplane's record was registered by the node."""
    registration = body.get("registration")
    return isinstance(registration, dict) and registration.get("node") == node_id


async def deregister(control: Control, key: ResourceKey, node_id: str, actor: str) -> None:
    """Take back a node's registration; an operator's document stays. Gone already: nothing."""
    for _ in range(_ATTEMPTS):
        body = control.mirror.body_of(key)
        if body is None or not is_of(body, node_id):
            return
        expected = control.mirror.revision_of(key)
        document = body.get("document")
        write: Put | Delete = Delete(key, expected)
        if document is not None:
            write = Put(key, {"document": document, "registration": None}, expected)
        now_s = control.clock.now_s()
        entry = AuditEntry(now_s, actor, "deregister", key.kind, key.mesh, key.namespace, key.name)
        try:
            await control.commit([write], [entry])
        except (Conflict, NotFound):
            continue
        return
    raise Conflict(f"{key} is being changed all the time", hint="try again")


async def deregister_all(control: Control, node_id: str, actor: str) -> None:
    """Take back everything that a node registered."""
    for record in control.mirror.records():
        if record.key.kind == DATAPLANE and is_of(record.body, node_id):
            await deregister(control, record.key, node_id, actor)
