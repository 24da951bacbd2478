"""Which registered identities the clients of a TokenExchangePolicy are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.compiler.registry import dataplane_of
from limen.core.model.names import SpiffeId, parse_spiffe_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.compiler.environment import Environment
    from limen.core.compiler.graph import MeshGraph
    from limen.core.model.token_service import ExchangeClient


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """Somebody who is registered: its SPIFFE ID, and the tags of one of its ports, sorted."""

    spiffe_id: SpiffeId
    tags: tuple[tuple[str, str], ...] = ()


def identities_of(graph: MeshGraph) -> tuple[Identity, ...]:
    """Every registered identity with each set of its tags, sorted."""
    found: set[Identity] = set()
    for name in graph.instances:
        dataplane = dataplane_of(graph.resource(name))
        identity = dataplane.spiffe_id(graph.environment.trust_domain)
        found.update(Identity(identity, inbound.tags) for inbound in dataplane.inbounds)
        if dataplane.gateway:
            found.add(Identity(identity, dataplane.tags))
    return tuple(sorted(found))


def spiffe_ids_of(
    env: Environment, namespace: str, client: ExchangeClient, identities: Iterable[Identity]
) -> frozenset[str]:
    """The SPIFFE IDs that `client` means in a policy of `namespace`, registered or not.

    By tags only who is registered; nobody of a namespace that the policy does not cover. A client
    with its own key is none of them.
    """
    if client.tags:
        return frozenset(
            str(one.spiffe_id)
            for one in identities
            if set(client.tags) <= set(one.tags) and env.covers(namespace, one.spiffe_id.namespace)
        )
    named = account_of(client)
    if named is None or not env.covers(namespace, named[0]):
        return frozenset()
    if client.spiffe_id and not env.is_own(parse_spiffe_id(client.spiffe_id).trust_domain):
        return frozenset()
    return frozenset((str(SpiffeId(env.trust_domain, *named)),))


def account_of(client: ExchangeClient) -> tuple[str, str] | None:
    """Namespace and service account, where the policy names one."""
    if client.spiffe_id:
        identity = parse_spiffe_id(client.spiffe_id)
        return identity.namespace, identity.service_account
    return client.account
