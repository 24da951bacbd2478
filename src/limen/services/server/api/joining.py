"""Tokens, nodes, and how a host becomes one."""

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request

from limen.core.model.names import parse_name
from limen.core.pki.join_token import parse_join_token
from limen.core.rate import RateLimit
from limen.errors import NotFound
from limen.services.server.access import ANY, Verb, authorize
from limen.services.server.api.depends import Caller, Parts
from limen.services.server.api.models import Items, JoinRequest, TokenAnswer, TokenRequest
from limen.services.server.joining import Entitlement
from limen.services.server.joining_records import JOIN_TOKEN, NODE
from limen.services.server.meshes import exists
from limen.services.server.retiring import deregister_all

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.services.server.joining import Node, TokenRecord

JOINS_PER_S = 5.0
JOIN_BURST = 50
OptionalText = Annotated[str | None, Query(max_length=253)]


def join_router(limit: RateLimit) -> APIRouter:
    """The one route that needs no credential; `limit` stands before everything else."""
    router = APIRouter(prefix="/v1", tags=["joining"])

    @router.post("/join", response_model=dict[str, Any])
    async def join(request: Request, body: JoinRequest, control: Parts) -> Any:
        """Redeem a join token: the caller becomes a node, once."""
        caller = request.client.host if request.client else ""
        limit.take(caller, control.clock.monotonic_s())
        token = parse_join_token(body.token)
        joined = await control.joining.redeem(
            token.token_id,
            token.secret,
            body.csr_pem,
            hostname=body.hostname,
            versions=body.versions,
        )
        control.metrics.certificates.inc()
        return {
            "node_id": joined.node.node_id,
            "mesh": joined.node.mesh,
            "certificate_pem": joined.issued.chain_pem,
            "control_bundle_pem": joined.issued.bundle_pem,
            "node_address": control.node_address,
            "entitlements": _entitlements(joined.node.entitlements),
        }

    return router


router = APIRouter(prefix="/v1", tags=["joining"])


@router.post("/tokens")
async def create_token(body: TokenRequest, control: Parts, who: Caller) -> TokenAnswer:
    """Make a join token. It is in this answer and nowhere else."""
    authorize(who, Verb.CREATE, JOIN_TOKEN, body.mesh, body.namespace)
    parse_name(body.mesh, "mesh")
    if not exists(control.mirror.snapshot, body.mesh):
        raise NotFound(f"there is no mesh {body.mesh}", hint="apply the Mesh first")
    workloads = [
        Entitlement(
            parse_name(service, "service"),
            parse_name(body.namespace, "namespace"),
            tags=tuple(sorted(body.tags.items())),
            gateway=body.gateway,
        )
        for service in body.services
    ]
    created = await control.joining.create_token(
        body.mesh, workloads, server_url=control.api_url, actor=who.name, ttl_s=body.ttl_s
    )
    return TokenAnswer(id=created.token_id, token=created.text, expires_s=created.expires_s)


@router.get("/tokens", response_model=Items)
async def list_tokens(control: Parts, who: Caller, mesh: OptionalText = None) -> Any:
    """Tokens without their secrets."""
    authorize(who, Verb.LIST, JOIN_TOKEN, mesh or ANY)
    now_s = control.clock.now_s()
    return {"items": [_token(t, now_s) for t in await control.joining.list_tokens(mesh)]}


@router.delete("/tokens/{token_id}", response_model=dict[str, Any])
async def revoke_token(token_id: str, control: Parts, who: Caller) -> Any:
    """Make a token useless."""
    authorize(who, Verb.DELETE, JOIN_TOKEN)
    await control.joining.revoke_token(token_id, who.name)
    return {"id": token_id}


@router.get("/nodes", response_model=Items)
async def list_nodes(control: Parts, who: Caller, mesh: OptionalText = None) -> Any:
    """Hosts that have joined."""
    authorize(who, Verb.LIST, NODE, mesh or ANY)
    return {"items": [_node(n) for n in await control.joining.list_nodes(mesh)]}


@router.delete("/nodes/{node_id}", response_model=dict[str, Any])
async def delete_node(node_id: str, control: Parts, who: Caller) -> Any:
    """Forget a node and what it runs: its calls are refused, its streams closed from now on."""
    authorize(who, Verb.DELETE, NODE)
    await control.joining.delete_node(node_id, who.name)
    await deregister_all(control, node_id, who.name)
    return {"id": node_id}


def _token(token: "TokenRecord", now_s: float) -> dict[str, Any]:
    if token.revoked_s:
        state = "revoked"
    elif token.used_s:
        state = f"used by {token.used_by}"
    else:
        state = "open" if now_s < token.expires_s else "expired"
    return {
        "id": token.token_id,
        "mesh": token.mesh,
        "entitlements": _entitlements(token.entitlements),
        "created_by": token.created_by,
        "created_s": token.created_s,
        "expires_s": token.expires_s,
        "state": state,
    }


def _node(node: "Node") -> dict[str, Any]:
    return {
        "id": node.node_id,
        "mesh": node.mesh,
        "hostname": node.hostname,
        "entitlements": _entitlements(node.entitlements),
        "versions": dict(node.versions),
        "joined_s": node.created_s,
        "renewed_s": node.renewed_s,
        "revoked": bool(node.revoked_s),
    }


def _entitlements(found: "Iterable[Entitlement]") -> list[dict[str, Any]]:
    return [
        {
            "service": e.service,
            "namespace": e.namespace,
            "service_account": e.service_account or e.service,
            "tags": dict(e.tags),
        }
        for e in found
    ]
