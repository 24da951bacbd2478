"""The policy representation: conditions, rules, layers, the policy of one guarded port.

A `Condition` is a closed union; every reader matches it totally (`assert_never`). A *layer* is one
policy family (design, "Several documents about one workload").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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
class PrincipalNamespace:
    """The namespace in the caller's SPIFFE ID matches. Without identity nothing does."""

    match: StringMatch


@dataclass(frozen=True, slots=True)
class HasToken:
    """The request carries a verified token."""


@dataclass(frozen=True, slots=True)
class RequestPrincipal:
    """`iss` and `sub` of the verified token, both texts, match. No token: nothing does."""

    issuer: StringMatch
    subject: StringMatch


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim of the verified token, found by its path of names: a text, or a list with a text.

    Numbers, booleans, objects and lists within lists match nothing; a missing claim neither.
    """

    path: tuple[str, ...]
    match: StringMatch


@dataclass(frozen=True, slots=True)
class Host:
    """The authority matches, without regard to case: as written, or without its port.

    The port is left out if it is the one that the caller reached or, with `any_port`, always.
    """

    match: StringMatch
    any_port: bool = False


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """The path fits `template`: `{*}` stands for one segment, `{**}` for any rest, empty too."""

    template: str


@dataclass(frozen=True, slots=True)
class SourceIp:
    """The peer of the TCP connection is in one of the CIDRs. An unknown address is in none."""

    cidrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RemoteIp:
    """The client, as far as trusted proxies say it, is in one of the CIDRs."""

    cidrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DestinationIp:
    """The address that the connection reached is in one of the CIDRs."""

    cidrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sni:
    """The server name that the TLS client asked for matches. Without TLS nothing does."""

    match: StringMatch


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


Condition = (
    Always
    | Authenticated
    | Principal
    | PrincipalNamespace
    | HasToken
    | RequestPrincipal
    | Claim
    | Method
    | Path
    | PathTemplate
    | Host
    | Header
    | Port
    | SourceIp
    | RemoteIp
    | DestinationIp
    | Sni
    | AllOf
    | AnyOf
    | Not
)


class Effect(Enum):
    """What a matching rule does.

    `AUDIT` is reported and decides nothing. `CUSTOM` asks the rule's provider, whose refusal ends
    it and whose consent only lets the other rules decide.
    """

    ALLOW = "allow"
    DENY = "deny"
    AUDIT = "audit"
    CUSTOM = "custom"


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

    `ref` is left out of comparison: a file that moved changes no proxy. `provider` is that of a
    CUSTOM rule.
    """

    effect: Effect
    condition: Condition
    name: str
    ref: RuleRef = field(compare=False)
    provider: str = ""


class LayerKind(Enum):
    """A policy family. All that have rules for a callee must allow."""

    PERMISSION = "permission"
    AUTHORIZATION = "authorization"


@dataclass(frozen=True, slots=True)
class Layer:
    """The rules of one family for one guarded port, in evaluation order.

    `allows` says that a document of this family which can allow concerns the port, even if it
    has no rule that could: then only a matching ALLOW lets a request pass this layer. A layer with
    `allows` False only denies.

    `dry_run` holds rules of any effect that are enforced nowhere; which of them match is reported.
    They stand apart so that a reader that forgets them enforces none of them.
    """

    kind: LayerKind
    rules: tuple[Rule, ...]
    allows: bool
    dry_run: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """All layers of one guarded port.

    No explicit allow anywhere: refused, unless `default_allow` (a mesh that chose Istio's way) and
    no layer `allows`.

    Its hash is kept: a policy of a thousand rules is asked for it again and again.
    """

    layers: tuple[Layer, ...] = ()
    default_allow: bool = False
    _hash: int = field(default=0, init=False, repr=False, compare=False)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Policy) or hash(self) != hash(other):
            return False
        return self.layers == other.layers and self.default_allow == other.default_allow

    def __hash__(self) -> int:
        if not self._hash:
            object.__setattr__(self, "_hash", hash((self.layers, self.default_allow)))
        return self._hash


def parts_of(condition: Condition) -> Iterator[Condition]:
    """A condition and all within it."""
    yield condition
    match condition:
        case AllOf(parts) | AnyOf(parts):
            for part in parts:
                yield from parts_of(part)
        case Not(part):
            yield from parts_of(part)
        case _:
            pass


def reads_caller_only(condition: Condition) -> bool:
    """Whether it looks at nothing but the identity of the caller."""
    callers = Always | Authenticated | Principal | PrincipalNamespace | AllOf | AnyOf | Not
    return all(isinstance(part, callers) for part in parts_of(condition))


def reads_address(condition: Condition) -> bool:
    """Whether it looks at an IP address."""
    addresses = SourceIp | RemoteIp | DestinationIp
    return any(isinstance(part, addresses) for part in parts_of(condition))


def reads_token(condition: Condition) -> bool:
    """Whether it looks at a verified token."""
    return any(
        isinstance(part, HasToken | RequestPrincipal | Claim) for part in parts_of(condition)
    )
