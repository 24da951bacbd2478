"""`limen.dev/v1` TrustedIssuer and TokenExchangePolicy: whose tokens count, who exchanges them.

Sources: RFC 7519, RFC 7523, RFC 7662, RFC 8693, RFC 8705; the pair of issuer and subject as in
OpenID Connect Core, section 5.7.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.duration import parse_duration
from limen.core.dialects.fields import obj, objects, text, texts
from limen.core.dialects.istio_jwks import MAX_BYTES as MAX_JWKS_BYTES
from limen.core.dialects.istio_jwks import check_jwks
from limen.core.dialects.istio_jwt import check_words
from limen.core.dialects.metadata import LABEL_KEY, LABEL_VALUE, NAME
from limen.core.dialects.schema import (
    Choice,
    Duration,
    Field,
    Flag,
    ListOf,
    MapOf,
    Struct,
    Text,
)
from limen.core.dialects.tags import to_tags
from limen.core.model.names import parse_spiffe_id
from limen.core.model.token_service import (
    DEFAULT_CACHE_S,
    DEFAULT_INTROSPECTION_TIMEOUT_S,
    DEFAULT_LIFETIME_S,
    DEFAULT_NEGATIVE_CACHE_S,
    OWN_CLAIMS,
    OWN_ISSUER,
    RESERVED_ISSUERS,
    ClaimSource,
    ExchangeClient,
    Introspection,
    JwtTrust,
    KeyMaterial,
    SecretName,
    SubjectRule,
    TokenExchangePolicy,
    TransactionRights,
    TrustedIssuer,
)
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from limen.core.dialects.document import JsonValue

ALGORITHMS = (
    "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA",
)  # fmt: skip
_SYMMETRIC = dict.fromkeys(
    ("HS256", "HS384", "HS512"), "whoever verifies with a shared secret can sign with it"
)
_CLAIM = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_PATH = re.compile(r"[!-~]+(?: +[!-~]+)*", re.ASCII)
_SCOPE = re.compile(r"[!#-\[\]-~]+", re.ASCII)
_CLIENT_ID = re.compile(r"[!-9;-~]+", re.ASCII)
_ADDRESS_HINT = "write https://HOST/PATH, without user, password and #"


def _check_https(value: str) -> None:
    """The message does not repeat the address: there may be a password in it."""
    try:
        parts = urlsplit(value)
        good = (
            re.fullmatch(r"[!-~]+", value) is not None
            and parts.scheme == "https"
            and bool(parts.hostname)
            and parts.port != 0
            and "@" not in parts.netloc
            and "\\" not in value
            and "#" not in value
        )
    except ValueError:
        good = False
    if not good:
        raise InvalidInput(
            "this is not an https address that can be asked", code="bad-value", hint=_ADDRESS_HINT
        )


def check_audience(value: str) -> None:
    """An audience, or `*.example.com`. Raises InvalidInput."""
    check_words(value)
    if "*" in value.removeprefix("*."):
        raise InvalidInput(
            f"{show(value)} is no audience",
            code="bad-wildcard",
            hint="write it in full, or *.example.com for every name below",
        )


def _check_subject(value: str) -> None:
    check_words(value)
    if "*" in value[:-1]:
        raise InvalidInput(
            f"{show(value)} is no subject", code="bad-wildcard", hint="write it in full, or prefix*"
        )


def _check_new_claim(value: str) -> None:
    if not _CLAIM.fullmatch(value) or value in OWN_CLAIMS:
        raise InvalidInput(
            f"no issuer may write the claim {show(value)}",
            code="bad-value",
            hint="letters, digits, _ and -, and none of the claims that the token service writes",
        )


AUDIENCES = ListOf(Text("an audience", parse=check_audience), maximum=100)
SCOPES = ListOf(Text("a scope", _SCOPE, max_length=256), maximum=100)
KEY_FIELDS = {
    "jwksUri": Field(Text("an address", max_length=2048, parse=_check_https), note="https"),
    "jwks": Field(
        Text("a key set", max_length=MAX_JWKS_BYTES, parse=check_jwks), note="public keys only"
    ),
    "algorithms": Field(
        ListOf(Choice(ALGORITHMS, _SYMMETRIC), maximum=10), note="all but EdDSA if absent"
    ),
}


def _check_one_source(spec: JsonObject, path: str, out: Findings) -> None:
    if "jwks" in spec and "jwksUri" in spec:
        message = "jwks and jwksUri cannot be used together"
        out.error("conflicting-fields", message, child(path, "jwks"), "keep jwksUri")


_JWT = Struct(
    {
        **KEY_FIELDS,
        "typ": Field(
            Text("a type", re.compile(r"[A-Za-z0-9.+-]+", re.ASCII), max_length=64),
            note="exactly this one in the header; JWT, at+jwt or none if absent",
        ),
    },
    (_check_one_source,),
)
_SECRET_REF = Struct(
    {
        "name": Field(NAME, required=True),
        "namespace": Field(NAME, note="`default` if absent"),
    }
)


def _check_credential(spec: JsonObject, path: str, out: Findings) -> None:
    given = [name for name in ("clientSecretRef", "clientCertificateRef") if name in spec]
    if len(given) != 1:
        out.error(
            "conflicting-fields" if given else "missing-field",
            "the provider has to know who asks: by a secret or by a certificate",
            path,
            "write clientSecretRef or clientCertificateRef",
        )


_INTROSPECTION = Struct(
    {
        "url": Field(
            Text("an address", max_length=2048, parse=_check_https),
            required=True,
            note="https, of RFC 7662",
        ),
        "clientId": Field(Text("a client", parse=check_words, max_length=255), required=True),
        "clientSecretRef": Field(
            _SECRET_REF, note="a Secret with the entry client-secret (client_secret_basic)"
        ),
        "clientCertificateRef": Field(
            _SECRET_REF, note="a Secret with tls.crt and tls.key (tls_client_auth, RFC 8705)"
        ),
        "timeout": Field(
            Duration(0.05, 10), note=f"{DEFAULT_INTROSPECTION_TIMEOUT_S:g}s if absent"
        ),
        "cacheTtl": Field(
            Duration(0, 300), note=f"never past exp; {DEFAULT_CACHE_S}s if absent, 0s: not kept"
        ),
        "negativeCacheTtl": Field(
            Duration(0, 60), note=f"of inactive tokens; {DEFAULT_NEGATIVE_CACHE_S}s if absent"
        ),
    },
    (_check_credential,),
)


def _check_issuer(spec: JsonObject, path: str, out: Findings) -> None:
    if "jwt" not in spec and "introspection" not in spec:
        message = "nothing says how tokens of this issuer are judged"
        out.error("missing-field", message, path, "write jwt: {}, or introspection")
    if "jwt" in spec and "audiences" not in spec:
        message = "the field audiences is missing: a token for anybody would be a token for us"
        out.error("missing-field", message, path, "write for whom this issuer's tokens are")
    keys = obj(spec, "jwt")
    if "jwt" in spec and "jwks" not in keys and "jwksUri" not in keys:
        try:
            _check_https(text(spec, "issuer"))
        except InvalidInput:
            out.error(
                "missing-field",
                "there are no keys, and the issuer is no address to ask for them",
                child(path, "jwt"),
                "write jwksUri, or jwks",
            )


TRUSTED_ISSUER = Struct(
    {
        "issuer": Field(
            Text("an issuer", max_length=2048, parse=check_words),
            required=True,
            note="compared exactly with the claim iss",
        ),
        "jwt": Field(_JWT, note="without keys they are found through the issuer (OpenID)"),
        "introspection": Field(_INTROSPECTION, note="for opaque tokens"),
        "audiences": Field(
            AUDIENCES,
            note="one of them must be in aud; needed with jwt, any if absent beside introspection",
        ),
        "subjects": Field(
            ListOf(Text("a subject", parse=_check_subject), maximum=1000),
            note="who may be known here, `prefix*` too; all if absent",
        ),
        "subjectClaim": Field(Text("a claim", _PATH, max_length=128), note="sub if absent"),
        "scopeClaim": Field(Text("a claim", _PATH, max_length=128), note="scope if absent"),
        "claims": Field(
            MapOf(
                Text("a claim", max_length=64, parse=_check_new_claim),
                Text("a claim", _PATH, max_length=256),
            ),
            note="new name: where it stands in the issuer's token, nested ones with a dot",
        ),
    },
    (_check_issuer,),
)


def _check_name(document: JsonObject, path: str, out: Findings) -> None:
    name = text(obj(document, "metadata"), "name")
    if name in RESERVED_ISSUERS:
        out.error(
            "bad-value",
            f"no TrustedIssuer is called {name}: other subjects begin so",
            child(child(path, "metadata"), "name"),
            "choose another name",
        )


TRUSTED_ISSUER_RULES = (_check_name,)


def _check_client(spec: JsonObject, path: str, out: Findings) -> None:
    ways = ("spiffeId", "serviceAccount", "tags", "clientId")
    given = [name for name in ways if name in spec]
    if len(given) != 1:
        out.error(
            "conflicting-fields" if given else "missing-field",
            f"a client is named in one way: {', '.join(ways)}",
            path,
            "write one of them; further clients are further entries",
        )
    if "namespace" in spec and "serviceAccount" not in spec:
        message = "namespace stands for serviceAccount only"
        out.error("conflicting-fields", message, child(path, "namespace"), "remove it")
    keyed = [name for name in KEY_FIELDS if name in spec]
    if keyed and "clientId" not in spec:
        message = f"{keyed[0]} stands for clientId only"
        out.error("conflicting-fields", message, child(path, keyed[0]), "remove it")
    if "clientId" in spec and not {"jwks", "jwksUri"} & spec.keys():
        message = "a client that is no workload needs its public keys"
        out.error("missing-field", message, path, "write jwks or jwksUri")
    _check_one_source(spec, path, out)


_CLIENT = Struct(
    {
        "spiffeId": Field(Text("a SPIFFE ID", max_length=2048, parse=parse_spiffe_id)),
        "serviceAccount": Field(NAME),
        "namespace": Field(NAME, note="of serviceAccount; the policy's own if absent"),
        "tags": Field(MapOf(LABEL_KEY, LABEL_VALUE), note="registered ones; all must match"),
        "clientId": Field(
            Text("a client", _CLIENT_ID, max_length=255),
            note="known by private_key_jwt (RFC 7523), outside the mesh",
        ),
        **KEY_FIELDS,
    },
    (_check_client,),
)
_SUBJECT = Struct(
    {
        "issuer": Field(
            NAME,
            required=True,
            note=f"a TrustedIssuer, or `{OWN_ISSUER}`: the token service's own tokens",
        ),
        "audiences": Field(
            AUDIENCES,
            note="for whom they may be, beside the client itself; the TrustedIssuer's if absent",
        ),
    }
)


def _check_policy(spec: JsonObject, path: str, out: Findings) -> None:
    if "subjects" not in spec and spec.get("clientCredentials") is not True:
        message = "this policy lets nobody do anything"
        out.error("missing-field", message, path, "write subjects, or clientCredentials: true")
    seen: set[str] = set()
    for index, subject in enumerate(objects(spec, "subjects")):
        name = text(subject, "issuer")
        if name in seen:
            place = child(child(path, "subjects"), index)
            out.error("duplicate-name", f"the issuer {name} stands twice", place, "join them")
        seen.add(name)


_MEMBERS = ListOf(Text("a member's name", _CLAIM), maximum=100)
_TRANSACTIONS = Struct(
    {
        "details": Field(_MEMBERS, note="what request_details may hold; nothing if absent"),
        "context": Field(_MEMBERS, note="what request_context may hold; nothing if absent"),
    }
)
TOKEN_EXCHANGE_POLICY = Struct(
    {
        "from": Field(ListOf(_CLIENT, maximum=100), required=True, note="who may ask"),
        "subjects": Field(ListOf(_SUBJECT, maximum=100), note="whose tokens may be exchanged"),
        "audiences": Field(AUDIENCES, required=True, note="for whom new tokens may be"),
        "scopes": Field(
            SCOPES, note="at most these, and at most the subject token's; none if absent"
        ),
        "lifetime": Field(Duration(10, 3600), note=f"{DEFAULT_LIFETIME_S}s if absent"),
        "impersonate": Field(
            Flag(), note="the client does not appear in act; false if absent (delegation)"
        ),
        "clientCredentials": Field(
            Flag(), note="it may have tokens for itself too; false if absent"
        ),
        "transactions": Field(
            _TRANSACTIONS, note="it may begin and renew transactions with these subjects' tokens"
        ),
    },
    (_check_policy,),
)


def to_trusted_issuer(spec: JsonObject) -> TrustedIssuer:
    """A checked spec."""
    claims = obj(spec, "claims")
    return TrustedIssuer(
        issuer=text(spec, "issuer"),
        jwt=JwtTrust(_to_keys(obj(spec, "jwt")), text(obj(spec, "jwt"), "typ"))
        if "jwt" in spec
        else None,
        introspection=_to_introspection(obj(spec, "introspection"))
        if "introspection" in spec
        else None,
        audiences=texts(spec, "audiences"),
        subjects=texts(spec, "subjects"),
        subject_claim=text(spec, "subjectClaim", "sub"),
        scope_claim=text(spec, "scopeClaim", "scope"),
        claims=tuple(ClaimSource(name, text(claims, name)) for name in sorted(claims)),
    )


def _to_introspection(spec: JsonObject) -> Introspection:
    return Introspection(
        url=text(spec, "url"),
        client_id=text(spec, "clientId"),
        secret=_to_secret(spec, "clientSecretRef"),
        certificate=_to_secret(spec, "clientCertificateRef"),
        timeout_s=parse_duration(text(spec, "timeout", f"{DEFAULT_INTROSPECTION_TIMEOUT_S:g}s")),
        cache_s=_seconds(spec.get("cacheTtl"), DEFAULT_CACHE_S),
        negative_cache_s=_seconds(spec.get("negativeCacheTtl"), DEFAULT_NEGATIVE_CACHE_S),
    )


def to_token_exchange_policy(
    namespace: str, _metadata: JsonObject, spec: JsonObject
) -> TokenExchangePolicy:
    """A checked spec of a document in `namespace`."""
    return TokenExchangePolicy(
        clients=tuple(_to_client(one, namespace) for one in objects(spec, "from")),
        audiences=texts(spec, "audiences"),
        subjects=tuple(
            SubjectRule(text(one, "issuer"), texts(one, "audiences"))
            for one in objects(spec, "subjects")
        ),
        scopes=texts(spec, "scopes"),
        lifetime_s=_seconds(spec.get("lifetime"), DEFAULT_LIFETIME_S),
        impersonate=spec.get("impersonate") is True,
        client_credentials=spec.get("clientCredentials") is True,
        transactions=TransactionRights(
            texts(obj(spec, "transactions"), "details"), texts(obj(spec, "transactions"), "context")
        )
        if "transactions" in spec
        else None,
    )


def _to_client(spec: JsonObject, namespace: str) -> ExchangeClient:
    account = None
    if "serviceAccount" in spec:
        account = (text(spec, "namespace", namespace), text(spec, "serviceAccount"))
    return ExchangeClient(
        spiffe_id=text(spec, "spiffeId"),
        account=account,
        tags=to_tags(obj(spec, "tags")),
        client_id=text(spec, "clientId"),
        keys=_to_keys(spec),
    )


def _to_keys(spec: JsonObject) -> KeyMaterial:
    return KeyMaterial(text(spec, "jwksUri"), text(spec, "jwks"), texts(spec, "algorithms"))


def _to_secret(spec: JsonObject, name: str) -> SecretName | None:
    if name not in spec:
        return None
    ref = obj(spec, name)
    return SecretName(text(ref, "namespace", "default"), text(ref, "name"))


def _seconds(value: JsonValue, default: int) -> int:
    return int(parse_duration(value)) if isinstance(value, str) else default
