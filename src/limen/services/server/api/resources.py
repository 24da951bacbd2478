"""Resources: apply, list, get, delete, watch."""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from fastapi import APIRouter, Header, Query
from fastapi.responses import Response, StreamingResponse

from limen.core.model.names import DEFAULT_MESH, DEFAULT_NAMESPACE
from limen.core.model.resource import MESH, MESH_SETTINGS, ResourceKey
from limen.core.model.secret import Secret
from limen.services.server.access import ANY, Verb, authorize
from limen.services.server.api.depends import Caller, Parts
from limen.services.server.api.models import ApplyAnswer, ApplyRequest, Items
from limen.services.server.applying import apply_files
from limen.services.server.dataplane_documents import document_of
from limen.services.server.deleting import delete_resource, missing
from limen.services.server.records import USER_KINDS, parse_kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from limen.adapters.store import Change, Record
    from limen.core.model.resource import Resource
    from limen.services.server.control import Control

router = APIRouter(prefix="/v1", tags=["resources"])
KEEPALIVE_S = 10.0
OptionalText = Annotated[str | None, Query(max_length=253)]


@router.post("/apply")
async def apply(body: ApplyRequest, control: Parts, who: Caller) -> ApplyAnswer:
    """Create or change resources, all or none; every finding is in the answer."""
    return await apply_files(control, who, body)


@router.get("/resources", response_model=Items)
async def list_all(
    control: Parts, who: Caller, mesh: OptionalText = None, namespace: OptionalText = None
) -> Any:
    """All resources, as they were written."""
    return _list(control, who, None, mesh, namespace)


@router.get("/resources/{kind}", response_model=Items)
async def list_kind(
    *,
    kind: str,
    control: Parts,
    who: Caller,
    mesh: OptionalText = None,
    namespace: OptionalText = None,
    accept: Annotated[str, Header()] = "",
) -> Any:
    """Resources of one kind."""
    found = _list(control, who, parse_kind(kind), mesh, namespace)
    if "yaml" not in accept:
        return found
    return _yaml(*(item["document"] for item in found["items"]))


@router.get("/resources/{kind}/{name}", response_model=dict[str, Any])
async def get(
    *,
    kind: str,
    name: str,
    control: Parts,
    who: Caller,
    mesh: OptionalText = None,
    namespace: OptionalText = None,
    accept: Annotated[str, Header()] = "",
) -> Any:
    """One resource, as it was written (`Accept: application/yaml` for YAML), and where.

    A Dataplane that a node registered is shown as it is understood.
    """
    key = key_of(parse_kind(kind), name, mesh, namespace)
    authorize(who, Verb.GET, key.kind, key.mesh, key.namespace)
    for record in control.mirror.records():
        if record.key == key:
            shown = to_shown(
                record,
                control.mirror.snapshot.resources.get(key),
                control.refused_secrets.get(key, ""),
            )
            return _yaml(shown["document"]) if "yaml" in accept else shown
    raise missing(key)


@router.delete("/resources/{kind}/{name}", response_model=dict[str, Any])
async def delete(
    *,
    kind: str,
    name: str,
    control: Parts,
    who: Caller,
    mesh: OptionalText = None,
    namespace: OptionalText = None,
    revision: Annotated[int | None, Query(ge=1)] = None,
) -> Any:
    """Delete one resource; with `revision` only if it was not changed since."""
    key = key_of(parse_kind(kind), name, mesh, namespace)
    return {"revision": await delete_resource(control, who, key, revision)}


@router.get("/watch", response_class=StreamingResponse)
async def watch(
    control: Parts, who: Caller, after: Annotated[int | None, Query(ge=0)] = None
) -> StreamingResponse:
    """Changes of resources after a revision, one commit per line (ndjson); empty lines keep alive.

    410 if that revision is no longer kept: list again, then watch from the list's revision.
    """
    for kind in USER_KINDS:
        authorize(who, Verb.WATCH, kind)
    start = control.mirror.snapshot.revision if after is None else after
    return StreamingResponse(_watch(control, start), media_type="application/x-ndjson")


async def _watch(control: "Control", after: int) -> "AsyncIterator[bytes]":
    batches = aiter(control.store.watch(after))
    pending: asyncio.Future[Any] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(batches))
            done, _ = await asyncio.wait({pending}, timeout=KEEPALIVE_S)
            if not done:
                yield b"\n"
                continue
            try:
                batch = pending.result()
            except StopAsyncIteration:
                return
            pending = None
            yield _line(batch)
    finally:
        if pending is not None:
            pending.cancel()


def _line(batch: "Sequence[Change]") -> bytes:
    changes = [
        {
            "kind": c.key.kind,
            "mesh": c.key.mesh,
            "namespace": c.key.namespace,
            "name": c.key.name,
            "document": None if c.body is None else document_of(c.key, c.body),
        }
        for c in batch
        if c.key.kind in USER_KINDS
    ]
    return json.dumps({"revision": batch[-1].revision, "changes": changes}).encode() + b"\n"


def key_of(kind: str, name: str, mesh: str | None, namespace: str | None) -> ResourceKey:
    """The key that a caller means: a Mesh and its settings lie in themselves."""
    if kind in {MESH, MESH_SETTINGS}:
        return ResourceKey(kind, name, DEFAULT_NAMESPACE, name)
    return ResourceKey(kind, mesh or DEFAULT_MESH, namespace or DEFAULT_NAMESPACE, name)


def to_shown(
    record: "Record", resource: "Resource | None" = None, refused: str = ""
) -> dict[str, Any]:
    """A record as the API shows it; of a Secret what its certificate says, never what it holds.

    `refused`: why a later one of that name was not taken.
    """
    stored: Any = record.body.get("document") or {}
    return {
        "kind": record.key.kind,
        "mesh": record.key.mesh,
        "namespace": record.key.namespace,
        "name": record.key.name,
        "revision": record.revision,
        "file": stored.get("file", ""),
        "line": (stored.get("lines") or {}).get("", 0),
        "registration": record.body.get("registration"),
        "document": document_of(record.key, record.body),
        **_certificate(resource, refused),
        **({"epoch": record.body["epoch"]} if "epoch" in record.body else {}),
    }


def _certificate(resource: "Resource | None", refused: str) -> dict[str, Any]:
    secret = resource.spec if resource is not None else None
    if not isinstance(secret, Secret):
        return {}
    pair, authorities = secret.pair, secret.authorities
    ends = [part.not_after_s for part in (pair, authorities) if part is not None]
    said = {
        "names": list(pair.names) if pair else [],
        "key": pair.key_kind if pair else "",
        "fingerprint": pair.fingerprint if pair else "",
        "authorities": authorities is not None,
        "client_secret": secret.client_secret is not None,
        "not_after_s": min(ends, default=None),
        "refused": refused,
    }
    return {"secret": said}


def _list(
    control: "Control", who: Caller, kind: str | None, mesh: str | None, namespace: str | None
) -> dict[str, Any]:
    for one in USER_KINDS if kind is None else (kind,):
        authorize(who, Verb.LIST, one, mesh or ANY, namespace or ANY)
    items = [
        to_shown(
            r,
            control.mirror.snapshot.resources.get(r.key),
            control.refused_secrets.get(r.key, ""),
        )
        for r in control.mirror.records()
        if r.key.kind in USER_KINDS
        and kind in {None, r.key.kind}
        and mesh in {None, r.key.mesh}
        and namespace in {None, r.key.namespace}
    ]
    return {"items": items, "revision": control.mirror.snapshot.revision}


def _yaml(*documents: object) -> Response:
    text = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True)
    return Response(text, media_type="application/yaml")
