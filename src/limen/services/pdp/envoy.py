"""The door of Envoy's `ext_authz` over HTTP: the held request itself, below `/envoy`.

200 lets it through, everything else refuses it. Obligations are carried out here (`duties`) or the
request is refused. The caller's identity is the URI of `x-forwarded-client-cert`: the proxy must
write that header itself (`SANITIZE_SET`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from limen.core.policy.engine import AccessRequest, Answer, HttpRequest, Verdict
from limen.core.policy.xacml.json_request import parse_json
from limen.errors import InvalidInput
from limen.services.pdp.door import DoorReply
from limen.services.pdp.duties import read_duties

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from limen.services.pdp.door import DoorRequest
    from limen.services.pdp.judge import Judge

PREFIX = "/envoy"
_URI = re.compile(r'(?:^|;)URI="?([^;,"]*)"?')
_NAME = re.compile(r"[a-z0-9_-]{1,100}")
_VALUE = re.compile(r"[\t\x20-\x7e]{0,4000}")
_KEPT = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"}
    | {"authorization", "x-forwarded-client-cert"}
)
"""Headers that a policy neither sets nor removes: the proxy's framing, and identities."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the proxy is told, after every obligation was carried out."""

    permitted: bool
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    response_headers: Mapping[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    body: bytes = b""


def check(
    judge: Judge, request: DoorRequest, log: Callable[[str], None], claims_header: str = ""
) -> DoorReply:
    """The reply to Envoy. `claims_header`: where the proxy writes the claims that it verified."""
    ours = ("x-forwarded-client-cert", claims_header)
    headers = {k: v for k, v in request.headers.items() if k not in ours}
    held = HttpRequest(
        request.method,
        request.path.removeprefix(PREFIX) or "/",
        headers,
        host=request.headers.get("host", ""),
        source=caller_of(request.headers.get("x-forwarded-client-cert", "")),
        body=request.body or None,
        claims=_claims(request.headers.get(claims_header, "")),
    )
    return reply_of(judge.verdict(AccessRequest(http=held)), log)


def _claims(text: str) -> Mapping[str, Any] | None:
    """The claims in a header; None: there are none that can be read."""
    try:
        found = parse_json(text.encode("latin-1")) if text else None
    except InvalidInput:
        return None
    return found if isinstance(found, dict) else None


def reply_of(verdict: Verdict, log: Callable[[str], None]) -> DoorReply:
    """An outcome as HTTP: which headers go where, the filter's configuration says."""
    found = outcome_of(verdict, log)
    headers = {**found.response_headers, **found.headers}
    if found.removed:
        headers["x-envoy-auth-headers-to-remove"] = ",".join(found.removed)
    return DoorReply(found.status, found.body, headers)


def caller_of(certificate: str) -> str:
    """The URI in `x-forwarded-client-cert`; empty unless there is exactly one."""
    found = _URI.findall(certificate)
    return found[0] if len(found) == 1 and "," not in certificate else ""


def outcome_of(verdict: Verdict, log: Callable[[str], None]) -> Outcome:
    """Carry out the obligations of `verdict`; one that cannot be is a refusal."""
    try:
        due = read_duties(verdict.obligations)
    except ValueError as error:
        return _refusal(403, str(error))
    permitted = verdict.answer is Answer.PERMIT and not due.challenge
    headers = {**verdict.headers, **due.headers}
    status = 401 if due.challenge else 200 if permitted else max(verdict.status, 400)
    if due.challenge:
        headers["www-authenticate"] = due.challenge
    advice = [d.id for d in verdict.duties if d.advice]
    if advice:
        headers["x-limen-advice"] = " ".join(advice)
    removed = tuple(name.lower() for name in verdict.removed)
    touched = [*headers.items(), *verdict.response_headers.items(), *((n, "") for n in removed)]
    bad = next((name for name, value in touched if not _may_set(name, value)), None)
    if bad is not None:
        return _refusal(403, f"the policy sets or removes the header {bad!r}, which it may not")
    for line in due.lines:
        log(line)
    if permitted:
        return Outcome(
            permitted=True,
            status=200,
            headers=headers,
            response_headers=verdict.response_headers,
            removed=removed,
        )
    word = "step up" if due.challenge else verdict.answer.value
    refusal = _refusal(status, f"{word}: {verdict.reason}".rstrip(": "))
    body = verdict.body.encode("utf-8", "replace") or refusal.body
    return replace(refusal, body=body, headers={**refusal.headers, **headers})


def _may_set(name: str, value: str) -> bool:
    simple = _NAME.fullmatch(name) is not None and _VALUE.fullmatch(value) is not None
    return simple and name not in _KEPT


def _refusal(status: int, reason: str) -> Outcome:
    text = reason.encode("ascii", "replace").decode().replace("\r", " ").replace("\n", " ")
    return Outcome(
        permitted=False,
        status=status,
        headers={"content-type": "text/plain"},
        body=f"{text}\n".encode(),
    )
