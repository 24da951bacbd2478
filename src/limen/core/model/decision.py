"""Policies of the decision point as resources: the texts of one engine, and where they decide."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Language(Enum):
    """Which engine reads a policy."""

    XACML = "xacml"
    REGO = "rego"


class EnforcedAt(Enum):
    """Who may hold a policy: proxies of services, or gateways; never both."""

    SERVICE = "Service"
    GATEWAY = "Gateway"


class OnStale(Enum):
    """What a decision point that is cut off for longer than `maxStaleness` does."""

    REFUSE = "Refuse"
    KEEP = "Keep"


@dataclass(frozen=True, slots=True)
class PolicyText:
    """One document. `name` says in findings where it is from."""

    name: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DecisionPolicy:
    """What an engine is loaded with.

    `root`: the policy to begin with, or the decision as PACKAGE/RULE; "": the engine's default.
    `data`: JSON documents that Rego policies read. `epoch` counts its publishes from 1; 0: it is
    not stored.
    """

    language: Language
    texts: tuple[PolicyText, ...]
    root: str = ""
    data: tuple[PolicyText, ...] = ()
    enforced_at: EnforcedAt = EnforcedAt.SERVICE
    on_stale: OnStale = OnStale.REFUSE
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class PolicyRef:
    """A policy as a provider names it. `namespace` "": that of the workload that asks."""

    kind: str
    name: str
    namespace: str = ""
