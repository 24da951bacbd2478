"""What a token that `jwt_authn` verified must say besides: as our own reader of tokens wants it.

Refused: `crit`, `b64`, `zip`, `enc`, an empty `kid`, a `typ` of another kind of token, an `exp`
that is no time, an `iat` in the future, more claims than our reader takes. All in an expression
that has to be true: one that fails refuses the request too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as filter_pb2
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from envoy.extensions.matching.input_matchers.metadata.v3 import metadata_pb2 as input_pb2
from envoy.type.matcher.v3 import string_pb2, value_pb2
from google.api.expr.v1alpha1 import syntax_pb2
from xds.core.v3 import extension_pb2
from xds.type.matcher.v3 import cel_pb2, http_inputs_pb2, matcher_pb2
from xds.type.v3 import cel_pb2 as expression_pb2

from limen.core.envoy import cel, names
from limen.core.envoy.encoded import pack

if TYPE_CHECKING:
    from google.protobuf.message import Message

LEEWAY_S = 60
"""Between clocks, for `exp`, `nbf` and `iat`; the default of our own reader too."""
MAX_CLAIMS = 256
MAX_TIME_S = 253_402_300_799
"""The end of the year 9999."""

_KINDS = ("JWT", "at+jwt", "application/jwt", "application/at+jwt")
"""`typ` of tokens of issuers outside, whatever the case (RFC 7515, 4.1.9; RFC 9068, 2.1)."""

_List = matcher_pb2.Matcher.MatcherList
_Predicate = _List.Predicate


def claims_filter() -> filter_pb2.RBAC:
    """Refuses, as policy `names.BAD_JWT`, a verified token that says what it must not."""
    no_token = _not(_metadata(names.JWT_PAYLOAD, "iss", value_pb2.ValueMatcher(present_match=True)))
    kind = [_metadata(names.JWT_HEADER, "typ", _text(known)) for known in _KINDS]
    no_kind = _holds(cel.lacks(_header(), "typ"))
    good = _all(_holds(_sound()), _any(*kind, no_kind))
    return filter_pb2.RBAC(
        matcher=matcher_pb2.Matcher(
            matcher_list=_List(matchers=[_passes(no_token), _passes(good)]),
            on_no_match=_action(rbac_pb2.RBAC.DENY, names.BAD_JWT),
        )
    )


def _sound() -> cel.Expr:
    header, payload = _header(), _jwt(names.JWT_PAYLOAD)
    kid, exp, iat = cel.item(header, "kid"), cel.item(payload, "exp"), cel.item(payload, "iat")
    now = cel.call("double", cel.call("int", cel.field(cel.name("request"), "time")))
    latest = cel.call("_+_", now, cel.number(LEEWAY_S))
    return cel.every(
        cel.lacks(header, "crit"),
        cel.lacks(header, "zip"),
        cel.lacks(header, "enc"),
        cel.either(cel.lacks(header, "b64"), cel.call("_==_", cel.item(header, "b64"), cel.true())),
        cel.either(
            cel.lacks(header, "kid"), cel.call("_>_", cel.call("size", kid), cel.integer(0))
        ),
        cel.call("_>_", exp, cel.number(0)),
        cel.call("_<=_", exp, cel.number(MAX_TIME_S)),
        cel.either(cel.lacks(payload, "iat"), cel.call("_<=_", iat, latest)),
        cel.call("_<=_", cel.call("size", payload), cel.integer(MAX_CLAIMS)),
    )


def _jwt(part: str) -> cel.Expr:
    metadata = cel.field(cel.name("metadata"), "filter_metadata")
    return cel.item(cel.item(metadata, names.JWT_METADATA), part)


def _header() -> cel.Expr:
    return _jwt(names.JWT_HEADER)


def _holds(expression: cel.Expr) -> _Predicate:
    matcher = cel_pb2.CelMatcher(
        expr_match=expression_pb2.CelExpression(parsed_expr=syntax_pb2.ParsedExpr(expr=expression))
    )
    return _single(http_inputs_pb2.HttpAttributesCelMatchInput(), matcher)


def _metadata(part: str, key: str, value: value_pb2.ValueMatcher) -> _Predicate:
    segment = network_inputs_pb2.DynamicMetadataInput.PathSegment
    source = network_inputs_pb2.DynamicMetadataInput(
        filter=names.JWT_METADATA, path=[segment(key=part), segment(key=key)]
    )
    return _single(source, input_pb2.Metadata(value=value))


def _text(value: str) -> value_pb2.ValueMatcher:
    return value_pb2.ValueMatcher(
        string_match=string_pb2.StringMatcher(exact=value, ignore_case=True)
    )


def _single(source: Message, matcher: Message) -> _Predicate:
    return _Predicate(
        single_predicate=_Predicate.SinglePredicate(
            input=_typed("input", source), custom_match=_typed("match", matcher)
        )
    )


def _not(predicate: _Predicate) -> _Predicate:
    return _Predicate(not_matcher=predicate)


def _all(*predicates: _Predicate) -> _Predicate:
    return _Predicate(and_matcher=_Predicate.PredicateList(predicate=predicates))


def _any(*predicates: _Predicate) -> _Predicate:
    return _Predicate(or_matcher=_Predicate.PredicateList(predicate=predicates))


def _passes(predicate: _Predicate) -> _List.FieldMatcher:
    """Under the name that stands for no rule: it must not look like the one that decided."""
    return _List.FieldMatcher(
        predicate=predicate, on_match=_action(rbac_pb2.RBAC.ALLOW, names.NO_RULE)
    )


def _action(action: rbac_pb2.RBAC.Action, name: str) -> matcher_pb2.Matcher.OnMatch:
    config = rbac_pb2.Action(name=name, action=action)
    return matcher_pb2.Matcher.OnMatch(action=_typed("action", config))


def _typed(name: str, message: Message) -> extension_pb2.TypedExtensionConfig:
    return extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(message))
