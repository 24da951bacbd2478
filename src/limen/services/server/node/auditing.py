"""What nodes report of requests that AUDIT rules match, as events of the audit chain.

A node speaks for instances that it runs; of one that nobody runs any more, if it may run it (the
last lines of a workload that has ended come after it). Each event is taken once: the position of
the newest one in its log is written in the same transaction. Request ids would not do for that:
callers choose them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.adapters.store import AuditEntry, Delete, Put
from limen.core.compiler.rules import parse_rule_name
from limen.core.model.resource import AUTHORIZATION_POLICY, ResourceKey
from limen.errors import Conflict, Forbidden, InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.store import JsonValue
    from limen.core.model.names import InstanceName
    from limen.core.policy.rule import RuleRef
    from limen.services.server.control import Control
    from limen.services.server.joining import Node

AUDIT_POSITION = "limen.dev/AuditPosition"
MATCH, LOST = "match", "lost"
"""Verbs: a request matched an AUDIT rule; an agent had to drop events before they were shipped."""
MAX_EVENTS = 500
_MAX_TEXT = 1024
_ATTEMPTS = 5
_LOG_ID = re.compile(r"[0-9a-f]{1,64}")
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")
"""W3C Trace Context, `traceparent`."""
_TEXTS = (
    "time", "caller", "user", "method", "host", "path", "decision", "decided_by", "request_id",
    "traceparent", "address", "client", "listener",
)  # fmt: skip
_NUMBERS = ("port", "status")


@dataclass(frozen=True, slots=True)
class _Report:
    """A message, understood. `events`: position, rule and facts, in order."""

    log: str
    dropped: int
    events: tuple[tuple[int, RuleRef, dict[str, JsonValue]], ...]


async def record(
    control: Control, node: Node, instance: InstanceName, message: Mapping[str, JsonValue]
) -> int:
    """Write the events of `instance` that are not written yet; the position reached.

    Raises InvalidInput (`invalid-audit-event`), Conflict, Unavailable.
    """
    report = _parse(message)
    key = _key(instance)
    for _ in range(_ATTEMPTS):
        known = await control.store.get(key)
        body = known.body if known is not None and known.body.get("log") == report.log else {}
        position, lost = _number(body.get("position")), _number(body.get("dropped"))
        entries = _entries(control, node, instance, report, (position, lost))
        reached = max([position, *(at for at, _, _ in report.events)])
        if not entries:
            return reached
        said: dict[str, JsonValue] = {
            "log": report.log,
            "position": reached,
            "dropped": max(lost, report.dropped),
            "time_s": control.clock.now_s(),
        }
        put = Put(key, said, expected=known.revision if known is not None else 0)
        try:
            await control.authority.commits.commit([put], entries)
        except Conflict:
            continue
        return reached
    raise Conflict(f"{instance} reports twice at once", hint="try again")


async def prune_positions(control: Control, keep_s: float = 7 * 86400) -> int:
    """Forget positions in logs that are no more; how many."""
    records, _ = await control.store.list(AUDIT_POSITION)
    before_s = control.clock.now_s() - keep_s
    old = [r for r in records if _number(r.body.get("time_s")) < before_s]
    for each in old:
        try:
            await control.store.commit([Delete(each.key, each.revision)], [])
        except (Conflict, NotFound):
            continue  # it reports again
    return len(old)


def check_speaker(
    node: Node, instance: InstanceName, registration: JsonValue, *, entitled: bool
) -> None:
    """Refuse to hear `node` about another's instance. Raises Forbidden (`not-your-instance`)."""
    owner = registration.get("node") if isinstance(registration, dict) else None
    if owner == node.node_id or (owner is None and entitled):
        return
    raise Forbidden(
        f"{instance} is not run by node {node.node_id}",
        code="not-your-instance",
        hint="a node reports of the instances that it runs",
    )


def _key(instance: InstanceName) -> ResourceKey:
    workload = instance.workload
    name = f"{workload.name}.{instance.instance}"
    return ResourceKey(AUDIT_POSITION, workload.mesh, workload.namespace, name)


def _entries(
    control: Control,
    node: Node,
    instance: InstanceName,
    report: _Report,
    known: tuple[int, int],
) -> list[AuditEntry]:
    now_s, mesh = control.clock.now_s(), instance.workload.mesh
    position, lost = known
    told: dict[str, JsonValue] = {"instance": str(instance), "node": node.node_id}
    entries = [
        AuditEntry(
            now_s,
            _actor(str(facts.get("caller") or "")),
            MATCH,
            AUTHORIZATION_POLICY,
            mesh,
            ref.namespace,
            ref.name,
            {**told, **facts, "rule": ref.index},
        )
        for at, ref, facts in report.events
        if at > position
    ]
    if report.dropped > lost:
        detail: dict[str, JsonValue] = {**told, "events": report.dropped - lost}
        actor, workload = f"node:{node.node_id}", instance.workload
        name = f"{workload.name}.{instance.instance}"
        entries.append(
            AuditEntry(now_s, actor, LOST, AUDIT_POSITION, mesh, workload.namespace, name, detail)
        )
    return entries


def _actor(caller: str) -> str:
    """Never the name of an operator, whatever a node or a certificate from outside says."""
    if not caller:
        return "anonymous"
    return caller if caller.startswith("spiffe://") else f"peer:{caller}"


def _parse(message: Mapping[str, JsonValue]) -> _Report:
    log, events = message.get("log"), message.get("events")
    if not isinstance(log, str) or not _LOG_ID.fullmatch(log):
        raise _invalid("it names no log")
    if not isinstance(events, list) or len(events) > MAX_EVENTS:
        raise _invalid(f"events must be a list of at most {MAX_EVENTS}")
    return _Report(log, _number(message.get("dropped")), tuple(_event(each) for each in events))


def _event(value: JsonValue) -> tuple[int, RuleRef, dict[str, JsonValue]]:
    if not isinstance(value, dict):
        raise _invalid("an event is no object")
    rule = value.get("rule")
    ref = parse_rule_name(rule) if isinstance(rule, str) else None
    if ref is None or ref.kind != AUTHORIZATION_POLICY.rpartition("/")[2]:
        raise _invalid("an event names no rule")
    facts: dict[str, JsonValue] = {}
    for name in _TEXTS:
        text = value.get(name)
        if isinstance(text, str) and text:
            facts[name] = _printable(text[:_MAX_TEXT])
    for name in _NUMBERS:
        facts[name] = _number(value.get(name))
    trace = _TRACE.fullmatch(str(facts.get("traceparent") or ""))
    if trace is not None:
        facts["trace_id"] = trace[1]
    return _number(value.get("position")), ref, facts


def _number(value: JsonValue) -> int:
    """A count or position; 0 for what is none."""
    whole = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if whole and 0 <= value < 2**53 else 0  # type: ignore[operator, arg-type] # a number


def _printable(text: str) -> str:
    """What a caller sent, without what a terminal or JSON would stumble over."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _invalid(why: str) -> InvalidInput:
    return InvalidInput(f"the audit report is not understood: {why}", code="invalid-audit-event")
