"""UserContexts that concern a port or a workload: which tokens it takes, and how the user goes on.

A port has one UserContext; `user_checks` refuses a second. What is accepted without an exchange are
tokens of the mesh's token service, meant for this workload. Without a token service nothing is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.compiler.token_plans import fit_keys
from limen.core.model.request_authentication import TokenHeader
from limen.core.model.token_service import OWN_ISSUER
from limen.core.model.user_context import (
    DEFAULT_CONTEXT_HEADER,
    USER_HEADER,
    HopStyle,
    UserContext,
)
from limen.core.plan.node import ExchangePlan, HopPlan, JwtPlan, TokenServicePlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from limen.core.model.names import SpiffeId
    from limen.core.model.resource import Resource

_BEARER = TokenHeader("authorization", "Bearer ")
ENFORCED_STYLES = frozenset((HopStyle.SAME_TOKEN, HopStyle.EXCHANGED))
"""`user_checks` refuses the others."""
NO_SERVICE = "https://no-token-service.invalid"
"""The issuer where there is none: no token says it, and it has no key."""


@dataclass(frozen=True, slots=True)
class TokenService:
    """What a mesh's token service says of itself. `generation` changes when something is revoked.

    `jwks`: its key set as JSON text.
    """

    issuer: str
    url: str
    jwks: str
    generation: str = ""


@dataclass(frozen=True, slots=True)
class UserDoor:
    """The part of a door that a UserContext makes."""

    tokens: tuple[JwtPlan, ...] = ()
    exchange: ExchangePlan | None = None
    context_header: str = ""
    hop: HopPlan | None = None


def user_context_of(documents: Sequence[Resource]) -> UserContext | None:
    """The one that counts, by namespace and name."""
    found = sorted(documents, key=lambda r: (r.key.namespace, r.key.name))
    spec = found[0].spec if found else None
    return spec if isinstance(spec, UserContext) else None


def user_door(
    documents: Sequence[Resource], service: TokenService | None, own: SpiffeId, *, gateway: bool
) -> UserDoor:
    """What a port does with tokens. `own`: whose port it is; a gateway has no application.

    An application reads the user from two headers, whether it may pass him on or not: without `hop`
    its proxy takes the second one out of what it sends.
    """
    context = user_context_of(documents)
    if context is None:
        return UserDoor()
    exchange = _exchange(context)
    mesh = next((one for one in context.accept if one.issuer == OWN_ISSUER), None)
    plain = (_BEARER,) if exchange or mesh is None or not mesh.headers else mesh.headers
    plan = JwtPlan(
        issuer=service.issuer if service else NO_SERVICE,
        audiences=exchange.audiences if exchange else (mesh and mesh.audiences) or (str(own),),
        jwks=fit_keys(service.jwks) if service else "",
        from_headers=plain,
        output_payload_to_header="" if gateway else USER_HEADER,
        forward=True,
        required=context.required,
    )
    if gateway:
        return UserDoor((plan,), exchange)
    hop = _hop(context)
    header = hop.context_header if hop else DEFAULT_CONTEXT_HEADER
    return UserDoor((plan,), exchange, header, hop)


def _hop(context: UserContext) -> HopPlan | None:
    if context.hop is None:
        return None
    return HopPlan(
        context.hop.style,
        context.hop.context_header,
        cache_s=context.cache_s,
        negative_cache_s=context.negative_cache_s,
    )


def service_plan(service: TokenService | None) -> TokenServicePlan:
    """Whom the agent asks; with an address of nobody if there is no token service."""
    if service is None:
        return TokenServicePlan(NO_SERVICE, "")
    return TokenServicePlan(service.issuer, service.url, service.generation)


def _exchange(context: UserContext) -> ExchangePlan | None:
    if context.exchange is None:
        return None
    named = {header for one in context.accept for header in one.headers or (_BEARER,)}
    return ExchangePlan(
        audiences=context.exchange.audiences,
        issuers=tuple(sorted(one.issuer for one in context.accept)),
        headers=tuple(sorted(named, key=lambda h: (h.name, h.prefix))),
        scopes=context.exchange.scopes,
        lifetime_s=context.exchange.lifetime_s,
        cache_s=context.cache_s,
        negative_cache_s=context.negative_cache_s,
    )
