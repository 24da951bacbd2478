"""Istio's RequestAuthentications that concern a port, as the issuers whose tokens it verifies.

All of them add up; two rules for one issuer stay two. Source: istio/api
`security/v1/request_authentication.proto` and `jwt.proto`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from limen.core.model.request_authentication import RequestAuthentication
from limen.core.model.token_service import JwtTrust, TokenExchangePolicy, TrustedIssuer
from limen.core.plan.node import JwtPlan
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from limen.core.model.request_authentication import JwtRule
    from limen.core.model.resource import Resource

FETCH_S = 5.0
OWN_TYP = "at+jwt"
"""As `core/tokens/exchange` signs them; a transaction token is no access token."""
_ALWAYS_WORDS = ("permission", "scope")
"""Claims that hold words between spaces, whatever a document says; as in Istio."""


@dataclass(frozen=True, slots=True, order=True)
class KeySource:
    """Where the keys of an issuer are published: `uri`, or "" to ask the issuer (OIDC discovery).

    `name` is the key under which the fetched set is handed in.
    """

    issuer: str
    uri: str
    timeout_s: float

    @property
    def name(self) -> str:
        """The address of the set, else the issuer."""
        return self.uri or self.issuer


def tokens_of(resource: Resource) -> RequestAuthentication:
    """The meaning of a RequestAuthentication resource."""
    if not isinstance(resource.spec, RequestAuthentication):
        raise TypeError(f"{resource.key} is not a RequestAuthentication")
    return resource.spec


def key_sources(resource: Resource) -> set[KeySource]:
    """What has to be fetched for a document."""
    match resource.spec:
        case TrustedIssuer(issuer=issuer, jwt=JwtTrust(keys=keys)) if not keys.jwks:
            return {KeySource(issuer, keys.jwks_uri, FETCH_S)}
        case TrustedIssuer():
            return set()
        case TokenExchangePolicy(clients=clients):
            uris = {client.keys.jwks_uri for client in clients} - {""}
            return {KeySource("", uri, FETCH_S) for uri in uris}
    return {
        KeySource(rule.issuer, rule.jwks_uri, rule.timeout_s)
        for rule in tokens_of(resource).rules
        if not rule.jwks
    }


def token_plans(
    documents: Iterable[Resource], keys: Mapping[str, str], own_issuer: str = ""
) -> tuple[JwtPlan, ...]:
    """The plans of a port. `keys`: fetched key sets by `KeySource.name`; absent: none known.

    `own_issuer`: the mesh's own token service, of whose tokens one kind is read here.
    """
    found = [
        (rule.issuer, resource.key, index, _plan(rule, keys, required=tokens_of(resource).required))
        for resource in documents
        for index, rule in enumerate(tokens_of(resource).rules)
    ]
    found.sort(key=lambda entry: entry[:3])
    plans = dict.fromkeys(plan for *_, plan in found)
    return tuple(
        replace(plan, typ=OWN_TYP) if own_issuer and plan.issuer == own_issuer else plan
        for plan in plans
    )


def has_issuer(resource: Resource, issuers: Container[str]) -> bool:
    """Whether a RequestAuthentication has a rule for one of these issuers."""
    spec = resource.spec
    return isinstance(spec, RequestAuthentication) and any(r.issuer in issuers for r in spec.rules)


def _plan(rule: JwtRule, keys: Mapping[str, str], *, required: bool) -> JwtPlan:
    published = rule.jwks or keys.get(rule.jwks_uri or rule.issuer, "")
    return JwtPlan(
        issuer=rule.issuer,
        audiences=rule.audiences,
        jwks=fit_keys(published) if published else "",
        from_headers=rule.from_headers,
        from_params=rule.from_params,
        from_cookies=rule.from_cookies,
        output_payload_to_header=rule.output_payload_to_header,
        output_claims=rule.output_claims,
        forward=rule.forward,
        required=required,
        space_delimited=tuple(sorted({*_ALWAYS_WORDS, *rule.space_delimited})),
    )


def fit_keys(published: str) -> str:
    """The keys of a set that may verify tokens, as JSON text; "" if it cannot be read or has none.

    Nothing else takes their place: the issuer's tokens are then refused.
    """
    from limen.core.tokens.algorithms import DEFAULT  # noqa: PLC0415 - 60 ms that most never need
    from limen.core.tokens.jwks import fit_for_envoy, parse_jwks  # noqa: PLC0415 - as above

    try:
        keys = parse_jwks(published)
    except InvalidInput:
        return ""
    return fit_for_envoy(keys, DEFAULT) if keys.keys else ""
