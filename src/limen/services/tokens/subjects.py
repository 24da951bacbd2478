"""Whose token is it? From the text of a subject or actor token to a verified user.

The type that the client names says how a token is read; an opaque token is shown to one issuer
only, the one that the client's rights or `subject_issuer` name.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limen.core.tokens.exchange import ACCESS_TOKEN, JWT, TYP
from limen.core.tokens.reader import JWS_DOTS, read_claims, read_compact
from limen.core.tokens.refusal import refuse
from limen.core.tokens.transaction import TOKEN_TYPE as TRANSACTION_TOKEN
from limen.core.tokens.transaction import TYP as TRANSACTION_TYP
from limen.core.tokens.users import read_introspected, read_user
from limen.core.tokens.verify import IssuerRules, VerifiedToken, verify_token
from limen.errors import Unavailable, Untrusted
from limen.services.tokens.introspection import Wanted
from limen.services.tokens.replies import OAuthError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.tokens.exchange import ExchangeGrant
    from limen.core.tokens.jwks import KeySet
    from limen.services.tokens.introspection import Introspector
    from limen.services.tokens.state import Rules

TYPES = frozenset((ACCESS_TOKEN, JWT, TRANSACTION_TOKEN))
OWN_LEEWAY_S = 30.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A good token. `issuer_name` is empty for one of this service."""

    token: VerifiedToken
    issuer_name: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Ask:
    """What is known of the request beside the token itself."""

    grants: tuple[ExchangeGrant, ...]
    audiences: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    issuer_hint: str = ""
    now_s: float = 0.0


class Subjects:
    """Reads tokens by the rules of their issuers, this service's own among them."""

    def __init__(self, introspector: Introspector) -> None:
        self.issuer = ""
        self._introspector = introspector

    async def read(
        self, token: str, token_type: str, rules: Rules, keys: KeySet, ask: Ask
    ) -> Subject:
        """Raises OAuthError: `invalid_grant` with the defect, `temporarily_unavailable`."""
        if token_type not in TYPES:
            raise OAuthError("invalid_request", "this type of token is not read", "token-type")
        signed = token.count(".") == JWS_DOTS
        if token_type != ACCESS_TOKEN and not signed:
            raise OAuthError("invalid_grant", "it is not a signed token", "token-not-compact")
        try:
            claimed = _claimed_issuer(token, rules) if signed else ""
            if claimed and (claimed == self.issuer or _is_verified_here(claimed, rules)):
                return self._read_signed(token, claimed, token_type, rules, keys, ask.now_s)
            if token_type != ACCESS_TOKEN:
                raise refuse("issuer-unknown", "its issuer is not accepted here")
            return await self._read_opaque(token, claimed, rules, ask)
        except Untrusted as error:
            raise OAuthError("invalid_grant", error.message, error.code) from None

    def read_own(self, token: str, keys: KeySet, now_s: float) -> VerifiedToken:
        """A token that this service signed as an access token. Raises Untrusted."""
        return verify_token(token, self._own_rules(keys, TYP), now_s)

    def _read_signed(  # noqa: PLR0917 - the token, what it says it is, and by what it is judged
        self,
        token: str,
        claimed: str,
        token_type: str,
        rules: Rules,
        keys: KeySet,
        now_s: float,
    ) -> Subject:
        if claimed == self.issuer:
            typ = TRANSACTION_TYP if token_type == TRANSACTION_TOKEN else TYP
            own = verify_token(token, self._own_rules(keys, typ), now_s)
            if rules.is_revoked(own.claims):
                raise refuse("revoked", "it was revoked")
            return Subject(own)
        name = rules.by_issuer.get(claimed)
        if name is None or token_type == TRANSACTION_TOKEN:
            raise refuse("issuer-unknown", "its issuer is not accepted here")
        verified = verify_token(token, rules.jwt[name], now_s)
        user = read_user(verified, rules.issuer(name))
        return self._known(Subject(user.token, name, user.claims), rules)

    async def _read_opaque(self, token: str, claimed: str, rules: Rules, ask: Ask) -> Subject:
        name = _issuer_of_opaque(claimed or ask.issuer_hint, rules, ask)
        issuer = rules.issuer(name)
        try:
            claims = await self._introspector.active(
                token, Wanted(issuer, ask.audiences, ask.scopes)
            )
        except Unavailable as error:
            raise OAuthError("temporarily_unavailable", error.message, error.code) from None
        if claims is None:
            raise refuse("inactive", "its issuer says that it is not active")
        user = read_user(read_introspected(claims, issuer, ask.now_s), issuer)
        return self._known(Subject(user.token, name, user.claims), rules)

    def _known(self, subject: Subject, rules: Rules) -> Subject:
        """A user who was revoked here brings no token of any issuer."""
        name = f"{subject.issuer_name}:{subject.token.subject}"
        if ("sub", name) in rules.revoked:
            raise refuse("revoked", "its user was revoked")
        return subject

    def _own_rules(self, keys: KeySet, typ: str) -> IssuerRules:
        return IssuerRules(
            issuer=self.issuer,
            keys=keys,
            algorithms=frozenset(("ES256",)),
            typ=typ,
            leeway_s=OWN_LEEWAY_S,
            require_subject=True,
        )


def _claimed_issuer(token: str, rules: Rules) -> str:
    """The `iss` of something with two dots. A text that is no token may still be opaque: empty.

    Where every issuer signs, it cannot be. Raises Untrusted.
    """
    peeked = _peek(token)
    if peeked:
        return peeked
    try:
        claimed = read_claims(read_compact(token).payload).get("iss")
    except Untrusted:
        if any(one.introspection is not None for one in rules.rights.issuers.values()):
            return ""
        raise
    if not isinstance(claimed, str) or not claimed:
        raise refuse("claim-iss", "it has no iss, or one that is not a text")
    return claimed


def _peek(token: str) -> str:
    """`iss` by a reader that is quick and lax: it says where to look, and nothing more.

    Whoever verifies reads strictly, and for this very issuer. Empty: not told so.
    """
    payload = token.split(".", 2)[1]
    try:
        said = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["iss"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return said if isinstance(said, str) else ""


def _is_verified_here(issuer: str, rules: Rules) -> bool:
    """Whether its signed tokens are verified; those of an unknown issuer are shown to nobody."""
    name = rules.by_issuer.get(issuer)
    if name is None:
        raise refuse("issuer-unknown", "its issuer is not accepted here")
    return name in rules.jwt


def _issuer_of_opaque(hint: str, rules: Rules, ask: Ask) -> str:
    """The one issuer that may see this token: it is shown to no other."""
    named = {issuer for grant in ask.grants for issuer in grant.subject_issuers}
    asked = sorted(
        name
        for one in named
        if (name := rules.by_issuer.get(one)) and rules.issuer(name).introspection
    )
    if hint:
        asked = [name for name in asked if hint in {name, rules.issuer(name).issuer}]
    if not asked:
        raise refuse("issuer-unknown", "no issuer that may be asked about opaque tokens")
    if len(asked) > 1:
        raise OAuthError(
            "invalid_request", "say whose token it is: subject_issuer", "issuer-ambiguous"
        )
    return asked[0]
