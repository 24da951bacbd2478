"""What `explain` is asked and what it answers, as values and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.core.policy.decision import Json

if TYPE_CHECKING:
    from limen.core.model.names import SpiffeId, WorkloadName
    from limen.core.plan.edge import RouteRef
    from limen.core.policy.decision import NearMiss
    from limen.core.policy.rule import Effect, RuleRef


__all__ = ["ANONYMOUS", "ExplainQuery", "Explanation", "Json", "rule_json"]

ANONYMOUS = "anonymous"
"""As `caller`: somebody without identity. The empty text says the same."""


@dataclass(frozen=True, slots=True)
class ExplainQuery:
    """A request to be judged.

    `caller`: a SPIFFE ID (trust domain `cluster.local` or an alias: the mesh's own), `NAME`,
    `NAMESPACE/NAME`, or `anonymous`. `callee`: `NAME` or `NAMESPACE/NAME`. `headers` may repeat a
    name, in order. `port` None: every port that serves the callee. `assume`: undeclared workloads
    are assumed (files) instead of not found (a server). `claims` are those of a verified token;
    None: no token. `source_ip` is the peer of the connection, `remote_ip` the client behind trusted
    proxies (else the same); "" if not known. A header `host` is the authority; else it is the
    callee's name. `sni`: the server name that is asked for; "": at a gateway that of the authority,
    else the callee's own.
    `consents`: providers that are taken to consent.
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
    source_ip: str = ""
    remote_ip: str = ""
    sni: str = ""
    consents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """The verdict and why. `caller` None: without identity. `assumed` and `notes` are sentences.

    `status`: what the caller gets, 200 for whatever the application answers, 0 if there is no
    connection. `token` says what became of one. `dry_run` are rules on trial that matched, with
    what they would do; `audited` those that only report. `asked`: providers that are asked, and
    because of which rule; `undecided`: refused only because one of them may refuse. At a gateway
    `listener`, `route` and `sent_to` say where the request arrives, which route decides and where
    it goes on.
    """

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
    dry_run: tuple[tuple[Effect, RuleRef], ...] = ()
    audited: tuple[RuleRef, ...] = ()
    asked: tuple[tuple[str, RuleRef], ...] = ()
    undecided: bool = False
    status: int = 200
    token: str = ""
    mode: str = ""
    listener: str = ""
    route: RouteRef | None = None
    sent_to: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def _at_gateway(self) -> dict[str, Json]:
        if not self.listener:
            return {}
        route = None if self.route is None else route_json(self.route)
        return {"listener": self.listener, "route": route, "sent_to": list(self.sent_to)}

    def to_json(self) -> dict[str, Json]:
        """The answer of `limen explain -o json` and of the API."""
        return {
            **self._at_gateway(),
            "allowed": self.allowed,
            "reason": self.reason,
            "rule": None if self.rule is None else rule_json(self.rule),
            "near_misses": [_miss_json(miss) for miss in self.near_misses],
            "shadow_denied": [rule_json(ref) for ref in self.shadow_denied],
            "dry_run": [{**rule_json(ref), "action": effect.value} for effect, ref in self.dry_run],
            "audited": [rule_json(ref) for ref in self.audited],
            "asked": [{**rule_json(ref), "provider": name} for name, ref in self.asked],
            "undecided": self.undecided,
            "status": self.status,
            "token": self.token,
            "mtls": self.mode,
            "mesh": self.mesh,
            "from": None if self.caller is None else str(self.caller),
            "to": str(self.callee),
            "port": self.port,
            "method": self.method,
            "path": self.path,
            "assumed": list(self.assumed),
            "notes": list(self.notes),
        }


def route_json(ref: RouteRef) -> dict[str, Json]:
    """A route's place, as `rule_json`."""
    return {
        "kind": ref.kind,
        "name": ref.name,
        "namespace": ref.namespace,
        "index": ref.index,
        "file": ref.file,
        "line": ref.line,
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
