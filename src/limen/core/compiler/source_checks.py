"""Attribute sources: those of one namespace fit together, and can be asked beside a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.compiler.findings import error_at
from limen.core.model.attribute_source import AttributeSource, LabelsOrigin
from limen.core.policy.sources import SourceBook
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.compiler.graph import MeshGraph
    from limen.core.model.diagnostic import Diagnostic
    from limen.core.model.resource import Resource


def check_sources(graph: MeshGraph) -> Iterator[Diagnostic]:
    """Errors: an attribute with two sources, sources that need one another, labels."""
    by_namespace: dict[str, list[Resource]] = {}
    for resource in graph.view.sources.values():
        by_namespace.setdefault(resource.key.namespace, []).append(resource)
    for resources in by_namespace.values():
        ordered = sorted(resources, key=lambda r: r.key)
        for end, resource in enumerate(ordered, start=1):
            if isinstance(resource.spec, AttributeSource):
                yield from _judged(resource, resource.spec, ordered[:end])


def _judged(
    resource: Resource, source: AttributeSource, so_far: list[Resource]
) -> Iterator[Diagnostic]:
    if isinstance(source.origin, LabelsOrigin):
        yield error_at(
            resource,
            "source-not-here",
            "beside a proxy there is no register of labels",
            "/spec/labels",
            "take the labels into a rule of an AuthorizationPolicy, or use limen pdp serve",
        )
    try:
        SourceBook(r.spec for r in so_far if isinstance(r.spec, AttributeSource))
    except InvalidInput as error:
        yield error_at(
            resource,
            "source-overlap" if error.code == "source-overlap" else "source-circle",
            error.message,
            "/spec",
            error.hint,
        )
