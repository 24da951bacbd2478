"""Who may reach whom: an index from callers to the workloads whose ports may open for them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from limen.core.model.names import MESH_DOMAIN
from limen.core.policy.callers import Callers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.compiler.face import Guard
    from limen.core.model.names import SpiffeId, WorkloadName
    from limen.core.plan.node import Edge


class Edges:
    """The distinct guards of each workload's ports, indexed by the callers that they name."""

    def __init__(self) -> None:
        self._doors: dict[WorkloadName, tuple[Callers, ...]] = {}
        self._last: tuple[Guard, Callers] | None = None
        self._names: dict[WorkloadName, frozenset[str] | None] = {}
        self._named: dict[str, set[WorkloadName]] = {}
        self._open: set[WorkloadName] = set()

    def put(self, workload: WorkloadName, guards: tuple[Guard, ...]) -> None:
        """Say what guards a workload's ports."""
        self.drop(workload)
        doors = self._doors[workload] = tuple(self._callers(guard) for guard in guards)
        names = self._names[workload] = _named_by(doors)
        if names is None:
            self._open.add(workload)
            return
        for name in names:
            self._named.setdefault(name, set()).add(workload)

    def _callers(self, guard: Guard) -> Callers:
        """One index for neighbours that share a policy: a wildcard guards them all."""
        last = self._last
        if (
            last is None
            or last[0].policy is not guard.policy
            or last[0].anonymous is not guard.anonymous
        ):
            last = (guard, Callers(guard.policy, anonymous=guard.anonymous))
            self._last = last
        return last[1]

    def drop(self, workload: WorkloadName) -> None:
        """Forget a workload."""
        if self._doors.pop(workload, None) is None:
            return
        for name in self._names.pop(workload) or ():
            self._named[name].discard(workload)
            if not self._named[name]:
                del self._named[name]
        self._open.discard(workload)

    def callees(self, caller: SpiffeId) -> list[WorkloadName]:
        """Workloads that `caller` may reach, sorted."""
        judged: dict[int, bool] = {}
        found: list[WorkloadName] = []
        for workload in self._open | self._named.get(str(caller), set()):
            for door in self._doors[workload]:
                verdict = judged.get(id(door))
                if verdict is None:
                    verdict = judged[id(door)] = door.include(caller)
                if verdict:
                    found.append(workload)
                    break
        found.sort(key=lambda w: (w.namespace, w.name))
        return found


def _named_by(doors: Iterable[Callers]) -> frozenset[str] | None:
    """Callers that the policies name; None if one of them may open for anybody."""
    found: set[str] = set()
    for door in doors:
        if door.named is None:
            return None
        found |= door.named
    return frozenset(found)


def short_hostname(workload: WorkloadName) -> str:
    """The name by which callers of the same namespace may call it: `items.mesh`."""
    return f"{workload.name}.{MESH_DOMAIN}"


def without_clashes(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Edges whose host names are theirs alone.

    A full name goes before a short one; a name that two callees have in the same way leads nowhere
    (only names with dots can clash: `check` refuses them).
    """
    wanted = tuple(edges)
    names = [name for edge in wanted for name in edge.hostnames]
    if len(set(names)) == len(names):
        return wanted
    full = _count(name for edge in wanted for name in edge.callee.hostnames)
    short = _count(short_hostname(e.callee) for e in wanted if len(e.hostnames) > 1)

    def kept(edge: Edge, name: str) -> bool:
        if name in edge.callee.hostnames:
            return full[name] == 1
        return name not in full and short[name] == 1

    return tuple(replace(e, hostnames=tuple(n for n in e.hostnames if kept(e, n))) for e in wanted)


def _count(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts
