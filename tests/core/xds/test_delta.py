"""The rules in `limen.core.xds.delta`, one by one, and that they converge together."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limen.core.envoy import names
from limen.core.xds import types, wire
from limen.core.xds.delta import DeltaStream
from limen.core.xds.events import Confirmed, Output, Rejected, Verdict
from limen.core.xds.view import View
from limen.errors import InvalidInput

from .fake_client import Copy, Item, Sent, read, request, view


def sent(output: Output) -> list[Sent]:
    return [read(data) for data in output.responses]


def only(output: Output) -> Sent:
    (response,) = sent(output)
    return response


def test_types_are_those_of_the_envoy_room() -> None:
    assert set(types.ORDER) == {
        names.LISTENER,
        names.CLUSTER,
        names.ENDPOINTS,
        names.ROUTES,
        names.SECRET,
        names.EXTENSION,
    }


@pytest.mark.parametrize("url", [types.LISTENER, types.CLUSTER])
def test_first_request_without_names_means_all(url: str) -> None:
    stream = DeltaStream(View("1", {url: {"a": Item("a", "1")}}))
    response = only(stream.on_request(request(url)))
    assert (response.texts, response.revision) == ({"a": "1"}, "1")


@pytest.mark.parametrize("url", [types.SECRET, types.ROUTES, types.ENDPOINTS, types.EXTENSION])
def test_other_types_need_names_or_a_star(url: str) -> None:
    stream = DeltaStream(View("1", {url: {"a": Item("a", "1"), "b": Item("b", "1")}}))
    assert sent(stream.on_request(request(url))) == []
    assert only(stream.on_request(request(url, ("a",)))).texts == {"a": "1"}
    starred = DeltaStream(View("1", {url: {"a": Item("a", "1"), "b": Item("b", "1")}}))
    assert set(only(starred.on_request(request(url, ("*",)))).texts) == {"a", "b"}


def test_all_of_nothing_is_answered_so_that_nobody_waits() -> None:
    stream = DeltaStream(View("1"))
    response = only(stream.on_request(request(types.LISTENER)))
    assert (response.texts, response.removed) == ({}, ())
    assert sent(stream.on_request(request(types.LISTENER, nonce=response.nonce))) == []


def test_known_versions_are_not_sent_again_after_a_reconnect() -> None:
    old = Item("a", "1")
    stream = DeltaStream(view("1", LISTENER={"a": "1", "b": "2"}))
    known = {"a": old.version, "gone": "v"}
    response = only(stream.on_request(request(types.LISTENER, have=known)))
    assert (response.texts, response.removed) == ({"b": "2"}, ("gone",))


def test_name_that_does_not_exist_is_answered_with_removed_once() -> None:
    stream = DeltaStream(view("1"))
    response = only(stream.on_request(request(types.SECRET, ("svid",))))
    assert response.removed == ("svid",)
    assert sent(stream.on_request(request(types.SECRET, nonce=response.nonce))) == []
    assert only(stream.on_view(view("2", SECRET={"svid": "x"}))).texts == {"svid": "x"}


def test_name_asked_for_twice_is_answered_twice() -> None:
    stream = DeltaStream(view("1", SECRET={"svid": "x"}))
    first = only(stream.on_request(request(types.SECRET, ("svid",))))
    stream.on_request(request(types.SECRET, nonce=first.nonce))
    assert only(stream.on_request(request(types.SECRET, ("svid",)))).texts == {"svid": "x"}


def test_what_is_no_longer_wanted_is_not_sent() -> None:
    stream = DeltaStream(view("1", SECRET={"svid": "x"}))
    first = only(stream.on_request(request(types.SECRET, ("svid",))))
    stream.on_request(request(types.SECRET, (), ("svid",), nonce=first.nonce))
    assert sent(stream.on_view(view("2", SECRET={"svid": "y"}))) == []


def test_one_response_per_type_is_in_flight_and_the_last_state_follows() -> None:
    stream = DeltaStream(view("1", SECRET={"svid": "1"}))
    first = only(stream.on_request(request(types.SECRET, ("svid",))))
    for number in range(2, 1000):
        assert sent(stream.on_view(view(str(number), SECRET={"svid": str(number)}))) == []
    assert only(stream.on_request(request(types.SECRET, nonce=first.nonce))).texts == {
        "svid": "999"
    }


def test_answer_to_another_nonce_says_nothing_but_its_subscriptions_count() -> None:
    stream = DeltaStream(view("1", SECRET={"a": "1", "b": "1"}))
    first = only(stream.on_request(request(types.SECRET, ("a",))))
    assert sent(stream.on_request(request(types.SECRET, ("b",), nonce="999"))) == []
    assert stream.verdict(types.SECRET, "a", Item("a", "1").version) is Verdict.PENDING
    assert only(stream.on_request(request(types.SECRET, nonce=first.nonce))).texts == {"b": "1"}


@pytest.mark.parametrize(
    "message",
    [
        b"\xff\xff",
        request("type.googleapis.com/envoy.config.core.v3.Node"),
        request(""),
        request(types.SECRET, ("x" * (wire.MAX_NAME_BYTES + 1),)),
        request(types.SECRET, tuple(map(str, range(wire.MAX_NAMES + 1)))),
        request(types.SECRET, have=dict.fromkeys(map(str, range(wire.MAX_NAMES + 1)), "v")),
    ],
    ids=["no message", "unknown type", "no type", "long name", "many names", "many versions"],
)
def test_stream_that_breaks_the_protocol_is_refused(message: bytes) -> None:
    with pytest.raises(InvalidInput) as refusal:
        DeltaStream().on_request(message)
    assert refusal.value.code == "xds-protocol"


def test_names_may_not_grow_without_bound_over_many_requests() -> None:
    stream = DeltaStream()
    stream.on_request(request(types.SECRET, tuple(f"a{n}" for n in range(wire.MAX_NAMES))))
    with pytest.raises(InvalidInput):
        stream.on_request(request(types.SECRET, ("one too many",)))


class Client:
    """Answers everything at once, refusing texts that contain `bad`."""

    def __init__(self, stream: DeltaStream) -> None:
        self.stream = stream
        self.copy = Copy()
        self.order: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = []
        self.events: list[object] = []

    def start(self, **names_: tuple[str, ...]) -> None:
        self.take(self.stream.on_request(request(types.CLUSTER)))
        self.take(self.stream.on_request(request(types.LISTENER)))
        for key, wanted in names_.items():
            self.take(self.stream.on_request(request(getattr(types, key), wanted)))

    def take(self, output: Output) -> None:
        self.events += output.events
        for response in sent(output):
            self.order.append((response.kind, tuple(response.texts), response.removed))
            bad = any("bad" in text for text in response.texts.values())
            if not bad:
                self.copy.apply(response)
            answer = request(
                response.type_url, nonce=response.nonce, error="no good" if bad else None
            )
            self.take(self.stream.on_request(answer))


def test_view_is_confirmed_once_when_everything_is_acknowledged() -> None:
    client = Client(DeltaStream(view("1", CLUSTER={"c": "1"}, LISTENER={"l": "1"})))
    client.start()
    assert client.events == [Confirmed("1")]
    client.take(client.stream.on_view(view("2", CLUSTER={"c": "1"}, LISTENER={"l": "1"})))
    assert client.events == [Confirmed("1"), Confirmed("2")]


def test_view_is_not_confirmed_before_its_permissions_are_asked_for() -> None:
    stream = DeltaStream(view("1", LISTENER={"l": "1"}, EXTENSION={"permission": "1"}))
    client = Client(stream)
    client.start()
    assert client.events == []
    client.take(stream.on_request(request(types.EXTENSION, ("permission",))))
    assert client.events == [Confirmed("1")]


def test_optional_names_do_not_keep_a_view_from_being_confirmed() -> None:
    stream = DeltaStream(view("1", EXTENSION={"guard": "1"}), optional=frozenset({"guard"}))
    client = Client(stream)
    client.start()
    assert client.events == [Confirmed("1")]


def test_bad_resource_among_good_ones_is_singled_out_and_the_good_ones_arrive() -> None:
    stream = DeltaStream(view("1", LISTENER={"a": "1", "b": "bad", "c": "1"}))
    client = Client(stream)
    client.start()
    assert client.copy.texts[types.LISTENER] == {"a": "1", "c": "1"}
    (event,) = client.events
    assert isinstance(event, Rejected)
    (rejection,) = event.rejections
    assert (rejection.type_url, rejection.name, rejection.message) == (
        types.LISTENER,
        "b",
        "no good",
    )


def test_refused_version_is_not_sent_again_but_the_next_one_is() -> None:
    stream = DeltaStream(view("1", LISTENER={"a": "1"}))
    client = Client(stream)
    client.start()
    client.take(stream.on_view(view("2", LISTENER={"a": "bad"})))
    before = len(client.order)
    client.take(stream.on_view(view("3", LISTENER={"a": "bad"})))
    assert len(client.order) == before
    assert [type(e) for e in client.events] == [Confirmed, Rejected, Rejected]
    assert client.copy.texts[types.LISTENER] == {"a": "1"}
    client.take(stream.on_view(view("4", LISTENER={"a": "2"})))
    assert client.copy.texts[types.LISTENER] == {"a": "2"}
    assert client.events[-1] == Confirmed("4")


def test_going_back_to_the_kept_version_after_a_refusal_sends_nothing() -> None:
    stream = DeltaStream(view("1", LISTENER={"a": "1"}))
    client = Client(stream)
    client.start()
    client.take(stream.on_view(view("2", LISTENER={"a": "bad"})))
    before = len(client.order)
    client.take(stream.on_view(view("3", LISTENER={"a": "1"})))
    assert len(client.order) == before
    assert client.events[-1] == Confirmed("3")


def test_new_edge_goes_cluster_endpoints_then_routes() -> None:
    stream = DeltaStream(view("1", ROUTES={"out": "1"}))
    client = Client(stream)
    client.start(ROUTES=("out",))
    client.order.clear()
    after = view("2", CLUSTER={"x": "1"}, ENDPOINTS={"x": "1"}, ROUTES={"out": "2"})
    client.take(stream.on_view(after))
    assert [kind for kind, *_ in client.order] == ["Cluster"]
    client.take(stream.on_request(request(types.ENDPOINTS, ("x",))))
    assert [kind for kind, *_ in client.order] == [
        "Cluster",
        "ClusterLoadAssignment",
        "RouteConfiguration",
    ]


def test_lost_edge_goes_routes_then_cluster() -> None:
    before = view("1", CLUSTER={"x": "1"}, ENDPOINTS={"x": "1"}, ROUTES={"out": "2"})
    client = Client(DeltaStream(before))
    client.start(ENDPOINTS=("x",), ROUTES=("out",))
    client.order.clear()
    client.take(client.stream.on_view(view("2", ROUTES={"out": "1"})))
    assert [(kind, removed) for kind, _, removed in client.order] == [
        ("RouteConfiguration", ()),
        ("Cluster", ("x",)),
        ("ClusterLoadAssignment", ("x",)),
    ]


def test_permissions_wait_for_nothing() -> None:
    stream = DeltaStream(view("1", CLUSTER={"c": "1"}))
    stream.on_request(request(types.CLUSTER))
    stream.on_request(request(types.EXTENSION, ("p",)))
    stream.on_request(request(types.EXTENSION, nonce="2"))
    changed = view("2", CLUSTER={"c": "2"}, EXTENSION={"p": "1"})
    assert [r.kind for r in sent(stream.on_view(changed))] == ["TypedExtensionConfig"]


def test_addresses_follow_a_changed_cluster_without_being_asked_for() -> None:
    client = Client(DeltaStream(view("1", CLUSTER={"x": "1"}, ENDPOINTS={"x": "1"})))
    client.start(ENDPOINTS=("x",))
    output = client.stream.on_view(view("2", CLUSTER={"x": "2"}, ENDPOINTS={"x": "1"}))
    assert [r.kind for r in sent(output)] == ["Cluster", "ClusterLoadAssignment"]


def test_refused_cluster_does_not_hold_back_the_routes_of_others() -> None:
    wanted = view(
        "1",
        CLUSTER={"x": "bad", "y": "1"},
        ENDPOINTS={"x": "1", "y": "1"},
        ROUTES={"out": "1"},
    )
    client = Client(DeltaStream(wanted))
    client.start(ENDPOINTS=("y",), ROUTES=("out",))
    assert client.copy.texts[types.ROUTES] == {"out": "1"}
    assert client.copy.texts[types.CLUSTER] == {"y": "1"}


def test_large_changes_are_split_below_the_usual_limit_of_receivers() -> None:
    texts = {str(n): "x" * 300_000 for n in range(20)}
    client = Client(DeltaStream(view("1", CLUSTER=texts)))
    output = client.stream.on_request(request(types.CLUSTER))
    assert all(len(data) < 2_000_000 for data in output.responses)
    client.take(output)
    assert client.copy.texts[types.CLUSTER] == texts


def test_addresses_removed_before_they_were_sent_again_are_removed() -> None:
    client = Client(DeltaStream(view("1", CLUSTER={"x": "1"}, ENDPOINTS={"x": "1"})))
    client.start(ENDPOINTS=("*",))
    held_back = client.stream.on_view(view("2", CLUSTER={"x": "2"}, ENDPOINTS={"x": "2"}))
    client.take(client.stream.on_view(view("3", CLUSTER={"x": "2"})))
    client.take(held_back)
    assert client.copy.texts[types.ENDPOINTS] == {}
    assert client.events[-1] == Confirmed("3")


TEXTS = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["1", "2", "bad"]), max_size=3)
VIEWS = st.fixed_dictionaries(
    dict.fromkeys(("CLUSTER", "ENDPOINTS", "LISTENER", "ROUTES", "EXTENSION", "SECRET"), TEXTS)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(VIEWS, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_any_sequence_of_views_converges_to_the_last_good_one(views: list, random: object) -> None:
    """Answers come late, in any order between types, with reconnects between views."""
    client = Lazy(DeltaStream(), random)
    for number, texts in enumerate(views):
        client.offer(view(str(number), **texts))
        if random.random() < 0.2:  # type: ignore[attr-defined] # hypothesis's Random
            client.reconnect()
    client.finish()
    for key, texts in views[-1].items():
        url = getattr(types, key)
        have = client.copy.texts.get(url, {})
        assert {n for n in have if n not in texts} == set()
        for name, text in texts.items():
            if text != "bad":
                assert have.get(name) == text, (key, name)
    assert type(client.events[-1]) is (
        Rejected if any("bad" in t.values() for t in views[-1].values()) else Confirmed
    )
    assert client.events[-1].revision == str(len(views) - 1)


class Lazy:
    """A client that answers some time."""

    def __init__(self, stream: DeltaStream, random: object) -> None:
        self.stream, self.random = stream, random
        self.copy = Copy()
        self.events: list = []
        self.queue: list[Sent] = []
        self.hello()

    def hello(self) -> None:
        for url in types.ORDER:
            have = self.copy.versions.get(url, {})
            self.receive(self.stream.on_request(request(url, ("*",), have=have)))

    def receive(self, output: Output) -> None:
        self.events += output.events
        self.queue += sent(output)
        urls = [response.type_url for response in self.queue]
        assert len(urls) == len(set(urls)), "two responses of one type in flight"

    def offer(self, wanted: View) -> None:
        self.receive(self.stream.on_view(wanted))
        for _ in range(self.random.randrange(4)):
            self.answer()

    def answer(self) -> None:
        if not self.queue:
            return
        response = self.queue.pop(self.random.randrange(len(self.queue)))
        bad = "bad" in response.texts.values()
        if not bad:
            self.copy.apply(response)
        error = "no good" if bad else None
        answer = request(response.type_url, nonce=response.nonce, error=error)
        self.receive(self.stream.on_request(answer))

    def reconnect(self) -> None:
        self.queue.clear()
        self.stream = DeltaStream(self.stream.view)
        self.hello()

    def finish(self) -> None:
        for _ in itertools.takewhile(lambda n: n < 1000 and self.queue, itertools.count()):
            self.answer()
        assert not self.queue
