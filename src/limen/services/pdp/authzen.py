"""The door of OpenID AuthZEN Authorization API 1.0: evaluation, evaluations, metadata.

The searches of the API are not here: this process knows no list of subjects or resources.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from limen.core.policy.engine import AccessRequest, Answer
from limen.errors import InvalidInput
from limen.services.pdp.door import DoorReply, json_body, json_reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.policy.engine import PolicyEngine, Verdict
    from limen.services.pdp.door import DoorRequest

EVALUATION = "/access/v1/evaluation"
EVALUATIONS = "/access/v1/evaluations"
METADATA = "/.well-known/authzen-configuration"
MAX_EVALUATIONS = 1_000

_PARTS = {"subject": ("type", "id"), "action": ("name",), "resource": ("type", "id")}
_STOPS = {
    "execute_all": None,
    "deny_on_first_deny": False,
    "permit_on_first_permit": True,
}


def metadata(address: str) -> DoorReply:
    """Where the endpoints are."""
    return json_reply(
        {
            "policy_decision_point": address,
            "access_evaluation_endpoint": f"{address}{EVALUATION}",
            "access_evaluations_endpoint": f"{address}{EVALUATIONS}",
        }
    )


def evaluation(engine: PolicyEngine, request: DoorRequest) -> DoorReply:
    """One decision. Raises `InvalidInput` for a request that is none of the API's."""
    return json_reply(_decide(engine, json_body(request)))


def evaluations(engine: PolicyEngine, request: DoorRequest) -> DoorReply:
    """Several decisions, each with the parts that it does not give itself."""
    body = json_body(request)
    items = body.get("evaluations")
    if items is None or items == []:
        return json_reply(_decide(engine, body))
    if not isinstance(items, list) or len(items) > MAX_EVALUATIONS:
        message = f"evaluations is not a list of at most {MAX_EVALUATIONS}"
        raise InvalidInput(message, code="authzen-request")
    stop = _stop(body.get("options", {}))
    shared = {name: body[name] for name in (*_PARTS, "context") if name in body}
    found: list[dict[str, Any]] = []
    for item in items:
        if not isinstance(item, dict):
            raise InvalidInput("an evaluation is not an object", code="authzen-request")
        found.append(_decide(engine, {**shared, **item}))
        if stop is not None and found[-1]["decision"] is stop:
            break
    return json_reply({"evaluations": found})


def _stop(options: Any) -> bool | None:
    """The decision after which no further one is taken; None: all are."""
    semantic = options.get("evaluations_semantic", "execute_all") if options else "execute_all"
    if semantic not in _STOPS:
        raise InvalidInput("evaluations_semantic is not known", code="authzen-request")
    return _STOPS[semantic]


def _decide(engine: PolicyEngine, body: Mapping[str, Any]) -> dict[str, Any]:
    for part, required in _PARTS.items():
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
    asked = AccessRequest(body["subject"], body["action"], body["resource"], context)
    return answer_of(engine.judge(asked, dt.datetime.now(dt.UTC)))


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
