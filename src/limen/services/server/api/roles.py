"""Token services and decision points: their credentials, and what they ask as such."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import Field

from limen.adapters.store import AuditEntry, JsonValue
from limen.core.model.names import parse_name
from limen.core.model.resource import REVOCATION
from limen.errors import Forbidden, InvalidInput, NotFound
from limen.services.server.access import Verb, Who, authorize
from limen.services.server.api.depends import Caller, Parts
from limen.services.server.api.models import Request
from limen.services.server.credentials import CREDENTIAL
from limen.services.server.meshes import exists
from limen.services.server.role_calls import (
    TOKEN,
    announce,
    issue_certificate,
    issuer_secret,
    mesh_facts,
    record_audit,
    revoke,
    spend,
)
from limen.services.server.role_credentials import create_role, delete_role
from limen.services.server.roles import ROLE, Role, RoleKind

router = APIRouter(prefix="/v1", tags=["roles"])
Detail = dict[str, str | int | float | bool | list[str] | None]


class RoleRequest(Request):
    """A credential for a role. `names`: host names and addresses by which it is reached."""

    name: str = Field(max_length=100)
    role: Literal["tokens", "pdp"]
    mesh: str = Field(default="default", max_length=253)
    names: list[Annotated[str, Field(min_length=1, max_length=253)]] = Field(
        default_factory=list, max_length=50
    )


class CertificateRequest(Request):
    """The role's own key, and the names to put into its certificate."""

    csr_pem: str = Field(max_length=8192)
    names: list[Annotated[str, Field(min_length=1, max_length=253)]] = Field(
        min_length=1, max_length=50
    )


class RoleEvent(Request):
    """One event of a role: what it did (`verb`) with which token (`name`)."""

    time_s: float = Field(ge=0)
    verb: Literal["issue", "refuse", "revoke", "rotate"]
    name: str = Field(max_length=256)
    detail: Detail = Field(default_factory=dict, max_length=32)


class AuditBatch(Request):
    """Events `after`+1, `after`+2 … of one source, which counts them."""

    source: str = Field(min_length=1, max_length=64, pattern="^[a-z0-9]+$")
    after: int = Field(ge=0)
    entries: list[RoleEvent] = Field(min_length=1, max_length=2000)


class SpendRequest(Request):
    """An id that may be used once."""

    purpose: str = Field(min_length=1, max_length=64)
    value: str = Field(min_length=1, max_length=4096)
    until_s: float = Field(ge=0)


class ServiceRequest(Request):
    """Where a token service is, and its public keys (JSON text)."""

    issuer: str = Field(min_length=1, max_length=2048)
    url: str = Field(min_length=1, max_length=2048)
    jwks: str = Field(min_length=1, max_length=65536)


class ConfirmedRequest(Request):
    """How far a decision point has come."""

    revision: int = Field(ge=0)


class RevocationRequest(Request):
    """What is refused from now on, until the last token that it may be in has ended."""

    issuer: str = Field(max_length=2048)
    by: Literal["jti", "sub", "txn"]
    value: str = Field(min_length=1, max_length=2048)
    until_s: float = Field(ge=0)
    mesh: str = Field(default="", max_length=253)


@router.post("/roles", response_model=dict[str, Any])
async def create(body: RoleRequest, control: Parts, who: Caller) -> Any:
    """A credential for a role of a mesh. It is in this answer and nowhere else."""
    authorize(who, Verb.CREATE, CREDENTIAL, body.mesh)
    parse_name(body.mesh, "mesh")
    if not exists(control.mirror.snapshot, body.mesh):
        raise NotFound(f"there is no mesh {body.mesh}", hint="apply the Mesh first")
    role = Role(body.name, RoleKind(body.role), body.mesh, tuple(body.names))
    token = await create_role(control, who, role)
    return {
        "server": control.api_url,
        "ca_pem": control.authority.control_bundle_pem,
        "token": token,
    }


@router.delete("/roles/{name}", response_model=dict[str, Any])
async def delete(name: str, control: Parts, who: Caller) -> Any:
    """End a role: its credential opens nothing any more."""
    authorize(who, Verb.DELETE, CREDENTIAL)
    await delete_role(control, who, name)
    return {}


@router.get("/roles/watch", response_class=StreamingResponse)
async def watch(
    control: Parts,
    who: Caller,
    kind: Annotated[list[str], Query(min_length=1, max_length=32)],
    after: Annotated[int, Query(ge=0)] = 0,
    epoch: Annotated[str, Query(max_length=128)] = "",
) -> StreamingResponse:
    """Everything of these kinds in the role's mesh, then each change, one per line (ndjson)."""
    role = _role(who)
    for one in kind:
        authorize(who, Verb.WATCH, one, role.mesh)
    control.watchers.admit()
    lines = control.watchers.lines(frozenset(kind), role.mesh, after, epoch)
    return StreamingResponse(lines, media_type="application/x-ndjson")


@router.post("/roles/confirmed", response_model=dict[str, Any])
async def confirmed(body: ConfirmedRequest, control: Parts, who: Caller) -> Any:
    """A decision point decides by all that was published up to a revision."""
    role = _role(who)
    authorize(who, Verb.CREATE, ROLE, role.mesh)
    control.confirmed[role.name] = body.revision
    control.proxies.changed()
    return {}


@router.get("/roles/mesh", response_model=dict[str, Any])
async def mesh(control: Parts, who: Caller) -> Any:
    """Who is registered in the role's mesh, its trust domain and its roots."""
    authorize(who, Verb.GET, ROLE, _role(who).mesh)
    return await mesh_facts(control, _role(who))


@router.post("/roles/certificate", response_model=dict[str, Any])
async def certificate(body: CertificateRequest, control: Parts, who: Caller) -> Any:
    """A server certificate of the control authority for a role's own key."""
    authorize(who, Verb.CREATE, ROLE, _role(who).mesh)
    issued = await issue_certificate(control, _role(who), body.csr_pem, body.names)
    return {
        "certificate_pem": issued.chain_pem,
        "bundle_pem": issued.bundle_pem,
        "not_after_s": issued.not_after_s,
        "renew_at_s": issued.renew_at_s,
    }


@router.post("/roles/audit", response_model=dict[str, Any])
async def audit(body: AuditBatch, control: Parts, who: Caller) -> Any:
    """Events of a role, each once and in order; `seq`: up to which there are all."""
    role = _role(who)
    authorize(who, Verb.CREATE, ROLE, role.mesh)
    entries = [
        AuditEntry(e.time_s, who.name, e.verb, TOKEN, role.mesh, "", e.name, _json(e.detail))
        for e in body.entries
    ]
    return {"seq": await record_audit(control, role, body.source, body.after, entries)}


@router.post("/roles/spend", response_model=dict[str, Any])
async def spend_once(body: SpendRequest, control: Parts, who: Caller) -> Any:
    """`first`: whether nobody in the mesh has used this id before."""
    role = _role(who)
    authorize(who, Verb.CREATE, ROLE, role.mesh)
    return {"first": await spend(control, role, body.purpose, body.value, body.until_s)}


@router.get("/roles/secrets/{namespace}/{name}", response_model=dict[str, Any])
async def secret(namespace: str, name: str, control: Parts, who: Caller) -> Any:
    """What a TrustedIssuer's introspection proves itself with; no other Secret."""
    role = _role(who)
    authorize(who, Verb.GET, ROLE, role.mesh)
    if role.kind is not RoleKind.TOKENS:
        raise Forbidden("only a token service asks issuers")
    return issuer_secret(control, role, namespace, name)


@router.post("/roles/service", response_model=dict[str, Any])
async def service(body: ServiceRequest, control: Parts, who: Caller) -> Any:
    """Say where this token service is and with which keys it signs."""
    role = _role(who)
    authorize(who, Verb.CREATE, ROLE, role.mesh)
    if role.kind is not RoleKind.TOKENS:
        raise Forbidden("only a token service signs tokens")
    return {"revision": await announce(control, role, body.model_dump())}


@router.post("/revocations", response_model=dict[str, Any])
async def revocation(body: RevocationRequest, control: Parts, who: Caller) -> Any:
    """Refuse a token, a user or a transaction from now on, everywhere in a mesh."""
    mesh = who.role.mesh if who.role is not None else body.mesh or "default"
    kind = ROLE if who.role is not None else REVOCATION
    authorize(who, Verb.CREATE, kind, mesh)
    if who.role is None:
        _check_effect(control, mesh, body.until_s)
    said = body.model_dump(exclude={"mesh"})
    return {"revision": await revoke(control, who.name, mesh, said)}


def _check_effect(control: Parts, mesh: str, until_s: float) -> None:
    """An operator's revocation that would refuse nothing is an error."""
    if not exists(control.mirror.snapshot, mesh):
        raise NotFound(f"there is no mesh {mesh}", hint="see `limen get meshes`")
    if until_s <= control.clock.now_s():
        raise InvalidInput(
            "this revocation would be over already",
            code="revocation-over",
            hint="give a later until_s, in seconds since 1970; compare the two clocks",
        )


def _json(detail: Detail) -> dict[str, JsonValue]:
    return {name: [*said] if isinstance(said, list) else said for name, said in detail.items()}


def _role(who: Who) -> Role:
    if who.role is None:
        raise Forbidden(
            "this call is for roles (token services, decision points)",
            code="not-a-role",
            hint="make a credential with `limen server add-role`",
        )
    return who.role
