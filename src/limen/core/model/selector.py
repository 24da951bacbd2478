"""Which workloads an Istio policy concerns, and how policies of several scopes are ordered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class TargetKind(Enum):
    """What a `targetRefs` entry names."""

    GATEWAY = "Gateway"
    SERVICE = "Service"


@dataclass(frozen=True, slots=True)
class PolicyTarget:
    """One `targetRefs` entry: a gateway or a workload (`Service`) of the policy's namespace."""

    kind: TargetKind
    name: str


@dataclass(frozen=True, slots=True)
class Scope:
    """Whom a policy in `namespace` concerns.

    `labels` (sorted, all must match) or `targets`, never both; neither: every workload of the
    namespace. In the mesh's root namespace: of every namespace.
    """

    namespace: str
    labels: tuple[tuple[str, str], ...] = ()
    targets: tuple[PolicyTarget, ...] = ()
