"""Whose tokens a mesh's token service accepts, and who may exchange them for what.

A user is the pair of issuer and subject. What the token service calls that user (`sub` of a token
that it signs) is `NAME:SUBJECT`, with the name of the TrustedIssuer: a name holds no colon, so two
pairs never have one text.
"""

from __future__ import annotations

from dataclasses import dataclass

OWN_ISSUER = "mesh"
"""In a TokenExchangePolicy: tokens that this token service has issued itself."""
RESERVED_ISSUERS = frozenset({OWN_ISSUER, "spiffe", "client", "https", "http"})
"""Names that no TrustedIssuer has: other subjects begin so (machines, transactions)."""
OWN_CLAIMS = frozenset(
    (
        "iss", "sub", "sub_id", "aud", "exp", "nbf", "iat", "jti", "client_id", "azp", "scope",
        "act", "may_act", "cnf", "txn", "azd", "rctx", "tctx", "req_wl", "nonce", "sid", "events",
        "call_chain", "prev",
    )
)  # fmt: skip
"""What the token service says itself: no issuer outside writes it."""
DEFAULT_LIFETIME_S = 300
DEFAULT_INTROSPECTION_TIMEOUT_S = 2.0
DEFAULT_CACHE_S = 60
DEFAULT_NEGATIVE_CACHE_S = 5


def user_name(issuer_name: str, subject: str) -> str:
    """The `sub` of a user of the TrustedIssuer `issuer_name`."""
    return f"{issuer_name}:{subject}"


def client_name(client_id: str) -> str:
    """The `sub` of a client that is known by its registered key."""
    return f"client:{client_id}"


@dataclass(frozen=True, slots=True)
class KeyMaterial:
    """Public keys: at most one of `jwks_uri` and `jwks` (JSON text); neither: OIDC discovery.

    `algorithms` empty: what `core/tokens` takes by default.
    """

    jwks_uri: str = ""
    jwks: str = ""
    algorithms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JwtTrust:
    """Signed tokens. `typ` empty: `JWT`, `at+jwt` or none; else exactly this one."""

    keys: KeyMaterial = KeyMaterial()
    typ: str = ""


@dataclass(frozen=True, slots=True)
class SecretName:
    """A `v1` Secret of the mesh."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Introspection:
    """RFC 7662. One of `secret` (entry `client-secret`) and `certificate` (a pair) is given."""

    url: str
    client_id: str
    secret: SecretName | None = None
    certificate: SecretName | None = None
    timeout_s: float = DEFAULT_INTROSPECTION_TIMEOUT_S
    cache_s: int = DEFAULT_CACHE_S
    negative_cache_s: int = DEFAULT_NEGATIVE_CACHE_S


@dataclass(frozen=True, slots=True)
class ClaimSource:
    """The claim `name` of a new token is what stands at `path` (by dots) in the issuer's."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """`jwt` or `introspection` is given, or both.

    `audiences` (`*.example.com` is a pattern) empty: only with introspection, any. `subjects`
    (`prefix*` is a pattern) empty: all.
    """

    issuer: str
    jwt: JwtTrust | None = None
    introspection: Introspection | None = None
    audiences: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    subject_claim: str = "sub"
    scope_claim: str = "scope"
    claims: tuple[ClaimSource, ...] = ()

    def accepts_subject(self, subject: str) -> bool:
        """Whether this user may be known here at all."""
        return not self.subjects or any(
            subject.startswith(one[:-1]) if one.endswith("*") else subject == one
            for one in self.subjects
        )


@dataclass(frozen=True, slots=True)
class ExchangeClient:
    """Who asks: one SPIFFE ID, one account, all with these tags, or a client with its own key."""

    spiffe_id: str = ""
    account: tuple[str, str] | None = None
    """Namespace and service account."""
    tags: tuple[tuple[str, str], ...] = ()
    client_id: str = ""
    keys: KeyMaterial = KeyMaterial()


@dataclass(frozen=True, slots=True)
class SubjectRule:
    """Tokens of the TrustedIssuer `issuer`, or of this service itself (`mesh`).

    They have to be meant for the client itself or for one of `audiences`; empty: for one of those
    that the TrustedIssuer names.
    """

    issuer: str
    audiences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TransactionRights:
    """Members that a client may put into `tctx` (`details`) and `rctx` (`context`)."""

    details: tuple[str, ...] = ()
    context: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenExchangePolicy:
    """Every client of `clients` may exchange tokens of `subjects` for `audiences`.

    `client_credentials`: it may also have tokens for itself. `impersonate`: it is not added to
    those who act. `transactions`: it may begin and renew transactions with the same tokens.
    """

    clients: tuple[ExchangeClient, ...]
    audiences: tuple[str, ...]
    subjects: tuple[SubjectRule, ...] = ()
    scopes: tuple[str, ...] = ()
    lifetime_s: int = DEFAULT_LIFETIME_S
    impersonate: bool = False
    client_credentials: bool = False
    transactions: TransactionRights | None = None
