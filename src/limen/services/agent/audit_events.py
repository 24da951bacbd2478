"""A line of an access log as the audit event that an AUDIT rule wants. Pure.

Who, what, by which rule, and the ids that tie it to other records; no token, no header, no query,
of a token's claims only who it is about.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from limen.core.plan import request_log as log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.adapters.log_files import LogLine

_MARK = b'"' + log.AUDIT_RULE.encode() + b'"'
_EDGES = frozenset({log.INBOUND, log.GATEWAY})
_MAX_TEXT = 1024
_VERDICTS = {True: "allowed", False: "denied", None: "undecided"}


def may_be_audited(raw: bytes) -> bool:
    """A quick look, before the line is parsed."""
    return _MARK in raw and raw.startswith(b"{")


def audit_event(line: LogLine) -> dict[str, Any] | None:
    """The event, ready to be sent; None if no rule wants the line to be reported."""
    if not may_be_audited(line.raw):
        return None
    try:
        found = json.loads(line.raw.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get(log.EDGE) not in _EDGES:
        return None
    rule = found.get(log.AUDIT_RULE)
    if not isinstance(rule, str) or rule in {"", "[none]"}:
        return None
    return {"position": line.end, "rule": rule, **_facts(found)}


def _facts(line: Mapping[str, Any]) -> dict[str, Any]:
    deciding = str(line.get(log.RULE) or "").removeprefix("[none]")
    facts = {
        "time": line.get(log.TIME),
        "caller": line.get(log.PEER),
        "user": _user(line.get(log.CLAIMS)),
        "method": line.get(log.METHOD),
        "host": line.get(log.AUTHORITY),
        "path": line.get(log.PATH),
        "decided_by": deciding,
        "request_id": line.get(log.REQUEST_ID),
        "traceparent": line.get(log.TRACE_PARENT),
        "address": log.host_of(line.get(log.PEER_ADDRESS)),
        "client": line.get(log.CLIENT),
        "listener": line.get(log.LISTENER),
    }
    texts = {key: str(value)[:_MAX_TEXT] for key, value in facts.items() if value}
    return {
        **texts,
        "port": log.number(line.get(log.PORT)),
        "status": log.number(line.get(log.STATUS)),
        "decision": _VERDICTS[log.verdict(line)],
    }


def _user(claims: object) -> str:
    """Issuer and subject of a verified token, as policies name a request's principal."""
    if not isinstance(claims, dict):
        return ""
    issuer, subject = claims.get("iss"), claims.get("sub")
    if not isinstance(issuer, str) or not isinstance(subject, str):
        return ""
    return f"{issuer}/{subject}"
