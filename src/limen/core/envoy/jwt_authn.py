"""Tokens at a guarded port: `jwt_authn` from `JwtPlan`s, each part a resource of its own (ECDS).

A request without a token passes unless one is required; one with a token that is not verified is
answered with 401. What `jwt_authn` lets through and should not is refused by filters around it:
`token_places` before, `token_claims` after.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import base_pb2, http_uri_pb2
from envoy.config.route.v3 import route_components_pb2 as route_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf import empty_pb2

from limen.core.envoy import names
from limen.core.envoy.rbac import extension
from limen.core.envoy.token_claims import LEEWAY_S, claims_filter
from limen.core.envoy.token_places import places_filter
from limen.core.envoy.wrapped import seconds
from limen.core.model.user_context import RESERVED_HEADERS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.envoy.encoded import Encoded
    from limen.core.plan.node import JwtPlan

_CACHED_TOKENS = 1000
_Requirement = jwt_pb2.JwtRequirement
_MISSING = _Requirement(allow_missing=empty_pb2.Empty())


@lru_cache(maxsize=4096)
def token_resources(
    plans: tuple[JwtPlan, ...], port: int, context_header: str = ""
) -> tuple[Encoded, ...]:
    """The filter configurations of a guarded port that verifies tokens; none without plans."""
    if not plans:
        return ()
    outputs = output_headers(plans, context_header)
    return (
        extension(names.token_places(port), places_filter(plans)),
        extension(names.tokens(port), tokens_filter(plans)),
        extension(names.token_claims(port), claims_filter(plans)),
        *([extension(names.token_outputs(port), outputs_filter(outputs))] if outputs else ()),
    )


def output_headers(plans: Iterable[JwtPlan], context_header: str = "") -> tuple[str, ...]:
    """Headers that verified tokens fill, sorted; if there are any, those of the user among them."""
    found: set[str] = {context_header} if context_header else set()
    for plan in plans:
        found.update(output.header.lower() for output in plan.output_claims)
        if plan.output_payload_to_header:
            found.add(plan.output_payload_to_header.lower())
    return tuple(sorted(found.union(RESERVED_HEADERS))) if found else ()


def outputs_filter(headers: Iterable[str]) -> header_mutation_pb2.HeaderMutation:
    """Removes what a client says in headers that only a verified token fills.

    `jwt_authn` itself removes only those of the issuers that it comes to ask.
    """
    removals = [mutation_rules_pb2.HeaderMutation(remove=header) for header in headers]
    return header_mutation_pb2.HeaderMutation(
        mutations=header_mutation_pb2.Mutations(request_mutations=removals)
    )


def tokens_filter(plans: tuple[JwtPlan, ...]) -> jwt_pb2.JwtAuthentication:
    """Verifies the one token that a request may carry."""
    providers = {f"{index} {plan.issuer}": plan for index, plan in enumerate(plans)}
    optional = _optional(list(providers))
    required = [name for name, plan in providers.items() if plan.required]
    always = _any([_Requirement(provider_name=name) for name in required]) if required else None
    return jwt_pb2.JwtAuthentication(
        providers={name: _provider(plan) for name, plan in providers.items()},
        rules=[_rule(optional, _PREFLIGHT), _rule(always)] if always else [_rule(optional)],
    )


def _provider(plan: JwtPlan) -> jwt_pb2.JwtProvider:
    keys = _keys(plan.jwks)
    return jwt_pb2.JwtProvider(
        issuer=plan.issuer,
        audiences=plan.audiences,
        local_jwks=keys,
        remote_jwks=_no_keys() if keys is None else None,
        require_expiration=True,
        clock_skew_seconds=LEEWAY_S,
        jwt_cache_config=jwt_pb2.JwtCacheConfig(jwt_cache_size=_CACHED_TOKENS),
        forward=plan.forward,
        forward_payload_header=plan.output_payload_to_header,
        claim_to_headers=[
            jwt_pb2.JwtClaimToHeader(header_name=output.header, claim_name=output.claim)
            for output in plan.output_claims
        ],
        payload_in_metadata=names.JWT_PAYLOAD,
        header_in_metadata=names.JWT_HEADER,
        failed_status_in_metadata=names.JWT_FAILURE,
        normalize_payload_in_metadata=jwt_pb2.JwtProvider.NormalizePayload(
            space_delimited_claims=plan.space_delimited
        ),
        from_headers=[jwt_pb2.JwtHeader(name=n, value_prefix=p) for n, p in plan.in_headers],
        from_params=plan.in_parameters,
        from_cookies=plan.from_cookies,
    )


def _keys(jwks: str) -> base_pb2.DataSource | None:
    """The keys inline; None if there is none: Envoy would refuse the whole configuration."""
    try:
        keys = json.loads(jwks)["keys"]
    except (ValueError, KeyError, TypeError):
        return None
    return base_pb2.DataSource(inline_string=jwks) if keys else None


def _no_keys() -> jwt_pb2.RemoteJwks:
    """Keys from nowhere: fetching them fails at once, and with it the token. Never another key."""
    uri = http_uri_pb2.HttpUri(
        uri="http://no-keys.invalid/", cluster=names.NO_KEYS, timeout=seconds(1)
    )
    return jwt_pb2.RemoteJwks(http_uri=uri)


def _optional(providers: list[str]) -> jwt_pb2.JwtRequirement:
    """One of them verifies the token, or none of them finds one."""
    each = [_Requirement(provider_name=name) for name in providers]
    missing = [_any([one, _MISSING]) for one in each]
    if len(each) == 1:
        return missing[0]
    nowhere = _Requirement(requires_all=jwt_pb2.JwtRequirementAndList(requirements=missing))
    return _any([*each, nowhere])


def _any(parts: list[jwt_pb2.JwtRequirement]) -> jwt_pb2.JwtRequirement:
    if len(parts) == 1:
        return parts[0]
    return _Requirement(requires_any=jwt_pb2.JwtRequirementOrList(requirements=parts))


_PREFLIGHT = (
    route_pb2.HeaderMatcher(name=":method", string_match=string_pb2.StringMatcher(exact="OPTIONS")),
    route_pb2.HeaderMatcher(name="origin", present_match=True),
    route_pb2.HeaderMatcher(name="access-control-request-method", present_match=True),
)
"""A browser asks before it sends the token (Fetch, "CORS-preflight request")."""


def _rule(
    requirement: jwt_pb2.JwtRequirement, headers: Iterable[route_pb2.HeaderMatcher] = ()
) -> jwt_pb2.RequirementRule:
    return jwt_pb2.RequirementRule(
        match=route_pb2.RouteMatch(prefix="/", headers=headers), requires=requirement
    )
