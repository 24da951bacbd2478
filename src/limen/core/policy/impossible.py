"""Whether a condition asks for what no request can have at once. For advice, never for a decision.

It is taken apart into alternatives, each a row of parts that all have to hold. Compared are ports
and identities; about everything else nothing is claimed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.model.names import parse_spiffe_id
from limen.core.policy.decision import Request
from limen.core.policy.evaluate import holds
from limen.core.policy.match import How, StringMatch
from limen.core.policy.rule import (
    AllOf,
    AnyOf,
    Authenticated,
    Condition,
    Not,
    Port,
    Principal,
    PrincipalNamespace,
)
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST = 1000
"""Alternatives that are looked at; a condition that has more is taken for possible."""
_Row = tuple[Condition, ...]
_NOBODY = frozenset({Not(Authenticated()), Not(PrincipalNamespace(StringMatch(How.PRESENT)))})
_OfPeer = Authenticated | Principal | PrincipalNamespace


def is_impossible(condition: Condition, port: int | None) -> bool:
    """Whether `condition` provably holds of no request to `port` (None: whatever the port).

    Conservative: False means "not proved".
    """
    for count, row in enumerate(_rows(condition)):
        if count == _MOST or not _contradicts(row, port):
            return False
    return True


def _rows(condition: Condition) -> Iterator[_Row]:
    match condition:
        case AllOf(parts):
            if all(next(_rows(part), None) is not None for part in parts):
                yield from _rows_of_all(parts)
        case AnyOf(parts):
            for part in parts:
                yield from _rows(part)
        case Not(AnyOf(parts)):
            yield tuple(Not(part) for part in parts)
        case _:
            yield (condition,)


def _rows_of_all(parts: _Row) -> Iterator[_Row]:
    if not parts:
        yield ()
        return
    for first in _rows(parts[0]):
        for rest in _rows_of_all(parts[1:]):
            yield (*first, *rest)


def _contradicts(row: _Row, port: int | None) -> bool:
    peer = tuple(p for p in row if isinstance(p.part if isinstance(p, Not) else p, _OfPeer))
    return _wrong_port(row, port) or _wrong_peer(peer)


def _wrong_port(row: _Row, port: int | None) -> bool:
    if port is None:
        return False
    named = any(isinstance(part, Port) and part.port != port for part in row)
    return named or Not(Port(port)) in row


def _wrong_peer(row: _Row) -> bool:
    """No identity, and not its absence either, fits all of `row`."""
    positive = [part for part in row if not isinstance(part, Not)]
    if positive and not _NOBODY.isdisjoint(row):
        return True
    exact = {m.value for p in positive if isinstance(p, Principal) and _whole(m := p.match)}
    if exact:
        return not any(_fits(row, identity) for identity in exact)
    named = [p.match for p in positive if isinstance(p, PrincipalNamespace)]
    spaces = {m.value for m in named if _whole(m)}
    return bool(spaces) and not any(all(m.matches(s) for m in named) for s in spaces)


def _whole(match: StringMatch) -> bool:
    return match.how is How.EXACT and not match.ignore_case


def _fits(row: _Row, identity: str) -> bool:
    try:
        request = Request(principal=parse_spiffe_id(identity))
    except InvalidInput:
        return True  # said elsewhere: a pattern, or a trust domain that nobody here has
    return all(holds(part, request) for part in row)
