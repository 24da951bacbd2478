"""The short way through a guarded port: what surely passes is not asked what it would pass anyway.

An RBAC filter costs a callee 11,000 instructions a request, most of them for naming what decided.
Two facts of a connection are known when its handshake is over: who calls, and whether the
certificate names one caller. By them

- the filter of standing denials is left out for a path without `;` from one caller (`plain_route`):
  neither of its two rules can match there;
- the allowing filter is left out for a caller whom a rule allows whatever he asks (`skipping`).

Each is left out only where the fact is known; without it, everything is asked. Denials are always
asked: they come from documents, and bite at once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from envoy.config.core.v3 import extension_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.common.matching.v3 import extension_matcher_pb2
from envoy.extensions.filters.common.matcher.action.v3 import skip_action_pb2
from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from envoy.type.matcher.v3 import filter_state_pb2, string_pb2
from xds.core.v3 import extension_pb2 as xds_pb2
from xds.type.matcher.v3 import matcher_pb2

from limen.core.envoy import names
from limen.core.envoy.encoded import pack
from limen.core.envoy.principals import regex
from limen.core.policy.match import How
from limen.core.policy.rule import AnyOf, Effect, Principal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from envoy.extensions.filters.http.rbac.v3 import rbac_pb2

    from limen.core.policy.rule import Condition, Policy

SKIPPING_TYPE = "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher"
_SPIFFE = "spiffe://"
_MOST = 128
"""Callers who take the short way at a port: each is said twice, and must be sent."""
_SEVERAL = ","
"""Between the names of a certificate that has several; no identity of a mesh has one."""


@lru_cache(maxsize=4096)
def admitted(policy: Policy) -> tuple[str, ...]:
    """Identities that the first allowing layer allows by an exact name and nothing else, sorted."""
    layers = [layer for layer in policy.layers if layer.allows]
    rules = layers[0].rules if layers else ()
    allowing = (rule.condition for rule in rules if rule.effect is Effect.ALLOW)
    return tuple(sorted({name for condition in allowing for name in _named(condition)}))


def _named(condition: Condition) -> Iterator[str]:
    match condition:
        case Principal(match) if match.how is How.EXACT and not match.ignore_case:
            if match.value.startswith(_SPIFFE) and _SEVERAL not in match.value:
                yield match.value
        case AnyOf(parts):
            for part in parts:
                yield from _named(part)
        case _:
            return


def skipping(
    allowing: rbac_pb2.RBAC, callers: Sequence[str]
) -> rbac_pb2.RBAC | extension_matcher_pb2.ExtensionWithMatcher:
    """The allowing filter, left out for `callers`."""
    if not 0 < len(callers) <= _MOST:
        return allowing
    skip = matcher_pb2.Matcher.OnMatch(action=_typed("skip", skip_action_pb2.SkipFilter()))
    caller = network_inputs_pb2.FilterStateInput(key=names.CALLER)
    tree = matcher_pb2.Matcher.MatcherTree(
        input=_typed("caller", caller),
        exact_match_map=matcher_pb2.Matcher.MatcherTree.MatchMap(map=dict.fromkeys(callers, skip)),
    )
    return extension_matcher_pb2.ExtensionWithMatcher(
        extension_config=extension_pb2.TypedExtensionConfig(
            name="envoy.filters.http.rbac", typed_config=pack(allowing)
        ),
        xds_matcher=matcher_pb2.Matcher(matcher_tree=tree),
    )


def plain_route(port: int, action: route_components_pb2.RouteAction) -> route_components_pb2.Route:
    """Where no standing denial can match: no `;` in path or query, one name in the certificate."""
    disabled = route_components_pb2.FilterConfig(disabled=True)
    return route_components_pb2.Route(
        match=route_components_pb2.RouteMatch(
            prefix="/",
            headers=[
                route_components_pb2.HeaderMatcher(
                    name=":path",
                    string_match=string_pb2.StringMatcher(contains=";"),
                    invert_match=True,
                )
            ],
            filter_state=[
                filter_state_pb2.FilterStateMatcher(
                    key=names.CALLER, string_match=regex(f"[^{_SEVERAL}]+")
                )
            ],
        ),
        route=action,
        typed_per_filter_config={names.standing(port): pack(disabled)},
    )


def _typed(
    name: str, message: skip_action_pb2.SkipFilter | network_inputs_pb2.FilterStateInput
) -> xds_pb2.TypedExtensionConfig:
    return xds_pb2.TypedExtensionConfig(name=name, typed_config=pack(message))
