"""What the client of a stream wants and has of one resource type, and what is in flight."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from limen.core.xds import types, wire
from limen.core.xds.events import Rejection, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from envoy.service.discovery.v3 import discovery_pb2

    from limen.core.xds.view import Encoded, View

_ABSENT = ""
"""Version of a resource of which the client knows that it does not exist."""
_STALE = "stale"
"""Version of a resource that the client has and is to be sent again; no hash is this text."""
_ALL = "*"
_MAX_RESPONSE_BYTES = 1024 * 1024
"""Soft: one resource may be larger. Below the usual limit of gRPC receivers (4 MiB)."""


@dataclass(slots=True)
class Batch:
    """One response: versions by name, and names removed."""

    versions: dict[str, str]
    removed: tuple[str, ...]
    nonce: str = ""


@dataclass(slots=True)
class Subscription:
    """State of one type on one stream.

    `held` is what the client acknowledged; `refused` what it did not take; `suspects` are versions
    that were refused together with others, and are tried one by one.
    """

    type_url: str
    active: bool = False
    everything: bool = False
    names: set[str] = field(default_factory=set)
    held: dict[str, str] = field(default_factory=dict)
    refused: dict[str, Rejection] = field(default_factory=dict)
    suspects: dict[str, str] = field(default_factory=dict)
    in_flight: Batch | None = None
    greeted: bool = False
    in_sync: Mapping[str, Encoded] | None = None
    """Resources of which it is known that nothing is missing: spares looking again and again."""

    def subscribe(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        """Take over what the request says about subscriptions."""
        if request.resource_names_subscribe or request.resource_names_unsubscribe:
            self.in_sync = None
        added = set(request.resource_names_subscribe)
        first = not self.active
        if first:
            self.in_sync = None
            self.active = True
            self.held.update(request.initial_resource_versions)
            self.everything = not added and self.type_url in types.WILDCARD_BY_DEFAULT
        if _ALL in added:
            self.everything = True
            added.discard(_ALL)
        self.names |= added
        if len(self.names) > wire.MAX_NAMES:
            raise wire.violation(f"more than {wire.MAX_NAMES} names subscribed")
        if not first:
            self.forget(added)
        self._unsubscribe(request.resource_names_unsubscribe)

    def _unsubscribe(self, names: Iterable[str]) -> None:
        for name in names:
            if name == _ALL:
                self.everything = False
            self.names.discard(name)
            self.refused.pop(name, None)
            if not self.everything:
                self.held.pop(name, None)

    def wants(self, name: str) -> bool:
        """Whether the client asked for `name`."""
        return self.everything or name in self.names

    def has(self, name: str) -> bool:
        """Whether the client has some version of `name`."""
        return self.held.get(name, _ABSENT) != _ABSENT

    def forget(self, names: Iterable[str]) -> None:
        """Send these again, even what is in flight. That the client has them is remembered."""
        self.in_sync = None
        for name in names:
            self.refused.pop(name, None)
            if self.has(name):
                self.held[name] = _STALE
            else:
                self.held.pop(name, None)
            if self.in_flight is not None and name in self.in_flight.versions:
                self.in_flight.versions[name] = _STALE

    def accept(self) -> None:
        """The response in flight was acknowledged."""
        batch, self.in_flight = self._flown()
        for name, version in batch.versions.items():
            self.held[name] = version
            self.refused.pop(name, None)
            self.suspects.pop(name, None)
        self._removed(batch.removed)

    def refuse(self, message: str) -> None:
        """The response in flight was refused: single out the bad resource, or name it."""
        batch, self.in_flight = self._flown()
        if len(batch.versions) + len(batch.removed) > 1:
            self.suspects.update(batch.versions)
        else:
            for name, version in batch.versions.items():
                self.refused[name] = Rejection(self.type_url, name, version, message[:2000])
                self.suspects.pop(name, None)
            self._removed(batch.removed)

    def _flown(self) -> tuple[Batch, None]:
        if self.in_flight is None:
            raise AssertionError("no response is in flight")
        self.in_sync = None
        return self.in_flight, None

    def _removed(self, names: Iterable[str]) -> None:
        for name in names:
            self.refused.pop(name, None)
            if name in self.names:
                self.held[name] = _ABSENT
            else:
                self.held.pop(name, None)

    def verdict(self, name: str, version: str | None) -> Verdict:
        """What the client did with `version` of `name` (None: with its removal)."""
        if not self.wants(name):
            return Verdict.UNWANTED
        refused = self.refused.get(name)
        if version is not None and refused is not None and refused.version == version:
            return Verdict.REFUSED
        if self.held.get(name, _ABSENT) == (version or _ABSENT):
            return Verdict.APPLIED
        return Verdict.PENDING

    def carry(self, before: Mapping[str, Encoded], after: Mapping[str, Encoded]) -> None:
        """The wanted resources are now `after`: what is known stays known if they are equal."""
        self.in_sync = after if self.in_sync is before and before == after else None

    def missing(self, view: View) -> bool:
        """Whether the client wants something that it has neither got nor refused."""
        resources = view.of(self.type_url)
        if self.in_sync is resources:
            return False
        if self.has_changes(view) or any(True for _ in self._removals(view)):
            return True
        self.in_sync = resources
        return False

    def has_changes(self, view: View) -> bool:
        """Whether a resource is new or changed for the client."""
        if self.in_sync is view.of(self.type_url):
            return False
        return any(True for _ in self._changes(view))

    def due(self, view: View) -> bool:
        """Whether there is something to send, if only the first answer."""
        return (self.everything and not self.greeted) or self.missing(view)

    def next_batch(self, view: View, *, removals: bool) -> Batch | None:
        """What to send next, or None. Suspects travel alone."""
        removed = tuple(self._removals(view)) if removals else ()
        versions: dict[str, str] = {}
        size = 0
        for encoded in self._changes(view):
            if self.suspects.get(encoded.name) == encoded.version:
                continue
            versions[encoded.name] = encoded.version
            size += len(encoded.body)
            if size > _MAX_RESPONSE_BYTES:
                break
        if not versions and not removed:
            versions = self._suspect(view)
        greeting = self.everything and not self.greeted
        if not versions and not removed and not greeting:
            return None
        self.greeted = True
        return Batch(versions, removed)

    def _suspect(self, view: View) -> dict[str, str]:
        for encoded in self._changes(view):
            return {encoded.name: encoded.version}
        return {}

    def _changes(self, view: View) -> Iterator[Encoded]:
        resources = view.of(self.type_url)
        wanted = resources if self.everything else sorted(self.names & resources.keys())
        for name in wanted:
            encoded = resources[name]
            if self.held.get(name) == encoded.version:
                continue
            refused = self.refused.get(name)
            if refused is None or refused.version != encoded.version:
                yield encoded

    def _removals(self, view: View) -> Iterator[str]:
        resources = view.of(self.type_url)
        for name, version in self.held.items():
            if version != _ABSENT and name not in resources and self.wants(name):
                yield name
        for name in sorted(self.names):
            if name not in resources and name not in self.held:
                yield name
