"""The policy representation: conditions, rules, layers, the policy of one guarded port.

A `Condition` is a closed union; every reader matches it totally (`assert_never`). A *layer* is one
policy family (design, "Several documents about one workload").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limen.core.policy.match import StringMatch


@dataclass(frozen=True, slots=True)
class Always:
    """Every request."""


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The caller has a verified identity of this mesh (or of an alias or trusted domain)."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller's SPIFFE ID matches. A caller without identity matches nothing."""

    match: StringMatch


@dataclass(frozen=True, slots=True)
class Method:
    """The HTTP method, upper case, exact or by pattern."""

    match: StringMatch


@dataclass(frozen=True, slots=True)
class Path:
    """The path after normalisation, without query."""

    match: StringMatch


@dataclass(frozen=True, slots=True)
class Header:
    """At least one value of the named header (lower case) matches; an absent header does not."""

    name: str
    match: StringMatch


@dataclass(frozen=True, slots=True)
class Port:
    """The port that the caller reached."""

    port: int


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds; no parts: holds."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds; no parts: does not hold."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Condition


Condition = Always | Authenticated | Principal | Method | Path | Header | Port | AllOf | AnyOf | Not


class Effect(Enum):
    """What a matching rule does. `SHADOW_DENY` changes no verdict; it is reported as if denied."""

    ALLOW = "allow"
    DENY = "deny"
    SHADOW_DENY = "shadow-deny"


@dataclass(frozen=True, slots=True)
class RuleRef:
    """Where a rule was written. `index` counts within the document, from 0."""

    kind: str
    mesh: str
    namespace: str
    name: str
    index: int
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = f" ({self.file}:{self.line})" if self.file else ""
        return f"{self.kind} {self.namespace}/{self.name} rule {self.index}{where}"


@dataclass(frozen=True, slots=True)
class Rule:
    """If `condition` holds, `effect`. `name` is what Envoy reports as the deciding policy.

    `ref` is left out of comparison: a file that moved changes no proxy.
    """

    effect: Effect
    condition: Condition
    name: str
    ref: RuleRef = field(compare=False)


class LayerKind(Enum):
    """A policy family. All that have rules for a callee must allow."""

    PERMISSION = "permission"


@dataclass(frozen=True, slots=True)
class Layer:
    """The rules of one family for one guarded port, in evaluation order.

    `allows` says that a document of this family which can allow concerns the port, even if it
    has no rule that could: then only a matching ALLOW lets a request pass this layer. A layer with
    `allows` False only denies.
    """

    kind: LayerKind
    rules: tuple[Rule, ...]
    allows: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """All layers of one guarded port.

    No explicit allow anywhere: refused, unless `default_allow` (a mesh that chose Istio's way) and
    no layer `allows`.
    """

    layers: tuple[Layer, ...] = ()
    default_allow: bool = False
