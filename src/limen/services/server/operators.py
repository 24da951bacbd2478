"""The admin's token: made at the first start, kept in the client file, replaced on demand."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from limen.services.server import data_dir
from limen.services.server.credentials import ADMIN_NAME, load_credentials, make_admin

if TYPE_CHECKING:
    from limen.services.server.access import Who
    from limen.services.server.control import Control

CLIENT_FILE = "client.json"
PLACES_FILE = "server.json"


async def load_admin(control: Control) -> None:
    """Know the operators; at the first start, and when its file is lost, make a new admin token."""
    known = data_dir.load_json(control.settings.data / CLIENT_FILE)
    control.credentials = await load_credentials(control.store)
    if known is not None and control.credentials.knows(str(known.get("token"))):
        control.admin_token = str(known["token"])
        return
    control.admin_token = await make_admin(control.store, control.clock.now_s())
    control.credentials.replace(ADMIN_NAME, control.admin_token)


async def rotate_admin(control: Control, who: Who) -> str:
    """A new admin token, in the server's client file too. The old one opens nothing any more."""
    async with control.writing:
        token = await make_admin(control.store, control.clock.now_s(), who.name, "rotate")
        control.credentials.replace(ADMIN_NAME, token)
        control.admin_token = token
        await asyncio.to_thread(save_places, control)
    return token


def save_places(control: Control) -> None:
    """Write where the server listens now: for operators, tests and the demo."""
    data = control.settings.data
    data_dir.save_private_json(
        data / CLIENT_FILE,
        {
            "server": control.api_url,
            "ca_pem": control.authority.control_bundle_pem,
            "token": control.admin_token,
        },
    )
    data_dir.save_private_json(
        data / PLACES_FILE,
        {"pid": os.getpid(), "api": control.api_url, "node": control.node_address},
    )
