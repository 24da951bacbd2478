"""What was done and issued: the audit log, its check, certificates."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query

from limen.core.audit import GENESIS, ChainHead, verify_chain
from limen.services.server.access import ANY, Verb, authorize
from limen.services.server.api.depends import Caller, Parts
from limen.services.server.api.models import Items
from limen.services.server.authority_records import CERTIFICATE

router = APIRouter(prefix="/v1", tags=["evidence"])
AUDIT = "limen.dev/Audit"
OptionalText = Annotated[str | None, Query(max_length=253)]


@router.get("/audit", response_model=Items)
async def audit(
    *,
    control: Parts,
    who: Caller,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    mesh: OptionalText = None,
    name: OptionalText = None,
) -> Any:
    """Events in order, each with its hash and that of the one before.

    `next`, if there may be more: what to ask for as `after`.
    """
    authorize(who, Verb.LIST, AUDIT, mesh or ANY)
    events = await control.store.audit(after, limit)
    items = [
        {
            "seq": e.seq,
            "revision": e.revision,
            **asdict(e.entry),
            "previous": e.previous,
            "hash": e.hash,
        }
        for e in events
        if mesh in {None, e.entry.mesh} and name in {None, e.entry.name}
    ]
    return {"items": items, "next": events[-1].seq if len(events) == limit else None}


@router.get("/audit/verify", response_model=dict[str, Any])
async def verify(control: Parts, who: Caller) -> Any:
    """Check the whole chain; the head is to be kept somewhere else."""
    authorize(who, Verb.GET, AUDIT)
    head: ChainHead | None = None
    while page := await control.store.audit(head.seq if head else 0, 10_000):
        head = verify_chain(page, head)
    if head is None:
        return {"events": 0, "head": GENESIS}
    return {"events": head.seq, "head": head.hash}


@router.get("/certificates", response_model=Items)
async def certificates(control: Parts, who: Caller, mesh: OptionalText = None) -> Any:
    """Certificates that were issued and are not yet forgotten."""
    authorize(who, Verb.LIST, CERTIFICATE, mesh or ANY)
    records, revision = await control.store.list(CERTIFICATE, mesh)
    items = [
        {
            "mesh": r.key.mesh,
            "serial": r.key.name,
            "subject": r.body.get("spiffe_id") or r.body.get("profile"),
            **r.body,
        }
        for r in records
    ]
    return {"items": items, "revision": revision}
