"""Tokens that a workload signs itself, with the key of its own certificate.

Two ways to know the key, and no third: the chain in `x5c`, verified in full to the mesh's root, its
leaf's SPIFFE ID equal to `iss`; or a key set that the server pushed to this callee for this caller,
found by `iss` and `kid`. A token may carry the previous one in `prev`, as it was: that one has to
be good by itself, meant for the signer, of the same user, with no less scope and no earlier end.
So a chain can be shown to whoever doubts it, and never says more than its first token.

Certificates are another room's: how a chain is verified comes in as an argument.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limen.core.tokens.algorithms import ALGORITHMS, is_valid
from limen.core.tokens.claims import audiences_of, check_audience, check_times, check_types
from limen.core.tokens.jwks import KeySet
from limen.core.tokens.reader import pinned, read_claims, read_compact
from limen.core.tokens.refusal import refuse
from limen.core.tokens.signature import verify_jws
from limen.core.tokens.signing import ALGORITHM, key_id, public_members, sign_token
from limen.core.tokens.verify import VerifiedToken, verify_token
from limen.errors import Untrusted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric import ec

    from limen.core.tokens.reader import Jws
    from limen.core.tokens.verify import IssuerRules

    ChainVerifier = Callable[[Sequence[bytes]], "Signer"]
    """DER certificates, leaf first, to whom they prove. Raises Untrusted."""

TYP = "limen-service+jwt"
MAX_DEPTH = 4
MAX_LIFETIME_S = 300
MAX_CHAIN = 4
LEEWAY_S = 5.0
_ALGORITHMS = frozenset((ALGORITHM,))
_CLAIMS = frozenset(
    ("iss", "sub", "sub_id", "aud", "iat", "exp", "jti", "scope", "prev", "client_id")
)


@dataclass(frozen=True, slots=True)
class Signer:
    """Who a verified certificate chain is: its SPIFFE ID and its key."""

    spiffe_id: str
    key: ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class ServiceRules:
    """What one callee accepts from services.

    `audiences`: the names under which it may be meant. `pushed`: key sets by SPIFFE ID.
    `chains` none: `x5c` is not accepted. `outside`: rules for the token at the bottom of `prev`,
    each without audiences: that it was meant for the signer is checked here.
    """

    audiences: tuple[str, ...]
    pushed: Mapping[str, KeySet] = field(default_factory=dict)
    chains: ChainVerifier | None = None
    outside: tuple[IssuerRules, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceToken:
    """What one workload says, and what it was told: `previous`, none if it speaks for itself."""

    claims: Mapping[str, Any] = field(repr=False)
    issuer: str
    subject: str
    scopes: frozenset[str]
    expires_s: float
    previous: ServiceToken | VerifiedToken | None = None

    @property
    def chain(self) -> tuple[str, ...]:
        """Issuers from the first token to this one."""
        match self.previous:
            case ServiceToken() as before:
                return (*before.chain, self.issuer)
            case VerifiedToken() as before:
                return (before.issuer, self.issuer)
            case None:
                return (self.issuer,)


@dataclass(frozen=True, slots=True)
class Statement:
    """What a service wants to sign. `audience` is the callee; `previous` a compact token or "".

    `subject`, `scopes` and `expires_s` are those of the previous token, the scopes perhaps fewer.
    """

    issuer: str
    subject: str
    audience: str
    expires_s: float
    scopes: frozenset[str] = frozenset()
    subject_id: Mapping[str, str] | None = None
    previous: str = field(default="", repr=False)


def sign_service_token(
    statement: Statement,
    key: ec.EllipticCurvePrivateKey,
    now_s: float,
    jti: str,
    chain: Sequence[bytes] = (),
) -> str:
    """Sign. With `chain` (DER, leaf first) it goes into `x5c`; else the header has a `kid`.

    The lifetime is never over `MAX_LIFETIME_S`.
    """
    issued_s = math.floor(now_s)
    claims: dict[str, Any] = {
        "iss": statement.issuer,
        "sub": statement.subject,
        "aud": statement.audience,
        "scope": " ".join(sorted(statement.scopes)),
        "iat": issued_s,
        "exp": math.floor(min(statement.expires_s, issued_s + MAX_LIFETIME_S)),
        "jti": jti,
    }
    if statement.subject_id is not None:
        claims["sub_id"] = dict(statement.subject_id)
    if statement.previous:
        claims["prev"] = statement.previous
    header: dict[str, Any] = {"typ": TYP}
    if chain:
        header["x5c"] = [base64.b64encode(one).decode("ascii") for one in chain]
    else:
        header["kid"] = key_id(key.public_key())
    return sign_token(header, claims, key)


def verify_service_token(
    token: str | bytes, rules: ServiceRules, caller: str, now_s: float
) -> ServiceToken:
    """Verify a token that `caller` presents over its own connection. Raises Untrusted (`refusal`).

    The signer has to be the caller: a token that a third workload got hold of is refused.
    """
    found = _verify(token, rules, now_s, 1)
    if found.issuer != caller:
        raise refuse("service-issuer", "another workload than the caller signed it")
    check_audience(found.claims, rules.audiences, wildcards=False)
    return found


def caller_jwks(keys: Iterable[ec.EllipticCurvePublicKey]) -> str:
    """The key set of one caller (its instances' keys), as it is pushed to its callees.

    Each key says its `kid`, `alg` and `use`. The text depends on nothing but the keys.
    """
    members = {
        key_id(key): {**public_members(key), "alg": ALGORITHM, "use": "sig", "kid": key_id(key)}
        for key in keys
    }
    entries = [members[kid] for kid in sorted(members)]
    return json.dumps({"keys": entries}, sort_keys=True, separators=(",", ":"))


def _verify(token: str | bytes, rules: ServiceRules, now_s: float, depth: int) -> ServiceToken:
    if depth > MAX_DEPTH:
        raise refuse("service-depth", f"it is nested deeper than {MAX_DEPTH}")
    jws = read_compact(token)
    claims = read_claims(jws.payload)
    check_types(claims)
    _check_signer(jws, claims["iss"], rules)
    _check_form(claims)
    expires_s = check_times(claims, now_s, LEEWAY_S)
    if not 0 < expires_s - claims["iat"] <= MAX_LIFETIME_S:
        raise refuse("service-malformed", f"it lives longer than {MAX_LIFETIME_S} s")
    scopes = _scopes(claims)
    previous = _previous(claims, rules, now_s, depth)
    if previous is None:
        if claims["sub"] != claims["iss"]:
            raise refuse("service-subject", "it names a user and carries no token of that user")
    else:
        _check_continues(claims, scopes, expires_s, previous)
    return ServiceToken(claims, claims["iss"], claims["sub"], scopes, expires_s, previous)


def _check_signer(jws: Jws, issuer: str, rules: ServiceRules) -> None:
    """Whether the workload `issuer` signed it, by its chain or by a key that was pushed."""
    if jws.header.get("typ") != TYP:
        raise refuse("header-typ", "it is a token of another kind")
    names = jws.header.keys()
    if names == {"alg", "typ", "x5c"} and rules.chains is not None:
        signer = _signer(jws.header["x5c"], rules.chains)
        if signer.spiffe_id != issuer:
            raise refuse("service-issuer", "its certificate is not of the workload that it names")
        algorithm = pinned(jws, _ALGORITHMS)
        if not is_valid(ALGORITHMS[algorithm.name], signer.key, jws.signature, jws.signed):
            raise refuse("signature-invalid", "its signature is not of its certificate's key")
    elif names == {"alg", "typ", "kid"}:
        verify_jws(jws, rules.pushed.get(issuer, KeySet()), _ALGORITHMS)
    else:
        raise refuse("service-malformed", "its header is not that of a service's token")


def _signer(x5c: object, chains: ChainVerifier) -> Signer:
    """RFC 7515, section 4.1.6: standard base64, leaf first."""
    if not isinstance(x5c, list) or not 0 < len(x5c) <= MAX_CHAIN:
        raise refuse("service-malformed", f"its x5c is not 1 to {MAX_CHAIN} certificates")
    certificates = [_decode(one) for one in x5c]
    try:
        return chains(certificates)
    except Untrusted as error:
        raise refuse("service-chain", error.message) from None


def _decode(text: object) -> bytes:
    try:
        data = base64.b64decode(text if isinstance(text, str) else "", validate=True)
    except ValueError:
        data = b""
    if not data or base64.b64encode(data).decode("ascii") != text:
        raise refuse("service-malformed", "its x5c is not base64")
    return data


def _check_form(claims: Mapping[str, Any]) -> None:
    if not claims.keys() <= _CLAIMS:
        raise refuse("service-malformed", "it has a claim that is not known")
    if not all(isinstance(claims.get(name), str) and claims[name] for name in ("sub", "jti")):
        raise refuse("service-malformed", "it has no sub or no jti")
    if len(audiences_of(claims)) != 1:
        raise refuse("claim-aud", "its aud is not one callee")
    if "iat" not in claims:
        raise refuse("claim-iat", "it has no iat")


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    found = claims.get("scope", "")
    if not isinstance(found, str):
        raise refuse("service-malformed", "its scope is not a text")
    return frozenset(found.split(" ")) - {""}


def _previous(
    claims: Mapping[str, Any], rules: ServiceRules, now_s: float, depth: int
) -> ServiceToken | VerifiedToken | None:
    """The token that the signer was given, verified as if the signer did it. None: there is none.

    Its kind decides who judges it; a kind can be lied about, but only to a stricter judge.
    """
    if "prev" not in claims:
        return None
    inner = claims["prev"]
    if not isinstance(inner, str):
        raise refuse("service-malformed", "its prev is not a text")
    if read_compact(inner).header.get("typ") == TYP:
        return _verify(inner, rules, now_s, depth + 1)
    if depth + 1 > MAX_DEPTH:
        raise refuse("service-depth", f"it is nested deeper than {MAX_DEPTH}")
    return verify_token(inner, rules.outside, now_s)


def _check_continues(
    claims: Mapping[str, Any],
    scopes: frozenset[str],
    expires_s: float,
    previous: ServiceToken | VerifiedToken,
) -> None:
    """The law of a nested token: same user, meant for the signer, no more scope, no later end."""
    before = previous.claims
    if claims["sub"] != before.get("sub") or claims.get("sub_id") != before.get("sub_id"):
        raise refuse("service-subject", "it names another user than the token that it carries")
    if not scopes <= _scopes(before):
        raise refuse("service-subject", "it has more scope than the token that it carries")
    if claims["iss"] not in audiences_of(before):
        raise refuse("service-audience", "the token that it carries was meant for somebody else")
    if expires_s > previous.expires_s:
        raise refuse("service-malformed", "it outlives the token that it carries")
