"""What roles ask of the server: certificates, audit, single use of ids, secrets, revocation."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from limen.adapters.store import AuditEntry, Delete, Put
from limen.core.compiler.token_clients import identities_of
from limen.core.model.resource import (
    REVOCATION,
    SECRET,
    TOKEN_SERVICE,
    TRUSTED_ISSUER,
    ResourceKey,
)
from limen.core.model.secret import Secret
from limen.core.model.token_service import TrustedIssuer
from limen.errors import Conflict, Forbidden, InvalidInput, NotFound
from limen.services.server.meshes import exists

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from limen.adapters.store import JsonValue
    from limen.services.server.authority import Issued
    from limen.services.server.control import Control
    from limen.services.server.roles import Role

SPENT = "limen.dev/SpentId"
AUDIT_SOURCE = "limen.dev/AuditSource"
TOKEN = "limen.dev/Token"  # noqa: S105 - the kind that audit events of a token service are about
_PRUNED = 256


async def issue_certificate(
    control: Control, role: Role, csr_pem: str, names: Sequence[str]
) -> Issued:
    """A server certificate for the role's own key. Forbidden for a name that is not its own."""
    foreign = [name for name in names if name not in role.names]
    if foreign or not names:
        raise Forbidden(
            f"the role {role.name} may not answer for {', '.join(foreign)[:200] or 'no name'}",
            code="foreign-name",
            hint="make the role with --name for each host name and address by which it is reached",
        )
    return await control.authority.issue_role(csr_pem, names, role.actor)


async def record_audit(
    control: Control, role: Role, source: str, after: int, entries: Sequence[AuditEntry]
) -> int:
    """Append a role's events once, in order; the sequence number up to which there are all.

    `after` is the number before the first of `entries`. What is known already is left out. Raises
    Conflict if another process writes as the same source at once.
    """
    key = ResourceKey(AUDIT_SOURCE, role.mesh, "", f"{role.name}.{source}")
    known = await control.store.get(key)
    have = int(str(known.body["seq"])) if known is not None else 0
    fresh = list(entries[max(0, have - after) :])
    if not fresh:
        return have
    if after > have and have:
        detail: dict[str, JsonValue] = {"from": have + 1, "to": after, "source": source}
        fresh.insert(
            0, AuditEntry(fresh[0].time_s, role.actor, "lost", TOKEN, role.mesh, "", "", detail)
        )
    seq = after + len(entries)
    put = Put(key, {"seq": seq}, expected=known.revision if known else 0)
    await control.authority.commits.commit([put], fresh)
    return seq


async def spend(control: Control, role: Role, purpose: str, value: str, until_s: float) -> bool:
    """Whether `value` is used for the first time, in the whole mesh and for ever."""
    digest = hashlib.sha256(f"{purpose}\n{value}".encode()).hexdigest()
    key = ResourceKey(SPENT, role.mesh, "", digest)
    try:
        await control.authority.commits.commit([Put(key, {"until_s": until_s}, expected=0)], [])
    except Conflict:
        return False
    return True


def issuer_secret(control: Control, role: Role, namespace: str, name: str) -> dict[str, JsonValue]:
    """What a TrustedIssuer of the role's mesh proves itself with. NotFound if none names it."""
    key = ResourceKey(SECRET, role.mesh, namespace, name)
    resource = control.mirror.snapshot.resources.get(key)
    if not _is_named(control, role, namespace, name) or resource is None:
        raise NotFound("no TrustedIssuer names such a Secret", code="no-secret")
    if not isinstance(resource.spec, Secret):
        raise InvalidInput(f"the record of {key} is not a Secret", code="broken-record")
    held: dict[str, JsonValue] = {}
    if resource.spec.client_secret is not None:
        held["client_secret"] = resource.spec.client_secret.reveal()
    if resource.spec.pair is not None:
        held["chain_pem"] = resource.spec.pair.chain_pem.decode("ascii")
        held["key_pem"] = resource.spec.pair.key.reveal().decode("ascii")
    return held


def _is_named(control: Control, role: Role, namespace: str, name: str) -> bool:
    for resource in control.mirror.snapshot.of_kind(TRUSTED_ISSUER, role.mesh):
        asked = resource.spec.introspection if isinstance(resource.spec, TrustedIssuer) else None
        named = (asked.secret, asked.certificate) if asked is not None else ()
        if any(one is not None and (one.namespace, one.name) == (namespace, name) for one in named):
            return True
    return False


async def mesh_facts(control: Control, role: Role) -> dict[str, JsonValue]:
    """Who is registered in the role's mesh, and whom its authority vouches for.

    A mesh that has no authority yet has no workloads; asking makes none.
    """
    if not exists(control.mirror.snapshot, role.mesh):
        raise NotFound(f"there is no mesh {role.mesh}", hint="apply the Mesh first")
    graph = control.loop.graph(role.mesh)
    identities: list[JsonValue] = [
        {"spiffe_id": str(one.spiffe_id), "tags": dict(one.tags)} for one in identities_of(graph)
    ]
    return {
        "mesh": role.mesh,
        "trust_domain": graph.environment.trust_domain,
        "bundle_pem": await _bundle(control, role.mesh),
        "identities": identities,
        "epoch": await control.store.epoch(),
    }


async def _bundle(control: Control, mesh: str) -> str:
    try:
        return await control.authority.bundle_pem(mesh)
    except NotFound:
        return ""


async def announce(control: Control, role: Role, service: Mapping[str, JsonValue]) -> int:
    """Say where a token service is and with which keys it signs; the revision."""
    key = ResourceKey(TOKEN_SERVICE, role.mesh, "", role.name)
    known = await control.store.get(key)
    if known is not None and dict(known.body) == dict(service):
        return known.revision
    entry = AuditEntry(
        control.clock.now_s(), role.actor, "announce", TOKEN_SERVICE,
        role.mesh, "", role.name, {"issuer": service["issuer"]},
    )  # fmt: skip
    return await control.commit([Put(key, service)], [entry])


async def revoke(
    control: Control, actor: str, mesh: str, revocation: Mapping[str, JsonValue]
) -> int:
    """Whatever it names is refused from now on; the revision that says so."""
    text = "\n".join(str(revocation[part]) for part in ("issuer", "by", "value"))
    key = ResourceKey(REVOCATION, mesh, "", hashlib.sha256(text.encode()).hexdigest())
    detail: dict[str, JsonValue] = {
        "issuer": revocation["issuer"],
        "by": revocation["by"],
        "value": revocation["value"],
    }
    now_s = control.clock.now_s()
    entry = AuditEntry(now_s, actor, "revoke", TOKEN, mesh, "", key.name, detail)
    return await control.commit([Put(key, revocation)], [entry])


async def prune(control: Control) -> int:
    """Forget ids and revocations of tokens that have ended; how many."""
    now_s = control.clock.now_s()
    old: list[Delete] = []
    for kind in (SPENT, REVOCATION):
        records, _ = await control.store.list(kind)
        for record in records:
            until_s = record.body.get("until_s")
            if isinstance(until_s, int | float) and until_s < now_s:
                old.append(Delete(record.key, record.revision))
    for first in range(0, len(old), _PRUNED):
        await control.store.commit(old[first : first + _PRUNED], [])
    return len(old)
