"""`explain`: what the present policy says to a request, and why."""

from typing import Any

from fastapi import APIRouter

from limen.errors import Unavailable
from limen.services.server.access import Verb, authorize
from limen.services.server.api.depends import Caller, Parts
from limen.services.server.api.models import ExplainRequest

router = APIRouter(prefix="/v1", tags=["explain"])


@router.post("/explain", response_model=dict[str, Any])
async def explain(body: ExplainRequest, control: Parts, who: Caller) -> Any:
    """Verdict, deciding rule and near misses, as `limen explain` gives them offline."""
    authorize(who, Verb.EXPLAIN, "limen.dev/Decision", body.mesh)
    del control
    raise Unavailable("explain is not wired yet")
