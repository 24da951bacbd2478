"""Who is registered in one mesh: instances, their workloads, identities and tags, all indexed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from limen.core.compiler.selectors import NO_ANCHOR, Anchor, anchor, anchors, matches
from limen.core.model.workload import Dataplane

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.model.names import InstanceName, SpiffeId, WorkloadName
    from limen.core.model.permission import Tags
    from limen.core.model.resource import Resource

K = TypeVar("K")
V = TypeVar("V")

Signature = tuple["Tags", ...]
"""The distinct tags of an instance's ports, sorted: all that a source selector can see of it."""


def dataplane_of(resource: Resource) -> Dataplane:
    """The instance that a Dataplane resource registers."""
    if not isinstance(resource.spec, Dataplane):
        raise TypeError(f"{resource.key} is not a Dataplane")
    return resource.spec


def signature(dataplane: Dataplane) -> Signature:
    """What a source selector can see of `dataplane`."""
    if dataplane.gateway:
        return (dataplane.tags,)
    return tuple(sorted({inbound.tags for inbound in dataplane.inbounds}))


def seen_by(selector: Tags, tags: Signature) -> bool:
    """Whether a source selector means an instance with these tags: one port is enough."""
    return any(matches(selector, dict(port)) for port in tags)


NAMESPACE_LABEL = "k8s.kuma.io/namespace"
"""Computed: a Dataplane cannot choose it."""


def labels_of(resource: Resource) -> dict[str, str]:
    """Labels by which a targetRef finds a Dataplane: as registered, and Kuma's computed ones."""
    key = resource.key
    computed = {
        NAMESPACE_LABEL: key.namespace,
        "kuma.io/mesh": key.mesh,
        "kuma.io/display-name": key.name,
    }
    return dict(resource.labels) | computed


def label_anchor(key: str, value: str) -> Anchor:
    """The anchor of a label, apart from those of tags."""
    return (f"label {key}", value)


def name_anchor(name: str) -> Anchor:
    """The anchor of a Dataplane's own name."""
    return ("name", name)


GATEWAYS: Anchor = ("gateway", "")
"""The anchor of policies that name a gateway."""


def workloads_of(dataplane: Dataplane) -> set[WorkloadName]:
    """The workloads that an instance serves: its own, and those of its other ports."""
    return {dataplane.name.workload} | {dataplane.workload_of(i) for i in dataplane.inbounds}


def subject_anchors(resource: Resource) -> set[Anchor]:
    """Anchors of every policy that could concern one of the instance's ports."""
    found = {name_anchor(resource.key.name)}
    dataplane = dataplane_of(resource)
    if dataplane.gateway:
        found |= {GATEWAYS, *anchors(dataplane.tags)}
    for inbound in dataplane.inbounds:
        found |= anchors(inbound.tags)
    found.update(label_anchor(k, v) for k, v in labels_of(resource).items())
    return found - {NO_ANCHOR}


class Counts(Generic[V]):
    """Anchor to members, with how many reasons each has to be there."""

    def __init__(self) -> None:
        self._members: dict[Anchor, dict[V, int]] = {}

    def add(self, key: Anchor, member: V, step: int) -> None:
        """Add (`step` 1) or take away (-1) one reason."""
        members = self._members.setdefault(key, {})
        count = members.get(member, 0) + step
        if count:
            members[member] = count
            return
        members.pop(member, None)
        if not members:
            del self._members[key]

    def at(self, key: Anchor) -> tuple[V, ...]:
        """The members at `key`."""
        return tuple(self._members.get(key, ()))


class Registry:
    """The registered instances of one mesh. Every operation costs what it concerns.

    `taken`: how many instances have a name, as service of a port or as label `app`.
    """

    def __init__(self, trust_domain: str) -> None:
        self._trust_domain = trust_domain
        self.instances: dict[InstanceName, Resource] = {}
        self.workloads: dict[WorkloadName, set[InstanceName]] = {}
        self.accounts: dict[SpiffeId, set[InstanceName]] = {}
        self.account_of: dict[str, SpiffeId] = {}
        self.taken: dict[str, int] = {}
        self.gateways: set[InstanceName] = set()
        self._signatures: dict[SpiffeId, dict[Signature, int]] = {}
        self._subjects: Counts[WorkloadName] = Counts()
        self._sources: Counts[SpiffeId] = Counts()

    def identity(self, dataplane: Dataplane) -> SpiffeId:
        """The identity that the instance's certificate carries."""
        return dataplane.spiffe_id(self._trust_domain)

    def add(self, resource: Resource) -> None:
        """Register an instance that is not registered."""
        dataplane = dataplane_of(resource)
        self.instances[dataplane.name] = resource
        if dataplane.gateway:
            self.gateways.add(dataplane.name)
        for workload in workloads_of(dataplane):
            self.workloads.setdefault(workload, set()).add(dataplane.name)
        account = self.identity(dataplane)
        self.accounts.setdefault(account, set()).add(dataplane.name)
        self.account_of[str(account)] = account
        self._count(resource, account, 1)

    def remove(self, resource: Resource) -> None:
        """Take back what `add(resource)` did."""
        dataplane = dataplane_of(resource)
        del self.instances[dataplane.name]
        self.gateways.discard(dataplane.name)
        for workload in workloads_of(dataplane):
            _discard(self.workloads, workload, dataplane.name)
        account = self.identity(dataplane)
        _discard(self.accounts, account, dataplane.name)
        if account not in self.accounts:
            del self.account_of[str(account)]
        self._count(resource, account, -1)

    def _count(self, resource: Resource, account: SpiffeId, step: int) -> None:
        dataplane = dataplane_of(resource)
        for name in _names_of(resource):
            self.taken[name] = self.taken.get(name, 0) + step
            if self.taken[name] == 0:
                del self.taken[name]
        served = workloads_of(dataplane)
        for found in subject_anchors(resource):
            for workload in served:
                self._subjects.add(found, workload, step)
        seen = signature(dataplane)
        signatures = self._signatures.setdefault(account, {})
        before = signatures.get(seen, 0)
        signatures[seen] = before + step
        if before + step == 0:
            del signatures[seen]
        if before == 0 or before + step == 0:
            for found in _source_anchors(seen):
                self._sources.add(found, account, step)
        if not signatures:
            del self._signatures[account]

    def signatures(self, account: SpiffeId) -> Mapping[Signature, int]:
        """How many instances of an identity show which tags; empty if it is not registered."""
        return self._signatures.get(account, {})

    def having(self, found: Anchor) -> tuple[WorkloadName, ...]:
        """Workloads with an instance that a policy with this anchor could concern."""
        return tuple(self.workloads) if found == NO_ANCHOR else self._subjects.at(found)

    def resolve(self, selector: Tags) -> tuple[list[SpiffeId], list[SpiffeId]]:
        """Identities that a source selector means, and those that it would split. Both sorted.

        An identity is meant only if all its instances match: its certificate cannot tell them
        apart.
        """
        meant: list[SpiffeId] = []
        split: list[SpiffeId] = []
        found = anchor(selector)
        candidates = tuple(self.accounts) if found == NO_ANCHOR else self._sources.at(found)
        for account in candidates:
            hits = [seen_by(selector, tags) for tags in self._signatures[account]]
            if all(hits):
                meant.append(account)
            elif any(hits):
                split.append(account)
        return sorted(meant), sorted(split)


def _names_of(resource: Resource) -> set[str]:
    dataplane = dataplane_of(resource)
    names = {inbound.service for inbound in dataplane.inbounds} | {dataplane.name.workload.name}
    return names | {labels_of(resource).get("app", "")}


def _source_anchors(tags: Signature) -> set[Anchor]:
    return {found for port in tags for found in anchors(port)}


def _discard(sets: dict[K, set[V]], key: K, member: V) -> None:
    members = sets[key]
    members.discard(member)
    if not members:
        del sets[key]
