"""Where tokens may stand in a request, and requests whose tokens nobody may read in two ways.

`jwt_authn` finds a token wherever the prefix occurs in a header, the first of several parameters,
and the first of several cookies, and reads base64url with any unused bits; an application may find
another one. So a request that presents a token in any spelling has to present exactly one, in one
place, in its one spelling (RFC 6750, section 2: never more than one way).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from limen.core.envoy.expressions import ANY, quoted
from limen.core.envoy.matcher_tree import every, header, negated, refusing

if TYPE_CHECKING:
    from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as filter_pb2

    from limen.core.plan.node import JwtPlan

_LETTER = r"[\w-]"
_PART = rf"(?:{_LETTER}{{4}})*(?:{_LETTER}[AQgw]|{_LETTER}{{2}}[AEIMQUYcgkosw048])?"
TOKEN = rf"{_PART}\.{_PART}\.{_PART}"
"""Three parts in canonical base64url (RFC 4648, section 3.5: unused bits are zero)."""

_BLANK = "[ \t]*"
_BEFORE_QUERY = r"[^?]*\?"


@dataclass(frozen=True, slots=True)
class Place:
    """A header of the request and expressions for its whole value (several joined by a comma).

    `presented`: there may be a token; `good`: there is one in its one spelling; `twice`: there are
    two (empty: then it is not `good` either).
    """

    header: str
    presented: str
    good: str
    twice: str = ""


def places_filter(plans: tuple[JwtPlan, ...]) -> filter_pb2.RBAC:
    """Refuses requests with a token in a doubtful spelling, or with more than one."""
    places = _places(plans)
    doubtful = [
        every(header(p.header, p.presented), negated(header(p.header, p.good))) for p in places
    ]
    twice = [header(p.header, p.twice) for p in places if p.twice]
    several = [
        every(header(one.header, one.presented), header(other.header, other.presented))
        for one, other in combinations(places, 2)
    ]
    return refusing([*doubtful, *twice, *several])


def _places(plans: tuple[JwtPlan, ...]) -> list[Place]:
    prefixes: dict[str, set[str]] = {}
    for plan in plans:
        for name, prefix in plan.in_headers:
            prefixes.setdefault(name, set()).add(prefix)
    parameters = sorted({name for plan in plans for name in plan.in_parameters})
    cookies = sorted({name for plan in plans for name in plan.from_cookies})
    return [
        *(_in_header(name, sorted(found)) for name, found in sorted(prefixes.items())),
        *(_in_query(name) for name in parameters),
        *(_in_cookie(name) for name in cookies),
    ]


def _in_header(name: str, prefixes: list[str]) -> Place:
    presented = "|".join(_prefix_presented(prefix) for prefix in prefixes)
    good = "|".join(quoted(prefix) for prefix in prefixes)
    return Place(name, presented, f"(?:{good}){TOKEN}")


def _prefix_presented(prefix: str) -> str:
    """`Bearer `: also `bearer`, with a tab, or behind another value. No prefix: any value."""
    word = prefix.strip()
    if not word:
        return ANY
    if prefix == word:
        return f"{ANY}{quoted(word, fold=True)}{ANY}"
    alone = rf"(?:{ANY}[\s,])?{quoted(word, fold=True)}(?:[\s,]{ANY})?"
    return f"{alone}|{ANY}{quoted(prefix)}{ANY}"


def _in_query(name: str) -> Place:
    spelt = "".join(f"(?:{quoted(c)}|{_escaped(c)})" for c in name)
    first = f"{_BEFORE_QUERY}(?:{ANY}&)?{spelt}"
    return Place(
        ":path",
        f"{first}(?:[=&]{ANY})?",
        f"{_BEFORE_QUERY}(?:{ANY}&)?{quoted(name)}={TOKEN}(?:&{ANY})?",
        f"{first}(?:={ANY})?&(?:{ANY}&)?{spelt}(?:[=&]{ANY})?",
    )


def _escaped(character: str) -> str:
    return "".join(f"%{quoted(f'{byte:02x}', fold=True)}" for byte in character.encode())


def _in_cookie(name: str) -> Place:
    spelt = f"{_BLANK}{quoted(name)}{_BLANK}="
    return Place(
        "cookie",
        f"(?:{ANY}[;,])?{spelt}{ANY}",
        f"(?:{ANY};)?{_BLANK}{quoted(name)}={TOKEN}{_BLANK}(?:;{ANY})?",
        f"(?:{ANY}[;,])?{spelt}{ANY}[;,]{spelt}{ANY}",
    )
