"""What all routes have in common: actions, redirects, and the table of one filter chain.

A table maps domains to routes. For each request one domain decides, the most specific; there is no
falling through to a wider one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, assert_never

from limen.core.model.gateway import ListenerProtocol
from limen.core.model.route import Forward, Redirect, RedirectPort
from limen.core.plan.edge import AnswerPlan, ForwardPlan, Missing, RedirectPlan, RoutePlan, RouteRef

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.compiler.edge.destinations import Destinations
    from limen.core.compiler.edge.listeners import Bound
    from limen.core.model.resource import Resource
    from limen.core.model.route import HttpMatch, HttpRule, Route
    from limen.core.plan.edge import Share

HTTP_PORT, HTTPS_PORT = 80, 443
_DEFAULT_PORTS = {"http": HTTP_PORT, "https": HTTPS_PORT}
NO_DESTINATION = 500

Action = ForwardPlan | RedirectPlan | AnswerPlan


@dataclass
class Table:
    """The routes of one filter chain, by domain, in the order in which they are tried."""

    routes: dict[str, list[RoutePlan]] = field(default_factory=dict)
    redirecting: dict[str, RoutePlan] = field(default_factory=dict)


def scheme_of(bound: Bound) -> str:
    """What clients speak here: said by the listener, never by a header."""
    return "http" if bound.listener.protocol is ListenerProtocol.HTTP else "https"


def rule_path(index: int, route: Route) -> str:
    """Where a rule stands in its document."""
    return f"/spec/{'http' if route.kind.startswith('networking') else 'rules'}/{index}"


def ref_of(resource: Resource, index: int, path: str) -> RouteRef:
    """A rule as it is named in answers and logs."""
    key, origin = resource.key, resource.origin
    kind = key.kind.rpartition("/")[2]
    return RouteRef(kind, key.namespace, key.name, index, origin.file, origin.line(path))


@dataclass(frozen=True, slots=True)
class Spot:
    """A route at a listener: one domain of it."""

    bound: Bound
    resource: Resource
    route: Route
    domain: str
    destinations: Destinations

    def plans(self, number: int, matches: Iterable[HttpMatch | None]) -> list[RoutePlan]:
        """One plan for each match of a rule."""
        rule = self.route.http[number]
        path = rule_path(number, self.route)
        action = self._action(rule, path)
        ref = ref_of(self.resource, number, path)
        return [
            RoutePlan(
                ref=ref,
                match=None if match is None else replace(match, scheme="", port=0, parents=()),
                action=action,
                request=rule.headers.request,
                response=rule.headers.response,
                cors=rule.cors,
            )
            for match in matches
        ]

    def _action(self, rule: HttpRule, path: str) -> Action:
        match rule.action:
            case Forward(wanted, rewrite):
                shares = self.destinations.shares(self.resource, self.route, wanted, path)
                return _refused(shares) or ForwardPlan(shares, rewrite)
            case Redirect():
                return _redirect(self.bound, rule.action, self.domain)
            case _:
                assert_never(rule.action)


def _refused(shares: tuple[Share, ...]) -> AnswerPlan | None:
    """What is answered if no share leads anywhere."""
    with_weight = [share for share in shares if share.weight]
    if not with_weight:
        return AnswerPlan(NO_DESTINATION, "No destination.\n")
    reasons = [share.missing for share in with_weight]
    if None in reasons:
        return None
    status = Missing.FORBIDDEN if Missing.FORBIDDEN in reasons else reasons[0]
    return AnswerPlan(status.value if status else NO_DESTINATION, "No way to this service.\n")


def _redirect(bound: Bound, wanted: Redirect, domain: str) -> RedirectPlan:
    scheme = wanted.scheme or scheme_of(bound)
    match wanted.port:
        case RedirectPort.REQUEST:
            port = 0
            host = wanted.host
        case RedirectPort.LISTENER:
            host, port = _place(bound, wanted.host, scheme, bound.listener.port, domain)
        case RedirectPort.SCHEME:
            host, port = _place(bound, wanted.host, scheme, _DEFAULT_PORTS[scheme], domain)
        case int(number):
            host, port = _place(bound, wanted.host, scheme, number, domain)
        case _:
            assert_never(wanted.port)
    return RedirectPlan(wanted.scheme, host, wanted.path, port, wanted.status)


def _place(bound: Bound, host: str, scheme: str, port: int, domain: str) -> tuple[str, int]:
    """Host and port of a Location; the scheme's own port is not written out if that can be.

    The Host header's port is left out by naming the host; where that is not known (a wildcard) and
    clients of this listener must write a port, the default one is written in its place.
    """
    if port != _DEFAULT_PORTS[scheme]:
        return host, port
    if host:
        return host, 0
    if not domain.startswith("*"):
        return domain, 0
    usual = bound.listener.port in _DEFAULT_PORTS.values()
    return "", 0 if usual else port


def to_https(bound: Bound, domain: str, others: Iterable[Bound]) -> RoutePlan:
    """Istio's `httpsRedirect`: to the HTTPS port of the same Gateway, if it has just one."""
    ports = {
        other.listener.port
        for other in others
        if other.resource is bound.resource and not other.plaintext and not other.tunnels
    }
    port = ports.pop() if len(ports) == 1 else HTTPS_PORT
    host, shown = _place(bound, "", "https", port, domain)
    ref = ref_of(bound.resource, int(bound.path.rpartition("/")[2]), f"{bound.path}/tls")
    return RoutePlan(ref, None, RedirectPlan("https", host, None, shown, 301))
