"""`explain()`: would this request be allowed, by which rule, and what nearly matched.

Used by `limen explain -f` and by the server's API alike, so that both give the same answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from limen.core.compiler.assume import ASSUMED_PORT, assumed_dataplane, describe, undeclared
from limen.core.compiler.explanation import ANONYMOUS, ExplainQuery, Explanation
from limen.core.compiler.graph import MeshGraph
from limen.core.compiler.judging import FORBIDDEN, OK, judge
from limen.core.compiler.paths import normalise_path
from limen.core.compiler.permissions import traffic_of
from limen.core.compiler.registry import dataplane_of
from limen.core.compiler.selectors import ANY_SERVICE
from limen.core.model.names import (
    DEFAULT_MESH,
    WorkloadName,
    parse_name,
    parse_spiffe_id,
    parse_workload_name,
)
from limen.core.model.resource import MESH
from limen.core.policy.decide import Decider
from limen.core.policy.decision import Request
from limen.core.policy.facts import parse_address, split_port
from limen.core.policy.rule import reads_address
from limen.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from limen.core.compiler.explanation import Json
    from limen.core.compiler.paths import NormalPath
    from limen.core.model.names import SpiffeId
    from limen.core.model.resource import Resource
    from limen.core.model.snapshot import Snapshot
    from limen.core.model.workload import Inbound
    from limen.core.policy.rule import Policy

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
"""RFC 9110, section 5.6.2."""


_NO_ADDRESS = "a rule looks at addresses and none was given (--source-ip): it is in no range"


@dataclass(frozen=True, slots=True)
class _Setting:
    """The mesh that a question is about, with what had to be assumed for it."""

    explainer: Explainer
    graph: MeshGraph
    caller: SpiffeId | None
    callee: WorkloadName
    assumed: tuple[str, ...]
    notes: tuple[str, ...]


def explain(snapshot: Snapshot, query: ExplainQuery) -> Explanation:
    """Judge an imagined request. Pure; the same snapshot gives the same answer.

    Raises NotFound (mesh, workload or port) and InvalidInput (a name, method or header that cannot
    be, or a caller's name that stands for several identities).
    """
    return Explainer(snapshot).explain(query)


@dataclass(frozen=True, slots=True)
class Reader:
    """One policy, ready to be asked; `reads_addresses`: a rule looks at an IP address."""

    decider: Decider
    reads_addresses: bool


class Explainer:
    """Answers many questions about one snapshot; what they need in common is built once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._graphs: dict[str, MeshGraph] = {}
        self._assumed: dict[WorkloadName, bool] = {}
        self._completed: set[str] = set()
        self._readers: dict[int, Reader] = {}

    def explain(self, query: ExplainQuery) -> Explanation:
        """As `explain`."""
        return _explain(self, query)

    def graph(self, mesh: str) -> MeshGraph:
        """The mesh as the snapshot has it, and what was assumed by earlier questions."""
        if mesh not in self._graphs:
            own = [r for k, r in self.snapshot.resources.items() if k.mesh == mesh]
            self._graphs[mesh] = MeshGraph(mesh, own)
        return self._graphs[mesh]

    def assume(self, graph: MeshGraph, workload: WorkloadName, port: int) -> None:
        """Let `workload` be there from now on, if it is not."""
        if workload not in graph.workloads:
            graph.update([assumed_dataplane(workload, port)])
            self._assumed[workload] = True

    def complete(self, graph: MeshGraph) -> None:
        """Let everybody be there whom a permission names."""
        if graph.mesh in self._completed:
            return
        self._completed.add(graph.mesh)
        served = {w.name for w in graph.workloads}
        for workload in undeclared(self.snapshot, graph.mesh):
            if workload.name not in served:
                self.assume(graph, workload, ASSUMED_PORT)

    def reader(self, policy: Policy) -> Reader:
        """A policy made ready. Remembered for the same object."""
        known = self._readers.get(id(policy))
        if known is None:
            rules = [rule for layer in policy.layers for rule in layer.rules]
            reads = any(reads_address(rule.condition) for rule in rules)
            known = self._readers[id(policy)] = Reader(Decider(policy), reads)
        return known

    def was_assumed(self, workload: WorkloadName) -> bool:
        """Whether no document declares `workload`."""
        return workload in self._assumed


def _explain(explainer: Explainer, query: ExplainQuery) -> Explanation:
    snapshot = explainer.snapshot
    if snapshot_lacks_mesh(snapshot, query.mesh):
        raise NotFound(
            f"there is no mesh {query.mesh}", code="unknown-mesh", hint="declare it with kind: Mesh"
        )
    headers = _headers(query.headers)
    if not _TOKEN.fullmatch(query.method):
        raise InvalidInput(f"{query.method[:80]!a} is not an HTTP method", code="invalid-method")
    setting = _set_up(explainer, query)
    path = normalise_path(query.path)
    request = Request(
        setting.caller,
        query.method,
        path.path,
        headers,
        host=_host(headers, setting.callee),
        source_ip=_address(query.source_ip),
        remote_ip=_address(query.remote_ip or query.source_ip),
    )
    asked = _Asked(request, query.claims, path)
    answers = [
        _judge(setting, asked, resource, inbound)
        for resource, inbound in _ports(setting, query.port)
    ]
    refused = [a for a in answers if not a.allowed]
    answer = (refused or answers)[0]
    notes = list(answer.notes)
    if refused and len(refused) < len(answers):
        open_ports = ", ".join(dict.fromkeys(str(a.port) for a in answers if a.allowed))
        notes.append(f"the ports differ: allowed on {open_ports}; ask with --port")
    return replace(answer, notes=tuple(notes))


def _host(headers: Mapping[str, tuple[str, ...]], callee: WorkloadName) -> str:
    """The authority: the header `host`, a final dot of its name cut off, else the callee's name."""
    host = next(iter(headers.get("host", ())), "") or callee.hostnames[0]
    name, port = split_port(host)
    return name.removesuffix(".") + (f":{port}" if port else "")


def _address(text: str) -> str:
    if text and parse_address(text) is None:
        raise InvalidInput(f"{text[:80]!a} is not an IP address", code="invalid-address")
    return text


def snapshot_lacks_mesh(snapshot: Snapshot, mesh: str) -> bool:
    """Whether `mesh` does not exist. `default` always does."""
    return mesh != DEFAULT_MESH and not any(r.key.name == mesh for r in snapshot.of_kind(MESH))


def _headers(pairs: Sequence[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        if not _TOKEN.fullmatch(name):
            raise InvalidInput(f"{name[:80]!a} is not a header name", code="invalid-header")
        if any(c in value for c in "\r\n\0"):
            raise InvalidInput(f"the value of {name} holds a line break", code="invalid-header")
        key = name.lower()
        found[key] = (*found.get(key, ()), value.strip(" \t"))
    return found


# --- who asks whom


def _set_up(explainer: Explainer, query: ExplainQuery) -> _Setting:
    mesh = parse_name(query.mesh, "mesh")
    graph = explainer.graph(mesh)
    callee = parse_workload_name(query.callee, mesh)
    caller = _Caller.parse(graph, query.caller, mesh)
    missing = [callee] if callee not in graph.workloads else []
    missing += [w for w in caller.missing(graph) if w not in missing]
    if not query.assume:
        for workload in (w for w in missing if w == callee or caller.named):
            raise NotFound(
                f"no workload {workload} is registered in mesh {mesh}",
                code="unknown-workload",
                hint="`limen get dataplanes` lists what is registered",
            )
        note = (f"the identity {caller.identity} is not registered",) if missing else ()
        return _Setting(explainer, graph, caller.resolve(graph), callee, (), note)
    for workload in missing:
        port = query.port if workload == callee and query.port else ASSUMED_PORT
        explainer.assume(graph, workload, port)
    explainer.complete(graph)
    named = dict.fromkeys((callee, *caller.workloads()))
    said = tuple(describe(w) for w in named if explainer.was_assumed(w))
    return _Setting(explainer, graph, caller.resolve(graph), callee, said, ())


@dataclass(frozen=True, slots=True)
class _Caller:
    """A caller as asked for: nobody, an identity, or a workload by name."""

    mesh: str
    identity: SpiffeId | None = None
    named: WorkloadName | None = None

    @staticmethod
    def parse(graph: MeshGraph, text: str, mesh: str) -> _Caller:
        if text in ("", ANONYMOUS):
            return _Caller(mesh)
        if text.startswith("spiffe:"):
            return _Caller(mesh, identity=parse_spiffe_id(graph.environment.canonical(text)))
        return _Caller(mesh, named=parse_workload_name(text, mesh))

    def workloads(self) -> list[WorkloadName]:
        """The workload that the caller is, or would be if nobody else has its identity."""
        if self.named is not None:
            return [self.named]
        if self.identity is None:
            return []
        try:
            names = parse_name(self.identity.namespace), parse_name(self.identity.service_account)
        except InvalidInput:
            return []  # an identity that no workload can have: judged as it stands
        return [WorkloadName(self.mesh, *names)]

    def missing(self, graph: MeshGraph) -> list[WorkloadName]:
        """The workload that would have to be assumed."""
        if self.named is not None:
            return [] if self.named in graph.workloads else [self.named]
        who, registry = self.identity, graph.view.doors.registry
        if who is None or not graph.environment.trusts(who) or who in registry.accounts:
            return []
        return self.workloads()

    def resolve(self, graph: MeshGraph) -> SpiffeId | None:
        if self.named is None:
            return self.identity
        registry = graph.view.doors.registry
        instances = registry.workloads[self.named]
        found = {registry.identity(dataplane_of(registry.instances[i])) for i in instances}
        if len(found) > 1:
            listed = ", ".join(map(str, sorted(found)))
            raise InvalidInput(
                f"the instances of {self.named} have several identities: {listed}",
                code="ambiguous-caller",
                hint="ask with --from SPIFFE-ID",
            )
        return found.pop()


def _ports(setting: _Setting, port: int | None) -> list[tuple[Resource, Inbound]]:
    """The guarded ports of the callee; of every instance, first the lowest port."""
    found = setting.graph.view.guarded_ports(setting.callee)
    chosen = [pair for pair in found if port in (None, pair[1].port)]
    if not chosen:
        listed = ", ".join(sorted({str(i.port) for _, i in found}))
        raise NotFound(
            f"{setting.callee} has no guarded port {port}",
            code="unknown-port",
            hint=f"its ports are {listed}",
        )
    return chosen


# --- judging


@dataclass(frozen=True, slots=True)
class _Asked:
    """The request, the claims of its token, and what is wrong with its path."""

    request: Request
    claims: dict[str, Json] | None
    bad_path: NormalPath


def _judge(setting: _Setting, asked: _Asked, resource: Resource, inbound: Inbound) -> Explanation:
    env = setting.graph.environment
    request = replace(asked.request, port=inbound.port)
    door = setting.graph.view.doors.door(resource, inbound)
    judged = judge(
        env,
        door,
        setting.explainer.reader(door.policy).decider,
        request,
        asked.claims,
        bad_path=asked.bad_path,
    )
    decision, notes = judged.decision, [*setting.notes, *judged.notes]
    if judged.status in (OK, FORBIDDEN) and not asked.bad_path.refused:
        notes += _notes(setting, resource, inbound)
        if not request.source_ip and setting.explainer.reader(door.policy).reads_addresses:
            notes.append(_NO_ADDRESS)
    return Explanation(
        allowed=decision.allowed,
        reason=decision.reason,
        mesh=env.mesh,
        caller=request.principal,
        callee=setting.callee,
        port=inbound.port,
        method=request.method,
        path=request.path,
        rule=None if decision.rule is None else decision.rule.ref,
        near_misses=decision.near_misses,
        shadow_denied=tuple(rule.ref for rule in decision.shadow_denied),
        dry_run=tuple((rule.effect, rule.ref) for rule in decision.dry_run),
        audited=tuple(rule.ref for rule in decision.audited),
        status=judged.status,
        token=judged.token.reason,
        mode=door.mode.value,
        assumed=setting.assumed,
        notes=tuple(notes),
    )


def _notes(setting: _Setting, resource: Resource, inbound: Inbound) -> list[str]:
    """What a reader of the documents would otherwise stumble over."""
    env = setting.graph.environment
    if not env.mtls:
        off = f"mTLS is OFF in mesh {env.mesh}: traffic is plaintext, nobody has an identity, and"
        return [f"{off} no permission is enforced"]
    doors = setting.graph.view.doors
    concerned = doors.concerned(resource, inbound)
    notes: list[str] = []
    if concerned.traffic is None:
        return notes
    name = concerned.traffic.key.name
    if concerned.mesh_traffic:
        notes.append("TrafficPermission and MeshTrafficPermission concern it: nothing is allowed")
    notes.extend(
        f"TrafficPermission {lost.key.name} concerns it too and has no effect: {name} is more "
        "specific, or equally specific and chosen first"
        for lost in concerned.lost
    )
    for index, source in enumerate(traffic_of(concerned.traffic).sources):
        if source == ANY_SERVICE:
            continue
        meant, split = doors.registry.resolve(source)
        shown = ", ".join(f"{k}={v}" for k, v in source)
        if split:
            notes.append(
                f"source {index} of {name} ({shown}) would split the identity {split[0]}: it is "
                "not granted"
            )
        elif not meant:
            notes.append(f"source {index} of {name} ({shown}) means no registered workload")
    return notes
