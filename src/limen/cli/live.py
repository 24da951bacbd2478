"""The documents that a server holds, for verbs that judge changes against them. Never Secrets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from limen.cli.client import Client, load_client_file
from limen.core.dialects import read_resources
from limen.core.model.resource import SECRET
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

    from limen.cli.client import ClientFile
    from limen.core.model.resource import Resource, ResourceKey


def client_of(config: Path | None, server: str | None) -> ClientFile:
    """The client file; `server` must be its server, whose CA we know. Raises InvalidInput."""
    file = load_client_file(config)
    if server and server.rstrip("/") != file.server.rstrip("/"):
        raise InvalidInput(
            f"the client file is of {file.server}, not of {server}",
            code="other-server",
            hint="pass that server's client file with --config",
        )
    return file


def live_resources(config: Path | None, server: str | None) -> dict[ResourceKey, Resource]:
    """What the server holds, understood here. Raises InvalidInput for what is not understood."""
    with Client(client_of(config, server)) as client:
        items = client.get("/v1/resources")["items"]
    found: dict[ResourceKey, Resource] = {}
    for item in items:
        if item["kind"] == SECRET:
            continue
        text = json.dumps(item["document"]).encode()
        resources, _, findings = read_resources(text, str(item.get("file") or "(server)"))
        if len(resources) != 1:
            why = str(findings[0]) if findings else "it is none"
            raise InvalidInput(
                f"the server's {item['kind']} {item['name']} is not understood here: {why}",
                code="other-version",
                hint="use the `limen` of the server's version",
            )
        (resource,) = resources
        found[resource.key] = resource
    return found
