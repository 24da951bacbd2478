"""Every publish of a decision point's policy: who, when, and what it was, kept beside it.

A policy's epoch counts its publishes and its deletions; it never goes down, also when the policy is
deleted and comes back. Each has a record of its own, written in the transaction that it tells of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from limen.adapters.store import Delete, Put
from limen.core.model.resource import REGO_POLICY, XACML_POLICY, ResourceKey
from limen.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.store import JsonValue, Record, Write
    from limen.services.server.control import Control

POLICY_KINDS = frozenset({XACML_POLICY, REGO_POLICY})
PUBLISH = "limen.dev/PolicyPublish"
"""Kind of the records; nobody but the server writes them."""
KEPT = 50
"""Publishes of one policy that can be looked at and gone back to."""


def epoch_of(body: Mapping[str, JsonValue] | None) -> int:
    """The epoch in a policy's record; 0 if it has none."""
    return int(cast("int", body.get("epoch", 0))) if body else 0


async def next_epoch(control: Control, key: ResourceKey) -> int:
    """The epoch of the next publish of a policy."""
    body = control.mirror.body_of(key)
    if body is not None:
        return epoch_of(body) + 1
    found = await publishes(control, key)
    return (epoch_of(found[-1].body) if found else 0) + 1


async def publishes(control: Control, key: ResourceKey) -> list[Record]:
    """What is kept of a policy's publishes, oldest first."""
    records, _ = await control.store.list(PUBLISH, key.mesh, key.namespace)
    prefix = _prefix(key)
    return [r for r in records if r.key.name.startswith(prefix)]


async def publish_at(control: Control, key: ResourceKey, epoch: int) -> Record:
    """One publish. Raises NotFound."""
    found = await control.store.get(_key(key, epoch))
    if found is None:
        raise NotFound(
            f"{key} has no publish {epoch} that is kept",
            code="unknown-epoch",
            hint="`limen policy history` lists them",
        )
    return found


def publish_writes(
    key: ResourceKey, epoch: int, document: JsonValue, author: str, time_s: float
) -> list[Write]:
    """The record of a publish, and the end of the one that is no longer kept.

    `document` None: the policy is deleted.
    """
    body: dict[str, Any] = {
        "epoch": epoch,
        "document": document,
        "author": author,
        "time_s": time_s,
    }
    writes: list[Write] = [Put(_key(key, epoch), body, expected=0)]
    if epoch > KEPT:
        writes.append(Delete(_key(key, epoch - KEPT)))
    return writes


def publish_to_json(record: Record) -> dict[str, JsonValue]:
    """A publish as the API lists it."""
    return {
        "epoch": record.body["epoch"],
        "author": record.body["author"],
        "time_s": record.body["time_s"],
        "revision": record.revision,
        "deleted": record.body["document"] is None,
    }


def _prefix(key: ResourceKey) -> str:
    return f"{key.kind.rpartition('/')[2]}/{key.name}/"


def _key(key: ResourceKey, epoch: int) -> ResourceKey:
    return ResourceKey(PUBLISH, key.mesh, key.namespace, f"{_prefix(key)}{epoch:010d}")
