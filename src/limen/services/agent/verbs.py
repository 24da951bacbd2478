"""What can be asked of an agent on its control socket: each verb with its fields and answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from limen.errors import InvalidInput, NotFound
from limen.services.agent.access_log import find_lines
from limen.services.agent.reporting import describe_agent
from limen.services.agent.spec import parse_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.services.agent.agent import Agent
    from limen.services.agent.control import Verb

_MAX_ID = 200


def verbs_of(agent: Agent) -> dict[str, Verb]:
    """By name. `list` is `status`."""

    async def add(request: Mapping[str, Any]) -> dict[str, Any]:
        raw = request.get("workload")
        if not isinstance(raw, dict):
            raise InvalidInput("workload is missing")
        token = request.get("token")
        workload = await agent.add(parse_spec(raw), token if isinstance(token, str) else "")
        return {
            "instance": workload.spec.key,
            "spiffe_id": workload.registration.spiffe_id,
            "address": workload.spec.address,
            "port": workload.spec.port,
            "outbound_port": workload.outbound_port,
            "outbound_user": workload.spec.instance,
            "outbound_secret": workload.secret,
            "outbound_socket": str(workload.paths.outbound_socket),
            "token_socket": str(workload.paths.token_socket),
            "workload_socket": str(agent.settings.paths.workload_socket),
            "isolation": workload.isolation.value,
        }

    async def remove(request: Mapping[str, Any]) -> dict[str, Any]:
        await agent.remove(str(request.get("instance", "")))
        return {}

    async def status(request: Mapping[str, Any]) -> dict[str, Any]:
        del request
        return describe_agent(agent)

    async def rotate(request: Mapping[str, Any]) -> dict[str, Any]:
        """New certificates at once for all workloads, or for the one named by `instance`."""
        wanted = str(request.get("instance", ""))
        chosen = [w for key, w in agent.workloads.items() if wanted in {"", key}]
        if wanted and not chosen:
            raise NotFound(f"no workload {wanted!a} here", hint="`limen agent status` lists them")
        await asyncio.gather(*(workload.certifier.sign() for workload in chosen))
        return {"rotated": sorted(w.spec.key for w in chosen)}

    async def log(request: Mapping[str, Any]) -> dict[str, Any]:
        """The lines about one request, of every workload here, and since when there are lines."""
        wanted = str(request.get("request_id", ""))
        if not wanted or len(wanted) > _MAX_ID:
            raise InvalidInput("request_id is missing, or too long")
        found = await asyncio.to_thread(find_lines, agent.logs, wanted)
        return {"lines": list(found.lines), "oldest": found.oldest}

    async def shutdown(request: Mapping[str, Any]) -> dict[str, Any]:
        keep = request.get("keep_proxies")
        agent.shutdown(keep_proxies=keep if isinstance(keep, bool) else None)
        return {}

    return {
        "add": add,
        "remove": remove,
        "list": status,
        "status": status,
        "rotate": rotate,
        "log": log,
        "shutdown": shutdown,
    }
