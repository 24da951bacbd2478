"""The operators' own credentials."""

from typing import Any

from fastapi import APIRouter

from limen.services.server.access import Verb, authorize
from limen.services.server.api.depends import Caller, Parts
from limen.services.server.credentials import CREDENTIAL
from limen.services.server.operators import rotate_admin

router = APIRouter(prefix="/v1", tags=["operators"])


@router.post("/admin/rotate", response_model=dict[str, Any])
async def rotate(control: Parts, who: Caller) -> Any:
    """A new admin token, shown once; the old one is refused from now on."""
    authorize(who, Verb.UPDATE, CREDENTIAL)
    token = await rotate_admin(control, who)
    return {
        "server": control.api_url,
        "ca_pem": control.authority.control_bundle_pem,
        "token": token,
    }
