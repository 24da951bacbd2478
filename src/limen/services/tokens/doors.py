"""Every address of the token service: which method, who may call, what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limen.core.tokens.algorithms import DEFAULT
from limen.core.tokens.claims import audiences_of, matches_audience
from limen.errors import LimenError, Unavailable, Untrusted
from limen.services.tokens.endpoint import answer_token
from limen.services.tokens.forms import CLIENT_CREDENTIALS, EXCHANGE, check_known, parse_form
from limen.services.tokens.replies import Asked, OAuthError, Reply, json_reply
from limen.services.tokens.subjects import OWN_LEEWAY_S

if TYPE_CHECKING:
    from limen.core.tokens.verify import VerifiedToken
    from limen.services.tokens.clients import Client, Peer
    from limen.services.tokens.endpoint import Parts
    from limen.services.tokens.state import Rules

METADATA = "/.well-known/oauth-authorization-server"
JWKS = "/jwks"
_METHODS = {
    "/token": "POST", "/introspect": "POST", "/revoke": "POST",
    JWKS: "GET", METADATA: "GET", "/healthz": "GET",
}  # fmt: skip
_INACTIVE = json_reply({"active": False})


async def answer(parts: Parts, asked: Asked, peer: Peer) -> Reply:
    """The answer to any request."""
    path, method = asked.path, asked.method
    wanted = _METHODS.get(path)
    if wanted is None:
        return json_reply({"error": "not_found", "error_description": "there is no such path"}, 404)
    if method != wanted and not (wanted == "GET" and method == "HEAD"):
        said = {"error": "method_not_allowed", "error_description": f"use {wanted}"}
        return json_reply(said, 405)
    match path:
        case "/token":
            return await answer_token(parts, asked, peer)
        case "/introspect" | "/revoke":
            return await _about_a_token(parts, asked, peer)
        case "/jwks":
            return Reply(200, parts.keyring.published().encode(), "application/jwk-set+json")
        case "/healthz":
            return _health(parts)
        case _:
            return json_reply(metadata(parts))


def metadata(parts: Parts) -> dict[str, Any]:
    """RFC 8414, section 2, and RFC 8705 for clients that show a certificate."""
    methods = ["tls_client_auth", "private_key_jwt"]
    algorithms = sorted(DEFAULT)
    auth: dict[str, Any] = {}
    for endpoint in ("token", "introspection", "revocation"):
        auth[f"{endpoint}_endpoint_auth_methods_supported"] = methods
        auth[f"{endpoint}_endpoint_auth_signing_alg_values_supported"] = algorithms
    return {
        "issuer": parts.issuer,
        "token_endpoint": f"{parts.url}/token",
        "introspection_endpoint": f"{parts.url}/introspect",
        "revocation_endpoint": f"{parts.url}/revoke",
        "jwks_uri": f"{parts.url}{JWKS}",
        "grant_types_supported": [EXCHANGE, CLIENT_CREDENTIALS],
        "response_types_supported": [],
        **auth,
    }


def _health(parts: Parts) -> Reply:
    try:
        parts.following.rules.is_revoked({})
    except Unavailable as error:
        return json_reply({"status": error.code}, 503)
    return json_reply({"status": "ok"})


async def _about_a_token(parts: Parts, asked: Asked, peer: Peer) -> Reply:
    try:
        parts.admit(peer)
        form = parse_form(asked.content_type, asked.body)
        check_known(form, "token")
        text = form.need("token")
        rules = parts.following.rules
        client = await parts.client_of(form, peer, rules)
        token = _own(parts, text)
        if asked.path == "/introspect":
            return _introspect(parts, token, client, rules)
        return await _revoke(parts, token, client)
    except OAuthError as error:
        return error.reply()
    except LimenError as error:
        return OAuthError("temporarily_unavailable", error.message, error.code).reply()


def _own(parts: Parts, text: str) -> VerifiedToken | None:
    """A good token of this service; None for anything else."""
    try:
        return parts.subjects.read_own(text, parts.keyring.keys, parts.clock.now_s())
    except Untrusted:
        return None


def _introspect(parts: Parts, token: VerifiedToken | None, client: Client, rules: Rules) -> Reply:
    """RFC 7662, section 2.2. A token that is none of the client's business is not active to it."""
    if token is None or rules.is_revoked(token.claims):
        return _INACTIVE
    mine = {token.claims.get("client_id"), token.subject, *audiences_of(token.claims)}
    if client.name not in mine and not _is_for(parts, token, client, rules):
        return _INACTIVE
    return json_reply({**token.claims, "active": True, "token_type": "Bearer"})


def _is_for(parts: Parts, token: VerifiedToken, client: Client, rules: Rules) -> bool:
    """Whether a policy says that tokens for one of its audiences are the client's to use."""
    return any(
        matches_audience(audience, accepted, wildcards=True)
        for grant in rules.rights.grants.get(client.name, ())
        if parts.issuer in grant.subject_issuers
        for accepted in grant.subject_audiences
        for audience in audiences_of(token.claims)
    )


async def _revoke(parts: Parts, token: VerifiedToken | None, client: Client) -> Reply:
    """RFC 7009: a token that is not good is as good as revoked."""
    if token is None:
        return Reply(200)
    if client.name.removeprefix("client:") != token.claims.get("client_id") and (
        client.name != token.subject
    ):
        raise OAuthError("unauthorized_client", "the token was given to another client")
    jti = str(token.claims.get("jti", ""))
    await parts.link.revoke(parts.issuer, "jti", jti, token.expires_s + OWN_LEEWAY_S)
    parts.following.revoke("jti", jti)
    return Reply(200)
