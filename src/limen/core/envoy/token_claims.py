"""What a token that `jwt_authn` verified must say besides: as our own reader of tokens wants it.

Refused: `crit`, `b64`, `zip`, `enc`, an empty `kid`, a `typ` of another kind of token, an `exp`
that is no time, an `iat` in the future, more claims than our reader takes. All in an expression
that has to be true: one that fails refuses the request too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.type.matcher.v3 import number_pb2, regex_pb2, string_pb2, value_pb2
from envoy.type.v3 import range_pb2

from limen.core.envoy import cel, names
from limen.core.envoy.expressions import SOME
from limen.core.envoy.matcher_tree import Predicate, every, holds, jwt, negated, passing, some

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as filter_pb2

    from limen.core.plan.node import JwtPlan

LEEWAY_S = 60
"""Between clocks, for `exp`, `nbf` and `iat`; the default of our own reader too."""
MAX_CLAIMS = 256
MAX_TIME_S = 253_402_300_799
"""The end of the year 9999."""

_KINDS = ("JWT", "at+jwt", "application/jwt", "application/at+jwt")
"""`typ` of tokens of issuers outside, whatever the case (RFC 7515, 4.1.9; RFC 9068, 2.1)."""


def claims_filter(plans: Iterable[JwtPlan] = ()) -> filter_pb2.RBAC:
    """Refuses a verified token that says what it must not.

    Of an issuer whose plan pins a `typ` only that one passes, in those very letters.
    """
    pinned = [
        some(
            negated(jwt(names.JWT_PAYLOAD, "iss", _exactly(issuer))),
            jwt(names.JWT_HEADER, "typ", _exactly(typ)),
        )
        for issuer, typ in sorted({(plan.issuer, plan.typ) for plan in plans if plan.typ})
    ]
    issued = value_pb2.ValueMatcher(present_match=True)
    no_token = negated(jwt(names.JWT_PAYLOAD, "iss", issued))
    kinds = [jwt(names.JWT_HEADER, "typ", _text(known)) for known in _KINDS]
    kind = some(*kinds, holds(cel.lacks(_header(), "typ")))
    if not pinned:
        return passing([no_token, _usual(some(*kinds)), every(holds(_sound()), kind)])
    usual, rare = _usual(some(*kinds)), every(holds(_sound()), kind)
    return passing([no_token, every(some(usual, rare), *pinned)])


def _exactly(value: str) -> value_pb2.ValueMatcher:
    return value_pb2.ValueMatcher(string_match=string_pb2.StringMatcher(exact=value))


def _usual(kind: Predicate) -> Predicate:
    """Tokens as most issuers make them: `alg`, `kid`, `typ`, `exp` and `iat`, no other header.

    Says no more than the whole expression does, in a third of its time.
    """
    payload = _jwt(names.JWT_PAYLOAD)
    return every(
        kind,
        jwt(names.JWT_HEADER, "kid", _some_text()),
        jwt(names.JWT_PAYLOAD, "exp", _time()),
        jwt(names.JWT_PAYLOAD, "iat", _time()),
        holds(
            cel.every(
                cel.call("_==_", cel.call("size", _header()), cel.integer(3)),
                cel.call("_<=_", cel.item(payload, "iat"), _latest()),
                cel.call("_<=_", cel.call("size", payload), cel.integer(MAX_CLAIMS)),
            )
        ),
    )


def _some_text() -> value_pb2.ValueMatcher:
    return value_pb2.ValueMatcher(
        string_match=string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=SOME))
    )


def _time() -> value_pb2.ValueMatcher:
    span = range_pb2.DoubleRange(start=1, end=MAX_TIME_S + 1)
    return value_pb2.ValueMatcher(double_match=number_pb2.DoubleMatcher(range=span))


def _latest() -> cel.Expr:
    now = cel.call("double", cel.call("int", cel.field(cel.name("request"), "time")))
    return cel.call("_+_", now, cel.number(LEEWAY_S))


def _sound() -> cel.Expr:
    header, payload = _header(), _jwt(names.JWT_PAYLOAD)
    kid, exp, iat = cel.item(header, "kid"), cel.item(payload, "exp"), cel.item(payload, "iat")
    return cel.every(
        cel.lacks(header, "crit"),
        cel.lacks(header, "zip"),
        cel.lacks(header, "enc"),
        cel.either(cel.lacks(header, "b64"), cel.call("_==_", cel.item(header, "b64"), cel.true())),
        cel.either(
            cel.lacks(header, "kid"), cel.call("_>_", cel.call("size", kid), cel.integer(0))
        ),
        cel.call("_>_", exp, cel.number(0)),
        cel.call("_<=_", exp, cel.number(MAX_TIME_S)),
        cel.either(cel.lacks(payload, "iat"), cel.call("_<=_", iat, _latest())),
        cel.call("_<=_", cel.call("size", payload), cel.integer(MAX_CLAIMS)),
    )


def _jwt(part: str) -> cel.Expr:
    metadata = cel.field(cel.name("metadata"), "filter_metadata")
    return cel.item(cel.item(metadata, names.JWT_METADATA), part)


def _header() -> cel.Expr:
    return _jwt(names.JWT_HEADER)


def _text(value: str) -> value_pb2.ValueMatcher:
    return value_pb2.ValueMatcher(
        string_match=string_pb2.StringMatcher(exact=value, ignore_case=True)
    )
