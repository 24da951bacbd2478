"""The audit chain, checked here and not by the server that is asked for it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from limen.adapters.store import AuditEntry, AuditEvent
from limen.core.audit import ChainHead, verify_chain, verify_head
from limen.errors import InvalidInput, Untrusted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.cli.client import Client

PAGE = 5_000
TAMPERED = "audit-tampered"
"""Code of the error that a changed chain gives."""
_HEAD = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})", re.ASCII)


def parse_head(text: str) -> ChainHead:
    """`NUMBER:HASH`. Raises InvalidInput (`invalid-head`)."""
    found = _HEAD.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"{text[:100]!a} is not the head of a chain",
            code="invalid-head",
            hint="write NUMBER:HASH as an earlier `limen get audit --verify` said",
        )
    return ChainHead(int(found[1]), found[2])


def verify_audit(client: Client, kept: ChainHead | None = None) -> ChainHead:
    """Walk the whole chain, page by page; its head. `kept`: an earlier head, which must be in it.

    Raises Untrusted (`audit-tampered`) with the first event that does not fit.
    """
    head = ChainHead()
    for event in _events(client):
        head = verify_chain([event], head)
        if kept is not None and head.seq == kept.seq:
            verify_head(head, kept)
    if kept is not None and head.seq < kept.seq:
        verify_head(head, kept)
    return head


def _events(client: Client) -> Iterator[AuditEvent]:
    after: int | None = 0
    while after is not None:
        answer = client.get("/v1/audit", after=after, limit=PAGE)
        for item in answer["items"]:
            yield _event(item)
        last, after = after, answer.get("next")
        if after is not None and after <= last:
            raise Untrusted("the server goes round in circles", code="bad-answer")


def _event(item: dict[str, Any]) -> AuditEvent:
    own = ("seq", "revision", "previous", "hash")
    try:
        entry = AuditEntry(**{key: value for key, value in item.items() if key not in own})
        return AuditEvent(item["seq"], item["revision"], entry, item["previous"], item["hash"])
    except (TypeError, KeyError) as error:
        raise Untrusted("the server sent no audit event", code="bad-answer") from error
