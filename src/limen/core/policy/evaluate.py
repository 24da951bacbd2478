"""Whether a condition holds, and if not, the first field that failed: wanted and seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, assert_never

from limen.core.policy.facts import (
    ABSENT,
    NO_IDENTITY,
    NO_TOKEN,
    UNKNOWN,
    Facts,
    in_any,
    parse_address,
)
from limen.core.policy.match import How, template_pattern
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
    reads_caller_only,
)

if TYPE_CHECKING:
    from limen.core.policy.decision import Request
    from limen.core.policy.match import StringMatch

SHOWN_ALTERNATIVES = 8
"""Values that a near miss lists before it says how many more there are."""

Failure = tuple[str, str, str]
"""Field, what was wanted, what was seen."""


Test = Callable[[Facts], bool]
"""A condition made ready to be asked many times."""
Diagnose = Callable[[Facts], Failure]
"""Why a condition does not hold, ready to be asked where that is so."""


def holds(condition: Condition, request: Request) -> bool:
    """Whether `condition` is true of `request`."""
    return is_true(condition, Facts(request))


def is_true(condition: Condition, facts: Facts) -> bool:
    """Whether `condition` is true."""
    return test_of(condition)(facts)


def test_of(condition: Condition) -> Test:  # noqa: C901, PLR0911, PLR0912 - one branch per condition, total by design
    """What `condition` asks, ready to be asked."""
    match condition:
        case Always():
            return lambda _: True
        case AllOf(parts):
            return _all([test_of(part) for part in parts])
        case AnyOf(parts):
            return _any([test_of(part) for part in parts])
        case Not(part):
            return _not(test_of(part))
        case Authenticated():
            return lambda f: f.principal is not None
        case Principal(match):
            return _of_principal(match)
        case PrincipalNamespace(match):
            return lambda f: f.principal is not None and match.matches(f.namespace)
        case HasToken():
            return lambda f: f.request.claims is not None
        case RequestPrincipal(issuer, subject):
            return lambda f: _is_token_of(f, issuer, subject)
        case Claim(path, match):
            return lambda f: any(match.matches(v) for v in f.claim(path))
        case Method(match):
            return lambda f: match.matches(f.request.method)
        case Path(match):
            return lambda f: match.matches(f.request.path)
        case PathTemplate(template):
            fits = template_pattern(template).fullmatch
            return lambda f: fits(f.request.path) is not None
        case Host(match, any_port):
            return lambda f: any(match.matches(h) for h in f.hosts(any_port=any_port))
        case Header(name, match):
            return lambda f: any(match.matches(v) for v in f.request.headers.get(name, ()))
        case Port(port):
            return lambda f: port == f.request.port
        case SourceIp(cidrs):
            return lambda f: in_any(parse_address(f.request.source_ip), cidrs)
        case RemoteIp(cidrs):
            return lambda f: in_any(parse_address(f.request.remote_ip), cidrs)
        case DestinationIp(cidrs):
            return lambda f: in_any(parse_address(f.request.destination_ip), cidrs)
        case Sni(match):
            return lambda f: bool(f.request.sni) and match.matches(f.request.sni)
    assert_never(condition)


def _of_principal(match: StringMatch) -> Test:
    """Most rules name whole identities: their comparison is the shortest."""
    if match.how is How.EXACT and not match.ignore_case:
        value = match.value
        return lambda f: f.principal == value
    return lambda f: f.principal is not None and match.matches(f.principal)


def _all(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        one, other = tests
        return lambda f: one(f) and other(f)

    def every(facts: Facts) -> bool:
        for test in tests:  # noqa: SIM110 - a loop takes half the time of all()
            if not test(facts):
                return False
        return True

    return every


def _any(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]

    def some(facts: Facts) -> bool:
        for test in tests:  # noqa: SIM110 - as above
            if test(facts):
                return True
        return False

    return some


def _not(test: Test) -> Test:
    return lambda facts: not test(facts)


def _is_token_of(facts: Facts, issuer: StringMatch, subject: StringMatch) -> bool:
    iss, sub = facts.claim_text("iss"), facts.claim_text("sub")
    return bool(iss and sub) and issuer.matches(iss) and subject.matches(sub)


def first_failure(condition: Condition, facts: Facts) -> Failure | None:
    """None if the condition holds; else the first part that fails."""
    return None if is_true(condition, facts) else failure_of(condition)(facts)


def failure_of(condition: Condition) -> Diagnose:
    """Says why `condition` does not hold, ready to be asked many times where it does not."""
    match condition:
        case AllOf(parts):
            return _first_of([(test_of(part), failure_of(part)) for part in parts])
        case AnyOf(parts):
            each = [failure_of(part) for part in parts]
            return each[0] if len(each) == 1 else lambda f: _merged([why(f) for why in each])
        case Not(part):
            return lambda f: _denied(part, f)
        case Principal(match):
            wanted = str(match)
            return lambda f: ("principal", wanted, f.principal or NO_IDENTITY)
        case _:
            return lambda f: shown(condition, f)


def fails_by_caller(condition: Condition, facts: Facts) -> bool:
    """Whether what fails first looks at nothing but the caller: then it fails for all it asks."""
    parts = condition.parts if isinstance(condition, AllOf) else (condition,)
    for part in parts:
        if not reads_caller_only(part):
            return False
        if not is_true(part, facts):
            return True
    return False


def _first_of(parts: list[tuple[Test, Diagnose]]) -> Diagnose:
    if len(parts) == 2:
        (test, why), (_, other) = parts
        return lambda f: other(f) if test(f) else why(f)

    def diagnose(facts: Facts) -> Failure:
        for test, why in parts:
            if not test(facts):
                return why(facts)
        raise AssertionError("asked why a condition fails that holds")

    return diagnose


def _denied(part: Condition, facts: Facts) -> Failure:
    field, wanted, seen = _satisfied(part, facts)
    return (field, f"not {wanted}", seen)


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


def _merged(failures: list[Failure]) -> Failure:
    """One line for alternatives that all failed: the wanted values of the first field joined."""
    if not failures:
        return ("rule", "(nothing can match)", "-")
    name, _, seen = failures[0]
    wanted = list(dict.fromkeys(w for n, w, _ in failures if n == name))
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
