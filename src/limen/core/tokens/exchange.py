"""Token exchange (RFC 8693) and client credentials: verified tokens and grants in, claims out.

Laws: nobody exchanges anything without a grant; the audience is one that the grant names; the scope
is at most the subject token's; the new token ends no later than the tokens that it was made from;
nobody leaves the `act` chain; two users never have one `sub`. Signatures are judged before, by
`verify`; signing is done after. Grants come from documents (`grants`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from limen.core.model.token_service import OWN_CLAIMS, user_name
from limen.core.tokens.claims import matches_audience

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from limen.core.tokens.verify import VerifiedToken

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name
JWT = "urn:ietf:params:oauth:token-type:jwt"
ISSUED_TYPES = frozenset((ACCESS_TOKEN, JWT))
TYP = "at+jwt"
"""RFC 9068: what every token made here says in its header."""
MAX_ACTORS = 16
MAX_TARGETS = 8

ErrorCode = Literal["invalid_request", "unauthorized_client", "invalid_target", "invalid_scope"]


@dataclass(frozen=True, slots=True)
class ExchangeGrant:
    """Who may exchange what for which audience.

    `clients` are SPIFFE IDs, or `client:ID` of one with a registered key. `subject_audiences`: a
    subject token has to be meant for the client itself or for one of these, unless `any_audience`.
    Audiences may be `*.example.com`. `impersonate`: the client is not added to the `act` chain.
    `for_itself`: a client may have tokens for itself (client credentials). `name` is that of the
    policy, for the audit log.
    """

    clients: frozenset[str]
    subject_issuers: frozenset[str]
    audiences: tuple[str, ...]
    scopes: frozenset[str] = frozenset()
    subject_audiences: tuple[str, ...] = ()
    lifetime_s: int = 300
    impersonate: bool = False
    any_audience: bool = False
    for_itself: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class ExchangeRequest:
    """An exchange by an attested client. `scopes` none: not asked for, which means all that may be.

    `issuer_name`: the TrustedIssuer's, empty for a token of the service itself. `user_claims`: what
    that issuer's mapping takes over. `lifetime_s` 0: as long as may be. `certificate_sha256` is the
    base64url thumbprint of the client's certificate, empty without one.
    """

    client: str
    subject: VerifiedToken
    issuer_name: str = ""
    user_claims: Mapping[str, Any] = field(default_factory=dict, repr=False)
    lifetime_s: int = 0
    actor: VerifiedToken | None = None
    audiences: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    scopes: frozenset[str] | None = None
    requested_type: str = ACCESS_TOKEN
    certificate_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Issued:
    """What is to be signed under `TYP`, and what the response says beside it."""

    claims: Mapping[str, Any] = field(repr=False)
    issued_type: str
    scopes: frozenset[str]
    expires_s: int
    grant: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """RFC 8693, section 2.2.2: `error` is for the wire, `reason` for the client's developer."""

    error: ErrorCode
    reason: str


@dataclass(frozen=True, slots=True)
class _Party:
    """Somebody who acts: RFC 8693, section 4.1. The issuer is empty for an attested client."""

    issuer: str
    subject: str


def decide_exchange(
    request: ExchangeRequest, grants: Sequence[ExchangeGrant], issuer: str, now_s: float, jti: str
) -> Issued | Refused:
    """Decide an exchange by `issuer`. The first grant that allows all of it decides; none: refused.

    Rights of two grants are never added up.
    """
    mine = [one for one in grants if request.client in one.clients]
    if not mine:
        return Refused("unauthorized_client", "no grant lets this client exchange tokens")
    fault = _fault_of_request(request, issuer, now_s)
    if fault is not None:
        return fault
    fitting = [one for one in mine if request.subject.issuer in one.subject_issuers]
    first: Refused | None = None
    for one in fitting or mine:
        found = _decide(request, one, issuer, now_s, jti)
        if isinstance(found, Issued):
            return found
        first = first or found
    return first or Refused("unauthorized_client", "no grant lets this client exchange tokens")


def decide_client_credentials(  # noqa: PLR0917 - who, for whom, what, by which rights, and by whom
    client: str,
    targets: Sequence[str],
    scopes: frozenset[str] | None,
    grants: Sequence[ExchangeGrant],
    issuer: str,
    now_s: float,
    jti: str,
) -> Issued | Refused:
    """A token by which `client` speaks for itself (RFC 6749, section 4.4). No grant: refused."""
    mine = [one for one in grants if client in one.clients and one.for_itself]
    if not mine:
        return Refused("unauthorized_client", "no policy lets this client have tokens for itself")
    fault = Refused("invalid_target", f"name between one and {MAX_TARGETS} audiences")
    if not 0 < len(targets) <= MAX_TARGETS:
        return fault
    for grant in mine:
        if not all(_is_granted(one, grant.audiences) for one in targets):
            fault = Refused("invalid_target", "an audience is not granted")
        elif scopes is not None and not scopes <= grant.scopes:
            fault = Refused("invalid_scope", "a scope is not granted")
        else:
            given = grant.scopes if scopes is None else scopes
            return _own_token(client, targets, given, grant, issuer, now_s, jti)
    return fault


def _own_token(  # noqa: PLR0917 - as above
    client: str,
    targets: Sequence[str],
    scopes: frozenset[str],
    grant: ExchangeGrant,
    issuer: str,
    now_s: float,
    jti: str,
) -> Issued:
    issued_s = math.floor(now_s)
    claims = {
        "iss": issuer,
        "sub": client,
        "aud": [*targets],
        "client_id": client.removeprefix("client:"),
        "iat": issued_s,
        "exp": issued_s + grant.lifetime_s,
        "jti": jti,
        "scope": " ".join(sorted(scopes)),
    }
    return Issued(claims, ACCESS_TOKEN, scopes, issued_s + grant.lifetime_s, grant.name)


def _decide(
    request: ExchangeRequest, grant: ExchangeGrant, issuer: str, now_s: float, jti: str
) -> Issued | Refused:
    fault = _fault_of_subject(request, grant) or _fault_of_targets(request, grant)
    if fault is not None:
        return fault
    may = scopes_of(request.subject) & grant.scopes
    if request.scopes is not None and not request.scopes <= may:
        return Refused("invalid_scope", "a scope is not in the subject token, or not granted")
    scopes = may if request.scopes is None else request.scopes
    chain = _chain(request, grant, issuer)
    if isinstance(chain, Refused):
        return chain
    issued_s = math.floor(now_s)
    expires_s = _expiry(request, grant, issued_s)
    if expires_s <= now_s:
        return Refused("invalid_request", "the new token would be over before it is used")
    claims: dict[str, Any] = {
        **_user_claims(request, issuer),
        "iss": issuer,
        "sub": _subject(request, issuer),
        "sub_id": subject_id(request.subject, issuer),
        "aud": [*request.audiences, *request.resources],
        "client_id": request.client.removeprefix("client:"),
        "iat": issued_s,
        "exp": expires_s,
        "jti": jti,
        "scope": " ".join(sorted(scopes)),
    }
    if chain:
        claims["act"] = chain
    return Issued(claims, request.requested_type, scopes, expires_s, grant.name)


def _fault_of_request(request: ExchangeRequest, issuer: str, now_s: float) -> Refused | None:
    """What no grant could mend."""
    if request.requested_type not in ISSUED_TYPES:
        return Refused("invalid_request", "this requested_token_type is not issued here")
    if not request.subject.subject:
        return Refused("invalid_request", "the subject token has no subject")
    if request.subject.issuer != issuer and not request.issuer_name:
        return Refused("invalid_request", "the subject token's issuer has no name here")
    for one in (request.subject, request.actor):
        if one is not None and one.expires_s <= now_s:
            return Refused("invalid_request", "a token is expired")
        if one is not None and not is_bound(one, request.certificate_sha256):
            return Refused("invalid_request", "a token is bound to a key that is not the client's")
    if not isinstance(request.subject.claims.get("scope", ""), str):
        return Refused("invalid_request", "the subject token's scope is not a text")
    if actors_of(request.subject.claims.get("act")) is None:
        return Refused("invalid_request", "the subject token's act is malformed or too long")
    return None


def _fault_of_subject(request: ExchangeRequest, grant: ExchangeGrant) -> Refused | None:
    """Is this a token that the client may bring? One that was meant for somebody else is not."""
    if request.subject.issuer not in grant.subject_issuers:
        return Refused(
            "invalid_request", "tokens of this issuer may not be exchanged by the client"
        )
    if grant.any_audience or any(
        one == request.client or _is_granted(one, grant.subject_audiences)
        for one in _audiences_of(request.subject)
    ):
        return None
    return Refused("invalid_request", "the subject token is not meant for the client")


def _fault_of_targets(request: ExchangeRequest, grant: ExchangeGrant) -> Refused | None:
    """RFC 8693, section 2.1: several may be named; RFC 8707 says what a resource looks like."""
    targets = (*request.audiences, *request.resources)
    if not 0 < len(targets) <= MAX_TARGETS:
        return Refused("invalid_target", f"name between one and {MAX_TARGETS} audiences")
    if not all(map(_is_resource, request.resources)):
        return Refused("invalid_target", "a resource is not an absolute URI without a fragment")
    if not all(_is_granted(one, grant.audiences) for one in targets):
        return Refused("invalid_target", "an audience is not granted")
    return None


def _chain(request: ExchangeRequest, grant: ExchangeGrant, issuer: str) -> dict[str, Any] | Refused:
    """The new `act`: whoever acts now, and below that everybody who acted before."""
    before = request.subject.claims.get("act")
    if request.subject.issuer != issuer:
        before = _as_said_by(before, request.subject.issuer)
    party = _acting(request)
    if isinstance(party, Refused):
        return party
    may_act = request.subject.claims.get("may_act")
    if may_act is not None and not _names(may_act, party, issuer):
        return Refused("invalid_request", "the subject token's may_act names somebody else")
    if request.actor is None and grant.impersonate:
        return dict(before or {})
    if len(actors_of(before) or ()) >= MAX_ACTORS:
        return Refused("invalid_request", f"more than {MAX_ACTORS} parties would act")
    now = {"sub": party.subject} | ({"iss": party.issuer} if party.issuer else {})
    return now if before is None else now | {"act": before}


def _as_said_by(act: Any, issuer: str) -> dict[str, Any] | None:
    """The chain that an issuer outside wrote: all its parties are that issuer's, and nobody's here.

    Else it could say that a workload of ours has acted.
    """
    if not isinstance(act, dict):
        return None
    before = _as_said_by(act.get("act"), issuer)
    return {"sub": act["sub"], "iss": issuer} | ({"act": before} if before else {})


def _acting(request: ExchangeRequest) -> _Party | Refused:
    """The client, or the actor token's subject, if the subject token itself lets that one act.

    Without that, whoever gets hold of two tokens could join them.
    """
    actor = request.actor
    if actor is None:
        return _Party("", request.client)
    if "act" in actor.claims or not actor.subject:
        return Refused("invalid_request", "the actor token's subject does not act for itself")
    if request.client not in _audiences_of(actor):
        return Refused("invalid_request", "the actor token is not meant for the client")
    if request.subject.claims.get("may_act") is None:
        return Refused("invalid_request", "the subject token has no may_act for an actor token")
    return _Party(actor.issuer, actor.subject)


def _names(may_act: object, party: _Party, issuer: str) -> bool:
    """RFC 8693, section 4.4. Every member has to hold, `sub` among them; an unknown one does not.

    A party whose issuer is named differently is another party: `iss` is needed for an actor token.
    """
    if not isinstance(may_act, dict) or not may_act.keys() <= {"iss", "sub"}:
        return False
    wanted = may_act.get("iss", "" if not party.issuer else None)
    issuers = (party.issuer,) if party.issuer else ("", issuer)
    return may_act.get("sub") == party.subject and wanted in issuers


def lets_act(subject: VerifiedToken, client: str, issuer: str) -> bool:
    """Whether the subject token's `may_act`, if it has one, names this client."""
    may_act = subject.claims.get("may_act")
    return may_act is None or _names(may_act, _Party("", client), issuer)


def actors_of(act: object) -> tuple[str, ...] | None:
    """The subjects in an `act` chain, newest first; none if it is not one."""
    found: list[str] = []
    while act is not None:
        if not isinstance(act, dict) or not isinstance(act.get("sub"), str):
            return None
        found.append(act["sub"])
        if len(found) > MAX_ACTORS:
            return None
        act = act.get("act")
    return tuple(found)


def _subject(request: ExchangeRequest, issuer: str) -> str:
    """One text for one user: Envoy and Istio compare `iss` with `sub`, and know no `sub_id`."""
    if request.subject.issuer == issuer:
        return request.subject.subject
    return user_name(request.issuer_name, request.subject.subject)


def subject_id(subject: VerifiedToken, issuer: str) -> Mapping[str, Any]:
    """A user is the pair of issuer and subject (RFC 9493, section 3.2.3).

    What the issuer of this service wrote there is passed on; what others write there is not.
    """
    before = subject.claims.get("sub_id")
    if subject.issuer == issuer and isinstance(before, dict):
        return before
    return {"format": "iss_sub", "iss": subject.issuer, "sub": subject.subject}


def _user_claims(request: ExchangeRequest, issuer: str) -> dict[str, Any]:
    """What is known of the user beside the names; never a claim that this service writes itself."""
    said = request.subject.claims if request.subject.issuer == issuer else request.user_claims
    return {name: value for name, value in said.items() if name not in OWN_CLAIMS}


def _expiry(request: ExchangeRequest, grant: ExchangeGrant, issued_s: int) -> int:
    ends = [issued_s + grant.lifetime_s, request.subject.expires_s]
    if request.lifetime_s > 0:
        ends.append(issued_s + request.lifetime_s)
    if request.actor is not None:
        ends.append(request.actor.expires_s)
    return math.floor(min(ends))


def is_bound(token: VerifiedToken, certificate_sha256: str) -> bool:
    """RFC 8705, section 3.1. A binding of another kind is not understood: refused."""
    if "cnf" not in token.claims:
        return True
    return bool(certificate_sha256) and token.claims["cnf"] == {"x5t#S256": certificate_sha256}


def _is_granted(target: object, granted: tuple[str, ...]) -> bool:
    if not isinstance(target, str) or not target or "*" in target:
        return False
    return any(matches_audience(target, one, wildcards=True) for one in granted)


def _is_resource(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc) and "#" not in text


def _audiences_of(token: VerifiedToken) -> tuple[object, ...]:
    found = token.claims.get("aud", ())
    return tuple(found) if isinstance(found, list | tuple) else (found,)


def scopes_of(token: VerifiedToken) -> frozenset[str]:
    """The scopes in a token whose `scope` is a text or absent."""
    return frozenset(str(token.claims.get("scope", "")).split(" ")) - {""}
