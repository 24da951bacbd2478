"""The serving half of one delta ADS stream, without any input or output.

Rules (xDS protocol, "Incremental xDS"; each has a test):

- A subscription is by name, or by `*` for all. A first request without names means all for
  listeners and clusters. Other types than `types.SERVED` are refused.
- A stream that was interrupted says which versions it has: those are not sent again.
- A name that is asked for and does not exist is answered with "removed", so that nobody waits.
  A name asked for twice is answered twice.
- One response per type is in flight; what changes meanwhile is sent as one when it is answered.
  So a client that never answers costs a fixed amount of memory.
- An answer to another nonce than the one in flight says nothing about it; the subscriptions in it
  count.
- A refused response (NACK) changes nothing of what the client has. If it held several resources,
  they are sent again one by one, so that exactly the bad one is known; it is sent again only when
  its version changes.
- Make before break: new and changed clusters, their endpoints, then listeners and routes; clusters
  go last. Keys and permissions wait for nothing.
- A changed cluster starts again without addresses, and Envoy asks for them no second time: they
  follow right behind it, without waiting for its acknowledgement, which waits for them.
- A view is *confirmed* when the client has acknowledged all of it; *rejected* when all but what it
  refused. Each is reported once per view.

Use: one `DeltaStream` per stream; `on_view(view)` whenever the wanted resources change,
`on_request(data)` for each message; send `Output.responses` in order, then handle `Output.events`.
Both raise InvalidInput (`xds-protocol`) when the client breaks the protocol: close the stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.xds import types, wire
from limen.core.xds.events import Confirmed, Event, Output, Rejected, Rejection, Verdict
from limen.core.xds.subscription import Batch, Subscription
from limen.core.xds.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envoy.service.discovery.v3 import discovery_pb2

_MUST_BE_WANTED = (types.EXTENSION, types.ENDPOINTS, types.ROUTES)
"""A listener or cluster was not put to use before the client asks for what belongs to it."""


class DeltaStream:
    """State of one stream.

    `optional` are names that a view may hold without the client ever asking for them: they do not
    keep a view from being confirmed.
    """

    def __init__(self, view: View | None = None, *, optional: frozenset[str] = frozenset()) -> None:
        self._view = view or View()
        self._optional = optional
        self._subscriptions = {url: Subscription(url) for url in types.SERVED}
        self._nonce = 0
        self._reported = False
        self.node_id = ""

    @property
    def view(self) -> View:
        """What the client should have."""
        return self._view

    def on_view(self, view: View) -> Output:
        """The wanted resources changed."""
        for url, subscription in self._subscriptions.items():
            subscription.carry(self._view.of(url), view.of(url))
        self._view = view
        self._reported = False
        return self._output()

    def on_request(self, data: bytes | discovery_pb2.DeltaDiscoveryRequest) -> Output:
        """The client sent a message."""
        request = _parsed(data)
        if request.node.id and not self.node_id:
            self.node_id = request.node.id
        subscription = self._subscriptions.get(request.type_url)
        if subscription is None:
            raise wire.violation(f"resource type {request.type_url[:200]!a} is not served")
        subscription.subscribe(request)
        if request.response_nonce:
            self._answered(subscription, request)
        return self._output()

    def verdict(self, type_url: str, name: str, version: str | None) -> Verdict:
        """What the client did with `version` of a resource (None: with its removal)."""
        return self._subscriptions[type_url].verdict(name, version)

    def rejection(self, type_url: str, name: str) -> Rejection | None:
        """Why the client refused the present version of a resource, if it did."""
        resource = self._view.of(type_url).get(name)
        refused = self._subscriptions[type_url].refused.get(name)
        return refused if resource and refused and refused.version == resource.version else None

    @property
    def settled(self) -> bool:
        """Whether the client has acknowledged or refused everything of the view."""
        if not all(self._subscriptions[url].active for url in types.WILDCARD_BY_DEFAULT):
            return False
        if any(s.in_flight or s.missing(self._view) for s in self._subscriptions.values()):
            return False
        return bool(self._rejections()) or not any(self._unasked())

    def _answered(
        self, subscription: Subscription, request: discovery_pb2.DeltaDiscoveryRequest
    ) -> None:
        if subscription.in_flight is None or subscription.in_flight.nonce != request.response_nonce:
            return
        if request.HasField("error_detail"):
            subscription.refuse(request.error_detail.message)
            return
        subscription.accept()

    def _output(self) -> Output:
        responses = tuple(self._responses())
        return Output(responses, tuple(self._events()))

    def _responses(self) -> Iterator[bytes]:
        for url in types.SERVED:
            subscription = self._subscriptions[url]
            if subscription.in_flight is not None or not subscription.due(self._view):
                continue
            if self._waits(url):
                continue
            batch = subscription.next_batch(self._view, removals=self._may_remove(url))
            if batch is not None:
                yield self._sent(subscription, batch)

    def _sent(self, subscription: Subscription, batch: Batch) -> bytes:
        self._nonce += 1
        batch.nonce = str(self._nonce)
        if subscription.type_url == types.CLUSTER:
            changed = [name for name in batch.versions if subscription.has(name)]
            self._subscriptions[types.ENDPOINTS].forget(changed)
        subscription.in_flight = batch
        resources = self._view.of(subscription.type_url)
        return wire.build_response(
            subscription.type_url,
            batch.nonce,
            (resources[name].body for name in batch.versions),
            batch.removed,
            self._view.revision,
        )

    def _waits(self, url: str) -> bool:
        """Listeners and routes wait until the clusters that they lead to can be used."""
        if url not in (types.LISTENER, types.ROUTES):
            return False
        clusters = self._subscriptions[types.CLUSTER]
        if not clusters.active:
            return False
        endpoints = self._subscriptions[types.ENDPOINTS]
        added = clusters.in_flight is not None and bool(clusters.in_flight.versions)
        return added or clusters.has_changes(self._view) or self._endpoints_due(clusters, endpoints)

    def _endpoints_due(self, clusters: Subscription, endpoints: Subscription) -> bool:
        """Whether a cluster that the client took has not yet got its addresses."""
        return any(
            clusters.has(name) and endpoints.verdict(name, encoded.version) in _NOT_YET
            for name, encoded in self._view.of(types.ENDPOINTS).items()
        )

    def _may_remove(self, url: str) -> bool:
        """Clusters and endpoints go when no listener and no route leads to them any more."""
        if url not in (types.CLUSTER, types.ENDPOINTS):
            return True
        users = (self._subscriptions[types.LISTENER], self._subscriptions[types.ROUTES])
        return not any(s.in_flight or s.missing(self._view) for s in users)

    def _events(self) -> Iterator[Event]:
        if self._reported or not self.settled:
            return
        self._reported = True
        rejections = self._rejections()
        if rejections:
            yield Rejected(self._view.revision, rejections)
        else:
            yield Confirmed(self._view.revision)

    def _rejections(self) -> tuple[Rejection, ...]:
        return tuple(
            refused
            for url, subscription in self._subscriptions.items()
            for name, refused in sorted(subscription.refused.items())
            if name in self._view.of(url) and self._view.of(url)[name].version == refused.version
        )

    def _unasked(self) -> Iterator[str]:
        for url in _MUST_BE_WANTED:
            subscription = self._subscriptions[url]
            for name in self._view.of(url):
                if name not in self._optional and not subscription.wants(name):
                    yield name


_NOT_YET = (Verdict.PENDING, Verdict.UNWANTED)


def _parsed(
    data: bytes | discovery_pb2.DeltaDiscoveryRequest,
) -> discovery_pb2.DeltaDiscoveryRequest:
    if isinstance(data, bytes):
        return wire.parse_request(data)
    wire.check_request(data)
    return data
