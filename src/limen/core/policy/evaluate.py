"""Whether a condition holds, and if not, the first field that failed: wanted and seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from limen.core.policy.facts import (
    ABSENT,
    NO_TOKEN,
    UNKNOWN,
    Facts,
    in_any,
    parse_address,
)
from limen.core.policy.match import template_pattern
from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Authenticated,
    Claim,
    Condition,
    DestinationIp,
    HasToken,
    Header,
    Host,
    Method,
    Not,
    Path,
    PathTemplate,
    Port,
    Principal,
    PrincipalNamespace,
    RemoteIp,
    RequestPrincipal,
    Sni,
    SourceIp,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.policy.decision import Request

SHOWN_ALTERNATIVES = 8
"""Values that a near miss lists before it says how many more there are."""

Failure = tuple[str, str, str]
"""Field, what was wanted, what was seen."""


def holds(condition: Condition, request: Request) -> bool:
    """Whether `condition` is true of `request`."""
    return is_true(condition, Facts(request))


def is_true(condition: Condition, facts: Facts) -> bool:  # noqa: C901, PLR0911, PLR0912 - one branch per condition, total by design
    """Whether `condition` is true. Frequent conditions first."""
    match condition:
        case Principal(match):
            return facts.principal is not None and match.matches(facts.principal)
        case AllOf(parts):
            for part in parts:  # noqa: SIM110 - a loop takes half the time of all()
                if not is_true(part, facts):
                    return False
            return True
        case AnyOf(parts):
            for part in parts:  # noqa: SIM110 - as above
                if is_true(part, facts):
                    return True
            return False
        case Path(match):
            return match.matches(facts.request.path)
        case Method(match):
            return match.matches(facts.request.method)
        case Not(part):
            return not is_true(part, facts)
        case Authenticated():
            return facts.principal is not None
        case PrincipalNamespace(match):
            return facts.principal is not None and match.matches(facts.namespace)
        case Header(name, match):
            return any(match.matches(v) for v in facts.request.headers.get(name, ()))
        case Claim(path, match):
            return any(match.matches(v) for v in facts.claim(path))
        case HasToken():
            return facts.request.claims is not None
        case RequestPrincipal(issuer, subject):
            iss, sub = facts.claim_text("iss"), facts.claim_text("sub")
            return bool(iss and sub) and issuer.matches(iss) and subject.matches(sub)
        case Host(match, any_port):
            return any(match.matches(h) for h in facts.hosts(any_port=any_port))
        case PathTemplate(template):
            return template_pattern(template).fullmatch(facts.request.path) is not None
        case Port(port):
            return port == facts.request.port
        case SourceIp(cidrs):
            return in_any(parse_address(facts.request.source_ip), cidrs)
        case RemoteIp(cidrs):
            return in_any(parse_address(facts.request.remote_ip), cidrs)
        case DestinationIp(cidrs):
            return in_any(parse_address(facts.request.destination_ip), cidrs)
        case Sni(match):
            return bool(facts.request.sni) and match.matches(facts.request.sni)
        case Always():
            return True
    assert_never(condition)


def first_failure(condition: Condition, facts: Facts) -> Failure | None:
    """None if the condition holds; else the first part that fails."""
    match condition:
        case AllOf(parts):
            return next((f for p in parts if (f := first_failure(p, facts))), None)
        case AnyOf(parts):
            failures = [first_failure(part, facts) for part in parts]
            if None in failures:
                return None
            return _merged(f for f in failures if f is not None)
        case Not(part):
            if not is_true(part, facts):
                return None
            field, wanted, seen = _satisfied(part, facts)
            return (field, f"not {wanted}", seen)
        case _:
            return None if is_true(condition, facts) else shown(condition, facts)


def _satisfied(condition: Condition, facts: Facts) -> Failure:
    """The first field by which a condition that holds does so."""
    match condition:
        case AllOf(parts) if parts:
            return _satisfied(parts[0], facts)
        case AnyOf(parts):
            return next(_satisfied(p, facts) for p in parts if is_true(p, facts))
        case Not(part):
            failure = first_failure(part, facts)
            return failure or shown(part, facts)
        case _:
            return shown(condition, facts)


def _merged(failures: Iterable[Failure]) -> Failure:
    """One line for alternatives that all failed: the wanted values of the first field joined."""
    known = list(failures)
    if not known:
        return ("rule", "(nothing can match)", "-")
    name, _, seen = known[0]
    wanted = list(dict.fromkeys(w for n, w, _ in known if n == name))
    if len(wanted) > SHOWN_ALTERNATIVES:
        more = f"{len(wanted) - SHOWN_ALTERNATIVES} more"
        wanted = [*wanted[:SHOWN_ALTERNATIVES], more]
    return (name, " or ".join(wanted), seen)


def shown(condition: Condition, facts: Facts) -> Failure:  # noqa: C901, PLR0911, PLR0912 - one branch per condition, total by design
    """The field that a condition looks at, what it wants and what is there. Total."""
    request = facts.request
    match condition:
        case Authenticated():
            return ("principal", "any identity of the mesh", facts.shown_principal())
        case Principal(match):
            return ("principal", str(match), facts.shown_principal())
        case PrincipalNamespace(match):
            seen = facts.shown_principal() if facts.principal is None else facts.namespace
            return ("source namespace", str(match), seen)
        case HasToken():
            seen = NO_TOKEN if request.claims is None else facts.shown_request_principal()
            return ("token", "a verified token", seen)
        case RequestPrincipal(issuer, subject):
            return ("request principal", f"{issuer}/{subject}", facts.shown_request_principal())
        case Claim(path, match):
            return (f"claim {_brackets(path)}", str(match), facts.shown_claim(path))
        case Method(match):
            return ("method", str(match), request.method)
        case Path(match):
            return ("path", str(match), request.path)
        case PathTemplate(template):
            return ("path", template, request.path)
        case Host(match):
            return ("host", str(match), facts.host or UNKNOWN)
        case Header(name, match):
            values = request.headers.get(name, ())
            return (f"header {name}", str(match), ", ".join(values) or ABSENT)
        case Port(port):
            return ("port", str(port), str(request.port))
        case SourceIp(cidrs):
            return ("source ip", " or ".join(cidrs), request.source_ip or UNKNOWN)
        case RemoteIp(cidrs):
            return ("remote ip", " or ".join(cidrs), request.remote_ip or UNKNOWN)
        case DestinationIp(cidrs):
            return ("destination ip", " or ".join(cidrs), request.destination_ip or UNKNOWN)
        case Sni(match):
            return ("sni", str(match), request.sni or ABSENT)
        case Always() | AllOf() | AnyOf() | Not():
            return ("rule", "(any request)", "-")
    assert_never(condition)


def _brackets(path: tuple[str, ...]) -> str:
    first, *inner = path
    return first + "".join(f"[{name}]" for name in inner)
