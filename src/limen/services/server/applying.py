"""`apply`: documents in, one transaction out, or every reason why not.

The whole is judged, not the change alone: an apply after which the documents contradict one another
is refused. What a caller loses by it rotates the `Cutover` of the workload in the same transaction.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from limen.adapters.policy_trial import try_policies
from limen.adapters.store import AuditEntry, Put
from limen.core.dialects import expired, read_resources, stored_form
from limen.core.model.decision import DecisionPolicy
from limen.core.model.diagnostic import Diagnostic, Severity, has_errors
from limen.core.model.resource import CUTOVER, DATAPLANE, MESH, MESH_SETTINGS, SECRET, ResourceKey
from limen.errors import InvalidInput
from limen.services.server.access import Verb, authorize
from limen.services.server.api.errors import diagnostic_to_json
from limen.services.server.api.models import ApplyAnswer, Finding, ProxyChange, ResourceResult
from limen.services.server.judging import judge_changes
from limen.services.server.meshes import aliases_by_mesh, mesh_of, settings_of
from limen.services.server.policy_history import (
    POLICY_KINDS,
    epoch_of,
    next_epoch,
    publish_writes,
)
from limen.services.server.previewing import preview
from limen.services.server.records import USER_KINDS, resource_of
from limen.services.server.refused_secrets import note_refused
from limen.services.server.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.adapters.store import JsonValue, Write
    from limen.core.dialects import Document
    from limen.core.model.names import WorkloadName
    from limen.core.model.resource import Resource
    from limen.core.model.snapshot import Snapshot
    from limen.services.server.access import Who
    from limen.services.server.api.models import ApplyRequest
    from limen.services.server.control import Control

Outcome = Literal["created", "configured", "unchanged"]


@dataclass(frozen=True, slots=True)
class Planned:
    """One resource of an apply: what would be stored, and what that does."""

    key: ResourceKey
    resource: Resource
    body: dict[str, JsonValue]
    outcome: Outcome
    revision: int


async def apply_files(control: Control, who: Who, request: ApplyRequest) -> ApplyAnswer:
    """Apply, or say what an apply would do. Raises InvalidInput with every finding."""
    try:
        return await _apply(control, who, request)
    except InvalidInput as error:
        if not request.dry_run:
            files = [(file.name, file.text) for file in request.files]
            note_refused(control.refused_secrets, control.mirror.snapshot, files, error.diagnostics)
        raise


async def _apply(control: Control, who: Who, request: ApplyRequest) -> ApplyAnswer:
    resources, documents, diagnostics = _read(request)
    for resource in resources:
        authorize(who, Verb.UPDATE, resource.key.kind, resource.key.mesh, resource.key.namespace)
    diagnostics += expired(resources, control.clock.now_s())
    _require(diagnostics)
    diagnostics += await asyncio.to_thread(try_policies, resources)
    _require(diagnostics)
    async with control.writing:
        snapshot = control.mirror.snapshot
        planned = [await _plan(control, d, r) for d, r in zip(documents, resources, strict=True)]
        judged = await judge_changes(control, _resources(planned))
        diagnostics += judged.findings
        _require(diagnostics)
        after = snapshot.replaced(_resources(planned))
        await _check_authorities(control, after, planned)
        if request.dry_run:
            affected = await preview(control.loop, snapshot, after, _resources(planned))
            return _answer(control, planned, diagnostics, affected)
        revision = await _commit(control, who, planned, judged.narrowed)
        for each in planned:
            control.refused_secrets.pop(each.key, None)
    await control.loop.compiled(revision)
    touched = [ProxyChange(instance=str(i)) for i in control.loop.changed_since(revision)]
    answer = _answer(control, planned, diagnostics, touched)
    answer.revision, answer.dry_run = revision, False
    if request.wait_s is not None:
        answer.wait = await wait_for(control, revision, request.wait_s)
    return answer


def _read(request: ApplyRequest) -> tuple[list[Resource], list[Document], list[Diagnostic]]:
    """All files' resources, documents and findings; a resource named twice is a finding."""
    resources: list[Resource] = []
    documents: list[Document] = []
    diagnostics: list[Diagnostic] = []
    for file in request.files:
        found = read_resources(file.text.encode("utf-8", "surrogatepass"), file.name)
        resources.extend(found[0])
        documents.extend(found[1])
        diagnostics.extend(found[2])
    seen: set[ResourceKey] = set()
    for resource in resources:
        if resource.key in seen:
            diagnostics.append(_finding(resource, "duplicate-resource", "it is given twice"))
        if resource.key.kind not in USER_KINDS:
            diagnostics.append(_finding(resource, "internal-kind", "only the server writes these"))
        seen.add(resource.key)
    if not resources and not has_errors(diagnostics):
        raise InvalidInput("the files hold no document", code="nothing-to-apply")
    return resources, documents, diagnostics


async def _plan(control: Control, document: Document, resource: Resource) -> Planned:
    """What would be stored. A Dataplane keeps what its node registered; a Secret is sealed."""
    old = control.mirror.body_of(resource.key)
    registration = old.get("registration") if old else None
    body: dict[str, JsonValue] = {"document": stored_form(document), "registration": registration}
    if resource.key.kind == DATAPLANE and registration is not None:
        resource = resource_of(resource.key, body)
    outcome: Outcome
    if old is None:
        outcome = "created"
    elif resource.key.kind == SECRET:  # sealed anew it is never the same
        same = control.mirror.snapshot.resources.get(resource.key) == resource
        outcome = "unchanged" if same else "configured"
    else:
        outcome = "unchanged" if _content(old) == _content(body) else "configured"
    if isinstance(resource.spec, DecisionPolicy):
        known = epoch_of(old)
        epoch = known if outcome == "unchanged" else await next_epoch(control, resource.key)
        body["epoch"] = epoch
        resource = replace(resource, spec=replace(resource.spec, epoch=epoch))
    body = await control.authority.secrets.hide(resource.key, body)
    return Planned(resource.key, resource, body, outcome, control.mirror.revision_of(resource.key))


def _content(body: object) -> object:
    """What makes a document another one: not where it was written."""
    stored = body.get("document") if isinstance(body, dict) else None
    return stored.get("body") if isinstance(stored, dict) else None


async def _check_authorities(control: Control, after: Snapshot, planned: Sequence[Planned]) -> None:
    """A mesh stays what its authority was made for. Raises Conflict (`Authority.check_mesh`)."""
    for mesh in sorted({p.key.mesh for p in planned if p.key.kind in {MESH, MESH_SETTINGS}}):
        await control.authority.check_mesh(
            mesh_of(after, mesh), settings_of(after, mesh), aliases_by_mesh(after)
        )


async def _commit(
    control: Control, who: Who, planned: Sequence[Planned], narrowed: Sequence[WorkloadName]
) -> int:
    """One transaction for everything that changes; the revision. Conflict if it was overtaken."""
    changed = [p for p in planned if p.outcome != "unchanged"]
    if not changed:
        return control.mirror.snapshot.revision
    now_s = control.clock.now_s()
    writes: list[Write] = [Put(p.key, p.body, expected=p.revision) for p in changed]
    for p in changed:
        if p.key.kind in POLICY_KINDS:
            document = p.body["document"]
            writes += publish_writes(p.key, epoch_of(p.body), document, who.name, now_s)
    audit = [
        _entry(now_s, who, "create" if p.outcome == "created" else "update", p.key) for p in changed
    ]
    writes.extend(cutovers(narrowed, control.mirror.snapshot.revision + 1))
    return await control.commit(writes, audit)


def cutovers(narrowed: Sequence[WorkloadName], revision: int) -> list[Put]:
    """The records that close what a caller without its right still has open."""
    return [
        Put(ResourceKey(CUTOVER, w.mesh, w.namespace, w.name), {"revision": revision})
        for w in narrowed
    ]


def _entry(now_s: float, who: Who, verb: str, key: ResourceKey) -> AuditEntry:
    return AuditEntry(now_s, who.name, verb, key.kind, key.mesh, key.namespace, key.name)


def _resources(planned: Sequence[Planned]) -> list[Resource]:
    return [p.resource for p in planned]


def _answer(
    control: Control,
    planned: Sequence[Planned],
    diagnostics: Sequence[Diagnostic],
    affected: list[ProxyChange],
) -> ApplyAnswer:
    return ApplyAnswer(
        revision=control.mirror.snapshot.revision,
        dry_run=True,
        results=[
            ResourceResult(
                kind=p.key.kind,
                mesh=p.key.mesh,
                namespace=p.key.namespace,
                name=p.key.name,
                result=p.outcome,
            )
            for p in planned
        ],
        diagnostics=[Finding.model_validate(diagnostic_to_json(d)) for d in diagnostics],
        affected=affected,
    )


def _require(diagnostics: Sequence[Diagnostic]) -> None:
    if has_errors(list(diagnostics)):
        errors = sum(d.severity is Severity.ERROR for d in diagnostics)
        raise InvalidInput(
            f"{errors} error{'s' * (errors != 1)}; nothing was changed",
            code="refused",
            hint="mend the documents; `limen validate -f PATH` checks them without a server",
            diagnostics=diagnostics,
        )


def _finding(resource: Resource, code: str, message: str) -> Diagnostic:
    origin = resource.origin
    return Diagnostic(
        Severity.ERROR, code, f"{resource.key}: {message}", origin.file, origin.line()
    )
