"""`explain()`: would this request be allowed, by which rule, and what nearly matched.

Used by `limen explain -f` and by the server's API alike, so that both give the same answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from limen.core.compiler.asking import World, ports_of, set_up
from limen.core.compiler.decision_notes import decision_notes
from limen.core.compiler.explain_edge import (
    explain_gateway,
    gateway_door,
    gateway_instance,
    gateway_of_host,
)
from limen.core.compiler.explanation import ExplainQuery, Explanation
from limen.core.compiler.judging import FORBIDDEN, OK, judge
from limen.core.compiler.paths import normalise_path
from limen.core.compiler.permissions import traffic_of
from limen.core.compiler.registry import dataplane_of
from limen.core.compiler.selectors import ANY_SERVICE
from limen.core.model.names import (
    DEFAULT_MESH,
    WorkloadName,
    parse_workload_name,
)
from limen.core.model.resource import MESH
from limen.core.policy.decision import Request
from limen.core.policy.facts import parse_address, split_port
from limen.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from limen.core.compiler.asking import Setting
    from limen.core.compiler.doors import Door
    from limen.core.compiler.explanation import Json
    from limen.core.compiler.paths import NormalPath
    from limen.core.model.resource import Resource
    from limen.core.model.snapshot import Snapshot
    from limen.core.model.workload import Inbound

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
"""RFC 9110, section 5.6.2."""


_NO_HOST = "a gateway serves hosts, and none was given: --header host=NAME"
_NO_ADDRESS = "a rule looks at addresses and none was given (--source-ip): it is in no range"


def explain(snapshot: Snapshot, query: ExplainQuery) -> Explanation:
    """Judge an imagined request. Pure; the same snapshot gives the same answer.

    Raises NotFound (mesh, workload or port) and InvalidInput (a name, method or header that cannot
    be, or a caller's name that stands for several identities).
    """
    return Explainer(snapshot).explain(query)


class Explainer:
    """Answers many questions about one snapshot; what they need in common is built once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._world = World(snapshot)

    def explain(self, query: ExplainQuery) -> Explanation:
        """As `explain`."""
        return _explain(self._world, query)

    def is_gateway(self, query: ExplainQuery) -> bool:
        """Whether the question is about a gateway, by name or by a host of its. Raises as above."""
        setting = set_up(self._world, _by_host(self._world, query))
        return gateway_instance(setting.graph, setting.callee) is not None

    def door(self, query: ExplainQuery) -> Door:
        """What guards the port that a question is about. Raises as `explain` does."""
        if snapshot_lacks_mesh(self._world.snapshot, query.mesh):
            raise NotFound(f"there is no mesh {query.mesh}", code="unknown-mesh")
        query = _by_host(self._world, query)
        setting = set_up(self._world, query)
        gateway = gateway_instance(setting.graph, setting.callee)
        if gateway is not None:
            return gateway_door(setting, gateway, query.port)
        (resource, inbound), *_ = ports_of(setting, query.port)
        return setting.graph.view.doors.door(resource, inbound)


def _explain(world: World, query: ExplainQuery) -> Explanation:
    snapshot = world.snapshot
    if snapshot_lacks_mesh(snapshot, query.mesh):
        raise NotFound(
            f"there is no mesh {query.mesh}", code="unknown-mesh", hint="declare it with kind: Mesh"
        )
    query = _by_host(world, query)
    headers = _headers(query.headers)
    if not _TOKEN.fullmatch(query.method):
        raise InvalidInput(f"{query.method[:80]!a} is not an HTTP method", code="invalid-method")
    setting = set_up(world, query)
    path = normalise_path(query.path)
    request = Request(
        setting.caller,
        query.method,
        path.path,
        headers,
        host=_host(headers, setting.callee),
        source_ip=_address(query.source_ip),
        remote_ip=_address(query.remote_ip or query.source_ip),
        sni=query.sni.lower(),
        consents=frozenset(query.consents),
    )
    gateway = gateway_instance(setting.graph, setting.callee)
    if gateway is not None:
        _, _, rest = query.path.partition("?")
        if "host" not in headers:
            setting = replace(setting, notes=(*setting.notes, _NO_HOST))
        request = replace(request, sni=request.sni or split_port(request.host)[0].lower())
        at_edge = (query.claims, path, rest, query.port)
        return explain_gateway(setting, gateway, request, at_edge, spoken=bool(query.sni))
    asked = _Asked(request, query.claims, path)
    answers = [
        _judge(setting, asked, resource, inbound)
        for resource, inbound in ports_of(setting, query.port)
    ]
    refused = [a for a in answers if not a.allowed]
    answer = (refused or answers)[0]
    if not refused or len(refused) == len(answers):
        return answer
    open_ports = ", ".join(dict.fromkeys(str(a.port) for a in answers if a.allowed))
    note = f"the ports differ: allowed on {open_ports}; ask with --port"
    return replace(answer, notes=(*answer.notes, note))


def _by_host(world: World, query: ExplainQuery) -> ExplainQuery:
    """A callee that no workload is called by may be a host of a gateway."""
    graph = world.graph(query.mesh)
    try:
        callee = parse_workload_name(query.callee, query.mesh)
    except InvalidInput:
        return query
    if callee in graph.workloads or "." not in query.callee or "/" in query.callee:
        return query
    if query.assume:
        world.assume_edge(graph, callee)
    gateway = gateway_of_host(graph, query.callee.lower())
    if gateway is None:
        return query
    headers = query.headers
    if not any(name.lower() == "host" for name, _ in headers):
        headers = (("host", query.callee), *headers)
    return replace(query, callee=str(gateway), headers=headers)


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


@dataclass(frozen=True, slots=True)
class _Asked:
    """The request, the claims of its token, and what is wrong with its path."""

    request: Request
    claims: dict[str, Json] | None
    bad_path: NormalPath


def _judge(setting: Setting, asked: _Asked, resource: Resource, inbound: Inbound) -> Explanation:
    env = setting.graph.environment
    door = setting.graph.view.doors.door(resource, inbound)
    request = replace(
        asked.request,
        port=inbound.port,
        destination_ip=_reached(setting, resource, inbound),
        sni=_server_name(setting, asked.request, door),
    )
    judged = judge(
        env,
        door,
        setting.world.reader(door.policy).decider,
        request,
        asked.claims,
        bad_path=asked.bad_path,
    )
    decision, notes = judged.decision, [*setting.notes, *judged.notes]
    if judged.status in (OK, FORBIDDEN) and not asked.bad_path.refused:
        notes += _notes(setting, resource, inbound)
        notes += decision_notes(setting.graph, resource, decision)
        if not request.source_ip and setting.world.reader(door.policy).reads_addresses:
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
        asked=tuple((rule.provider, rule.ref) for rule in decision.asked),
        undecided=decision.undecided,
        status=judged.status,
        token=judged.token.reason,
        mode=door.mode.value,
        assumed=setting.assumed,
        notes=tuple(notes),
    )


def _reached(setting: Setting, resource: Resource, inbound: Inbound) -> str:
    """The address that a caller reaches; "" if it was made up or is no one address."""
    address = inbound.address or dataplane_of(resource).address
    known = None if setting.world.was_assumed(setting.callee) else parse_address(address)
    return "" if known is None or known.is_unspecified else address


def _server_name(setting: Setting, request: Request, door: Door) -> str:
    """What the TLS client asks for: as the question says, else as proxies of the mesh do."""
    if request.principal is None or door.anonymous:
        return ""
    return request.sni or setting.callee.dns_san


def _notes(setting: Setting, resource: Resource, inbound: Inbound) -> list[str]:
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
