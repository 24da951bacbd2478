"""RBAC as a tree of predicates, for what lists cannot see: whole headers, expressions of CEL.

A repeated header is one text here, its values joined by a comma. Nothing in such a tree decides
what a caller may do (a missing identity makes a tree undecidable): it only sees tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as filter_pb2
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from envoy.extensions.matching.input_matchers.metadata.v3 import metadata_pb2 as input_pb2
from envoy.type.matcher.v3 import http_inputs_pb2 as header_pb2
from google.api.expr.v1alpha1 import syntax_pb2
from xds.core.v3 import extension_pb2
from xds.type.matcher.v3 import cel_pb2, http_inputs_pb2, matcher_pb2, regex_pb2, string_pb2
from xds.type.v3 import cel_pb2 as expression_pb2

from limen.core.envoy import names
from limen.core.envoy.encoded import pack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envoy.type.matcher.v3 import value_pb2
    from google.protobuf.message import Message

    from limen.core.envoy import cel

_List = matcher_pb2.Matcher.MatcherList
Predicate = _List.Predicate


def refusing(predicates: Iterable[Predicate]) -> filter_pb2.RBAC:
    """Refuses a request, as policy `names.BAD_JWT`, of which one of `predicates` is true."""
    return _filter(predicates, rbac_pb2.RBAC.DENY, rbac_pb2.RBAC.ALLOW)


def passing(predicates: Iterable[Predicate]) -> filter_pb2.RBAC:
    """Refuses a request of which none is true, or none can be told."""
    return _filter(predicates, rbac_pb2.RBAC.ALLOW, rbac_pb2.RBAC.DENY)


def header(name: str, expression: str) -> Predicate:
    """The whole header matches an expression (RE2); an absent one does not."""
    regex = regex_pb2.RegexMatcher(google_re2=regex_pb2.RegexMatcher.GoogleRE2(), regex=expression)
    return _predicate(
        input=_typed("header", header_pb2.HttpRequestHeaderMatchInput(header_name=name)),
        value_match=string_pb2.StringMatcher(safe_regex=regex),
    )


def holds(expression: cel.Expr) -> Predicate:
    """The expression is true; one that fails is not."""
    matcher = cel_pb2.CelMatcher(
        expr_match=expression_pb2.CelExpression(parsed_expr=syntax_pb2.ParsedExpr(expr=expression))
    )
    return _predicate(
        input=_typed("attributes", http_inputs_pb2.HttpAttributesCelMatchInput()),
        custom_match=_typed("expression", matcher),
    )


def jwt(part: str, key: str, value: value_pb2.ValueMatcher) -> Predicate:
    """A member of the verified token's header or payload."""
    segment = network_inputs_pb2.DynamicMetadataInput.PathSegment
    source = network_inputs_pb2.DynamicMetadataInput(
        filter=names.JWT_METADATA, path=[segment(key=part), segment(key=key)]
    )
    return _predicate(
        input=_typed("token", source), custom_match=_typed("value", input_pb2.Metadata(value=value))
    )


def negated(predicate: Predicate) -> Predicate:
    """Not that."""
    return Predicate(not_matcher=predicate)


def every(*predicates: Predicate) -> Predicate:
    """All of them: two at least."""
    return Predicate(and_matcher=Predicate.PredicateList(predicate=predicates))


def some(*predicates: Predicate) -> Predicate:
    """One of them."""
    return Predicate(or_matcher=Predicate.PredicateList(predicate=predicates))


def _filter(
    predicates: Iterable[Predicate], then: rbac_pb2.RBAC.Action, otherwise: rbac_pb2.RBAC.Action
) -> filter_pb2.RBAC:
    matchers = [_List.FieldMatcher(predicate=p, on_match=_action(then)) for p in predicates]
    return filter_pb2.RBAC(
        matcher=matcher_pb2.Matcher(
            matcher_list=_List(matchers=matchers), on_no_match=_action(otherwise)
        )
    )


def _action(action: rbac_pb2.RBAC.Action) -> matcher_pb2.Matcher.OnMatch:
    """What passes gets the name that stands for no rule: it must not look like the deciding one."""
    name = names.BAD_JWT if action == rbac_pb2.RBAC.DENY else names.NO_RULE
    config = rbac_pb2.Action(name=name, action=action)
    return matcher_pb2.Matcher.OnMatch(action=_typed("action", config))


def _predicate(
    *,
    input: extension_pb2.TypedExtensionConfig,  # noqa: A002 - the field's name
    value_match: string_pb2.StringMatcher | None = None,
    custom_match: extension_pb2.TypedExtensionConfig | None = None,
) -> Predicate:
    return Predicate(
        single_predicate=Predicate.SinglePredicate(
            input=input, value_match=value_match, custom_match=custom_match
        )
    )


def _typed(name: str, message: Message) -> extension_pb2.TypedExtensionConfig:
    return extension_pb2.TypedExtensionConfig(name=name, typed_config=pack(message))
