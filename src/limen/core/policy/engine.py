"""What every policy engine answers, whatever its language. Types only.

An engine is loaded once from documents, then asked. It holds no state between requests. A request
is AuthZEN's four parts (subject, action, resource, context) and, where a proxy asks, the HTTP
request that it saw; each engine says how its language reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from limen.core.policy.sources import Asking


OBLIGATION = "urn:limen:obligation:"
"""Before the names of obligations that Limen's own enforcement points know; may be left out."""
BODY_DUTY = "redact"
"""Of the body: an application carries it out (`limen.sdk.pdp`), a proxy cannot."""
PROXY_DUTIES = frozenset({"log", "set-header", "step-up"})
"""What a proxy carries out; it refuses any other obligation."""


class Answer(Enum):
    """Only `PERMIT` lets a request through."""

    PERMIT = "Permit"
    DENY = "Deny"
    NOT_APPLICABLE = "NotApplicable"
    INDETERMINATE = "Indeterminate"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The request that a proxy holds back. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    host: str = ""
    scheme: str = "http"
    protocol: str = "HTTP/1.1"
    source: str = ""
    """SPIFFE ID of the caller, proven by its certificate; empty: none."""
    destination: str = ""
    body: bytes | None = None
    attributes: Mapping[str, Any] | None = None
    """Envoy's own description (`AttributeContext` in JSON), where the proxy gives one."""
    claims: Mapping[str, Any] | None = None
    """Of the token that the proxy has verified; None: there is none."""


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """Who wants to do what to what, and around it. Each part is AuthZEN's JSON object."""

    subject: Mapping[str, Any] = field(default_factory=dict)
    action: Mapping[str, Any] = field(default_factory=dict)
    resource: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    http: HttpRequest | None = None


@dataclass(frozen=True, slots=True)
class Duty:
    """An obligation, or advice: what the enforcement point must do, or may know."""

    id: str
    attributes: Mapping[str, Any]
    advice: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, why, and what is bound to it."""

    answer: Answer
    reason: str = ""
    duties: tuple[Duty, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that the policy sets: on the request if it is let through, else on the refusal."""
    response_headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that the policy adds to the response of a request that it lets through."""
    removed: tuple[str, ...] = ()
    """Headers that the policy takes off a request that it lets through."""
    status: int = 403
    body: str = ""

    @property
    def obligations(self) -> tuple[Duty, ...]:
        """What must be done, or the request is refused."""
        return tuple(duty for duty in self.duties if not duty.advice)


class PolicyEngine(Protocol):
    """Compiled policies of one language."""

    language: str

    def judge(
        self, request: AccessRequest, now: dt.datetime, asking: Asking | None = None
    ) -> Verdict:
        """The verdict on `request`. Total: what cannot be decided is `INDETERMINATE`.

        `asking`: declared sources of attributes. Raises `AnswersNeeded` while it lacks answers.
        """
