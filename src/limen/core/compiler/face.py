"""What others see of a workload: policies, identities, addresses; and who notices a change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.policy.callers import Callers, widens

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limen.core.model.names import InstanceName, SpiffeId
    from limen.core.model.workload import Dataplane
    from limen.core.plan.node import Endpoint
    from limen.core.policy.rule import Policy


@dataclass(frozen=True, slots=True)
class InstanceFace:
    """One instance's part: its registration, each port's policy, and the cutover."""

    dataplane: Dataplane
    policies: tuple[tuple[int, Policy], ...]
    cutover: int


@dataclass(frozen=True, slots=True)
class Face:
    """A workload at one moment. `principals` and `endpoints` are sorted."""

    instances: Mapping[InstanceName, InstanceFace]
    principals: tuple[SpiffeId, ...]
    endpoints: tuple[Endpoint, ...]

    def policies(self) -> tuple[Policy, ...]:
        """The distinct policies of its ports, each object once."""
        found = {id(p): p for i in self.instances.values() for _, p in i.policies}
        return tuple(found.values())


class CallerDiff:
    """Which registered identities notice that a workload changed. Answers are kept for a pass."""

    def __init__(self, accounts: Mapping[str, SpiffeId]) -> None:
        self._accounts = accounts
        self._kept: dict[tuple[frozenset[int], frozenset[int], bool], frozenset[SpiffeId]] = {}

    def noticing(self, before: Face, after: Face) -> frozenset[SpiffeId]:
        """Identities that gain or lose an edge, or whose edge says something else now."""
        old, new = before.policies(), after.policies()
        moved = before.principals != after.principals
        if not moved and old == new:
            return frozenset()
        asked = (frozenset(map(id, old)), frozenset(map(id, new)), moved)
        if asked not in self._kept:
            self._kept[asked] = frozenset(self._compare(old, new, moved))
        return self._kept[asked]

    def _compare(
        self,
        old: tuple[Policy, ...],
        new: tuple[Policy, ...],
        moved: bool,  # noqa: FBT001 - private
    ) -> Iterable[SpiffeId]:
        left = [Callers(policy) for policy in old]
        right = [Callers(policy) for policy in new]
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
        old = dict(then.policies)
        for port, policy in now.policies:
            if port not in old:
                continue
            pair = (id(old[port]), id(policy))
            if pair not in proved:
                proved[pair] = widens(old[port], policy)
            if not proved[pair]:
                return True
    return False
