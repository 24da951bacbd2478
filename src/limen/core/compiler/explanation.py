"""What `explain` is asked and what it answers, as values and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limen.core.model.names import SpiffeId, WorkloadName
    from limen.core.policy.decision import NearMiss
    from limen.core.policy.rule import RuleRef

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]

ANONYMOUS = "anonymous"
"""As `caller`: somebody without identity. The empty text says the same."""


@dataclass(frozen=True, slots=True)
class ExplainQuery:
    """A request to be judged.

    `caller`: a SPIFFE ID (trust domain `cluster.local` or an alias: the mesh's own), `NAME`,
    `NAMESPACE/NAME`, or `anonymous`. `callee`: `NAME` or `NAMESPACE/NAME`. `headers` may repeat a
    name, in order. `port` None: every port that serves the callee. `assume`: undeclared workloads
    are assumed (files) instead of not found (a server). `claims` are those of a verified token;
    None: no token.
    """

    caller: str
    callee: str
    mesh: str = "default"
    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    port: int | None = None
    claims: dict[str, Json] | None = field(default=None, hash=False)
    assume: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """The verdict and why. `caller` None: without identity. `assumed` and `notes` are sentences."""

    allowed: bool
    reason: str
    mesh: str
    caller: SpiffeId | None
    callee: WorkloadName
    port: int
    method: str
    path: str
    rule: RuleRef | None = None
    near_misses: tuple[NearMiss, ...] = ()
    shadow_denied: tuple[RuleRef, ...] = ()
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """The answer of `limen explain -o json` and of the API."""
        return {
            "allowed": self.allowed,
            "reason": self.reason,
            "rule": None if self.rule is None else rule_json(self.rule),
            "near_misses": [_miss_json(miss) for miss in self.near_misses],
            "shadow_denied": [rule_json(ref) for ref in self.shadow_denied],
            "mesh": self.mesh,
            "from": None if self.caller is None else str(self.caller),
            "to": str(self.callee),
            "port": self.port,
            "method": self.method,
            "path": self.path,
            "assumed": list(self.assumed),
            "notes": list(self.notes),
        }


def rule_json(ref: RuleRef) -> dict[str, Json]:
    """A rule's place: `index` counts from 0 in the document; `file` "" and `line` 0: unknown."""
    return {
        "kind": ref.kind,
        "name": ref.name,
        "namespace": ref.namespace,
        "index": ref.index,
        "file": ref.file,
        "line": ref.line,
    }


def _miss_json(miss: NearMiss) -> Json:
    return {
        "rule": rule_json(miss.rule.ref),
        "field": miss.field,
        "wanted": miss.wanted,
        "seen": miss.seen,
    }
