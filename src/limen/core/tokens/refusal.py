"""Why a token is refused: one stable code per defect.

The codes are for logs, tests and `explain`; the caller only learns that the token is not accepted.
No message repeats the token or a claim's value.

| code | the token |
|---|---|
| `token-too-large` | is longer than 16 KiB, or one of its parts is beyond its limit |
| `token-not-compact` | is not the three parts of JWS compact serialisation |
| `token-detached` | has no payload: the claims are elsewhere, or nowhere |
| `token-encrypted` | is a JWE (five parts, or `enc` in the header): not supported |
| `token-encoding` | has a part that is not canonical base64url |
| `header-malformed` | has a header that is not a strict JSON object |
| `header-kid` | has a `kid` that is not a text of 1 to 256 characters |
| `header-crit` | has `crit`: no critical extension is understood |
| `header-b64` | has a `b64` other than true: its payload is not encoded |
| `header-zip` | has `zip`: compressed content is not read |
| `header-typ` | is of another kind than this issuer's tokens are |
| `alg-malformed` | has no `alg`, or one that is not a text |
| `alg-none` | has `alg` `none`, in some spelling |
| `alg-not-pinned` | has an `alg` that is not allowed for this issuer |
| `key-unknown` | names no key that its issuer has for this `alg` |
| `signature-invalid` | is signed by none of the keys that fit |
| `claims-malformed` | has a payload that is not a strict JSON object |
| `claim-iss` | has no `iss`, or one that is not a text |
| `issuer-unknown` | is of an issuer that is not accepted here |
| `claim-sub` | has a `sub` that is not a text, or none where one is needed |
| `claim-aud` | has an `aud` that is neither a text nor a list of texts |
| `audience-other` | is meant for somebody else |
| `claim-jti` | has a `jti` that is not a text |
| `claim-exp` | has no `exp`, or one that is not a time |
| `token-expired` | has expired |
| `claim-nbf` | has an `nbf` that is not a time |
| `token-early` | is not valid yet |
| `claim-iat` | has an `iat` that is not a time |
| `token-future` | says that it was issued in the future |
| `claim-txn` | is a transaction token without what those must say |
| `proof-malformed` | is a hop proof without what those must say, or with more in its header |
| `proof-certificate` | is bound to another certificate than this connection's |
| `proof-request` | was made for another request, another callee or another token |
| `proof-lifetime` | is a hop proof that lives longer than one may |
| `proof-replayed` | was used before, or nobody can remember whether it was |
| `service-malformed` | is a service's token that says too little, too much or too long |
| `service-chain` | has a certificate chain that does not lead to the mesh's root |
| `service-issuer` | is signed by another workload than the one it names, or than the caller |
| `service-subject` | names another user, or more scope, than the token that it carries |
| `service-audience` | carries a token that was not meant for its signer |
| `service-depth` | carries tokens within tokens beyond the limit |
"""

from __future__ import annotations

from limen.errors import Unauthenticated

HINTS = {
    "token-encrypted": "have the issuer sign the token and not encrypt it",
    "alg-not-pinned": "allow this algorithm for the issuer, or have the issuer sign with another",
    "key-unknown": "look whether the issuer's key set is up to date and its keys are fit",
    "issuer-unknown": "name this issuer in a RequestAuthentication or TrustedIssuer",
    "audience-other": "ask the issuer for a token that is meant for this service",
    "token-expired": "ask for a new token; if it is new, compare the clocks",
    "token-early": "compare the clocks",
    "token-future": "compare the clocks",
}


def refuse(code: str, why: str) -> Unauthenticated:
    """The error for a token with this defect. `why` holds nothing of the token."""
    return Unauthenticated(f"the token is not accepted: {why}", code=code, hint=HINTS.get(code, ""))
