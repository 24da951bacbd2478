"""Kuma's tag selectors: when one matches, and which of two is more specific.

Source: kumahq/kuma `api/mesh/v1alpha1/dataplane_helpers.go` (TagSelector Matches, Rank).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.model.workload import SERVICE_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limen.core.model.permission import Tags

ANY = "*"
ANY_SERVICE: Tags = ((SERVICE_TAG, ANY),)
"""As a source: every verified identity of the mesh, registered or not."""

Anchor = tuple[str, str]
"""One pair of a selector by which an index finds it; the value is `*` for "has the key"."""

NO_ANCHOR: Anchor = ("", ANY)
"""The anchor of an empty selector, and of everything: every set of tags has it."""


def matches(selector: Tags, tags: Mapping[str, str]) -> bool:
    """Whether every pair of `selector` is in `tags`; the value `*` needs the key only."""
    return all(key in tags and value in (ANY, tags[key]) for key, value in selector)


def rank(selector: Tags) -> tuple[int, int]:
    """How specific: number of tags, then number of exact values. The greater wins."""
    return (len(selector), sum(value != ANY for _, value in selector))


def anchor(selector: Tags) -> Anchor:
    """The pair of `selector` that fewest sets of tags are likely to have.

    Law: `anchor(s)` is in `anchors(t)` for all tags `t` that `s` matches.
    """
    exact = [pair for pair in selector if pair[1] != ANY]
    for pair in exact:
        if pair[0] == SERVICE_TAG:
            return pair
    if exact:
        return exact[0]
    return selector[0] if selector else NO_ANCHOR


def anchors(tags: Iterable[tuple[str, str]]) -> set[Anchor]:
    """Every anchor of a selector that could match `tags`."""
    found = {NO_ANCHOR}
    for key, value in tags:
        found.add((key, value))
        found.add((key, ANY))
    return found


def exact_service(selector: Tags) -> str:
    """The service that `selector` names, "" if it names none."""
    value = dict(selector).get(SERVICE_TAG, "")
    return "" if value == ANY else value
