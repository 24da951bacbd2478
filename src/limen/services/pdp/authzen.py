"""The door of OpenID AuthZEN Authorization API 1.0: evaluation, evaluations, metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.core.policy.engine import AccessRequest, Answer
from limen.core.policy.sources import AnswersNeeded
from limen.errors import InvalidInput
from limen.services.pdp.door import DoorReply, json_body, json_reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limen.core.policy.engine import Verdict
    from limen.services.pdp.door import DoorRequest
    from limen.services.pdp.judge import Judge

EVALUATION = "/access/v1/evaluation"
EVALUATIONS = "/access/v1/evaluations"
SEARCH = "/access/v1/search/"
METADATA = "/.well-known/authzen-configuration"
MAX_EVALUATIONS = 1_000

_PARTS = {"subject": ("type", "id"), "action": ("name",), "resource": ("type", "id")}
_STOPS = {
    "execute_all": None,
    "deny_on_first_deny": False,
    "permit_on_first_permit": True,
}


def metadata(address: str, searched: Iterable[str] = ()) -> DoorReply:
    """Where the endpoints are; `searched`: the parts of which a source lists candidates."""
    searches = {f"search_{part}_endpoint": f"{address}{SEARCH}{part}" for part in searched}
    return json_reply(
        {
            "policy_decision_point": address,
            "access_evaluation_endpoint": f"{address}{EVALUATION}",
            "access_evaluations_endpoint": f"{address}{EVALUATIONS}",
            **searches,
        }
    )


def evaluation(judge: Judge, request: DoorRequest) -> DoorReply:
    """One decision. Raises `InvalidInput` for a request that is none of the API's."""
    return json_reply(_decide(judge, json_body(request)))


def evaluations(judge: Judge, request: DoorRequest) -> DoorReply:
    """Several decisions, each with the parts that it does not give itself."""
    body = json_body(request)
    items = body.get("evaluations")
    if items is None or items == []:
        return json_reply(_decide(judge, body))
    if not isinstance(items, list) or len(items) > MAX_EVALUATIONS:
        message = f"evaluations is not a list of at most {MAX_EVALUATIONS}"
        raise InvalidInput(message, code="authzen-request")
    stop = _stop(body.get("options", {}))
    shared = {name: body[name] for name in (*_PARTS, "context") if name in body}
    found: list[dict[str, Any]] = []
    incomplete = False
    for item in items:
        if not isinstance(item, dict):
            raise InvalidInput("an evaluation is not an object", code="authzen-request")
        try:
            found.append(_decide(judge, {**shared, **item}))
        except AnswersNeeded:  # go on: the answers that others need are fetched together
            incomplete = True
            continue
        if stop is not None and found[-1]["decision"] is stop and not incomplete:
            break
    if incomplete:
        raise AnswersNeeded
    return json_reply({"evaluations": found})


def _stop(options: Any) -> bool | None:
    """The decision after which no further one is taken; None: all are."""
    semantic = options.get("evaluations_semantic", "execute_all") if options else "execute_all"
    if semantic not in _STOPS:
        raise InvalidInput("evaluations_semantic is not known", code="authzen-request")
    return _STOPS[semantic]


def _decide(judge: Judge, body: Mapping[str, Any]) -> dict[str, Any]:
    return answer_of(judge.verdict(access_request(body)))


def access_request(body: Mapping[str, Any], searched: str = "") -> AccessRequest:
    """The request in a body; of the `searched` part only the type is needed, of an action nothing.

    Raises `InvalidInput`.
    """
    for part, required in _PARTS.items():
        if part == searched:
            required = required[:-1]  # noqa: PLW2901 - of one part only
            if not required:
                continue
        entity = body.get(part)
        if not isinstance(entity, dict):
            raise InvalidInput(f"{part} is missing or not an object", code="authzen-request")
        for name in required:
            if not isinstance(entity.get(name), str):
                message = f"{part}.{name} is missing or not text"
                raise InvalidInput(message, code="authzen-request")
    context = body.get("context", {})
    if not isinstance(context, dict):
        raise InvalidInput("context is not an object", code="authzen-request")
    return AccessRequest(body["subject"], body.get("action", {}), body["resource"], context)


def answer_of(verdict: Verdict) -> dict[str, Any]:
    """`decision` is true for Permit only; `context` says the rest, if there is any."""
    context: dict[str, Any] = {}
    if verdict.answer not in (Answer.PERMIT, Answer.DENY):
        context["limen_answer"] = verdict.answer.value
    if verdict.reason:
        context["reason"] = verdict.reason
    for name, duties in (
        ("obligations", verdict.obligations),
        ("advice", tuple(d for d in verdict.duties if d.advice)),
    ):
        if duties:
            context[name] = [{"id": d.id, "attributes": dict(d.attributes)} for d in duties]
    answer = {"decision": verdict.answer is Answer.PERMIT}
    return {**answer, "context": context} if context else answer
