"""Istio's RequestAuthentication: schema and conversion.

Source: istio/api `security/v1/request_authentication.proto` and `jwt.proto`, istio/istio
`pkg/config/validation` validateJwtRule, `pilot/pkg/security/authn/policy_applier.go`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.duration import parse_duration
from limen.core.dialects.fields import obj, objects, text, texts
from limen.core.dialects.istio import (
    INSECURE_JWKS,
    SCOPE,
    TOKEN_REQUIRED,
    annotations_rule,
    check_scope,
    is_on,
    to_scope,
)
from limen.core.dialects.istio_jwks import MAX_BYTES as MAX_JWKS_BYTES
from limen.core.dialects.istio_jwks import check_jwks
from limen.core.dialects.schema import Duration, Field, Flag, ListOf, Refused, Struct, Text
from limen.core.model.request_authentication import (
    ClaimHeader,
    JwtRule,
    RequestAuthentication,
    TokenHeader,
)
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

ANNOTATIONS = {
    TOKEN_REQUIRED: '"true": a request without a token gets 401 (Istio lets it pass)',
    INSECURE_JWKS: '"true": keys may be fetched without TLS, from http addresses',
}

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^`|~-]+", re.ASCII)
_INTERNAL = re.compile(
    r"host|connection|keep-alive|te|trailer|transfer-encoding|upgrade|content-.*|expect|date|via"
    r"|authorization|proxy-.*|cookie|forwarded|x-forwarded-.*|x-real-ip|true-client-ip|client-cert.*"
    r"|x-envoy-.*|x-istio-.*|x-limen-.*|x-request-id|x-b3-.*|b3|traceparent|tracestate|baggage"
    r"|grpc-.*|sec-.*|access-control-.*|origin",
    re.ASCII,
)
"""Headers that carry identity, framing, routing or tracing: a token must not write them."""


def _check_header(name: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise InvalidInput(
            f"{show(name)} is not a header's name",
            code="bad-value",
            hint="use letters, digits and '-'; names with '_' are refused by the proxies",
        )


def _check_output(name: str) -> None:
    _check_header(name)
    if _INTERNAL.fullmatch(name.lower()):
        raise InvalidInput(
            f"a token's claims may not be written to {show(name)}",
            code="unsafe-header",
            hint="choose a name of your own, like x-jwt-sub",
        )


def _check_parameter(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9._~-]+", name, re.ASCII):
        raise InvalidInput(
            f"{show(name)} is not the name of a parameter",
            code="bad-value",
            hint="use letters, digits and . _ ~ -",
        )


def _check_cookie(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name, re.ASCII):
        raise InvalidInput(
            f"{show(name)} is not the name of a cookie",
            code="bad-value",
            hint="use letters, digits and . _ -",
        )


def check_words(value: str) -> None:
    """Raises InvalidInput unless `value` can be seen as it is."""
    if not value.isprintable() or value != value.strip():
        raise InvalidInput(
            f"{show(value)} has blanks around it or characters that cannot be seen",
            code="bad-value",
            hint="write it as the token has it",
        )


def _check_uri(value: str) -> None:
    """An http or https address that names a host and nothing secret.

    Raises InvalidInput (code `bad-value`), which does not repeat it: there may be a password in it.
    """
    try:
        parts = urlsplit(value)
        good = (
            re.fullmatch(r"[!-~]+", value) is not None
            and parts.scheme in ("https", "http")
            and bool(parts.hostname)
            and parts.port != 0
            and "@" not in parts.netloc
            and "\\" not in value
            and not parts.fragment
        )
    except ValueError:
        good = False
    if not good:
        raise InvalidInput(
            "this is not an address that keys can be fetched from",
            code="bad-value",
            hint="write https://HOST/PATH, without user, password and #",
        )


_FROM_HEADER = Struct(
    {
        "name": Field(Text("a header's name", parse=_check_header), required=True),
        "prefix": Field(
            Text("a prefix", re.compile(r"[!-~ ]+"), max_length=100),
            note='what stands before the token, with its blank: "Bearer "',
        ),
    }
)
_OUTPUT = Text("a header's name", max_length=128, parse=_check_output)
_CLAIM_TO_HEADER = Struct(
    {
        "header": Field(_OUTPUT, required=True),
        "claim": Field(
            Text("a claim", parse=check_words), required=True, note="nested ones with a dot"
        ),
    }
)


def _locations(rule: JsonObject) -> Iterator[tuple[str, tuple[str, str]]]:
    """Path below the rule and what identifies it, of each place where a token may stand."""
    for index, header in enumerate(objects(rule, "fromHeaders")):
        name = f"{text(header, 'name').lower()} {text(header, 'prefix')}"
        yield f"/fromHeaders/{index}", ("header", name)
    for field in ("fromParams", "fromCookies"):
        for index, name in enumerate(texts(rule, field)):
            yield f"/{field}/{index}", (field, name)


def _check_rule(rule: JsonObject, path: str, out: Findings) -> None:
    if "jwks" in rule and "jwksUri" in rule:
        out.error(
            "conflicting-fields",
            "jwks and jwksUri cannot be used together",
            child(path, "jwks"),
            "keep jwksUri, unless the keys never change",
        )
    if "jwks" not in rule and "jwksUri" not in rule:
        _check_discovery(text(rule, "issuer"), path, out)
    seen: set[tuple[str, str]] = set()
    for place, location in _locations(rule):
        if location in seen:
            out.error("duplicate-name", "this place stands twice", path + place, "keep one")
        seen.add(location)
    _check_outputs(rule, path, out)


def _check_discovery(issuer: str, path: str, out: Findings) -> None:
    """Without keys and without their address, the issuer's own address must give them."""
    try:
        _check_uri(issuer)
    except InvalidInput:
        out.error(
            "missing-field",
            "there are no keys, and the issuer is no address to ask for them",
            path,
            "write jwksUri, or jwks",
        )


def _check_outputs(rule: JsonObject, path: str, out: Findings) -> None:
    seen = {text(rule, "outputPayloadToHeader").lower()}
    for index, output in enumerate(objects(rule, "outputClaimToHeaders")):
        header = text(output, "header").lower()
        if header in seen:
            place = child(child(child(path, "outputClaimToHeaders"), index), "header")
            message = f"two outputs write the header {show(header)}"
            out.error("duplicate-name", message, place, "choose another name")
        seen.add(header)


JWT_RULE = Struct(
    {
        "issuer": Field(
            Text("an issuer", max_length=2048, parse=check_words),
            required=True,
            note="compared exactly with the claim iss",
        ),
        "audiences": Field(
            ListOf(Text("an audience", parse=check_words), maximum=100),
            note="one of them must be in aud; any if absent",
        ),
        "jwksUri": Field(
            Text("an address", max_length=2048, parse=_check_uri),
            note=f"https, or http with the annotation {INSECURE_JWKS}; "
            "without it and jwks, found through the issuer (OpenID discovery)",
        ),
        "jwks": Field(
            Text("a key set", max_length=MAX_JWKS_BYTES, parse=check_jwks),
            note="strict JSON, public keys only",
        ),
        "fromHeaders": Field(
            ListOf(_FROM_HEADER, maximum=20),
            note="places that are named replace Authorization: Bearer and ?access_token=",
        ),
        "fromParams": Field(ListOf(Text("a parameter", parse=_check_parameter), maximum=20)),
        "fromCookies": Field(ListOf(Text("a cookie", parse=_check_cookie), maximum=20)),
        "outputPayloadToHeader": Field(
            _OUTPUT, note="base64url of the claims; not a header of identity, framing or routing"
        ),
        "outputClaimToHeaders": Field(ListOf(_CLAIM_TO_HEADER, maximum=100)),
        "forwardOriginalToken": Field(Flag(), note="the application gets the token; no if absent"),
        "timeout": Field(Duration(0.001, 60), note="for fetching keys; 5s if absent"),
        "spaceDelimitedClaims": Field(
            ListOf(Text("a claim", parse=check_words), maximum=100),
            note="claims that are lists of words, as scope and permission always are",
        ),
        "failureMode": Field(
            Refused(f"an invalid token is always refused; to require one: {TOKEN_REQUIRED}")
        ),
    },
    (_check_rule,),
)


def _check_spec(spec: JsonObject, path: str, out: Findings) -> None:
    check_scope(spec, path, out)
    rules = objects(spec, "jwtRules")
    if not rules:
        out.warn("no-effect", "without jwtRules no token is read", path, "name an issuer")
    seen: set[str] = set()
    for index, rule in enumerate(rules):
        issuer = text(rule, "issuer")
        if issuer in seen:
            out.warn(
                "issuer-twice",
                f"two rules have the issuer {show(issuer)}; a token of it passes if one accepts it",
                child(child(path, "jwtRules"), index),
                "join them, unless they differ on purpose",
            )
        seen.add(issuer)


def _check_transport(document: JsonObject, path: str, out: Findings) -> None:
    """Keys come by TLS, unless the document says otherwise."""
    if is_on(obj(document, "metadata"), INSECURE_JWKS):
        return
    rules = objects(obj(document, "spec"), "jwtRules")
    for index, rule in enumerate(rules):
        address = text(rule, "jwksUri")
        field = "jwksUri"
        if not address and "jwks" not in rule:
            address, field = text(rule, "issuer"), "issuer"
        if urlsplit(address).scheme == "http":
            place = child(child(child(child(path, "spec"), "jwtRules"), index), field)
            out.error(
                "insecure-jwks-uri",
                "keys fetched without TLS could be anybody's",
                place,
                f'use https, or set the annotation {INSECURE_JWKS}: "true"',
            )


SPEC = Struct(
    {**SCOPE, "jwtRules": Field(ListOf(JWT_RULE, maximum=100), note="a token may satisfy any")},
    (_check_spec,),
)
RULES = (annotations_rule(frozenset(ANNOTATIONS)), _check_transport)


def to_request_authentication(
    namespace: str, metadata: JsonObject, spec: JsonObject
) -> RequestAuthentication:
    """A checked document of `namespace`."""
    return RequestAuthentication(
        scope=to_scope(namespace, spec),
        rules=tuple(_to_rule(rule) for rule in objects(spec, "jwtRules")),
        required=is_on(metadata, TOKEN_REQUIRED),
    )


def _to_rule(rule: JsonObject) -> JwtRule:
    headers = objects(rule, "fromHeaders")
    outputs = objects(rule, "outputClaimToHeaders")
    return JwtRule(
        issuer=text(rule, "issuer"),
        audiences=texts(rule, "audiences"),
        jwks_uri=text(rule, "jwksUri"),
        jwks=text(rule, "jwks"),
        from_headers=tuple(TokenHeader(text(h, "name"), text(h, "prefix")) for h in headers),
        from_params=texts(rule, "fromParams"),
        from_cookies=texts(rule, "fromCookies"),
        output_payload_to_header=text(rule, "outputPayloadToHeader"),
        output_claims=tuple(ClaimHeader(text(o, "header"), text(o, "claim")) for o in outputs),
        forward=rule.get("forwardOriginalToken") is True,
        timeout_s=parse_duration(text(rule, "timeout", "5s")),
        space_delimited=texts(rule, "spaceDelimitedClaims"),
    )
