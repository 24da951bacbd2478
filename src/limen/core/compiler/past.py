"""Past requests: a line of an access log as the question that its proxy was asked.

A proxy logs what its decision was made of (`core/envoy/access_log.py`). Where a candidate policy
looks at something that the line does not hold, nothing can be said: that is never guessed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from limen.core.compiler.explanation import ANONYMOUS, ExplainQuery
from limen.core.model.names import DEFAULT_MESH, MESH_DOMAIN
from limen.core.plan import request_log as log
from limen.core.plan.node import DEFAULT_TOKEN_PLACES, token_places
from limen.core.policy.rule import (
    DestinationIp,
    Header,
    Port,
    Sni,
    parts_of,
    reads_token,
)
from limen.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from limen.core.compiler.doors import Door
    from limen.core.compiler.explain import Explainer
    from limen.core.compiler.explanation import Explanation
    from limen.core.policy.decision import Json
    from limen.core.policy.rule import Condition, Policy

MAX_LINE_BYTES = 1 << 20
_FORBIDDEN = 403
_BY_GUARDS = frozenset({401, _FORBIDDEN})
"""What tokens and policies of a gateway answer; the rest is its routes'."""
_REFUSED_AGAIN: dict[str, Any] = {
    "allowed": False, "status": 401, "rule": None, "near_misses": (), "asked": (),
    "undecided": False, "reason": "its token had expired, whose ever it was",
}  # fmt: skip
_EDGES = frozenset({log.INBOUND, log.GATEWAY, log.OUTBOUND})


@dataclass(frozen=True, slots=True)
class PastRequest:
    """One line. `allowed`: what its proxy said then; None: it was never asked (a broken request).

    `rule` is the deciding rule as the proxy named it, "" if none is known. `looked_at`: headers
    that the proxy logged if they were sent; of those that are `unclear` the values cannot be told
    apart. `answers`: providers that were asked, and whether they consented. `token`: why a token
    was refused, "" if none was; `token_places`: where one was looked for. `mesh` is "" in lines
    that do not name theirs.
    """

    query: ExplainQuery
    allowed: bool | None
    status: int
    time: str = ""
    request_id: str = ""
    rule: str = ""
    token: str = ""
    token_places: frozenset[str] = DEFAULT_TOKEN_PLACES
    mesh: str = ""
    looked_at: frozenset[str] = frozenset()
    unclear: frozenset[str] = frozenset()
    answers: Mapping[str, bool] = field(default_factory=dict, hash=False)
    line: Mapping[str, Json] = field(default_factory=dict, hash=False)


def parse_line(text: str) -> PastRequest | None:
    """A line of an access log; None if it is not about a request at a callee's or gateway's edge.

    Raises InvalidInput (`bad-log-line`) if it is cut off or not one of ours.
    """
    if not text.startswith("{"):
        return None
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput("the line is not whole JSON", code="bad-log-line") from None
    if not isinstance(line, dict):
        return None
    if line.get(log.EDGE) == log.OUTBOUND:
        line = _seen_from_the_caller(line)
    if line.get(log.EDGE) not in _EDGES:
        return None
    callee, method = line.get(log.CALLEE), line.get(log.METHOD)
    if not isinstance(callee, str) or not isinstance(method, str):
        return None  # a request that never became one: nothing was decided
    return PastRequest(
        query=_query(line, callee, method),
        allowed=log.verdict(line),
        status=log.number(line.get(log.STATUS)),
        time=str(line.get(log.TIME) or ""),
        request_id=str(line.get(log.REQUEST_ID) or ""),
        rule=str(line.get(log.RULE) or "").removeprefix("[none]"),
        token=log.refused_token(line),
        token_places=_token_places(line),
        mesh=str(line.get(log.MESH) or ""),
        looked_at=frozenset(name for name in str(line.get(log.LOOKED_AT) or "").split(",") if name),
        unclear=frozenset(name for name, values in _header_fields(line) if values is None),
        answers=_answers(line),
        line=line,
    )


def undecidable(past: PastRequest, policy: Policy) -> str:
    """Why the line does not say enough for `policy`, "" if it does."""
    for name in sorted(_headers(policy) - past.looked_at - {"host", ":authority"}):
        return f"a rule looks at the header {name}, which was not logged"
    for name in sorted(_headers(policy) & past.unclear):
        return f"a rule looks at the header {name}, which was sent more than once, with commas"
    kinds = {type(c) for c in _conditions(policy)}
    if DestinationIp in kinds:
        return "a rule looks at the address that was reached, which is not logged"
    if Sni in kinds and not past.line.get(log.SERVER_NAME):
        return "a rule looks at the server name, which was not logged"
    return ""


def unknown_token(past: PastRequest, door: Door, now: Explanation) -> str:
    """Why a token, or that none came, cannot be known to a door that answers `now`, "" if it can.

    A token makes more allowed only where a rule reads it or one is required: a bad one is refused.
    """
    if not door.tokens:
        return ""
    closed = now.status == _FORBIDDEN and not any(plan.required for plan in door.tokens)
    if closed and not _reads_token(door.policy):
        return ""
    if past.token:
        return "its token was refused, and tokens are not logged"
    if past.line.get(log.TOKENS) != log.VERIFIED:
        return "the port verified no tokens then: whether one came is not logged"
    places = token_places(door.tokens)
    same, fewer = places == past.token_places, places <= past.token_places
    known = same or (past.query.claims is None and fewer)
    return "" if known else "tokens are looked for in other places than then"


def _token_places(line: Mapping[str, Json]) -> frozenset[str]:
    """Raises InvalidInput (`bad-log-line`)."""
    text = line.get(log.TOKEN_PLACES)
    if text is None:
        return DEFAULT_TOKEN_PLACES
    try:
        places = json.loads(str(text))
    except (ValueError, RecursionError):
        places = None
    if not isinstance(places, list):
        raise InvalidInput(f"{log.TOKEN_PLACES} is not a JSON list", code="bad-log-line")
    return frozenset(map(str, places))


def _seen_from_the_caller(line: dict[str, Json]) -> dict[str, Json]:
    """A request that found no way out of its caller's proxy: who it was for says its host."""
    host = str(line.get(log.AUTHORITY) or "").partition(":")[0].lower()
    name, _, namespace = host.removesuffix(f".{MESH_DOMAIN}").partition(".")
    caller = str(line.get(log.CALLER) or "")
    own = caller.partition("/ns/")[2].partition("/")[0]
    if line.get(log.DETAILS) != "direct_response" or not host.endswith(f".{MESH_DOMAIN}"):
        return {}
    return {**line, log.PEER: caller, log.CALLEE: f"{namespace or own}/{name}"}


def _query(line: Mapping[str, Json], callee: str, method: str) -> ExplainQuery:
    headers = [
        (name, value)
        for name, values in _header_fields(line)
        if values is not None
        for value in values
    ]
    authority = line.get(log.AUTHORITY)
    if isinstance(authority, str) and authority:
        headers.append(("host", authority))
    claims = line.get(log.CLAIMS)
    port = 0 if line.get(log.EDGE) == log.OUTBOUND else log.number(line.get(log.PORT))
    return ExplainQuery(
        caller=str(line.get(log.PEER) or ANONYMOUS),
        callee=callee,
        mesh=str(line.get(log.MESH) or DEFAULT_MESH),
        method=method,
        path=str(line.get(log.PATH) or "/"),
        headers=tuple(headers),
        port=port or None,
        claims=claims if isinstance(claims, dict) else None,
        source_ip=log.host_of(line.get(log.PEER_ADDRESS)),
        remote_ip=log.host_of(line.get(log.CLIENT)),
        sni=str(line.get(log.SERVER_NAME) or ""),
    )


def _header_fields(line: Mapping[str, Json]) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """Headers with their values; None: they cannot be told apart."""
    for field_name, value in line.items():
        name = log.header_of(field_name)
        if name and isinstance(value, str):
            every = line.get(log.all_values(name))
            yield name, log.header_values(value, every if isinstance(every, str) else value)


def _answers(line: Mapping[str, Json]) -> dict[str, bool]:
    """Providers that were asked, and whether each consented, as far as the line tells.

    A refusal ends the asking: if one refused and several were asked, which of them is not known.
    """
    asked = [name for field_name in line if (name := log.provider_of(field_name))]
    if not str(line.get(log.DETAILS) or "").startswith(log.PROVIDER_REFUSED):
        return dict.fromkeys(asked, True)
    return {asked[0]: False} if len(asked) == 1 else {}


def _reads_token(policy: Policy) -> bool:
    return any(reads_token(rule.condition) for layer in policy.layers for rule in layer.rules)


def _headers(policy: Policy) -> set[str]:
    return {c.name.lower() for c in _conditions(policy) if isinstance(c, Header)}


def _conditions(policy: Policy) -> Iterator[Condition]:
    for layer in policy.layers:
        for rule in layer.rules:
            yield from parts_of(rule.condition)


@dataclass(frozen=True, slots=True)
class Replayed:
    """A past request under other policies. `now` None: it cannot be said, `why` says why."""

    past: PastRequest
    now: Explanation | None
    why: str = ""

    @property
    def changed(self) -> bool:
        """Whether its verdict is another one."""
        return self.now is not None and self.now.allowed is not self.past.allowed


def replay(
    explainer: Explainer, past: PastRequest, *, assume: bool = True, mesh: str = ""
) -> Replayed:
    """Ask again. `assume`: undeclared workloads are assumed, as for files.

    `mesh`: of lines that do not name theirs.
    """
    if past.allowed is None:
        return Replayed(past, None, "its proxy never decided about it")
    consents = tuple(sorted(name for name, said in past.answers.items() if said))
    query = replace(past.query, assume=assume, consents=consents)
    if mesh and not past.mesh:
        query = replace(query, mesh=mesh)
    at_gateway = past.line.get(log.EDGE) == log.GATEWAY
    try:
        if at_gateway and not explainer.is_gateway(query):
            return Replayed(past, None, "the policies hold no Gateway that it would arrive at")
        door = explainer.door(query)
        why = undecidable(past, door.policy)
        if why:
            return Replayed(past, None, why)
        now = explainer.explain(query)
    except (InvalidInput, NotFound) as error:
        return Replayed(past, None, error.message)
    if past.token == log.EXPIRED and door.tokens and token_places(door.tokens) == past.token_places:
        return Replayed(past, replace(now, **_REFUSED_AGAIN))
    why = _unheard(past, door, now)
    return Replayed(past, None if why else now, why)


def _unheard(past: PastRequest, door: Door, now: Explanation) -> str:
    """Why others than the policies would have a say in `now`, and what they say is not known."""
    if why := unknown_token(past, door, now):
        return why
    said = {name: past.answers.get(name) for name, _ in now.asked}
    if now.undecided and False not in said.values():
        unheard = min(name for name, answer in said.items() if answer is None)
        return f"the provider {unheard} has to be asked, and was not then"
    at_gateway = past.line.get(log.EDGE) == log.GATEWAY
    by_guards = now.status in _BY_GUARDS and now.route is None
    if at_gateway and not now.allowed and not by_guards:
        return f"{now.reason}; routes may look at what is not logged"
    if (
        now.assumed
        and not at_gateway
        and any(isinstance(c, Port) for c in _conditions(door.policy))
    ):
        return "a rule looks at a port of a workload that is not declared"
    return ""
