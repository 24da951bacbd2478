"""Findings about whose tokens count and who exchanges them: references, names, secrets, rights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.findings import error_at, warning_at
from limen.core.compiler.token_clients import account_of, identities_of, spiffe_ids_of
from limen.core.model.names import parse_spiffe_id
from limen.core.model.resource import SECRET, TRUSTED_ISSUER, ResourceKey
from limen.core.model.secret import Secret
from limen.core.model.token_service import OWN_ISSUER, TokenExchangePolicy, TrustedIssuer
from limen.core.model.user_context import UserContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.compiler.graph import MeshGraph
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.resource import Resource
    from limen.core.model.token_service import ExchangeClient, KeyMaterial, SecretName


def check_tokens(graph: MeshGraph) -> Iterator[Diagnostic]:
    """Every finding about the token service's documents of one mesh."""
    kinds = (TrustedIssuer, TokenExchangePolicy, UserContext)
    mine = [graph.resources[key] for key in sorted(graph.resources)]
    mine = [resource for resource in mine if isinstance(resource.spec, kinds)]
    yield from _same_issuers(mine)
    yield from _same_clients(mine)
    for resource in mine:
        match resource.spec:
            case TrustedIssuer() as issuer:
                yield from _issuer(graph, resource, issuer)
            case TokenExchangePolicy() as policy:
                for index, subject in enumerate(policy.subjects):
                    path = f"/spec/subjects/{index}/issuer"
                    yield from _reference(graph, resource, subject.issuer, path)
                for index, client in enumerate(policy.clients):
                    yield from _client(graph, resource, client, f"/spec/from/{index}")
            case UserContext() as context:
                for index, accepted in enumerate(context.accept):
                    path = f"/spec/accept/{index}/issuer"
                    yield from _reference(graph, resource, accepted.issuer, path)
            case _:
                pass


def _same_issuers(resources: list[Resource]) -> Iterator[Diagnostic]:
    """A user is the pair of issuer and subject: with two names there would be two of one user."""
    seen: dict[str, str] = {}
    for resource in resources:
        if not isinstance(resource.spec, TrustedIssuer):
            continue
        first = seen.setdefault(resource.spec.issuer, resource.key.name)
        if first != resource.key.name:
            yield error_at(
                resource,
                "issuer-taken",
                f"the TrustedIssuer {first} is the same issuer: its users would have two names",
                "/spec/issuer",
                "write jwt and introspection of one issuer into one document",
            )


def _same_clients(resources: list[Resource]) -> Iterator[Diagnostic]:
    """One client id has one set of keys, however many policies name it."""
    seen: dict[str, KeyMaterial] = {}
    for resource in resources:
        if not isinstance(resource.spec, TokenExchangePolicy):
            continue
        for index, client in enumerate(resource.spec.clients):
            if client.client_id and seen.setdefault(client.client_id, client.keys) != client.keys:
                yield error_at(
                    resource,
                    "client-taken",
                    f"the client {client.client_id} has other keys in another entry",
                    f"/spec/from/{index}/clientId",
                    "write the same keys wherever it is named, or choose another id",
                )


def _issuer(graph: MeshGraph, resource: Resource, issuer: TrustedIssuer) -> Iterator[Diagnostic]:
    asked = issuer.introspection
    if asked is None:
        return
    if not issuer.audiences:
        yield warning_at(
            resource,
            "any-audience",
            "every token that this issuer calls active counts here, whomever it is meant for",
            "/spec/introspection",
            "write audiences, if the issuer says aud when it is asked",
        )
    for name, path, wanted in (
        (asked.secret, "clientSecretRef", "the entry client-secret"),
        (
            asked.certificate,
            "clientCertificateRef",
            "a certificate with its key (tls.crt)",
        ),
    ):
        if name is not None:
            place = f"/spec/introspection/{path}"
            yield from _secret(graph, resource, name, place, wanted)


def _secret(
    graph: MeshGraph, resource: Resource, name: SecretName, path: str, wanted: str
) -> Iterator[Diagnostic]:
    found = graph.find(ResourceKey(SECRET, graph.mesh, name.namespace, name.name))
    full = f"{name.namespace}/{name.name}"
    if found is None or not isinstance(found.spec, Secret):
        yield error_at(
            resource,
            "missing-secret",
            f"there is no Secret {full}: this issuer could not be asked",
            path,
            f"apply a Secret {name.name} in the namespace {name.namespace} together with it",
        )
        return
    held = found.spec.client_secret if path.endswith("clientSecretRef") else found.spec.pair
    if held is None:
        yield error_at(
            resource,
            "wrong-secret",
            f"the Secret {full} does not hold {wanted}",
            path,
            "name another secret, or add what is missing",
        )


def _reference(graph: MeshGraph, resource: Resource, name: str, path: str) -> Iterator[Diagnostic]:
    if name == OWN_ISSUER:
        return
    known = sorted(k.name for k in graph.resources if k.kind == TRUSTED_ISSUER)
    if name not in known:
        yield error_at(
            resource,
            "unknown-issuer",
            f"mesh {graph.mesh} has no TrustedIssuer {name} (known: {', '.join(known) or 'none'})",
            path,
            f"apply it, or write {OWN_ISSUER} for tokens of the mesh's own token service",
        )


def _client(
    graph: MeshGraph, resource: Resource, client: ExchangeClient, path: str
) -> Iterator[Diagnostic]:
    env = graph.environment
    account = account_of(client)
    if client.spiffe_id and not env.is_own(parse_spiffe_id(client.spiffe_id).trust_domain):
        yield error_at(
            resource,
            "foreign-client",
            f"nobody of the trust domain of {client.spiffe_id} is known to mesh {graph.mesh}",
            f"{path}/spiffeId",
            f"write spiffe://{env.trust_domain}/ns/NAMESPACE/sa/SERVICE-ACCOUNT",
        )
    elif account is not None and not env.covers(resource.key.namespace, account[0]):
        yield error_at(
            resource,
            "foreign-client",
            f"a policy of the namespace {resource.key.namespace} gives no rights to "
            f"{account[1]} of {account[0]}",
            path,
            f"write it in the namespace {account[0]}, or in {env.root_namespace}",
        )
    elif graph.instances and not client.client_id and not _registered(graph, resource, client):
        yield warning_at(
            resource,
            "matches-no-workload",
            "no registered workload is this client",
            path,
            "start it, or correct the name",
        )


def _registered(graph: MeshGraph, resource: Resource, client: ExchangeClient) -> bool:
    known = identities_of(graph)
    wanted = spiffe_ids_of(graph.environment, resource.key.namespace, client, known)
    return bool(wanted & {str(one.spiffe_id) for one in known})
