"""The user in a token of an issuer outside, as its TrustedIssuer says to read it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from limen.core.tokens.claims import check_audience, check_times, check_types
from limen.core.tokens.refusal import refuse
from limen.core.tokens.verify import VerifiedToken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.model.token_service import TrustedIssuer

MAX_SUBJECT_CHARS = 255
"""OpenID Connect Core, section 2."""
MAX_CLAIM_CHARS = 4096
UNSTATED_LIFETIME_S = 60.0
"""How long an introspected token is taken to live when its issuer does not say."""
LEEWAY_S = 60.0


@dataclass(frozen=True, slots=True)
class User:
    """Of a verified token: it again, with `sub` and `scope` where they belong; claims to keep."""

    token: VerifiedToken
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False)


def read_user(token: VerifiedToken, issuer: TrustedIssuer) -> User:
    """Whom a verified token is about. Raises Untrusted (`claim-sub`, `subject-other`)."""
    subject = _at(token.claims, issuer.subject_claim)
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_CHARS:
        raise refuse("claim-sub", "it has no subject that is a text of usual length")
    if not subject.isprintable():
        raise refuse("claim-sub", "its subject has characters that cannot be seen")
    if not issuer.accepts_subject(subject):
        raise refuse("subject-other", "its subject may not be known here")
    said = {**token.claims, "scope": _scope(token.claims, issuer.scope_claim)}
    principal = f"{token.issuer}/{subject}"
    kept = {
        one.name: found
        for one in issuer.claims
        if (found := _at(token.claims, one.path)) is not None and _is_small(found)
    }
    return User(replace(token, claims=said, subject=subject, request_principal=principal), kept)


def read_introspected(
    claims: Mapping[str, Any], issuer: TrustedIssuer, now_s: float
) -> VerifiedToken:
    """The token that an issuer calls active (RFC 7662, section 2.2), judged like any other.

    Raises Untrusted: of another issuer, for somebody else, over, not yet valid.
    """
    said = {"exp": now_s + UNSTATED_LIFETIME_S, **claims, "iss": claims.get("iss", issuer.issuer)}
    check_types(said)
    if said["iss"] != issuer.issuer:
        raise refuse("issuer-unknown", "its issuer answers for another one")
    expires_s = check_times(said, now_s, LEEWAY_S)
    if issuer.audiences:
        check_audience(said, issuer.audiences, wildcards=True)
    subject = said.get("sub", "")
    return VerifiedToken({}, said, issuer.issuer, subject, f"{issuer.issuer}/{subject}", expires_s)


def _scope(claims: Mapping[str, Any], path: str) -> str:
    """Scopes as RFC 6749 writes them; a list of texts is read as well."""
    found = _at(claims, path)
    if isinstance(found, list) and all(isinstance(one, str) and " " not in one for one in found):
        return " ".join(found)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise refuse("claim-scope", "its scope is neither a text nor a list of texts")
    return found


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """What stands at `path`: the claim of that very name (with its dots), else the nested one."""
    if path in claims:
        return claims[path]
    here: Any = claims
    for step in path.split("."):
        if not isinstance(here, dict) or step not in here:
            return None
        here = here[step]
    return here


def _is_small(value: object) -> bool:
    return len(repr(value)) <= MAX_CLAIM_CHARS
