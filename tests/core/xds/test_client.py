"""The agent's copy between a server and its proxy: the proxy acknowledges first."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from limen.core.xds import types
from limen.core.xds.client import Mirror
from limen.core.xds.delta import DeltaStream
from limen.core.xds.events import Confirmed, Event, Output, Rejected
from limen.core.xds.view import View
from limen.errors import InvalidInput

from .fake_client import Copy, Sent, read, request, view

NAMED = (types.ENDPOINTS, types.ROUTES, types.EXTENSION, types.SECRET)


class Relay:
    """Server, agent and a proxy that asks for what the view names. `bad` texts are refused."""

    def __init__(self, wanted: View, mirror: Mirror | None = None) -> None:
        self.server = DeltaStream(wanted)
        self.mirror = mirror or Mirror()
        self.events: list[Event] = []
        self.copy = Copy()
        self.local: DeltaStream | None = None
        self.asked: set[tuple[str, str]] = set()
        self.number = 0

    def connect_server(self) -> None:
        for message in self.mirror.connected("default/items/1"):
            self.from_server(self.server.on_request(message))

    def connect_proxy(self) -> None:
        self.local = DeltaStream(View("0", self.mirror.resources))
        self.asked.clear()
        for url in types.WILDCARD_BY_DEFAULT:
            self.from_local(self.local.on_request(request(url)))
        self.proxy_asks()

    def from_server(self, output: Output) -> None:
        self.events += output.events
        for response in output.responses:
            self.mirror.on_response(response)
            if self.local is not None:
                self.number += 1
                shown = View(str(self.number), self.mirror.resources)
                self.from_local(self.local.on_view(shown))
                self.proxy_asks()
            self.settle()

    def settle(self) -> None:
        if self.local is not None:
            for answer in self.mirror.settle(self.local):
                self.from_server(self.server.on_request(answer))

    def proxy_asks(self) -> None:
        """Names that listeners and clusters lead to: here all that the view has."""
        assert self.local is not None
        if not (self.copy.texts.get(types.LISTENER) or self.copy.texts.get(types.CLUSTER)):
            return
        for url in NAMED:
            for name in list(self.mirror.resources[url]):
                if (url, name) not in self.asked:
                    self.asked.add((url, name))
                    self.from_local(self.local.on_request(request(url, (name,))))

    def from_local(self, output: Output) -> None:
        assert self.local is not None
        for response in map(read, output.responses):
            self.proxy_takes(response)
        self.settle()

    def proxy_takes(self, response: Sent) -> None:
        assert self.local is not None
        bad = "bad" in response.texts.values()
        if not bad:
            self.copy.apply(response)
        answer = request(response.type_url, nonce=response.nonce, error="no good" if bad else None)
        self.from_local(self.local.on_request(answer))


FULL_CLUSTERS = {"in": "1", "out": "1"}
FULL = view(
    "7",
    CLUSTER=FULL_CLUSTERS,
    ENDPOINTS={"out": "1"},
    LISTENER={"in": "1"},
    ROUTES={"outbound": "1"},
    EXTENSION={"permission": "1"},
    SECRET={"bundle": "1"},
)


def test_server_sees_its_revision_confirmed_when_the_proxy_has_it() -> None:
    relay = Relay(FULL)
    relay.connect_proxy()
    relay.connect_server()
    assert relay.events == [Confirmed("7")]
    assert relay.copy.texts[types.EXTENSION] == {"permission": "1"}


def test_nothing_is_acknowledged_while_there_is_no_proxy() -> None:
    relay = Relay(FULL)
    relay.connect_server()
    assert relay.events == []
    assert not relay.mirror.changed
    relay.connect_proxy()
    assert relay.events == [Confirmed("7")]
    assert relay.mirror.changed


def test_refusal_of_the_proxy_reaches_the_server_with_its_reason() -> None:
    relay = Relay(FULL)
    relay.connect_proxy()
    relay.connect_server()
    relay.from_server(relay.server.on_view(_changed(LISTENER={"in": "bad"})))
    event = relay.events[-1]
    assert isinstance(event, Rejected)
    assert [(r.name, r.message) for r in event.rejections] == [("in", "no good")]
    assert relay.copy.texts[types.LISTENER] == {"in": "1"}
    relay.from_server(relay.server.on_view(_changed("9", LISTENER={"in": "2"})))
    assert relay.events[-1] == Confirmed("9")
    assert relay.copy.texts[types.LISTENER] == {"in": "2"}


def _changed(revision: str = "8", **kinds: dict[str, str]) -> View:
    return View(revision, {**FULL.resources, **view(revision, **kinds).resources})


def test_bad_resource_does_not_take_good_ones_of_its_response_along() -> None:
    relay = Relay(FULL)
    relay.connect_proxy()
    relay.connect_server()
    relay.from_server(relay.server.on_view(_changed(CLUSTER={"in": "bad", "out": "2", "new": "1"})))
    assert relay.copy.texts[types.CLUSTER] == {"in": "1", "out": "2", "new": "1"}
    assert isinstance(relay.events[-1], Rejected)


def test_saved_copy_serves_a_proxy_without_a_server() -> None:
    relay = Relay(FULL)
    relay.connect_proxy()
    relay.connect_server()
    saved = relay.mirror.dump()
    assert not relay.mirror.changed
    again = Mirror()
    again.load(saved)
    assert again.revision == "7"
    alone = Relay(View(), again)
    alone.connect_proxy()
    assert alone.copy.texts == relay.copy.texts


def test_reconnected_server_sends_only_what_changed() -> None:
    first = Relay(FULL)
    first.connect_proxy()
    first.connect_server()
    messages = [discovery_pb2.DeltaDiscoveryRequest.FromString(m) for m in _hello(first)]
    assert all(m.initial_resource_versions for m in messages)
    server = DeltaStream(_changed(EXTENSION={"permission": "2"}))
    responses = [read(r) for m in _hello(first) for r in server.on_request(m).responses]
    assert {tuple(r.texts.items()) for r in responses if r.texts} == {(("permission", "2"),)}


def _hello(relay: Relay) -> list[bytes]:
    return relay.mirror.connected("default/items/1")


def test_removed_resources_leave_the_copy() -> None:
    relay = Relay(FULL)
    relay.connect_proxy()
    relay.connect_server()
    relay.from_server(relay.server.on_view(view("8", LISTENER={"in": "1"})))
    assert relay.events[-1] == Confirmed("8")
    again = Mirror()
    again.load(relay.mirror.dump())
    assert {url: set(r) for url, r in again.resources.items() if r} == {types.LISTENER: {"in"}}


@pytest.mark.parametrize("damage", [b"", b"junk", b"limen-mirror-1\n" + b"0" * 40])
def test_damaged_file_is_refused_and_changes_nothing(damage: bytes) -> None:
    mirror = Mirror()
    with pytest.raises(InvalidInput) as refusal:
        mirror.load(damage)
    assert refusal.value.code == "mirror-damaged"
    assert not any(mirror.resources.values())


def test_flipped_bit_is_noticed() -> None:
    relay = Relay(FULL)
    relay.connect_proxy()
    relay.connect_server()
    saved = bytearray(relay.mirror.dump())
    saved[-1] ^= 1
    with pytest.raises(InvalidInput):
        Mirror().load(bytes(saved))


def test_response_of_a_type_that_was_not_asked_for_is_refused() -> None:
    response = discovery_pb2.DeltaDiscoveryResponse(type_url="type.googleapis.com/x")
    for data in (response.SerializeToString(), b"\xff\xff"):
        with pytest.raises(InvalidInput):
            Mirror().on_response(data)


def test_what_killed_the_proxy_is_taken_back_and_refused_until_it_changes() -> None:
    relay = Relay(FULL)
    relay.connect_proxy()
    relay.connect_server()
    lived = relay.mirror.accepted
    deadly = {"in": "1", "out": "1", "new": "1"}
    parts = {"ENDPOINTS": {"out": "1"}, "LISTENER": {"in": "2"}, "ROUTES": {"outbound": "1"}}
    rest = {"EXTENSION": {"permission": "2"}, "SECRET": {"bundle": "1"}}
    wanted = view("8", CLUSTER=deadly, **parts, **rest)
    relay.from_server(relay.server.on_view(wanted))
    assert not relay.mirror.fall_back(relay.mirror.accepted, "it died", spare=frozenset())
    assert relay.mirror.fall_back(lived, "it died", spare=frozenset({types.EXTENSION}))
    assert (
        relay.mirror.resources[types.LISTENER]["in"].version == lived[types.LISTENER]["in"].version
    )
    assert set(relay.mirror.resources[types.CLUSTER]) == {"in", "out"}
    permission = relay.mirror.resources[types.EXTENSION]["permission"].version
    assert permission != lived[types.EXTENSION]["permission"].version  # spared
    # a new stream: what is sent again is answered with the reason, and not offered
    relay.events.clear()
    relay.server = DeltaStream(wanted)
    relay.connect_server()
    (rejected,) = [e for e in relay.events if isinstance(e, Rejected)]
    assert {r.name for r in rejected.rejections} == {"in", "new"}
    assert all("it died" in r.message for r in rejected.rejections)
    assert set(relay.mirror.withheld) == {(types.LISTENER, "in"), (types.CLUSTER, "new")}
    assert set(relay.mirror.resources[types.CLUSTER]) == {"in", "out"}
    # another version is offered
    parts["LISTENER"] = {"in": "3"}
    relay.from_server(relay.server.on_view(view("9", CLUSTER=FULL_CLUSTERS, **parts, **rest)))
    assert relay.events[-1] == Confirmed("9")
    assert relay.copy.texts[types.LISTENER] == {"in": "3"}
