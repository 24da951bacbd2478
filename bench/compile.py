"""What compiling a mesh costs: cold, after one permission that concerns ten, after one for all.

The baseline of every line is the cold compile of the same mesh in the same run. One workload, one
proxy each; every workload has a permission that lets ten others call it. `--short` takes smaller
meshes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from limen.core.compiler.checks import check
from limen.core.compiler.explain import Explainer
from limen.core.compiler.explanation import ExplainQuery
from limen.core.compiler.graph import Dirty, MeshGraph
from limen.core.compiler.narrow import narrowed
from limen.core.model.authorization import (
    AuthorizationPolicy,
    AuthorizationRule,
    AuthorizationSource,
    Operation,
)
from limen.core.model.names import InstanceName, WorkloadName
from limen.core.model.permission import TrafficPermission
from limen.core.model.resource import (
    AUTHORIZATION_POLICY,
    DATAPLANE,
    TRAFFIC_PERMISSION,
    Resource,
    ResourceKey,
)
from limen.core.model.selector import PolicyTarget, Scope, TargetKind
from limen.core.model.snapshot import Snapshot
from limen.core.model.workload import SERVICE_TAG, Dataplane, Inbound, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

CALLERS = 10
MESH = "default"


def tags(service: str) -> tuple[tuple[str, str], ...]:
    """A selector of one service."""
    return ((SERVICE_TAG, service),)


def dataplane(number: int) -> Resource:
    """The only instance of one workload."""
    service = f"s{number}"
    workload = WorkloadName(MESH, "default", service)
    inbound = Inbound(8080, 9080, Protocol.HTTP, tags(service))
    address = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"
    spec = Dataplane(InstanceName(workload, f"{service}-1"), service, address, (inbound,))
    return Resource(ResourceKey(DATAPLANE, MESH, "default", f"{service}-1"), spec)


def permission(name: str, sources: list[str], destination: str) -> Resource:
    """`sources` may call `destination`."""
    key = ResourceKey(TRAFFIC_PERMISSION, MESH, "default", name)
    spec = TrafficPermission(tuple(tags(s) for s in sources), (tags(destination),))
    return Resource(key, spec)


def callers_of(number: int, size: int, shift: int = 1) -> list[str]:
    """Ten workloads that may call workload `number`."""
    return [f"s{(number + shift + i) % size}" for i in range(CALLERS)]


def mesh(size: int) -> list[Resource]:
    """`size` workloads, each with its ten callers."""
    found = [dataplane(n) for n in range(size)]
    found += [permission(f"p{n}", callers_of(n, size), f"s{n}") for n in range(size)]
    return found


def plan_all(graph: MeshGraph, dirty: Dirty) -> None:
    """What the server compiles after a change."""
    for instance in dirty.instances:
        graph.plan(instance)
    for workload in dirty.endpoints:
        graph.endpoints(workload)


def milliseconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def measure(size: int, rounds: int) -> dict[str, float]:
    """Medians in milliseconds, and how many proxies each change dirtied."""
    resources = mesh(size)
    times: dict[str, list[float]] = {}
    counts: dict[str, int] = {}

    def note(name: str, work: Callable[[], object]) -> None:
        times.setdefault(name, []).append(milliseconds(work))

    def cold() -> None:
        graph = MeshGraph(MESH, resources)
        plan_all(graph, Dirty(graph.instances, graph.workloads))

    graph = MeshGraph(MESH, resources)
    plan_all(graph, Dirty(graph.instances, graph.workloads))
    before = Snapshot({r.key: r for r in resources})
    for turn in range(rounds):
        note("cold", cold)
        grown = permission("p0", callers_of(0, size, 1 + turn % 2), "s0")
        nobody = permission("p0", [], "s0")
        everyone = permission("p0", ["*"], "*")
        for name, change in (("ten", nobody), ("ten", grown), ("all", everyone), ("all", grown)):

            def apply(change: Resource = change, name: str = name) -> None:
                dirty = graph.update([change])
                counts[name] = max(counts.get(name, 0), len(dirty.instances))
                plan_all(graph, dirty)

            note(name, apply)
        after = before.replaced([nobody])
        note("narrowed (snapshots)", partial(narrowed, before, after))
        note("narrowed (graph)", partial(graph.preview, [nobody]))
        note("check", partial(check, before))
    medians = {f"{name} ms": round(statistics.median(t), 3) for name, t in times.items()}
    return medians | {f"{name} proxies": float(n) for name, n in counts.items()}


def authorization(number: int, size: int, policies: int, shift: int = 0) -> Resource:
    """Policy `number` of `policies`: an equal share of the workloads, ten callers, GET and POST."""
    share = size // policies
    members = [(number * share + i) % size for i in range(share)]
    targets = tuple(PolicyTarget(TargetKind.SERVICE, f"s{n}") for n in members)
    names = callers_of(members[-1], size, 1 + shift)
    source = AuthorizationSource(
        principals=tuple(f"cluster.local/ns/default/sa/{n}" for n in names)
    )
    operations = (
        Operation(methods=("GET",), paths=("/info*",)),
        Operation(methods=("POST",), paths=("/data",)),
    )
    rule = AuthorizationRule((source,), operations)
    key = ResourceKey(AUTHORIZATION_POLICY, MESH, "default", f"a{number}")
    return Resource(key, AuthorizationPolicy(Scope("default", targets=targets), rules=(rule,)))


def measure_istio(size: int, policies: int, rounds: int) -> dict[str, float]:
    """Istio's policies: cold, and one changed that concerns an equal share of the workloads."""
    resources = [dataplane(n) for n in range(size)]
    resources += [authorization(n, size, policies) for n in range(policies)]
    times: dict[str, list[float]] = {"cold": [], "change": []}
    graph = MeshGraph(MESH, resources)
    plan_all(graph, Dirty(graph.instances, graph.workloads))
    dirtied = 0
    for turn in range(rounds):

        def cold() -> None:
            fresh = MeshGraph(MESH, resources)
            plan_all(fresh, Dirty(fresh.instances, fresh.workloads))

        def change(shift: int = 1 + turn % 2) -> None:
            nonlocal dirtied
            dirty = graph.update([authorization(0, size, policies, shift)])
            dirtied = len(dirty.instances)
            plan_all(graph, dirty)

        times["cold"].append(milliseconds(cold))
        times["change"].append(milliseconds(change))
    medians = {f"{name} ms": round(statistics.median(t), 3) for name, t in times.items()}
    return medians | {"change proxies": float(dirtied)}


def measure_explain(rules: int) -> float:
    """Decisions in a second on one core, the median of seven rounds.

    There are `rules` rules; the last one decides, or none does.
    """
    found = [dataplane(n) for n in range(rules + 2)]
    found += [authorization(0, rules + 2, rules + 2)]
    one = found[-1]
    if not isinstance(one.spec, AuthorizationPolicy):
        raise TypeError(one.key)
    many = tuple(
        replace(
            one.spec.rules[0],
            sources=(AuthorizationSource(principals=(f"cluster.local/ns/default/sa/s{n}",)),),
        )
        for n in range(rules)
    )
    found[-1] = replace(one, spec=replace(one.spec, rules=many))
    explainer = Explainer(Snapshot({r.key: r for r in found}))
    asked = [
        ExplainQuery(f"s{rules - 1}", "s0", path="/info"),
        ExplainQuery(f"s{rules}", "s0", path="/info"),
    ]
    rates: list[float] = []
    count = 400
    for _ in range(7):
        start = time.process_time()
        for number in range(count):
            explainer.explain(asked[number % 2])
        rates.append(count / (time.process_time() - start))
    return statistics.median(rates)


def main() -> None:
    """Measure a small and a large mesh; compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    short = parser.parse_args().short
    sizes = (50, 200) if short else (100, 1000)
    results = {size: measure(size, 3 if short else 7) for size in sizes}
    small, large = (results[size] for size in sizes)
    for size, result in results.items():
        print(f"{size} workloads: {json.dumps(result)}")
    print(f"ten / cold at {sizes[1]}: {large['ten ms'] / large['cold ms']:.4f}")
    print(f"all / cold at {sizes[1]}: {large['all ms'] / large['cold ms']:.4f}")
    same = large["ten ms"] / small["ten ms"]
    istio = measure_istio(sizes[1], sizes[1] // 5, 3 if short else 7)
    tenth = measure_istio(sizes[1], sizes[1] // 10, 3 if short else 7)
    print(f"Istio, {sizes[1]} workloads x {sizes[1] // 5} policies: {json.dumps(istio)}")
    print(f"Istio, a policy that concerns ten: {json.dumps(tenth)} (goal: change < 50 ms)")
    print(f"explain at 100 rules: {measure_explain(100):.0f} decisions/s (goal: 5000)")
    print(f"ten at {sizes[1]} / ten at {sizes[0]}: {same:.2f} (goal: 1)")


if __name__ == "__main__":
    main()
