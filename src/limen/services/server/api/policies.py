"""Policies of the decision point over time: what was published, by whom, and what it said."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from limen.core.model.resource import ResourceKey
from limen.errors import NotFound
from limen.services.server.access import Verb, authorize
from limen.services.server.api.depends import Caller, Parts
from limen.services.server.api.models import WaitAnswer
from limen.services.server.api.resources import OptionalText, key_of
from limen.services.server.policy_history import (
    POLICY_KINDS,
    publish_at,
    publish_to_json,
    publishes,
)
from limen.services.server.records import parse_kind
from limen.services.server.subscribers import wait_for_subscribers

router = APIRouter(prefix="/v1/policies", tags=["policies"])


@router.get("/{kind}/{name}/history", response_model=dict[str, Any])
async def history(
    *,
    kind: str,
    name: str,
    control: Parts,
    who: Caller,
    mesh: OptionalText = None,
    namespace: OptionalText = None,
) -> Any:
    """Publishes of one policy, oldest first: epoch, author, time."""
    key = _key(kind, name, mesh, namespace)
    authorize(who, Verb.GET, key.kind, key.mesh, key.namespace)
    found = await publishes(control, key)
    if not found:
        raise NotFound(f"{key} was never published", hint="`limen get xacmlpolicies` lists them")
    return {"items": [publish_to_json(record) for record in found]}


@router.get("/{kind}/{name}/history/{epoch}", response_model=dict[str, Any])
async def publish(
    *,
    kind: str,
    name: str,
    epoch: Annotated[int, Path(ge=1)],
    control: Parts,
    who: Caller,
    mesh: Annotated[str | None, Query(max_length=253)] = None,
    namespace: OptionalText = None,
) -> Any:
    """One publish of a policy, with its document as it was written; null: it was deleted."""
    key = _key(kind, name, mesh, namespace)
    authorize(who, Verb.GET, key.kind, key.mesh, key.namespace)
    record = await publish_at(control, key, epoch)
    document = record.body["document"]
    shown = document.get("body") if isinstance(document, dict) else None
    return {**publish_to_json(record), "document": shown}


@router.get("/{kind}/{name}/subscribers")
async def subscribers(
    *,
    kind: str,
    name: str,
    control: Parts,
    who: Caller,
    wait_s: Annotated[float, Query(ge=0, le=3600)] = 0,
    mesh: OptionalText = None,
    namespace: OptionalText = None,
) -> WaitAnswer:
    """Who decides by a policy, once all have confirmed its newest publish or the time is up."""
    key = _key(kind, name, mesh, namespace)
    authorize(who, Verb.GET, key.kind, key.mesh, key.namespace)
    return await wait_for_subscribers(control, key, wait_s)


def _key(kind: str, name: str, mesh: str | None, namespace: str | None) -> ResourceKey:
    key = key_of(parse_kind(kind), name, mesh, namespace)
    if key.kind not in POLICY_KINDS:
        raise NotFound(
            f"of {kind[:80]!a} no history is kept",
            code="no-history",
            hint="there is one of XacmlPolicy and RegoPolicy; `limen audit` tells of all",
        )
    return key
