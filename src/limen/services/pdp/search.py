"""The searches of AuthZEN 1.0 (section 8): which subjects, resources or actions are permitted.

An engine decides; it knows no lists. Candidates come from sources that list them (`lists`), or from
the member `candidates` of the request, which is ours. Each is judged; only Permit is a result.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from limen.core.policy.engine import Answer
from limen.core.policy.sources import AnswersNeeded, AttributeUnavailable
from limen.errors import InvalidInput
from limen.services.pdp.authzen import access_request
from limen.services.pdp.door import DoorReply, json_body, json_reply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from limen.core.policy.engine import AccessRequest
    from limen.core.policy.sources import SourceBook
    from limen.services.pdp.door import DoorRequest
    from limen.services.pdp.judge import Judge

PARTS = ("subject", "resource", "action")
MAX_CANDIDATES = 1_000
_PAGE = 100


def searched_parts(book: SourceBook | None) -> tuple[str, ...]:
    """The parts of which a source lists candidates."""
    lists = [] if book is None else [one.part for s in book.sources for one in s.lists]
    return tuple(part for part in PARTS if part in lists)


def search(judge: Judge, request: DoorRequest, part: str) -> DoorReply:
    """One page of results. Raises `InvalidInput`, `AnswersNeeded`."""
    if part not in PARTS:
        return json_reply({"error": f"nothing is searched by {part}"}, 404)
    body = json_body(request)
    asked = access_request(body, searched=part)
    limit, start = _page(body.get("page"))
    try:
        candidates = _candidates(judge, body, part)
    except AttributeUnavailable as error:
        return json_reply({"error": error.reason, "code": "authzen-unavailable"}, 503)
    page = candidates[start : start + limit]
    results, undecided = _judged(judge, asked, part, page)
    following = start + limit
    data: dict[str, Any] = {
        "results": results,
        "page": {
            "next_token": _token(following) if following < len(candidates) else "",
            "count": len(results),
        },
    }
    if undecided:
        data["context"] = {"limen_undecided": undecided}
    return json_reply(data)


def _judged(
    judge: Judge, asked: AccessRequest, part: str, page: Sequence[str]
) -> tuple[list[dict[str, Any]], int]:
    """The permitted ones, and how many could not be decided."""
    results: list[dict[str, Any]] = []
    undecided, incomplete = 0, False
    for candidate in page:
        entity = _entity(getattr(asked, part), part, candidate)
        try:
            answer = judge.verdict(_with(asked, part, entity)).answer
        except AnswersNeeded:  # go on: the answers that others need are fetched together
            incomplete = True
            continue
        if answer is Answer.PERMIT:
            kept = ("name",) if part == "action" else ("type", "id")
            results.append({name: entity[name] for name in kept})
        undecided += answer is Answer.INDETERMINATE
    if incomplete:
        raise AnswersNeeded
    return results, undecided


def _with(asked: AccessRequest, part: str, entity: Mapping[str, Any]) -> AccessRequest:
    match part:
        case "subject":
            return replace(asked, subject=entity)
        case "resource":
            return replace(asked, resource=entity)
        case _:
            return replace(asked, action=entity)


def _entity(given: Mapping[str, Any], part: str, candidate: str) -> dict[str, Any]:
    return {**given, "name" if part == "action" else "id": candidate}


def _candidates(judge: Judge, body: Mapping[str, Any], part: str) -> list[str]:
    """Distinct identifiers, in order.

    Raises `InvalidInput` if nobody lists any, `AnswersNeeded`, `AttributeUnavailable`.
    """
    given = body.get("candidates")
    if given is not None:
        if not isinstance(given, list) or not all(isinstance(c, str) for c in given):
            raise InvalidInput("candidates is not a list of identifiers", code="authzen-request")
        found = list(dict.fromkeys(given))
    else:
        kind = body[part].get("type", "") if part != "action" else ""
        listed = judge.listed(part, kind)
        if listed is None:
            what = f"{part} of type {kind}" if kind else part
            message = f"no source lists any {what}: name candidates in the request"
            raise InvalidInput(message, code="authzen-candidates")
        found = listed
    if len(found) > MAX_CANDIDATES:
        message = f"more than {MAX_CANDIDATES} candidates"
        raise InvalidInput(message, code="authzen-candidates")
    return found


def _page(page: Any) -> tuple[int, int]:
    """How many candidates are judged, and from which on."""
    if page is None:
        return _PAGE, 0
    if not isinstance(page, dict):
        raise InvalidInput("page is not an object", code="authzen-request")
    limit, token = page.get("limit", _PAGE), page.get("token", "")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InvalidInput("page.limit is no positive number", code="authzen-request")
    try:
        start = int(base64.urlsafe_b64decode(token).decode("ascii")) if token else 0
    except (ValueError, TypeError, binascii.Error):
        start = -1
    if start < 0:
        raise InvalidInput("page.token is not one of ours", code="authzen-request")
    return min(limit, MAX_CANDIDATES), start


def _token(start: int) -> str:
    return base64.urlsafe_b64encode(str(start).encode()).decode("ascii")
