"""What a gateway answers to a request: listener, host and route, as its proxy chooses them.

What guards the port (tokens, policies) is judged by `compiler/judging.py`, as everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from limen.core.model.gateway import ServerTlsMode, host_covers, host_rank
from limen.core.model.route import PathKind, ValueKind
from limen.core.plan.edge import AnswerPlan, ForwardPlan, HttpChain, Missing, RedirectPlan
from limen.core.policy.facts import split_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from limen.core.model.route import HttpMatch, NamedMatch, PathMatch, ValueMatch
    from limen.core.plan.edge import (
        EdgeListener,
        EdgePlan,
        HostPlan,
        RoutePlan,
        RouteRef,
        Share,
        TunnelChain,
    )
    from limen.core.policy.decision import Request

CLOSED, BAD_REQUEST, NOT_FOUND, MISDIRECTED = 0, 400, 404, 421
_ODD = re.compile(r";|%00|%3[bB]")
_LONGEST = 8192
"""Of a text that is held against a document's expression: that may take long."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A listener and the chain that a connection meets there; None: it is closed."""

    listener: EdgeListener
    chain: HttpChain | TunnelChain | None


@dataclass(frozen=True, slots=True)
class Routed:
    """What the routes make of a request. `to`: where it goes on, one text for each share."""

    status: int
    reason: str
    route: RouteRef | None = None
    to: tuple[str, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether it goes on or is redirected."""
        return bool(self.to) or 300 <= self.status < 400


def choose(plan: EdgePlan, name: str, port: int | None, *, spoken: bool = False) -> Chosen | None:
    """Where a client that asks for the server `name` arrives; without a port, where it is served.

    TLS before plaintext; TLS alone, if there is any, for one that says (`spoken`) its server name.
    None: nothing listens.
    """
    listeners = [each for each in plan.listeners if port in (None, each.port)]
    if spoken:
        listeners = [each for each in listeners if each.tls] or listeners
    met = [Chosen(each, _chain(each, name)) for each in listeners]
    met.sort(key=lambda c: (c.chain is None, not _serves(c.chain, name), not c.listener.tls))
    return met[0] if met else None


def _chain(listener: EdgeListener, name: str) -> HttpChain | TunnelChain | None:
    """By server name: exact, then the longest wildcard, then the chain without names."""
    best: tuple[tuple[bool, int], HttpChain | TunnelChain] | None = None
    for chain in listener.chains:
        for pattern in chain.server_names or ("*",):
            rank = host_rank(pattern)
            if host_covers(pattern, name) and (best is None or rank > best[0]):
                best = (rank, chain)
    return None if best is None else best[1]


def _serves(chain: HttpChain | TunnelChain | None, name: str) -> bool:
    return isinstance(chain, HttpChain) and _host(chain.hosts, name) is not None


def _host(hosts: Sequence[HostPlan], name: str) -> HostPlan | None:
    met = [host for host in hosts if host_covers(host.domain, name)]
    return max(met, key=lambda host: host_rank(host.domain), default=None)


def asks_for_certificate(chain: HttpChain) -> str:
    """What a client has to show at the handshake, "" if nothing."""
    tls = chain.tls
    if tls is not None and tls.mode is ServerTlsMode.ISTIO_MUTUAL:
        return "an identity of the mesh"
    if tls is None or tls.client is None or not tls.client.required:
        return ""
    ref = tls.client.authorities
    return f"a certificate of an authority in Secret {ref.namespace}/{ref.name}"


def route(chosen: Chosen, chain: HttpChain, request: Request, query: str) -> Routed:
    """What the routes of a chain make of `request`, whose path is normalised; `query` is raw."""
    name = split_port(request.host)[0].lower().removesuffix(".")
    host = _host(chain.hosts, name)
    elsewhere = _elsewhere(chosen.listener, chain, name)
    if elsewhere and (host is None or host_rank(elsewhere) > host_rank(host.domain)):
        return Routed(MISDIRECTED, f"{name} is served by another listener of this port")
    if host is None:
        return Routed(NOT_FOUND, f"no route of this listener has the host {name}")
    if _ODD.search(request.path):
        return Routed(BAD_REQUEST, "the path holds parameters (;) or an encoded NUL")
    for plan in host.routes:
        if plan.match is None or _holds(plan.match, request, query):
            return _acted(plan)
    return Routed(NOT_FOUND, f"no route of {host.domain} matches")


def _elsewhere(listener: EdgeListener, chain: HttpChain, name: str) -> str:
    patterns: list[str] = []
    for other in listener.chains:
        if other is chain:
            continue
        patterns += other.server_names
        if isinstance(other, HttpChain):
            patterns += [host.domain for host in other.hosts if host.domain != "*"]
    return max((p for p in patterns if host_covers(p, name)), key=host_rank, default="")


def _acted(plan: RoutePlan) -> Routed:
    match plan.action:
        case AnswerPlan(status):
            return Routed(status, "the route leads nowhere that may be reached", plan.ref)
        case RedirectPlan(status=status):
            return Routed(status, "redirected", plan.ref)
        case ForwardPlan(shares):
            total = sum(share.weight for share in shares)
            to = tuple(_share(share, total) for share in shares if share.weight)
            return Routed(200, "forwarded", plan.ref, to)
    assert_never(plan.action)


def _share(share: Share, total: int) -> str:
    part = f" ({share.part})" if share.part else ""
    text = f"{share.callee}{part}"
    if share.missing is not None:
        refused = "refused" if share.missing is Missing.FORBIDDEN else "no instance"
        text += f": {refused}"
    return text if share.weight == total else f"{text}: {share.weight} of {total}"


def _holds(match: HttpMatch, request: Request, query: str) -> bool:
    headers = request.headers
    authority = split_port(request.host)[0].lower()
    return (
        (match.path is None or _path(match.path, request.path))
        and (match.method is None or _value(match.method, request.method))
        and (match.authority is None or _value(match.authority, authority))
        and all(_header(named, headers) for named in match.headers)
        and all(_query(named, query) for named in match.query)
    )


def _path(match: PathMatch, path: str) -> bool:
    wanted, seen = match.text, path
    if match.ignore_case:
        wanted, seen = wanted.lower(), seen.lower()
    match match.kind:
        case PathKind.EXACT:
            return seen == wanted
        case PathKind.PREFIX:
            return seen.startswith(wanted)
        case PathKind.SEGMENTS:
            return wanted in ("/", seen) or seen.startswith(f"{wanted}/")
        case PathKind.REGEX:
            return _regex(match.text, path)
    assert_never(match.kind)


def _value(match: ValueMatch, text: str) -> bool:
    match match.kind:
        case ValueKind.EXACT:
            return text == match.text
        case ValueKind.PREFIX:
            return text.startswith(match.text)
        case ValueKind.REGEX:
            return _regex(match.text, text)
        case ValueKind.PRESENT:
            return True
    assert_never(match.kind)


def _regex(pattern: str, text: str) -> bool:
    return len(text) <= _LONGEST and re.fullmatch(pattern, text, re.ASCII) is not None


def _header(named: NamedMatch, headers: Mapping[str, Iterable[str]]) -> bool:
    """Repeated values are joined with a comma, as Envoy does; negated, absent counts as empty."""
    if named.name not in headers:
        present = named.match.kind is ValueKind.PRESENT
        return named.negated and (present or not _value(named.match, ""))
    return _value(named.match, ",".join(headers[named.name])) is not named.negated


def _query(named: NamedMatch, query: str) -> bool:
    """The first value, as written."""
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name == named.name:
            return _value(named.match, value)
    return False
