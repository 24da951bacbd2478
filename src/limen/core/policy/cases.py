"""A team's own cases for a policy of the decision point: requests, and what must come out.

One document: a list of `{name, request, expect, obligations}`. `request` has AuthZEN's four parts,
or `http` (`method`, `path`, `headers`, `caller`); `expect` is XACML's word for the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limen.core.policy.engine import OBLIGATION, AccessRequest, Answer, HttpRequest
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from limen.core.policy.engine import Verdict

_CASE = frozenset({"name", "request", "input", "expect", "obligations"})
_PARTS = frozenset({"subject", "action", "resource", "context", "http"})
_HTTP = frozenset({"method", "path", "headers", "caller"})


@dataclass(frozen=True, slots=True)
class PolicyCase:
    """One case. `document`: the input of a Rego policy as it is, in place of the request.

    `obligations` None: any. Their identifiers are without Limen's prefix, sorted.
    """

    name: str
    expect: Answer
    request: AccessRequest
    document: Any = None
    obligations: tuple[str, ...] | None = None

    def difference(self, verdict: Verdict) -> str:
        """How the verdict is not what is expected; empty: it is."""
        if verdict.answer is not self.expect:
            reason = f" ({verdict.reason})" if verdict.reason else ""
            return f"{self.expect.value} expected, {verdict.answer.value}{reason}"
        if self.obligations is None:
            return ""
        given = tuple(sorted(duty.id.removeprefix(OBLIGATION) for duty in verdict.obligations))
        if given == self.obligations:
            return ""
        wanted = ", ".join(self.obligations) or "none"
        return f"obligations: {wanted} expected, {', '.join(given) or 'none'}"


def read_cases(document: Any) -> list[PolicyCase]:
    """The cases of a document. Raises `InvalidInput` for one that is not understood in full."""
    if not isinstance(document, list) or not document:
        raise _bad("the cases", "they are not a list")
    found = [_case(item, f"case {number}") for number, item in enumerate(document, start=1)]
    names = [case.name for case in found]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise _bad(f"case {twice}", "its name stands twice")
    return found


def _case(item: Any, where: str) -> PolicyCase:
    body = _object(item, _CASE, where)
    name = body.get("name")
    if not isinstance(name, str) or not name:
        raise _bad(where, "it has no name")
    where = f"case {name}"
    if ("request" in body) is ("input" in body):
        raise _bad(where, "it has either request or input")
    known = {answer.value: answer for answer in Answer}
    expect = known.get(str(body.get("expect")))
    if expect is None:
        raise _bad(where, f"expect is one of {', '.join(known)}")
    duties = body.get("obligations")
    if duties is not None:
        if not isinstance(duties, list) or not all(isinstance(d, str) for d in duties):
            raise _bad(where, "obligations is a list of identifiers")
        duties = tuple(sorted(d.removeprefix(OBLIGATION) for d in duties))
    request = _request(body["request"], where) if "request" in body else AccessRequest()
    return PolicyCase(name, expect, request, body.get("input"), duties)


def _request(value: Any, where: str) -> AccessRequest:
    body = _object(value, _PARTS, f"{where}: request")
    parts = {name: body.get(name, {}) for name in ("subject", "action", "resource", "context")}
    if not all(isinstance(part, dict) for part in parts.values()):
        raise _bad(where, "a part of the request is no object")
    return AccessRequest(**parts, http=_http(body["http"], where) if "http" in body else None)


def _http(value: Any, where: str) -> HttpRequest:
    body = _object(value, _HTTP, f"{where}: http")
    headers = body.get("headers", {})
    texts = [body.get("method", "GET"), body.get("path", "/"), body.get("caller", "")]
    if not isinstance(headers, dict) or not all(
        isinstance(text, str) for text in (*texts, *headers, *headers.values())
    ):
        raise _bad(where, "http holds something other than text")
    method, path, caller = texts
    return HttpRequest(method, path, {k.lower(): v for k, v in headers.items()}, source=caller)


def _object(value: Any, known: frozenset[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(where, "it is no object")
    unknown = sorted(str(name) for name in value if name not in known)
    if unknown:
        raise _bad(where, f"it has no field {unknown[0]}: known are {', '.join(sorted(known))}")
    return value


def _bad(where: str, what: str) -> InvalidInput:
    return InvalidInput(f"{where}: {what}", code="policy-cases", hint="mend the file of cases")
