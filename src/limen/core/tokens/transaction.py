"""Transaction tokens: who a transaction is for and what it is about, the same along a call chain.

Source: draft-ietf-oauth-transaction-tokens, revisions 10 and 11 of July 2026: claims (9.2), issue
(11.3), replacement (13.15). Laws here: nobody gets one without a grant; its scope is at most the
subject token's, and a subject token that says none gets nothing; `txn`, `sub`, `aud` and what
`tctx` and `rctx` hold never change; a replacement ends no later than the token that it replaces
(the draft leaves that open); the chain of workloads that asked is kept, in `call_chain` (how is
left open too), and only what this service signed before is believed about it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from limen.core.tokens.claims import audiences_of
from limen.core.tokens.exchange import Issued, Refused, actors_of, is_bound, lets_act, subject_id
from limen.core.tokens.refusal import refuse
from limen.core.tokens.signing import ALGORITHM
from limen.core.tokens.verify import IssuerRules, VerifiedToken, verify_token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from limen.core.tokens.jwks import KeySet

TYP = "txntoken+jwt"
TOKEN_TYPE = "urn:ietf:params:oauth:token-type:txn_token"  # noqa: S105 - a name
RESPONSE_TOKEN_TYPE = "N_A"  # noqa: S105 - what the response's `token_type` says (11.4)
HEADER = "txn-token"
"""The request header that carries one between workloads (12.1); never `Authorization`."""
MAX_CHAIN = 16
MAX_CONTEXT_CHARS = 2048
DEFAULT_LIFETIME_S = 120


@dataclass(frozen=True, slots=True)
class TransactionGrant:
    """Who may begin or renew transactions. `clients` are SPIFFE IDs.

    `details` and `context` name the members that a client may put into `tctx` and `rctx`.
    `subject_audiences`: an outside token has to be meant for the client itself or for one of these.
    """

    clients: frozenset[str]
    subject_issuers: frozenset[str]
    scopes: frozenset[str]
    subject_audiences: tuple[str, ...] = ()
    details: frozenset[str] = frozenset()
    context: frozenset[str] = frozenset()
    lifetime_s: int = DEFAULT_LIFETIME_S


@dataclass(frozen=True, slots=True)
class TransactionRequest:
    """A request by an attested client. `subject` is any verified token, also a transaction token.

    `scopes` must be named. `txn`: the name of the transaction, if this begins one.
    `certificate_sha256` as in `ExchangeRequest`.
    """

    client: str
    subject: VerifiedToken
    scopes: frozenset[str]
    audience: str
    txn: str
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)
    certificate_sha256: str = ""


@dataclass(frozen=True, slots=True)
class TransactionService:
    """Who issues: the `iss`, and the trust domain, which is the `aud` of every token."""

    issuer: str
    trust_domain: str


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction token that was accepted. `chain`: workloads that asked, oldest first."""

    txn: str
    subject: str
    scopes: frozenset[str]
    requester: str
    chain: tuple[str, ...]
    details: Mapping[str, Any] = field(repr=False)
    context: Mapping[str, Any] = field(repr=False)
    token: VerifiedToken


def decide_transaction(
    request: TransactionRequest,
    grants: Sequence[TransactionGrant],
    service: TransactionService,
    now_s: float,
) -> Issued | Refused:
    """Begin a transaction, or replace the token of one, which keeps its name.

    The first grant that allows all of it decides. What is issued is signed under `TYP`.
    """
    mine = [one for one in grants if request.client in one.clients]
    if not mine:
        return Refused("unauthorized_client", "no grant lets this client begin transactions")
    fault = _fault_of_request(request, service, now_s)
    if fault is not None:
        return fault
    before = _read(request.subject) if _is_transaction(request.subject) else None
    found = [_decide(request, before, one, service, now_s) for one in mine]
    allowed = next((one for one in found if isinstance(one, Issued)), None)
    return allowed or found[0]


def verify_transaction(
    token: str | bytes, keys: KeySet, service: TransactionService, now_s: float
) -> Transaction:
    """Verify a transaction token of this trust domain. Raises Untrusted (codes in `refusal`)."""
    return _read(verify_token(token, transaction_rules(keys, service), now_s))


def transaction_rules(keys: KeySet, service: TransactionService) -> IssuerRules:
    """What makes a token a transaction token of `service`."""
    return IssuerRules(
        issuer=service.issuer,
        keys=keys,
        algorithms=frozenset((ALGORITHM,)),
        audiences=(service.trust_domain,),
        typ=TYP,
        require_subject=True,
    )


def _read(token: VerifiedToken) -> Transaction:
    """The draft's claims with the draft's types. Raises Untrusted."""
    claims = token.claims
    for name in ("txn", "scope", "req_wl"):
        if not isinstance(claims.get(name), str) or not claims[name]:
            raise refuse("claim-txn", f"it has no {name} that is a text")
    details, context = claims.get("tctx", {}), claims.get("rctx", {})
    if not isinstance(details, dict) or not isinstance(context, dict):
        raise refuse("claim-txn", "its tctx or rctx is not an object")
    chain = claims.get("call_chain")
    if not isinstance(chain, list) or not all(isinstance(one, str) for one in chain):
        raise refuse("claim-txn", "its call_chain is not a list of texts")
    if not 0 < len(chain) <= MAX_CHAIN or chain[-1] != claims["req_wl"]:
        raise refuse("claim-txn", "its call_chain does not end with req_wl, or is too long")
    if audiences_of(claims) != (claims["aud"],):
        raise refuse("claim-aud", "its aud is not one trust domain")
    scopes = frozenset(claims["scope"].split(" "))
    return Transaction(
        claims["txn"],
        token.subject,
        scopes,
        claims["req_wl"],
        tuple(chain),
        details,
        context,
        token,
    )


def _is_transaction(token: VerifiedToken) -> bool:
    return token.header.get("typ") == TYP


def _fault_of_request(
    request: TransactionRequest, service: TransactionService, now_s: float
) -> Refused | None:
    """What no grant could mend."""
    subject = request.subject
    if request.audience != service.trust_domain:
        return Refused("invalid_target", "the audience is not this trust domain")
    if not request.scopes:
        return Refused("invalid_scope", "name the scope that the transaction is for")
    if not isinstance(subject.claims.get("scope"), str):
        return Refused("invalid_scope", "what the subject token allows is not known: no scope")
    if any(len(json.dumps(c)) > MAX_CONTEXT_CHARS for c in (request.details, request.context)):
        return Refused("invalid_request", f"a context exceeds {MAX_CONTEXT_CHARS} characters")
    return _fault_of_use(subject, request, service, now_s)


def _fault_of_use(
    subject: VerifiedToken, request: TransactionRequest, service: TransactionService, now_s: float
) -> Refused | None:
    """Whether the client may use the subject token at all, whatever for."""
    if not subject.subject:
        return Refused("invalid_request", "the subject token has no subject")
    if subject.expires_s <= now_s:
        return Refused("invalid_request", "the subject token is expired")
    if not is_bound(subject, request.certificate_sha256):
        return Refused("invalid_request", "the token is bound to a key that is not the client's")
    if not lets_act(subject, request.client, service.issuer):
        return Refused("invalid_request", "the subject token's may_act names somebody else")
    return None


def _decide(
    request: TransactionRequest,
    before: Transaction | None,
    grant: TransactionGrant,
    service: TransactionService,
    now_s: float,
) -> Issued | Refused:
    fault = _fault_of_subject(request, before, grant, service)
    if fault is not None:
        return fault
    chain = _chain(request, before, service)
    if len(chain) > MAX_CHAIN:
        return Refused("invalid_request", f"more than {MAX_CHAIN} workloads in the chain")
    details = _extended(before.details if before else {}, request.details)
    context = _extended(before.context if before else {}, request.context)
    if details is None or context is None:
        return Refused("invalid_request", "what a transaction says about itself does not change")
    issued_s = math.floor(now_s)
    expires_s = math.floor(min(issued_s + grant.lifetime_s, request.subject.expires_s))
    if expires_s <= now_s:
        return Refused("invalid_request", "the new token would be over before it is used")
    claims = {
        "iss": service.issuer,
        "aud": service.trust_domain,
        "txn": before.txn if before else request.txn,
        "sub": before.subject if before else _subject(request.subject, service.issuer),
        "sub_id": subject_id(request.subject, service.issuer),
        "scope": " ".join(sorted(request.scopes)),
        "req_wl": request.client,
        "call_chain": chain,
        "tctx": details,
        "rctx": context,
        "iat": issued_s,
        "exp": expires_s,
    }
    return Issued(claims, TOKEN_TYPE, request.scopes, expires_s)


def _fault_of_subject(
    request: TransactionRequest,
    before: Transaction | None,
    grant: TransactionGrant,
    service: TransactionService,
) -> Refused | None:
    subject = request.subject
    if before is not None:
        theirs = (subject.issuer, audiences_of(subject.claims))
        if theirs != (service.issuer, (service.trust_domain,)):
            return Refused("invalid_request", "this transaction is not of this trust domain")
    elif subject.issuer not in grant.subject_issuers:
        return Refused("invalid_request", "tokens of this issuer begin no transaction here")
    elif not set(audiences_of(subject.claims)) & {request.client, *grant.subject_audiences}:
        return Refused("invalid_request", "the subject token is not meant for the client")
    allowed = frozenset(subject.claims["scope"].split(" ")) & grant.scopes
    if not request.scopes <= allowed:
        return Refused("invalid_scope", "a scope is not in the subject token, or not granted")
    if not request.details.keys() <= grant.details or not request.context.keys() <= grant.context:
        return Refused("invalid_request", "a member of request_details or _context is not granted")
    return None


def _chain(
    request: TransactionRequest, before: Transaction | None, service: TransactionService
) -> list[str]:
    """Workloads that asked, oldest first; of tokens from outside nothing is believed about it."""
    if before is not None:
        earlier = before.chain
    elif request.subject.issuer == service.issuer:
        earlier = tuple(reversed(actors_of(request.subject.claims.get("act")) or ()))
    else:
        earlier = ()
    return [*earlier, *(() if earlier[-1:] == (request.client,) else (request.client,))]


def _extended(before: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any] | None:
    """`before` with new members; none if one that is there would change."""
    if any(json.dumps(before[name]) != json.dumps(more[name]) for name in before.keys() & more):
        return None
    return {**before, **more}


def _subject(token: VerifiedToken, issuer: str) -> str:
    """A text that is one user in the whole trust domain: the user's issuer and name there.

    The name is escaped, so the last slash always divides the two.
    """
    user = subject_id(token, issuer)
    return f"{user['iss']}/{quote(str(user['sub']), safe='')}"
