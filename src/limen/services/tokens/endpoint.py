"""`POST /token`: who asks, what for, by which right; one signed token or one exact error.

Every answer is an event on disk before it leaves. What fails in the middle gives nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limen.core.rate import RateLimit
from limen.core.tokens.claims import audiences_of
from limen.core.tokens.exchange import (
    ACCESS_TOKEN,
    ISSUED_TYPES,
    TYP,
    ExchangeRequest,
    Issued,
    Refused,
    decide_client_credentials,
    decide_exchange,
)
from limen.core.tokens.signing import sign_token
from limen.core.tokens.transaction import TOKEN_TYPE as TRANSACTION_TOKEN
from limen.core.tokens.transaction import TYP as TRANSACTION_TYP
from limen.errors import Unavailable
from limen.services.tokens import transactions
from limen.services.tokens.clients import admit, authenticate
from limen.services.tokens.forms import CLIENT_CREDENTIALS, EXCHANGE, check_known, parse_form
from limen.services.tokens.replies import OAuthError, Reply, json_reply
from limen.services.tokens.subjects import Ask

if TYPE_CHECKING:
    from limen.adapters.clock import Clock
    from limen.services.tokens.clients import Client, Peer
    from limen.services.tokens.following import Following
    from limen.services.tokens.forms import Form
    from limen.services.tokens.keyring import Keyring
    from limen.services.tokens.link import TokenLink
    from limen.services.tokens.replies import Asked
    from limen.services.tokens.spool import Spool
    from limen.services.tokens.state import Rules
    from limen.services.tokens.subjects import Subject, Subjects

MAX_EXPIRES_IN = 86400
_JTI_BYTES = 16


@dataclass(slots=True)
class Parts:
    """What a token service is made of. Handlers get this value and nothing global."""

    issuer: str
    url: str
    following: Following
    keyring: Keyring
    subjects: Subjects
    spool: Spool
    link: TokenLink
    limit: RateLimit
    addresses: RateLimit
    """Of those who have shown no certificate: apart, so that they starve no client."""
    clock: Clock
    strangers: RateLimit = field(default_factory=lambda: RateLimit(1.0, 100))
    """How many refusals are recorded of an address that has proven nothing."""

    @property
    def audiences(self) -> tuple[str, ...]:
        """Whom a client's assertion may be for: this service, or its token endpoint."""
        return (self.issuer, f"{self.url}/token", self.url)

    def admit(self, peer: Peer) -> None:
        """Count a request before anything of it is read. Raises OAuthError."""
        limit = self.limit if peer.spiffe_id else self.addresses
        admit(peer, limit, self.clock.monotonic_s())

    async def client_of(self, form: Form, peer: Peer, rules: Rules) -> Client:
        """Who asks. Raises OAuthError."""
        return await authenticate(
            form.one,
            peer,
            rules,
            audiences=self.audiences,
            spend=self.link.spend,
            limit=self.limit,
            now_s=self.clock.now_s(),
            monotonic_s=self.clock.monotonic_s(),
        )


async def answer_token(parts: Parts, asked: Asked, peer: Peer) -> Reply:
    """The answer to one request. Never raises for what a client sent."""
    about: dict[str, Any] = {"client": peer.spiffe_id or f"address {peer.address}"}
    try:
        parts.admit(peer)
        issued, token = await _decide(parts, asked, peer, about)
        detail = {**about, **_said(issued)}
        jti = str(issued.claims.get("jti", issued.claims.get("txn", "")))
        await _record(parts, "issue", jti, detail)
    except Unavailable as error:
        refusal = OAuthError("temporarily_unavailable", error.message, error.code)
        return await _refuse(parts, refusal, about)
    except OAuthError as error:
        return await _refuse(parts, error, about)
    return json_reply(
        {
            "access_token": token,
            "issued_token_type": issued.issued_type,
            "token_type": "Bearer" if issued.issued_type in ISSUED_TYPES else "N_A",
            "expires_in": max(0, int(issued.expires_s - parts.clock.now_s())),
            "scope": " ".join(sorted(issued.scopes)),
        }
    )


async def _decide(
    parts: Parts, asked: Asked, peer: Peer, about: dict[str, Any]
) -> tuple[Issued, str]:
    form = parse_form(asked.content_type, asked.body)
    grant = form.need("grant_type")
    check_known(form, grant if grant in {EXCHANGE, CLIENT_CREDENTIALS} else "")
    rules = parts.following.rules
    client = await parts.client_of(form, peer, rules)
    about["client"] = client.name
    jti = secrets.token_urlsafe(_JTI_BYTES)
    if grant == CLIENT_CREDENTIALS:
        found: Issued | Refused = _for_itself(parts, form, client, rules, jti)
    else:
        found = await _exchange(parts, form, client, rules, jti, about)
    if isinstance(found, Refused):
        raise OAuthError(found.error, found.reason)
    if rules.is_revoked(found.claims):
        raise OAuthError("invalid_grant", "its user was revoked", "revoked")
    key = parts.keyring.signing
    typ = TRANSACTION_TYP if found.issued_type == TRANSACTION_TOKEN else TYP
    return found, sign_token({"typ": typ, "kid": key.kid}, found.claims, key.private)


def _for_itself(
    parts: Parts, form: Form, client: Client, rules: Rules, jti: str
) -> Issued | Refused:
    return decide_client_credentials(
        client.name,
        _targets(form),
        _scopes(form),
        rules.rights.grants.get(client.name, ()),
        parts.issuer,
        parts.clock.now_s(),
        jti,
    )


async def _exchange(  # noqa: PLR0917 - the request in its parts
    parts: Parts, form: Form, client: Client, rules: Rules, jti: str, about: dict[str, Any]
) -> Issued | Refused:
    text = form.need("subject_token")
    about["subject_sha256"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    requested = form.one.get("requested_token_type", ACCESS_TOKEN)
    begins = requested == TRANSACTION_TOKEN
    about_it = {"request_details", "request_context"} & form.one.keys()
    if not begins and (requested not in ISSUED_TYPES or about_it):
        raise OAuthError("invalid_request", "this type of token is not issued here", "token-type")
    grants = rules.rights.grants.get(client.name, ())
    if not grants:
        raise OAuthError("unauthorized_client", "no policy lets this client exchange tokens")
    subject = await _read(parts, form, "subject_token", rules, grants)
    about["subject_issuer"] = subject.token.issuer
    if begins:
        now_s = parts.clock.now_s()
        return transactions.decide(form, client, subject, rules, parts.issuer, now_s, jti)
    actor = await _read_actor(parts, form, rules, grants)
    wish = ExchangeRequest(
        client=client.name,
        subject=subject.token,
        issuer_name=subject.issuer_name,
        user_claims=subject.claims,
        lifetime_s=_seconds(form),
        actor=actor.token if actor is not None else None,
        audiences=form.many.get("audience", ()),
        resources=form.many.get("resource", ()),
        scopes=_scopes(form),
        requested_type=requested,
        certificate_sha256=client.certificate_sha256,
    )
    return decide_exchange(wish, grants, parts.issuer, parts.clock.now_s(), jti)


async def _read(parts: Parts, form: Form, name: str, rules: Rules, grants: Any) -> Subject:
    ask = Ask(
        grants,
        _targets(form),
        tuple(sorted(_scopes(form) or ())),
        form.one.get("subject_issuer", ""),
        parts.clock.now_s(),
    )
    token_type = form.need(f"{name}_type")
    return await parts.subjects.read(form.need(name), token_type, rules, parts.keyring.keys, ask)


async def _read_actor(parts: Parts, form: Form, rules: Rules, grants: Any) -> Subject | None:
    """RFC 8693, section 2.1: the type is there if and only if the token is."""
    given = [name for name in ("actor_token", "actor_token_type") if name in form.one]
    if not given:
        return None
    if len(given) != 2:
        message = "actor_token and actor_token_type go together"
        raise OAuthError("invalid_request", message, "missing-parameter")
    return await _read(parts, form, "actor_token", rules, grants)


def _targets(form: Form) -> tuple[str, ...]:
    return (*form.many.get("audience", ()), *form.many.get("resource", ()))


def _scopes(form: Form) -> frozenset[str] | None:
    if "scope" not in form.one:
        return None
    return frozenset(form.one["scope"].split(" ")) - {""}


def _seconds(form: Form) -> int:
    text = form.one.get("expires_in", "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) <= MAX_EXPIRES_IN):
        raise OAuthError("invalid_request", "expires_in is no number of seconds", "expires-in")
    return int(text)


def _said(issued: Issued) -> dict[str, Any]:
    """What the audit log keeps of a token: never the token."""
    claims = issued.claims
    return {
        "sub": str(claims["sub"])[:256],
        "aud": [one[:256] for one in audiences_of(claims)],
        "scope": str(claims["scope"])[:1024],
        "exp": claims["exp"],
        "grant": issued.grant,
        "actors": _actors(claims.get("act")),
    }


def _actors(act: Any) -> list[str]:
    found: list[str] = []
    while isinstance(act, dict) and len(found) < 16:
        found.append(str(act.get("sub", ""))[:256])
        act = act.get("act")
    return found


async def _refuse(parts: Parts, error: OAuthError, about: dict[str, Any]) -> Reply:
    """A refusal is an event too; if it cannot be recorded, it is a refusal all the same.

    Whoever has proven nothing, or asks too often, does not fill the log: some of these are told.
    """
    if error.error == "too_many_requests" or about["client"].startswith("address "):
        try:
            parts.strangers.take(about["client"], parts.clock.monotonic_s())
        except Unavailable:
            return error.reply()
    detail = {**about, "error": error.error, "code": error.code}
    try:
        await _record(parts, "refuse", "", detail)
    except Unavailable:
        return OAuthError("temporarily_unavailable", "nothing can be recorded", "audit").reply()
    return error.reply()


async def _record(parts: Parts, verb: str, name: str, detail: dict[str, Any]) -> None:
    event = {"time_s": parts.clock.now_s(), "verb": verb, "name": name[:256], "detail": detail}
    await parts.spool.write(event)
