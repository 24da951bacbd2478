"""`explain` at a gateway: listener, guards, route, and who decides next."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from limen.core.compiler.edge.documents import Report
from limen.core.compiler.edge.explain import CLOSED, asks_for_certificate, choose, route
from limen.core.compiler.explanation import Explanation
from limen.core.compiler.judging import OK, judge
from limen.core.compiler.registry import dataplane_of
from limen.core.model.gateway import ServerTlsMode, host_covers
from limen.core.plan.edge import HttpChain, TunnelChain
from limen.errors import NotFound

if TYPE_CHECKING:
    from limen.core.compiler.asking import Setting
    from limen.core.compiler.doors import Door
    from limen.core.compiler.edge.explain import Chosen
    from limen.core.compiler.explanation import Json
    from limen.core.compiler.graph import MeshGraph
    from limen.core.compiler.paths import NormalPath
    from limen.core.model.names import InstanceName, WorkloadName
    from limen.core.policy.decision import Request


def gateway_instance(graph: MeshGraph, workload: WorkloadName) -> InstanceName | None:
    """The first instance of a workload that is a gateway; None if it is none."""
    gateways = graph.view.doors.registry.gateways
    return min((name for name in gateways if name.workload == workload), default=None)


def gateway_of_host(graph: MeshGraph, host: str) -> WorkloadName | None:
    """The gateway that has a listener for a host name; None if none has."""
    for name in sorted(graph.view.doors.registry.gateways):
        for listener in graph.view.edge(name, ()).plan.listeners:
            for chain in listener.chains:
                names = list(chain.server_names)
                if isinstance(chain, HttpChain):
                    names += [each.domain for each in chain.hosts]
                if any(host_covers(each, host) for each in names if each != "*"):
                    return name.workload
    return None


def gateway_door(setting: Setting, instance: InstanceName, port: int | None) -> Door:
    """What guards a gateway's port, of its first one if none is named. Raises NotFound."""
    doors = dict(setting.graph.view.edge(instance, ()).doors)
    chosen = port if port is not None else min(doors, default=0)
    if chosen not in doors:
        raise NotFound(f"{instance.workload} does not listen on port {port}", code="unknown-port")
    return doors[chosen]


def explain_gateway(
    setting: Setting,
    instance: InstanceName,
    request: Request,
    asked: tuple[dict[str, Json] | None, NormalPath, str, int | None],
    *,
    spoken: bool = False,
) -> Explanation:
    """`asked`: claims of a verified token, the normalised path, the raw query, the port.

    `spoken`: the server name was given, and is not only that of the host.

    Raises NotFound if the gateway does not listen there.
    """
    claims, path, query, port = asked
    graph = setting.graph
    identity = graph.view.doors.registry.identity(dataplane_of(graph.resource(instance)))
    reachable = set(graph.callees(identity))
    edge = graph.view.edge(instance, reachable, Report())
    chosen = choose(edge.plan, request.sni, port, spoken=spoken)
    if chosen is None:
        raise NotFound(
            f"{instance.workload} does not listen on port {port}"
            if port
            else f"{instance.workload} has no open listener",
            code="unknown-port",
            hint="`limen validate` says which Gateways it serves, and what keeps them closed",
        )
    listener = chosen.listener
    answer = Explanation(
        allowed=False,
        reason="",
        mesh=graph.mesh,
        caller=request.principal,
        callee=setting.callee,
        port=listener.port,
        method=request.method,
        path=request.path,
        assumed=setting.assumed,
        notes=setting.notes,
        mode="" if chosen.chain is None else _mode(chosen.chain),
        listener="" if chosen.chain is None else chosen.chain.name,
    )
    chain = chosen.chain
    if chain is None:
        reason = f"no listener on port {listener.port} has the server name {request.sni}"
        return replace(answer, reason=f"{reason}: the connection is closed", status=CLOSED)
    if isinstance(chain, TunnelChain):
        to = tuple(str(share.callee) for share in chain.shares)
        return replace(
            answer, allowed=True, reason="passed on unopened", route=chain.ref, sent_to=to
        )
    wanted = asks_for_certificate(chain)
    mesh_only = chain.tls is not None and chain.tls.mode is ServerTlsMode.ISTIO_MUTUAL
    if mesh_only and request.principal is None:
        reason = f"clients of this listener show {wanted}: refused at the handshake"
        return replace(answer, reason=reason, status=CLOSED)
    notes = list(setting.notes)
    if wanted and not mesh_only:
        notes.append(f"clients of this listener must show {wanted}")
    seen = request
    if request.principal is not None and not mesh_only:
        notes.append("this listener does not ask for identities of the mesh: nobody is known here")
        seen = replace(request, principal=None)
    return _guarded(
        setting, chosen, replace(answer, notes=tuple(notes)), (seen, claims, path, query)
    )


def _mode(chain: HttpChain | TunnelChain) -> str:
    if isinstance(chain, TunnelChain):
        return ServerTlsMode.PASSTHROUGH.value
    return "plaintext" if chain.tls is None else chain.tls.mode.value


def _guarded(
    setting: Setting,
    chosen: Chosen,
    answer: Explanation,
    asked: tuple[Request, dict[str, Json] | None, NormalPath, str],
) -> Explanation:
    """What the guards say, and if they let it in, the routes."""
    request, claims, path, query = asked
    listener, chain = chosen.listener, chosen.chain
    assert isinstance(chain, HttpChain)  # noqa: S101 - the caller knows
    graph = setting.graph
    door = dict(graph.view.edge(_instance(setting), ()).doors)[listener.port]
    request = replace(request, port=listener.port, sni=request.sni if chain.tls else "")
    judged = judge(
        graph.environment,
        door,
        setting.world.reader(door.policy).decider,
        request,
        claims,
        bad_path=path,
    )
    decision = judged.decision
    answer = replace(
        answer,
        caller=request.principal,
        allowed=decision.allowed,
        reason=decision.reason,
        rule=None if decision.rule is None else decision.rule.ref,
        near_misses=decision.near_misses,
        shadow_denied=tuple(rule.ref for rule in decision.shadow_denied),
        dry_run=tuple((rule.effect, rule.ref) for rule in decision.dry_run),
        audited=tuple(rule.ref for rule in decision.audited),
        asked=tuple((rule.provider, rule.ref) for rule in decision.asked),
        undecided=decision.undecided,
        status=judged.status,
        token=judged.token.reason,
        notes=(*answer.notes, *judged.notes),
    )
    if judged.status != OK:
        return answer
    routed = route(chosen, chain, request, query)
    by_rule = f"{decision.reason}; " if decision.rule is not None else ""
    where = f" by {routed.route} ({routed.route.file}:{routed.route.line})" if routed.route else ""
    to = f" to {', '.join(routed.to)}" if routed.to else ""
    notes = list(answer.notes)
    if routed.to:
        instance = graph.resource(_instance(setting))
        identity = graph.view.doors.registry.identity(dataplane_of(instance))
        notes.append(f"the service decides again: limen explain --from {identity} --to NAME")
    return replace(
        answer,
        allowed=routed.passes,
        reason=f"{by_rule}{routed.reason}{where}{to}",
        status=routed.status,
        route=routed.route,
        sent_to=routed.to,
        notes=tuple(notes),
    )


def _instance(setting: Setting) -> InstanceName:
    found = gateway_instance(setting.graph, setting.callee)
    if found is None:
        raise NotFound(f"{setting.callee} is not a gateway", code="not-a-gateway")
    return found
