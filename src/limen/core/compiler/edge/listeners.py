"""Which listeners a gateway workload has, and which of them cannot stand side by side.

Sources: istio/istio `pilot/pkg/model/gateway.go` (MergeGateways), Gateway API `Listener`. Where
Istio drops the later one silently, it is an error here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from limen.core.model.gateway import Family, ListenerProtocol, ServerTlsMode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from limen.core.compiler.edge.documents import EdgeDocuments, Report
    from limen.core.model.gateway import Gateway, Listener
    from limen.core.model.resource import Resource

Place = tuple[str, int]
"""Bind address ("" any) and port."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A listener of a document at a gateway workload. `path`: its place in the document."""

    resource: Resource
    gateway: Gateway
    listener: Listener
    bind: str
    path: str

    @property
    def name(self) -> str:
        """Unique among the listeners of a workload on one port."""
        key = self.resource.key
        family = "" if self.gateway.family is Family.ISTIO else "api/"
        return f"{family}{key.namespace}/{key.name}/{self.listener.name}"

    @property
    def place(self) -> Place:
        """Where it listens."""
        return (self.bind, self.listener.port)

    @property
    def plaintext(self) -> bool:
        """Whether it speaks HTTP without TLS."""
        return self.listener.protocol is ListenerProtocol.HTTP

    @property
    def tunnels(self) -> bool:
        """Whether connections are passed on unopened."""
        tls = self.listener.tls
        return tls is not None and tls.mode is ServerTlsMode.PASSTHROUGH


def listeners_of(
    documents: EdgeDocuments, resource: Resource, report: Report
) -> dict[Place, list[Bound]]:
    """The listeners of the gateway that `resource` (a Dataplane) is, without those that conflict.

    Of Istio's the oldest wins, of the Gateway API's neither.
    """
    everything = [
        b for r, g in documents.gateways() if documents.serves(resource, r, g) for b in _bound(r, g)
    ]
    dropped: set[int] = set()
    for index, later in enumerate(everything):
        for earlier in everything[:index]:
            reason = _conflict(earlier, later)
            if not reason:
                continue
            _say(later, earlier, reason, report)
            dropped.add(id(later))
            if later.gateway.family is Family.GATEWAY_API:
                dropped.add(id(earlier))
            break
    found: dict[Place, list[Bound]] = {}
    for bound in everything:
        if id(bound) not in dropped:
            found.setdefault(bound.place, []).append(bound)
    return found


def _bound(resource: Resource, gateway: Gateway) -> Iterable[Bound]:
    field = "servers" if gateway.family is Family.ISTIO else "listeners"
    for index, listener in enumerate(gateway.listeners):
        for bind in gateway.addresses or (listener.bind,):
            yield Bound(resource, gateway, listener, bind, f"/spec/{field}/{index}")


def _conflict(one: Bound, other: Bound) -> str:
    """Why two listeners cannot both be there, "" if they can."""
    if one.listener.port != other.listener.port or one.resource is other.resource:
        return ""  # inside one document the reader has judged
    if one.bind != other.bind:
        return "" if one.bind and other.bind else "one of them listens on every address"
    if one.plaintext != other.plaintext:
        return "one speaks TLS and the other does not"
    shared = sorted(set(one.listener.hosts) & set(other.listener.hosts))
    istio = one.gateway.family is other.gateway.family is Family.ISTIO
    if not shared or (one.plaintext and istio):
        return ""
    return f"both have the host {shared[0]}"


def _say(later: Bound, earlier: Bound, reason: str, report: Report) -> None:
    first = f"{earlier.resource.key} ({earlier.resource.origin.file or '-'})"
    report.error(
        later.resource,
        "port-conflict",
        f"port {later.listener.port} is that of {earlier.listener.name} of {first} too: {reason}",
        later.path,
        "give one of them another port, host or gateway workload",
    )
