"""The decision point as a role of the server, in a process of its own.

It follows the server's watch with a credential of its own and holds every policy of its mesh. Each
answers below `/XacmlPolicy/NAMESPACE/NAME` or `/RegoPolicy/NAMESPACE/NAME`, behind the doors of
`doors`. It listens when it has its first whole set. Callers come through the proxy beside it, which
says in `x-forwarded-client-cert` who they are.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from limen.adapters.server_link import ServerLink
from limen.core.compiler.decisions import with_sources
from limen.core.dialects import document_from_stored, to_resource
from limen.core.envoy.policies import policy_to_json
from limen.core.model.attribute_source import AttributeSource
from limen.core.model.decision import DecisionPolicy
from limen.core.model.mesh import MeshSettings
from limen.core.model.resource import (
    ATTRIBUTE_SOURCE,
    MESH_SETTINGS,
    REGO_POLICY,
    XACML_POLICY,
    ResourceKey,
)
from limen.core.plan.node import EPOCH_HEADER, HeldPolicy
from limen.errors import InvalidInput, LimenError
from limen.services.pdp.corpus import Corpus
from limen.services.pdp.door import DoorReply, DoorRequest, json_reply
from limen.services.pdp.doors import Doors
from limen.services.pdp.serving import bounded_decision, serve

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from limen.adapters.server_link import ServerPlace
    from limen.core.model.resource import Resource
    from limen.services.pdp.corpus import Held

WATCHED = (XACML_POLICY, REGO_POLICY, ATTRIBUTE_SOURCE, MESH_SETTINGS)
RETRY_S = 0.5
_PARTS = 4
_log = logging.getLogger("limen.pdp")


class Remote:
    """Follows one server. `answer` decides by what is held.

    Files that attribute sources name are below `sources`, a directory for each namespace.
    """

    def __init__(self, link: ServerLink, sources: Path, say: Callable[[str], None]) -> None:
        self._link = link
        self._say = say
        self._corpus = Corpus(sources)
        self._records: dict[ResourceKey, Mapping[str, Any]] = {}
        self._doors: dict[str, tuple[Held, Doors]] = {}
        self._revision, self._epoch = 0, ""
        self.address = ""
        self.ready = asyncio.Event()

    async def follow_forever(self) -> None:
        """Follow until cancelled; what is held stays while the server is away."""
        while True:
            try:
                async for line in self._link.watch(WATCHED, self._revision, self._epoch):
                    await self._take(line)
            except LimenError as error:
                _log.warning("the server cannot be followed: %s", error)
            await asyncio.sleep(RETRY_S)

    def answer(self, request: DoorRequest) -> DoorReply | Awaitable[DoorReply]:
        """The reply of the policy that the path begins with."""
        parts = request.path.split("/", _PARTS)
        held = self._corpus.find("/".join(parts[:_PARTS]))
        if held is None:
            return json_reply({"error": "no policy answers here", "code": "unknown-policy"}, 404)
        if self._corpus.is_stale(held):
            said = "the policy is too old: its server was not heard of for too long"
            return json_reply({"error": said, "code": "stale"}, 503)
        inner = replace(request, path="/" + "".join(parts[_PARTS:]))
        reply = self._doors_of(held).answer(inner)
        if isinstance(reply, DoorReply):
            return _marked(reply, held)
        return _later(reply, held)

    def _doors_of(self, held: Held) -> Doors:
        known = self._doors.get(held.path)
        if known is None or known[0] is not held:
            doors = Doors(held.engine, self._say, held.point, guard=bounded_decision)
            doors.address = f"{self.address}{held.path}"
            known = self._doors[held.path] = (held, doors)
        return known[1]

    async def _take(self, line: Mapping[str, Any]) -> None:
        records = {} if line["reset"] else dict(self._records)
        for one in line["changes"]:
            key = ResourceKey(one["kind"], one["mesh"], one["namespace"], one["name"])
            if one["body"] is None:
                records.pop(key, None)
            else:
                records[key] = one["body"]
        if str(line["epoch"]) != self._epoch:
            self._corpus.forget()
        if records != self._records or not self.ready.is_set():
            await self._corpus.take(_read(records))
            self._records = records
        self._corpus.fresh(0.0)
        self._revision, self._epoch = int(line["revision"]), str(line["epoch"])
        self.ready.set()
        if line["changes"] or line["reset"]:
            body = {"revision": self._revision}
            await self._link.call("POST", "/v1/roles/confirmed", body)


async def serve_remote(
    place: ServerPlace,
    sources: Path,
    path: str,
    where: tuple[str, int],
    say: Callable[[str], None],
) -> None:
    """Follow the server and answer, until cancelled. `path`: a Unix socket, else host and port."""
    link = ServerLink(place)
    remote = Remote(link, sources, say)

    def ready(address: str) -> None:
        remote.address = address
        say(f"ready {address}")

    following = asyncio.create_task(remote.follow_forever())
    waiting = asyncio.create_task(remote.ready.wait())
    try:
        await asyncio.wait({following, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
        await serve(remote.answer, socket_path=path, host=where[0], port=where[1], ready=ready)
    finally:
        for task in (following, waiting):
            task.cancel()
        await asyncio.gather(following, waiting, return_exceptions=True)


def _read(records: Mapping[ResourceKey, Mapping[str, Any]]) -> list[Any]:
    """The policies in the shape of a set."""
    held: list[HeldPolicy] = []
    sources: dict[ResourceKey, Resource] = {}
    limit_s: int | None = None
    for key in sorted(records):
        body = records[key]
        resource, _ = to_resource(document_from_stored(body["document"]))
        spec = resource.spec if resource is not None else None
        if isinstance(spec, MeshSettings):
            limit_s = spec.max_staleness_s
        elif isinstance(spec, DecisionPolicy):
            policy = replace(spec, epoch=int(body.get("epoch", 0)))
            held.append(HeldPolicy(key.kind, key.namespace, key.name, policy))
        elif resource is not None and isinstance(spec, AttributeSource):
            sources[key] = resource
        else:
            raise InvalidInput(f"{key} is not understood by this version", code="skew")
    whole = (replace(one, stale_after_s=limit_s) for one in with_sources(tuple(held), sources))
    return [policy_to_json(one) for one in whole]


def _marked(reply: DoorReply, held: Held) -> DoorReply:
    return DoorReply(reply.status, reply.body, {**reply.headers, EPOCH_HEADER: held.name})


async def _later(reply: Awaitable[DoorReply], held: Held) -> DoorReply:
    return _marked(await reply, held)
