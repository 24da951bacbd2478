"""The relay against a scripted Envoy and a scripted server: who is told what, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from limen.core.envoy import names
from limen.core.envoy.encoded import decode, encode
from limen.core.envoy.secret import bundle_resource, svid_resource
from limen.services.agent.relay import Relay

if TYPE_CHECKING:
    from limen.core.envoy.encoded import Encoded

Request = discovery_pb2.DeltaDiscoveryRequest
Response = discovery_pb2.DeltaDiscoveryResponse
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\n"
KEY = b"-----BEGIN PRIVATE KEY-----\n"


class Bench:
    """A relay with both ends in lists."""

    def __init__(self, saved: bytes = b"") -> None:
        self.refused: list[str] = []
        self.accepted = 0
        self.to_server: list[Request] = []
        self.to_envoy: list[Response] = []
        self.relay = Relay("default/items/a", saved, b"", self._count, self.refused.append)

    def _count(self) -> None:
        self.accepted += 1

    def open_server(self) -> None:
        self.relay.open_server(lambda raw: self.to_server.append(Request.FromString(raw)))

    def open_envoy(self) -> None:
        self.relay.open_envoy(lambda raw: self.to_envoy.append(Response.FromString(raw)))
        for url in (names.CLUSTER, names.LISTENER):
            self.ask(url)

    def ask(self, url: str, *wanted: str) -> None:
        request = Request(type_url=url, resource_names_subscribe=wanted)
        self.relay.on_envoy(request.SerializeToString())

    def answer(self, response: Response, error: str = "") -> None:
        """ACK, or NACK with `error`."""
        detail = status_pb2.Status(code=3, message=error) if error else None
        request = Request(
            type_url=response.type_url, response_nonce=response.nonce, error_detail=detail
        )
        self.relay.on_envoy(request.SerializeToString())

    def serve(self, url: str, nonce: str, *resources: Encoded) -> None:
        response = Response(
            type_url=url,
            nonce=nonce,
            system_version_info=nonce,
            resources=[decode(r) for r in resources],
        )
        self.relay.on_server(response.SerializeToString())

    def settle(self, limit: int = 50) -> None:
        """ACK everything that Envoy is sent."""
        for response in iter(self._next, None):
            self.answer(response)
            limit -= 1
            assert limit > 0

    def _next(self) -> Response | None:
        return self.to_envoy.pop(0) if self.to_envoy else None

    def nonces(self) -> list[str]:
        """Answers that the server got."""
        return [r.response_nonce for r in self.to_server if r.response_nonce]


def cluster(name: str, stat: str = "") -> Encoded:
    return encode(name, cluster_pb2.Cluster(name=name, alt_stat_name=stat))


def listener(name: str) -> Encoded:
    return encode(name, listener_pb2.Listener(name=name))


def test_nothing_is_acknowledged_before_envoy_has_done_so() -> None:
    bench = Bench()
    bench.open_server()
    bench.serve(names.CLUSTER, "1", cluster("a"))
    assert bench.nonces() == []  # no Envoy yet
    bench.open_envoy()
    sent = [r for r in bench.to_envoy if r.resources]
    assert [r.name for r in sent[0].resources] == ["a"]
    assert bench.nonces() == []
    bench.settle()
    assert bench.nonces() == ["1"]
    assert bench.accepted


def test_what_is_kept_on_disk_holds_no_key_and_both_parts_make_it_whole() -> None:
    bench = Bench()
    bench.open_server()
    bench.open_envoy()
    for url in (names.SECRET, names.EXTENSION):
        bench.ask(url, "*")
    bench.settle()
    given = svid_resource(CERTIFICATE, KEY, "secret:shop/tls")
    bench.serve(names.SECRET, "1", bundle_resource(CERTIFICATE), given)
    bench.settle()
    kept, private = bench.relay.dump(), bench.relay.private()
    assert KEY not in kept
    assert CERTIFICATE in kept
    assert KEY in private
    again = Relay("default/items/a", kept, private, lambda: None, lambda _: None)
    assert set(again.accepted[names.SECRET]) == {"bundle", "secret:shop/tls"}
    alone = Relay("default/items/a", kept, b"", lambda: None, lambda _: None)
    assert set(alone.accepted[names.SECRET]) == {"bundle"}


def test_refusal_goes_upstream_and_the_accepted_version_is_what_a_new_envoy_gets() -> None:
    bench = Bench()
    bench.open_server()
    bench.open_envoy()
    bench.settle()
    bench.serve(names.CLUSTER, "1", cluster("a"))
    bench.serve(names.LISTENER, "2", listener("l"))
    bench.settle()
    bench.serve(names.CLUSTER, "3", cluster("a", "bad"))
    bench.answer(bench.to_envoy.pop(0), "bad statistics")
    assert bench.to_server[-1].error_detail.message == "bad statistics"
    assert "bad statistics" in bench.refused[-1]
    bench.to_envoy.clear()
    bench.relay.close_envoy()
    bench.open_envoy()
    found = next(r for r in bench.to_envoy if r.resources)
    assert found.resources[0].version == cluster("a").version


def test_saved_configuration_is_served_without_a_server_and_damaged_one_is_not() -> None:
    bench = Bench()
    bench.open_server()
    bench.open_envoy()
    bench.settle()
    bench.serve(names.CLUSTER, "1", cluster("a"))
    bench.settle()
    saved = bench.relay.dump()
    again = Bench(saved)
    again.open_envoy()
    assert [x.name for r in again.to_envoy for x in r.resources] == ["a"]
    damaged = Bench(saved[:-1] + bytes([saved[-1] ^ 1]))
    damaged.open_envoy()
    assert [x.name for r in damaged.to_envoy for x in r.resources] == []


def test_own_secret_reaches_envoy_only_and_a_refused_one_is_taken_back() -> None:
    bench = Bench()
    bench.open_server()
    good = svid_resource(CERTIFICATE, KEY + b"good")
    bench.relay.set_own(names.SECRET, good)
    bench.open_envoy()
    bench.ask(names.SECRET, "svid")
    bench.settle()
    bench.relay.set_own(names.SECRET, svid_resource(CERTIFICATE, KEY + b"bad"))
    sent = bench.to_envoy.pop(0)
    bench.answer(sent, "key does not match")
    assert "key does not match" in bench.refused[-1]
    bench.settle()
    bench.relay.close_envoy()
    bench.open_envoy()
    bench.ask(names.SECRET, "svid")
    offered = [x for r in bench.to_envoy for x in r.resources if x.name == "svid"]
    assert [x.version for x in offered] == [good.version]
    upstream = b"".join(r.SerializeToString() for r in bench.to_server)
    assert b"PRIVATE KEY" not in upstream
    assert b"PRIVATE KEY" not in bench.relay.dump()


def test_reconnecting_says_what_is_here_already() -> None:
    bench = Bench()
    bench.open_server()
    bench.open_envoy()
    bench.settle()
    bench.serve(names.CLUSTER, "1", cluster("a"))
    bench.settle()
    bench.relay.close_server()
    bench.to_server.clear()
    bench.open_server()
    first = next(r for r in bench.to_server if r.type_url == names.CLUSTER)
    assert dict(first.initial_resource_versions) == {"a": cluster("a").version}
    assert first.node.id == "default/items/a"
