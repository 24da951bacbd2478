"""Who may talk to whom, in Kuma's two ways of saying it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

Tags = tuple[tuple[str, str], ...]
"""Sorted pairs; the value `*` matches any value, the key must be there."""


@dataclass(frozen=True, slots=True)
class TrafficPermission:
    """Kuma TrafficPermission: any of `sources` may call any of `destinations`.

    `created` is the creation time that the document itself states (`2024-01-01T00:00:00.000000Z`,
    "" if none): the later of two equally specific permissions wins, as in Kuma.
    """

    sources: tuple[Tags, ...]
    destinations: tuple[Tags, ...]
    created: str = ""


class MatchType(Enum):
    """How a SPIFFE ID is compared. Prefix matches whole path segments or the trust domain."""

    EXACT = "Exact"
    PREFIX = "Prefix"


@dataclass(frozen=True, slots=True)
class SpiffeIdMatch:
    """A matcher of caller identities."""

    type: MatchType
    value: str


@dataclass(frozen=True, slots=True)
class PermissionRule:
    """One entry of `spec.rules`; deny wins over shadow deny, that over allow, across all rules."""

    deny: tuple[SpiffeIdMatch, ...] = ()
    allow_with_shadow_deny: tuple[SpiffeIdMatch, ...] = ()
    allow: tuple[SpiffeIdMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetRef:
    """The proxies that a policy concerns: the whole mesh, or dataplanes by name or labels.

    `section` names one inbound by its port's name or number; "" means all.
    """

    whole_mesh: bool = True
    name: str = ""
    namespace: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    section: str = ""


@dataclass(frozen=True, slots=True)
class MeshTrafficPermission:
    """Kuma MeshTrafficPermission with `rules`."""

    target: TargetRef
    rules: tuple[PermissionRule, ...]
