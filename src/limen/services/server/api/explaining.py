"""`explain`: what the present policy says to a request, and why."""

import asyncio
from typing import Any

from fastapi import APIRouter

from limen.core.compiler.explain import explain as explain_snapshot
from limen.core.compiler.explanation import ExplainQuery
from limen.services.server.access import Verb, authorize
from limen.services.server.api.depends import Caller, Parts
from limen.services.server.api.models import ExplainRequest

router = APIRouter(prefix="/v1", tags=["explain"])


@router.post("/explain", response_model=dict[str, Any])
async def explain(body: ExplainRequest, control: Parts, who: Caller) -> Any:
    """Verdict, deciding rule and near misses, as `limen explain` gives them offline."""
    authorize(who, Verb.EXPLAIN, "limen.dev/Decision", body.mesh)
    query = ExplainQuery(
        caller=body.from_,
        callee=body.to,
        mesh=body.mesh,
        method=body.method,
        path=body.path,
        headers=tuple((name, value) for name, value in body.headers),
        port=body.port,
        claims=body.claims,
        source_ip=body.source_ip,
        remote_ip=body.remote_ip,
        sni=body.sni,
        consents=tuple(body.provider_allows),
    )
    answer = await asyncio.to_thread(explain_snapshot, control.mirror.snapshot, query)
    return answer.to_json()
