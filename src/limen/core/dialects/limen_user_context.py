"""`limen.dev/v1` UserContext: where tokens are accepted from, and how the user travels on."""

from __future__ import annotations

import re

from limen.core.dialects.document import Findings, JsonObject, child, show
from limen.core.dialects.duration import parse_duration
from limen.core.dialects.fields import obj, objects, text, texts
from limen.core.dialects.gateway_headers import check_header_name
from limen.core.dialects.istio import SCOPE, check_scope, to_scope
from limen.core.dialects.limen_tokens import AUDIENCES, SCOPES
from limen.core.dialects.metadata import NAME
from limen.core.dialects.schema import Choice, Duration, Field, Flag, ListOf, Struct, Text
from limen.core.model.request_authentication import TokenHeader
from limen.core.model.token_service import OWN_ISSUER
from limen.core.model.user_context import (
    DEFAULT_CACHE_S,
    DEFAULT_CONTEXT_HEADER,
    DEFAULT_NEGATIVE_CACHE_S,
    AcceptedToken,
    Hop,
    HopStyle,
    TokenTarget,
    UserContext,
)
from limen.errors import InvalidInput


def _check_context_header(value: str) -> None:
    check_header_name(value)
    if not re.fullmatch(r"x-(?!envoy-|forwarded-)[a-z0-9]+(?:-[a-z0-9]+)*", value, re.ASCII):
        raise InvalidInput(
            f"{show(value)} cannot be the header of the context",
            code="bad-value",
            hint=f"write a name of your own in lower case: {DEFAULT_CONTEXT_HEADER}",
        )


_HEADER = Struct(
    {
        "name": Field(Text("a header", max_length=128, parse=check_header_name), required=True),
        "prefix": Field(
            Text("a prefix", re.compile(r"[!-~ ]+"), max_length=100),
            note='what stands before the token, with its blank: "Bearer "',
        ),
    }
)
_ACCEPT = Struct(
    {
        "issuer": Field(
            NAME, required=True, note=f"a TrustedIssuer, or `{OWN_ISSUER}`: the token service"
        ),
        "fromHeaders": Field(
            ListOf(_HEADER, maximum=8), note="instead of Authorization: Bearer, which is else meant"
        ),
        "audiences": Field(AUDIENCES, note="the TrustedIssuer's if absent"),
    }
)
_EXCHANGE = Struct(
    {
        "audiences": Field(AUDIENCES, required=True, note="for whom the new token is"),
        "scopes": Field(SCOPES, note="all that the policy gives if absent"),
        "lifetime": Field(Duration(10, 3600), note="at most the TokenExchangePolicy's"),
    }
)
_HOP = Struct(
    {
        "style": Field(Choice(tuple(style.value for style in HopStyle)), required=True),
        "contextHeader": Field(
            Text("a header", max_length=128, parse=_check_context_header),
            note=f"by which the application passes the user on; {DEFAULT_CONTEXT_HEADER} if absent",
        ),
    }
)


def _check_spec(spec: JsonObject, path: str, out: Findings) -> None:
    check_scope(spec, path, out)
    seen: set[str] = set()
    for index, one in enumerate(objects(spec, "accept")):
        issuer = text(one, "issuer")
        if issuer in seen:
            place = child(child(path, "accept"), index)
            out.error("duplicate-name", f"the issuer {issuer} stands twice", place, "join them")
        seen.add(issuer)
    outside = sorted(seen - {OWN_ISSUER})
    if outside and "exchange" not in spec:
        out.error(
            "missing-field",
            f"tokens of {outside[0]} would travel on inside: external tokens never do",
            path,
            "write exchange, with the audiences of the token that replaces them",
        )


USER_CONTEXT = Struct(
    {
        **SCOPE,
        "accept": Field(ListOf(_ACCEPT, maximum=32), required=True),
        "required": Field(Flag(), note="a request without a token is refused; false if absent"),
        "exchange": Field(_EXCHANGE, note="what an accepted token is exchanged for"),
        "hop": Field(_HOP, note="how the user goes on to callees; not at all if absent"),
        "cacheTtl": Field(
            Duration(0, 300), note=f"never past exp; {DEFAULT_CACHE_S}s if absent, 0s: not kept"
        ),
        "negativeCacheTtl": Field(
            Duration(0, 60), note=f"of refused tokens; {DEFAULT_NEGATIVE_CACHE_S}s if absent"
        ),
    },
    (_check_spec,),
)


def to_user_context(namespace: str, _metadata: JsonObject, spec: JsonObject) -> UserContext:
    """A checked spec of a document in `namespace`."""
    return UserContext(
        scope=to_scope(namespace, spec),
        accept=tuple(_to_accepted(one) for one in objects(spec, "accept")),
        required=spec.get("required") is True,
        exchange=_to_target(obj(spec, "exchange")) if "exchange" in spec else None,
        hop=_to_hop(obj(spec, "hop")) if "hop" in spec else None,
        cache_s=_seconds(spec, "cacheTtl", DEFAULT_CACHE_S),
        negative_cache_s=_seconds(spec, "negativeCacheTtl", DEFAULT_NEGATIVE_CACHE_S),
    )


def _to_accepted(spec: JsonObject) -> AcceptedToken:
    headers = objects(spec, "fromHeaders")
    return AcceptedToken(
        issuer=text(spec, "issuer"),
        headers=tuple(TokenHeader(text(h, "name"), text(h, "prefix")) for h in headers),
        audiences=texts(spec, "audiences"),
    )


def _to_target(spec: JsonObject) -> TokenTarget:
    return TokenTarget(
        texts(spec, "audiences"), texts(spec, "scopes"), _seconds(spec, "lifetime", 0)
    )


def _to_hop(spec: JsonObject) -> Hop:
    return Hop(HopStyle(spec["style"]), text(spec, "contextHeader", DEFAULT_CONTEXT_HEADER))


def _seconds(spec: JsonObject, name: str, default: int) -> int:
    return int(parse_duration(text(spec, name))) if name in spec else default
