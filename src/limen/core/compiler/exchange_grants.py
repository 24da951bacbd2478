"""From a mesh's documents to what its token service goes by: issuers, grants, clients' keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.core.compiler.environment import environment_of
from limen.core.compiler.token_clients import spiffe_ids_of
from limen.core.model.mesh import Mesh, MeshSettings
from limen.core.model.token_service import (
    OWN_ISSUER,
    TokenExchangePolicy,
    TrustedIssuer,
    client_name,
)
from limen.core.tokens.exchange import ExchangeGrant
from limen.core.tokens.transaction import DEFAULT_LIFETIME_S, TransactionGrant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limen.core.compiler.environment import Environment
    from limen.core.compiler.token_clients import Identity
    from limen.core.model.resource import Resource
    from limen.core.model.token_service import KeyMaterial, SubjectRule, TransactionRights


@dataclass(frozen=True, slots=True)
class Rights:
    """`issuers` by name; `grants` by the client's name; `keys` of clients that have their own.

    `transactions` by the client's name, as `grants`.
    """

    issuers: Mapping[str, TrustedIssuer] = field(default_factory=dict)
    grants: Mapping[str, tuple[ExchangeGrant, ...]] = field(default_factory=dict)
    keys: Mapping[str, KeyMaterial] = field(default_factory=dict)
    transactions: Mapping[str, tuple[TransactionGrant, ...]] = field(default_factory=dict)


def rights_of(
    mesh: str, resources: Iterable[Resource], identities: Iterable[Identity], own_issuer: str
) -> Rights:
    """What the documents of `mesh` grant. `own_issuer`: the token service's own `iss`.

    A policy whose issuer is not there grants nothing for it. One grant per policy and subject rule:
    rights are never added up.
    """
    mine = sorted((r for r in resources if r.key.mesh == mesh), key=lambda r: r.key)
    env = _environment(mesh, mine)
    issuers = {r.key.name: r.spec for r in mine if isinstance(r.spec, TrustedIssuer)}
    known = tuple(identities)
    grants: dict[str, list[ExchangeGrant]] = {}
    keys: dict[str, KeyMaterial] = {}
    transactions: dict[str, list[TransactionGrant]] = {}
    for resource in mine:
        if not isinstance(resource.spec, TokenExchangePolicy):
            continue
        named: set[str] = set()
        for client in resource.spec.clients:
            named |= spiffe_ids_of(env, resource.key.namespace, client, known)
            if client.client_id:
                named.add(client_name(client.client_id))
                keys[client.client_id] = client.keys
        for grant in _grants(resource, resource.spec, frozenset(named), issuers, own_issuer):
            for name in named:
                grants.setdefault(name, []).append(grant)
                if resource.spec.transactions is not None and grant.subject_issuers:
                    begun = _transactions(grant, resource.spec.transactions)
                    transactions.setdefault(name, []).append(begun)
    return Rights(
        issuers,
        {name: tuple(some) for name, some in grants.items()},
        keys,
        {name: tuple(some) for name, some in transactions.items()},
    )


def _transactions(grant: ExchangeGrant, rights: TransactionRights) -> TransactionGrant:
    return TransactionGrant(
        clients=grant.clients,
        subject_issuers=grant.subject_issuers,
        scopes=grant.scopes,
        subject_audiences=grant.subject_audiences,
        details=frozenset(rights.details),
        context=frozenset(rights.context),
        lifetime_s=min(grant.lifetime_s, DEFAULT_LIFETIME_S),
    )


def _environment(mesh: str, resources: list[Resource]) -> Environment:
    own = [r.spec for r in resources if r.key.name == mesh]
    return environment_of(
        mesh,
        next((s for s in own if isinstance(s, Mesh)), None),
        next((s for s in own if isinstance(s, MeshSettings)), None),
    )


def _grants(
    resource: Resource,
    policy: TokenExchangePolicy,
    clients: frozenset[str],
    issuers: Mapping[str, TrustedIssuer],
    own_issuer: str,
) -> list[ExchangeGrant]:
    found = [
        grant
        for rule in policy.subjects
        if (grant := _grant(resource, policy, clients, rule, issuers, own_issuer)) is not None
    ]
    if policy.client_credentials:
        found.append(_base(resource, policy, clients, for_itself=True))
    return found


def _grant(  # noqa: PLR0917 - whose, by which document, for whose tokens
    resource: Resource,
    policy: TokenExchangePolicy,
    clients: frozenset[str],
    rule: SubjectRule,
    issuers: Mapping[str, TrustedIssuer],
    own_issuer: str,
) -> ExchangeGrant | None:
    if rule.issuer == OWN_ISSUER:
        return _base(resource, policy, clients, own_issuer, rule.audiences)
    issuer = issuers.get(rule.issuer)
    if issuer is None:
        return None
    audiences = rule.audiences or issuer.audiences
    any_audience = not audiences
    return _base(resource, policy, clients, issuer.issuer, audiences, any_audience=any_audience)


def _base(
    resource: Resource,
    policy: TokenExchangePolicy,
    clients: frozenset[str],
    subject_issuer: str = "",
    subject_audiences: tuple[str, ...] = (),
    *,
    any_audience: bool = False,
    for_itself: bool = False,
) -> ExchangeGrant:
    return ExchangeGrant(
        clients=clients,
        subject_issuers=frozenset((subject_issuer,) if subject_issuer else ()),
        audiences=policy.audiences,
        scopes=frozenset(policy.scopes),
        subject_audiences=subject_audiences,
        lifetime_s=policy.lifetime_s,
        impersonate=policy.impersonate,
        any_audience=any_audience,
        for_itself=for_itself,
        name=f"{resource.key.namespace}/{resource.key.name}",
    )
