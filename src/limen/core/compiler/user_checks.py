"""Findings about UserContexts: two for one port, and what is not enforced yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.findings import error_at
from limen.core.compiler.registry import dataplane_of
from limen.core.compiler.user_contexts import ENFORCED_STYLES
from limen.core.model.token_service import OWN_ISSUER
from limen.core.model.user_context import UserContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.compiler.graph import MeshGraph
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.resource import Resource


def check_users(graph: MeshGraph) -> Iterator[Diagnostic]:
    """Every finding about the UserContexts of one mesh."""
    documents = graph.view.doors.documents
    if not documents.users:
        return
    for key in sorted(documents.resources):
        resource = documents.resources[key]
        if isinstance(resource.spec, UserContext):
            yield from _not_enforced(resource, resource.spec)
    for name in sorted(graph.instances):
        yield from _of_instance(graph, graph.resource(name))


def _of_instance(graph: MeshGraph, dataplane: Resource) -> Iterator[Diagnostic]:
    """A port has one UserContext, a workload one way to go on, and a gateway none."""
    found = dataplane_of(dataplane)
    ports = graph.view.edge(found.name, ()).ports if found.gateway else found.inbounds
    first: Resource | None = None
    for inbound in ports:
        for resource in graph.view.doors.concerned(dataplane, inbound).users:
            first = first or resource
            if resource.key != first.key:
                yield error_at(
                    resource,
                    "two-user-contexts",
                    f"{first.key.name} is about {found.name.workload} too: which one counts?",
                    "/spec/selector",
                    "write one UserContext for each workload",
                )
    hop = first.spec.hop if first and isinstance(first.spec, UserContext) else None
    if found.gateway and first is not None and hop is not None:
        yield error_at(
            first,
            "hop-at-gateway",
            f"{found.name.workload} is a gateway: it has no application that passes a user on",
            "/spec/hop",
            "leave hop out: a gateway sends on the token that it got by exchange",
        )


def _not_enforced(resource: Resource, context: UserContext) -> Iterator[Diagnostic]:
    """What would have to be let through unchecked is refused by name."""
    hop = context.hop
    if hop is not None and hop.style not in ENFORCED_STYLES:
        yield error_at(
            resource,
            "hop-style-later",
            f"{hop.style.value} is not enforced by proxies in this version",
            "/spec/hop/style",
            f"choose one of {', '.join(sorted(style.value for style in ENFORCED_STYLES))}",
        )
    for index, one in enumerate(context.accept):
        if context.exchange is not None and one.audiences:
            yield error_at(
                resource,
                "audiences-at-exchange",
                "whom an incoming token is meant for is judged by the token service",
                f"/spec/accept/{index}/audiences",
                "write audiences in the TrustedIssuer, or in subjects of the TokenExchangePolicy",
            )
        plain = context.exchange is None and one.issuer == OWN_ISSUER
        if plain and len(one.headers) > 1:
            yield error_at(
                resource,
                "several-places",
                "a token of the mesh is read from one header",
                f"/spec/accept/{index}/fromHeaders",
                "name one header, or none for Authorization: Bearer",
            )
