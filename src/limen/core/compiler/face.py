"""What others see of a workload: policies, identities, addresses; and who notices a change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.policy.callers import named_callers, widens
from limen.core.policy.decide import may_allow

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from limen.core.model.names import InstanceName, SpiffeId
    from limen.core.model.resource import Resource
    from limen.core.plan.node import Endpoint
    from limen.core.policy.rule import Policy


@dataclass(frozen=True, slots=True)
class InstanceFace:
    """One instance's part: its registration, each port's policy, and the cutover."""

    dataplane: Resource
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


def reaches(policies: Iterable[Policy], caller: SpiffeId) -> bool:
    """Whether `caller` may make some request to some port."""
    return any(may_allow(policy, caller) for policy in policies)


def possible_callers(
    policies: Iterable[Policy], accounts: Mapping[str, SpiffeId]
) -> set[SpiffeId] | None:
    """Registered identities that might reach one of these ports; None: ask about everybody."""
    found: set[SpiffeId] = set()
    for policy in policies:
        named = named_callers(policy)
        if named is None:
            return None
        found.update(accounts[name] for name in named if name in accounts)
    return found


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
        possible = possible_callers(old + new, self._accounts)
        for caller in self._accounts.values() if possible is None else possible:
            had, has = reaches(old, caller), reaches(new, caller)
            if had != has or (moved and has):
                yield caller


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
