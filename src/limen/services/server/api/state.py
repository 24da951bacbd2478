"""What is going on: proxies, services, how far a change has come, metrics, health."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from limen import __version__
from limen.core.model.resource import DATAPLANE, JWKS_CACHE, SECRET
from limen.core.model.secret import Secret
from limen.core.model.workload import Dataplane
from limen.services.server.access import ANY, Verb, authorize
from limen.services.server.api.depends import Caller, Parts
from limen.services.server.api.models import Items, WaitAnswer
from limen.services.server.meshes import meshes_without_mtls
from limen.services.server.plaintext import plaintext_rows
from limen.services.server.waiting import wait_for

router = APIRouter(tags=["state"])
OptionalText = Annotated[str | None, Query(max_length=253)]


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers. Open to anybody."""
    return {"status": "ok"}


@router.get("/readyz", response_model=dict[str, str])
async def readyz(control: Parts) -> Any:
    """The store has been read and compiled. Open to anybody."""
    ready = control.loop.ready
    status = {"status": "ok" if ready else "starting"}
    return JSONResponse(status, 200 if ready else 503)


@router.get("/metrics", response_class=Response)
async def metrics(control: Parts, who: Caller) -> Response:
    """Prometheus metrics."""
    authorize(who, Verb.GET, "limen.dev/Metrics")
    control.metrics.audit_is_at(*await control.store.audit_head())
    return Response(control.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/status")
async def status(control: Parts, who: Caller) -> dict[str, Any]:
    """The server in short."""
    authorize(who, Verb.GET, "limen.dev/Status")
    proxies = list(control.proxies)
    revision = control.mirror.snapshot.revision
    events, head = await control.store.audit_head()
    return {
        "version": __version__,
        "epoch": await control.store.epoch(),
        "api": control.api_url,
        "node_address": control.node_address,
        "revision": revision,
        "compiled_revision": control.loop.revision,
        "resources": len(control.mirror.snapshot.resources),
        "meshes_without_mtls": meshes_without_mtls(control.mirror.snapshot),
        "proxies": len(proxies),
        "proxies_connected": sum(p.connected for p in proxies),
        "proxies_current": sum(not p.missing(revision, revision) for p in proxies),
        "given_certificates": _given_certificates(control),
        "unopened_listeners": _unopened(control),
        "issuers_without_keys": control.key_sets.without_keys() if control.key_sets else [],
        "audit_events": events,
        "audit_head": head,
    }


@router.get("/v1/proxies", response_model=Items)
async def proxies(
    control: Parts,
    who: Caller,
    mesh: OptionalText = None,
    namespace: OptionalText = None,
    name: OptionalText = None,
) -> Any:
    """Each instance's proxy: connected, what it confirmed, what it refused and why.

    `closed_listeners`: why a gateway does not open some of them, one sentence each.
    """
    authorize(who, Verb.LIST, "limen.dev/Proxy", mesh or ANY, namespace or ANY)
    now_s = control.clock.now_s()
    revision = control.loop.revision
    closed = control.loop.unopened()
    items = [
        p.to_json(now_s, revision) | {"closed_listeners": closed.get(p.instance, [])}
        for p in control.proxies
        if mesh in {None, p.instance.workload.mesh}
        and namespace in {None, p.instance.workload.namespace}
        and name in {None, str(p.instance), p.instance.workload.name, p.instance.instance}
    ]
    return {"items": items, "revision": revision}


@router.get("/v1/plaintext", response_model=Items)
async def plaintext(
    control: Parts,
    who: Caller,
    mesh: OptionalText = None,
    namespace: OptionalText = None,
    name: OptionalText = None,
) -> Any:
    """Who still sends plaintext, for each port that takes it beside mTLS (PERMISSIVE).

    `requests` null: nobody counts there (no agent reports, or an older one). `since_s`: since when
    every request is counted.
    """
    authorize(who, Verb.LIST, "limen.dev/Proxy", mesh or ANY, namespace or ANY)
    items = plaintext_rows(control, mesh, namespace, name)
    return {"items": items, "revision": control.loop.revision}


@router.get("/v1/jwks", response_model=Items)
async def jwks(control: Parts, who: Caller) -> Any:
    """Where the keys of token issuers come from, which there are, and what went wrong."""
    authorize(who, Verb.LIST, JWKS_CACHE)
    items = control.key_sets.to_json() if control.key_sets is not None else []
    return {"items": items, "revision": control.mirror.snapshot.revision}


@router.get("/v1/services", response_model=Items)
async def services(
    control: Parts,
    who: Caller,
    mesh: OptionalText = None,
    namespace: OptionalText = None,
    name: OptionalText = None,
) -> Any:
    """Workloads, with how many instances are registered and connected."""
    authorize(who, Verb.LIST, DATAPLANE, mesh or ANY, namespace or ANY)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for resource in control.mirror.snapshot.of_kind(DATAPLANE, mesh):
        if not isinstance(resource.spec, Dataplane):
            continue
        workload = resource.spec.name.workload
        if namespace not in {None, workload.namespace} or name not in {None, workload.name}:
            continue
        row = found.setdefault(
            (workload.mesh, str(workload)),
            {
                "mesh": workload.mesh,
                "service": str(workload),
                "instances": 0,
                "connected": 0,
                "identities": [],
            },
        )
        proxy = control.proxies.find(resource.spec.name)
        row["instances"] += 1
        row["connected"] += bool(proxy and proxy.connected)
        identity = str(resource.spec.spiffe_id(control.loop.trust_domain(workload.mesh)))
        if identity not in row["identities"]:
            row["identities"].append(identity)
    return {"items": list(found.values()), "revision": control.mirror.snapshot.revision}


@router.get("/v1/wait")
async def wait(
    control: Parts,
    who: Caller,
    revision: Annotated[int, Query(ge=1)],
    timeout: Annotated[float, Query(ge=0, le=300)] = 30.0,  # noqa: ASYNC109 - a query parameter
) -> WaitAnswer:
    """Return when every connected proxy has confirmed or refused `revision`, or time is up."""
    authorize(who, Verb.LIST, "limen.dev/Proxy")
    return await wait_for(control, revision, timeout)


def _unopened(control: Parts) -> list[str]:
    """Each reason once, however many instances of the gateway there are."""
    return list(dict.fromkeys(why for found in control.loop.unopened().values() for why in found))


def _given_certificates(control: Parts) -> list[dict[str, Any]]:
    """Secrets with a certificate, by name, and how long each is still valid."""
    now_s = control.clock.now_s()
    return [
        {
            "name": f"{resource.key.namespace}/{resource.key.name}",
            "left_s": resource.spec.pair.not_after_s - now_s,
            "refused": control.refused_secrets.get(resource.key, ""),
        }
        for resource in control.mirror.snapshot.of_kind(SECRET)
        if isinstance(resource.spec, Secret) and resource.spec.pair is not None
    ]
