"""Who asks: a workload by its mesh certificate (RFC 8705), or a client by a signed assertion.

An assertion (RFC 7523) is used once in the whole mesh, which the server says; where it cannot be
asked, the assertion is refused. A rate limit stands before all: whoever the handshake shows, or an
address. A client known by its key has one of its own, which only its own signature draws on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.model.token_service import client_name
from limen.core.pki.chain import verify_workload_chain
from limen.core.tokens.algorithms import DEFAULT
from limen.core.tokens.reader import read_claims, read_compact
from limen.core.tokens.signing import sha256_base64url
from limen.core.tokens.verify import IssuerRules, verify_token
from limen.errors import LimenError, Unavailable, Untrusted
from limen.services.tokens.replies import OAuthError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from limen.core.rate import RateLimit
    from limen.services.tokens.state import Rules

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_ASSERTION_LIFE_S = 300.0
LEEWAY_S = 30.0
_CLIENT_ID = re.compile(r"[!-9;-~]{1,255}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other side of a connection: its address, and what its certificate says if it has one."""

    address: str
    spiffe_id: str = ""
    not_after_s: float = 0.0
    certificate_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """An attested client, as grants name it."""

    name: str
    certificate_sha256: str = ""


def read_peer(chain: Sequence[bytes], address: str, rules: Rules, now_s: float) -> Peer:
    """The peer of a finished handshake. Raises Untrusted: not of this mesh's authority."""
    if not chain:
        return Peer(address)
    identity, leaf = verify_workload_chain(chain, rules.roots, rules.trust_domain, now_s)
    return Peer(address, str(identity), leaf.not_after_s, sha256_base64url(leaf.der))


def admit(peer: Peer, limit: RateLimit, monotonic_s: float) -> None:
    """Count a request before anything of it is read. Raises OAuthError."""
    _take(limit, peer.spiffe_id or f"address {peer.address}", monotonic_s)


async def authenticate(
    form: Mapping[str, str],
    peer: Peer,
    rules: Rules,
    *,
    audiences: tuple[str, ...],
    spend: Callable[[str, str, float], Awaitable[bool]],
    limit: RateLimit,
    now_s: float,
    monotonic_s: float,
) -> Client:
    """The client of a request. Raises OAuthError (`invalid_client`, `invalid_request` …)."""
    assertion = form.get("client_assertion", "")
    if "client_secret" in form:
        raise OAuthError("invalid_client", "shared secrets are not used here", "client-secret")
    if assertion or "client_assertion_type" in form:
        if peer.spiffe_id:
            raise OAuthError("invalid_request", "two ways to say who asks", "two-credentials")
        return await _by_assertion(form, rules, audiences, spend, limit, now_s, monotonic_s)
    if not peer.spiffe_id:
        raise OAuthError(
            "invalid_client", "neither a certificate of the mesh nor an assertion", "no-credential"
        )
    if now_s >= peer.not_after_s:
        raise OAuthError("invalid_client", "the certificate has expired", "certificate-expired")
    if form.get("client_id", peer.spiffe_id) != peer.spiffe_id:
        raise OAuthError("invalid_client", "client_id is not who the certificate says", "client-id")
    return Client(peer.spiffe_id, peer.certificate_sha256)


async def _by_assertion(  # noqa: PLR0917 - as `authenticate`
    form: Mapping[str, str],
    rules: Rules,
    audiences: tuple[str, ...],
    spend: Callable[[str, str, float], Awaitable[bool]],
    limit: RateLimit,
    now_s: float,
    monotonic_s: float,
) -> Client:
    if form.get("client_assertion_type") != ASSERTION_TYPE:
        raise OAuthError("invalid_client", "this kind of assertion is not known", "assertion-type")
    try:
        jws = read_compact(form.get("client_assertion", ""))
        claimed = read_claims(jws.payload).get("iss")
    except Untrusted as error:
        raise OAuthError("invalid_client", error.message, error.code) from None
    if not isinstance(claimed, str) or not _CLIENT_ID.fullmatch(claimed):
        raise OAuthError("invalid_client", "the assertion names no client", "assertion-client")
    keys = rules.client_keys.get(claimed)
    if keys is None or form.get("client_id", claimed) != claimed:
        raise OAuthError("invalid_client", "the client is not known", "assertion-client")
    allowed = frozenset(rules.rights.keys[claimed].algorithms) or DEFAULT
    judge = IssuerRules(claimed, keys, allowed, audiences, leeway_s=LEEWAY_S, require_subject=True)
    try:
        token = verify_token(form["client_assertion"], judge, now_s)
    except Untrusted as error:
        raise OAuthError("invalid_client", error.message, error.code) from None
    jti = token.claims.get("jti", "")
    typ = str(token.header.get("typ", "")).lower()
    if token.subject != claimed or not jti or typ.endswith("at+jwt"):
        raise OAuthError(
            "invalid_client", "iss and sub are the client, and jti is there", "assertion-claims"
        )
    if token.expires_s > now_s + MAX_ASSERTION_LIFE_S + LEEWAY_S:
        message = f"an assertion lives {MAX_ASSERTION_LIFE_S:g} s at most"
        raise OAuthError("invalid_client", message, "assertion-life")
    _take(limit, client_name(claimed), monotonic_s)
    await _spend(spend, claimed, jti, token.expires_s + LEEWAY_S)
    return Client(client_name(claimed))


async def _spend(
    spend: Callable[[str, str, float], Awaitable[bool]], client: str, jti: str, until_s: float
) -> None:
    """Once, whichever token service of the mesh it is shown to."""
    try:
        first = await spend("client-assertion", f"{client}\n{jti}", until_s)
    except LimenError:
        raise OAuthError(
            "temporarily_unavailable",
            "whether the assertion was used before cannot be known now",
            "assertion-unknown",
        ) from None
    if not first:
        raise OAuthError("invalid_client", "the assertion was used before", "assertion-used")


def _take(limit: RateLimit, name: str, monotonic_s: float) -> None:
    try:
        limit.take(name, monotonic_s)
    except Unavailable as error:
        raise OAuthError("too_many_requests", error.message, error.code) from None
