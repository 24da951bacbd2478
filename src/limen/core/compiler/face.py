"""What others see of a workload: policies, identities, addresses; and who notices a change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from limen.core.plan.node import PortMode
from limen.core.policy.callers import Callers, widens

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limen.core.compiler.doors import Door
    from limen.core.compiler.edge.compile import Edge
    from limen.core.model.names import InstanceName, SpiffeId
    from limen.core.model.workload import Dataplane
    from limen.core.plan.node import Endpoint, HeldPolicy, JwtPlan
    from limen.core.policy.rule import Policy


_Guards = frozenset[tuple[int, bool]]


class Guard(NamedTuple):
    """What decides who may reach a port. `anonymous`: nobody there has an identity."""

    policy: Policy
    anonymous: bool


def _identity(guard: Guard) -> tuple[int, bool]:
    return id(guard.policy), guard.anonymous


@dataclass(frozen=True, slots=True)
class InstanceFace:
    """One instance's part: its registration, what guards each port, and the cutover.

    `edge`: of a gateway, whose ports nobody in the mesh calls. `held`: what its decision point
    holds.
    """

    dataplane: Dataplane
    doors: tuple[tuple[int, Door], ...]
    cutover: int
    edge: Edge | None = None
    held: tuple[HeldPolicy, ...] = ()

    def all_doors(self) -> tuple[tuple[int, Door], ...]:
        """The doors to the mesh and to the outside."""
        return self.doors if self.edge is None else (*self.doors, *self.edge.doors)


@dataclass(frozen=True, slots=True)
class Face:
    """A workload at one moment. `principals` and `endpoints` are sorted."""

    instances: Mapping[InstanceName, InstanceFace]
    principals: tuple[SpiffeId, ...]
    endpoints: tuple[Endpoint, ...]

    def guards(self) -> tuple[Guard, ...]:
        """The distinct guards of its ports, each policy object once."""
        doors = (door for i in self.instances.values() for _, door in i.doors)
        found = {(id(d.policy), d.anonymous): Guard(d.policy, d.anonymous) for d in doors}
        return tuple(found.values())

    def shown(self) -> tuple[tuple[SpiffeId, ...], frozenset[bool]]:
        """What a caller's edge says: who may answer, and whether some speak plaintext only."""
        return self.principals, frozenset(guard.anonymous for guard in self.guards())


class CallerDiff:
    """Which registered identities notice that a workload changed. Answers are kept for a pass."""

    def __init__(self, accounts: Mapping[str, SpiffeId]) -> None:
        self._accounts = accounts
        self._kept: dict[tuple[_Guards, _Guards, bool], frozenset[SpiffeId]] = {}

    def noticing(self, before: Face, after: Face) -> frozenset[SpiffeId]:
        """Identities that gain or lose an edge, or whose edge says something else now."""
        old, new = before.guards(), after.guards()
        moved = before.shown() != after.shown()
        if not moved and old == new:
            return frozenset()
        asked = (frozenset(map(_identity, old)), frozenset(map(_identity, new)), moved)
        if asked not in self._kept:
            self._kept[asked] = frozenset(self._compare(old, new, moved))
        return self._kept[asked]

    def _compare(
        self,
        old: tuple[Guard, ...],
        new: tuple[Guard, ...],
        moved: bool,  # noqa: FBT001 - private
    ) -> Iterable[SpiffeId]:
        left = [Callers(guard.policy, anonymous=guard.anonymous) for guard in old]
        right = [Callers(guard.policy, anonymous=guard.anonymous) for guard in new]
        for caller in self._possible([*left, *right]):
            had = any(door.include(caller) for door in left)
            has = any(door.include(caller) for door in right)
            if had != has or (moved and has):
                yield caller

    def _possible(self, doors: Iterable[Callers]) -> Iterable[SpiffeId]:
        """Registered identities that might reach one of these ports."""
        found: set[SpiffeId] = set()
        for door in doors:
            if door.named is None:
                return self._accounts.values()
            found.update(self._accounts[name] for name in door.named if name in self._accounts)
        return found


def has_narrowed(before: Face, after: Face) -> bool:
    """Whether some caller may have lost a right on a port that is still there."""
    proved: dict[tuple[int, int], bool] = {}
    for name, now in after.instances.items():
        then = before.instances.get(name)
        if then is None:
            continue
        if not set(then.held) <= set(now.held):  # what another policy allows cannot be known
            return True
        old = dict(then.all_doors())
        for port, door in now.all_doors():
            if port not in old:
                continue
            if not _lets_in_more(old[port], door):
                return True
            pair = (id(old[port].policy), id(door.policy))
            if pair not in proved:
                proved[pair] = widens(old[port].policy, door.policy)
            if not proved[pair]:
                return True
    return False


def _lets_in_more(before: Door, after: Door) -> bool:
    """Whether everybody who came in still does, and is who he was, before policy is asked.

    New keys of the same issuers are no withdrawal: they change with every rotation.
    """
    opened = before.mode is PortMode.STRICT and after.mode is PortMode.PERMISSIVE
    if before.mode is not after.mode and not opened:
        return False
    if before.exchange != after.exchange:
        return False
    return _without_keys(before) == _without_keys(after)


def _without_keys(door: Door) -> tuple[JwtPlan, ...]:
    return tuple(replace(plan, jwks="") for plan in door.tokens)
