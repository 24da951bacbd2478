"""Is this token good, from this issuer, for us, now? Form, key, signature, claims, in that order.

What an issuer may sign with and which kind of token it issues stands in its rules, never in the
token. The rules of issuers outside accept `typ` none, `JWT` and `at+jwt`; a token of another kind
(`logout+jwt`, `dpop+jwt`) is refused though its signature is good.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limen.core.tokens.algorithms import ALGORITHMS, DEFAULT, SYMMETRIC
from limen.core.tokens.claims import check_audience, check_times, check_types
from limen.core.tokens.jwks import KeySet
from limen.core.tokens.reader import read_claims, read_compact
from limen.core.tokens.refusal import refuse
from limen.core.tokens.signature import verify_jws
from limen.errors import InvalidInput, Untrusted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from limen.core.tokens.reader import Jws

MAX_LEEWAY_S = 300.0
_OUTSIDE_TYPES = frozenset(("jwt", "at+jwt"))


@dataclass(frozen=True, slots=True)
class IssuerRules:
    """What is accepted from one issuer.

    `audiences` empty: any. `wildcard_audiences`: `*.example.com` among them is a pattern. `typ`
    empty: an issuer outside; else exactly this one, for tokens that the mesh issues itself.
    `leeway_s` as Envoy's `clock_skew_seconds`. Raises InvalidInput (`issuer-rules`).
    """

    issuer: str
    keys: KeySet = field(default_factory=KeySet)
    algorithms: frozenset[str] = DEFAULT
    audiences: tuple[str, ...] = ()
    wildcard_audiences: bool = False
    typ: str = ""
    leeway_s: float = 60.0
    require_subject: bool = False

    def __post_init__(self) -> None:
        if not self.issuer:
            raise _wrong_rules("the issuer is empty")
        if not self.algorithms or not self.algorithms <= ALGORITHMS.keys():
            raise _wrong_rules("an algorithm is unknown, or none is allowed")
        if self.algorithms & SYMMETRIC:
            raise _wrong_rules("an issuer's tokens are not signed with a shared secret")
        if not (math.isfinite(self.leeway_s) and 0 <= self.leeway_s <= MAX_LEEWAY_S):
            raise _wrong_rules(f"the leeway is not between 0 and {MAX_LEEWAY_S:g} seconds")
        if not all(self.audiences):
            raise _wrong_rules("an audience is empty")


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token that was accepted. `request_principal` is `ISSUER/SUBJECT`, empty without `sub`."""

    header: Mapping[str, Any] = field(repr=False)
    claims: Mapping[str, Any] = field(repr=False)
    issuer: str
    subject: str
    request_principal: str
    expires_s: float


def verify_token(
    token: str | bytes, rules: IssuerRules | Sequence[IssuerRules], now_s: float
) -> VerifiedToken:
    """Verify a token by the rules of its issuer. Raises Untrusted (codes in `refusal`).

    The issuer is compared byte for byte. Several rules of one issuer: one of them has to accept; if
    none does, the first one's refusal is told.
    """
    jws = read_compact(token)
    if not jws.payload:
        raise refuse("token-detached", "it has no payload")
    claims = read_claims(jws.payload)
    check_types(claims)
    known = [rules] if isinstance(rules, IssuerRules) else rules
    mine = [one for one in known if one.issuer == claims["iss"]]
    if not mine:
        raise refuse("issuer-unknown", "its issuer is not accepted here")
    refusals = []
    for one in mine:
        try:
            return _verify(jws, claims, one, now_s)
        except Untrusted as error:
            refusals.append(error)
    raise refusals[0]


def _verify(jws: Jws, claims: Mapping[str, Any], rules: IssuerRules, now_s: float) -> VerifiedToken:
    _check_typ(jws.header, rules.typ)
    verify_jws(jws, rules.keys, rules.algorithms)
    expires_s = check_times(claims, now_s, rules.leeway_s)
    if rules.audiences:
        check_audience(claims, rules.audiences, wildcards=rules.wildcard_audiences)
    subject = claims.get("sub", "")
    if rules.require_subject and not subject:
        raise refuse("claim-sub", "it has no sub")
    principal = f"{rules.issuer}/{subject}" if subject else ""
    return VerifiedToken(jws.header, claims, rules.issuer, subject, principal, expires_s)


def _check_typ(header: Mapping[str, Any], wanted: str) -> None:
    """RFC 7515, section 4.1.9: a media type, `application/` left out where nothing is ambiguous."""
    found = header.get("typ")
    if wanted:
        accepted = found == wanted
    elif isinstance(found, str):
        accepted = found.lower().removeprefix("application/") in _OUTSIDE_TYPES
    else:
        accepted = "typ" not in header
    if not accepted:
        raise refuse("header-typ", "it is a token of another kind")


def _wrong_rules(problem: str) -> InvalidInput:
    return InvalidInput(
        f"these rules for an issuer cannot be used: {problem}",
        code="issuer-rules",
        hint="name the issuer, algorithms with public keys, and audiences that are not empty",
    )
