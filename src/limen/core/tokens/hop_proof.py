"""Hop proofs: this workload, over this connection, sends this token with this request, now.

A JWT that the calling workload signs with the key of its own certificate, the one that its mutual
TLS connection presents. Whoever steals a token and its proof has neither the connection nor the
key: the proof fits one certificate, one callee, one request and one use. Modelled on DPoP (RFC
9449) and the WIMSE workload proof token, whose names `htm`, `htu`, `ath` it uses; unlike DPoP's,
`htu` has the query, and the key is the connection's and never the header's.

The proof says nothing about what the token allows: the receiver verifies the token as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec

from limen.core.tokens.algorithms import ALGORITHMS, is_valid
from limen.core.tokens.claims import check_times, check_types
from limen.core.tokens.reader import read_claims, read_compact
from limen.core.tokens.refusal import refuse
from limen.core.tokens.signing import ALGORITHM, sha256_base64url, sign_token
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.tokens.replay import ReplayMemory

TYP = "limen-hop+jwt"
HEADER = "limen-hop-proof"
"""The request header that carries one."""
LIFETIME_S = 30
LEEWAY_S = 5.0
MAX_JTI_CHARS = 128
_CLAIMS = frozenset(("iss", "aud", "htm", "htu", "ath", "cnf", "jti", "iat", "exp"))


@dataclass(frozen=True, slots=True)
class HopRequest:
    """What a proof is about: one request with one token to one callee (its SPIFFE ID).

    `path` has the query and begins with a slash, the authority has none: so the two are divided in
    one way only. Raises InvalidInput (`hop-request`).
    """

    callee: str
    method: str
    authority: str
    path: str
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        if "/" in self.authority or not self.authority or not self.path.startswith("/"):
            raise InvalidInput(
                "no proof is made for this request: it names no host, or no path",
                code="hop-request",
                hint="a path begins with a slash; OPTIONS * carries no token",
            )

    @property
    def target(self) -> str:
        """`htu`."""
        return f"https://{self.authority.lower()}{self.path}"

    @property
    def token_hash(self) -> str:
        """`ath` (RFC 9449, section 4.2)."""
        return sha256_base64url(self.token.encode())


@dataclass(frozen=True, slots=True)
class Peer:
    """The workload at the other end of a connection, as the finished handshake shows it."""

    spiffe_id: str
    certificate_sha256: str
    key: ec.EllipticCurvePublicKey


def sign_hop_proof(
    request: HopRequest,
    peer: Peer,
    key: ec.EllipticCurvePrivateKey,
    now_s: float,
    jti: str,
) -> str:
    """A proof by `peer`, which is the caller itself. `jti` is never used again.

    `key` belongs to the peer's certificate. The lifetime is `LIFETIME_S`.
    """
    issued_s = math.floor(now_s)
    claims = {
        "iss": peer.spiffe_id,
        "aud": request.callee,
        "htm": request.method,
        "htu": request.target,
        "ath": request.token_hash,
        "cnf": {"x5t#S256": peer.certificate_sha256},
        "jti": jti,
        "iat": issued_s,
        "exp": issued_s + LIFETIME_S,
    }
    return sign_token({"typ": TYP}, claims, key)


def verify_hop_proof(
    proof: str, request: HopRequest, peer: Peer, memory: ReplayMemory, now_s: float
) -> None:
    """Accept a proof once. Raises Untrusted (codes in `refusal`).

    Everything else is judged before the memory is asked, so that a stranger fills no memory.
    """
    jws = read_compact(proof)
    if jws.header != {"alg": ALGORITHM, "typ": TYP}:
        raise refuse("proof-malformed", "its header is not that of a hop proof")
    if not isinstance(peer.key.curve, ec.SECP256R1):
        raise refuse("proof-certificate", "the caller's certificate has no key for it")
    if not is_valid(ALGORITHMS[ALGORITHM], peer.key, jws.signature, jws.signed):
        raise refuse("signature-invalid", "it is not signed with the key of this connection")
    claims = read_claims(jws.payload)
    check_types(claims)
    _check_form(claims)
    if claims["iss"] != peer.spiffe_id or claims["cnf"] != {"x5t#S256": peer.certificate_sha256}:
        raise refuse("proof-certificate", "it is bound to another certificate")
    expires_s = _check_lifetime(claims, now_s)
    made_for = (claims["aud"], claims["htm"], claims["htu"], claims["ath"])
    if made_for != (request.callee, request.method, request.target, request.token_hash):
        raise refuse("proof-request", "it was made for another request")
    if not memory.note(f"{peer.spiffe_id} {claims['jti']}", expires_s + LEEWAY_S, now_s):
        raise refuse("proof-replayed", "it was used before, or the memory for that is full")


def _check_form(claims: Mapping[str, Any]) -> None:
    if claims.keys() != _CLAIMS:
        raise refuse("proof-malformed", "a claim is missing, or there is one more")
    texts = ("aud", "htm", "htu", "ath", "jti")
    if not all(isinstance(claims[name], str) and claims[name] for name in texts):
        raise refuse("proof-malformed", "a claim is not a text")
    if len(claims["jti"]) > MAX_JTI_CHARS:
        raise refuse("proof-malformed", "its jti is too long")


def _check_lifetime(claims: Mapping[str, Any], now_s: float) -> float:
    expires_s = check_times(claims, now_s, LEEWAY_S)
    if not 0 < expires_s - claims["iat"] <= LIFETIME_S:
        raise refuse("proof-lifetime", f"it lives longer than {LIFETIME_S} s")
    return expires_s
