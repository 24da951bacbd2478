"""What an agent reads out of the access logs: audit events, shipped once; who sends plaintext."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from limen.adapters.log_files import LogFiles, LogLine, Retention
from limen.errors import InvalidInput, LimenError, Unavailable
from limen.services.agent.access_log import find_lines
from limen.services.agent.audit_events import audit_event
from limen.services.agent.kept_logs import KeptLogs, keep_log
from limen.services.agent.log_following import MAX_EVENTS, LogFollower
from limen.services.agent.plaintext import MAX_SOURCES, PlaintextSeen

if TYPE_CHECKING:
    from pathlib import Path

INSTANCE = "default/items/1"
LINE = {
    "edge": "inbound",
    "callee": "default/items",
    "peer": "spiffe://default.mesh.local/ns/default/sa/web",
    "peer_address": "192.0.2.7:4711",
    "method": "GET",
    "path": "/info",
    "status": 200,
    "details": "via_upstream",
    "request_id": "id-1",
    "time": "2026-12-01T00:00:00.000Z",
    "audit_rule": "000000 3-audit/AuthorizationPolicy/default/watch/00000",
    "header.authorization": "Bearer secret",
    "claims": {"iss": "https://issuer", "sub": "ann", "email": "ann@example.com"},
}


def write(path: Path, *lines: dict[str, Any]) -> None:
    with path.open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)


class Server:
    """What it was told; `error` is raised instead."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.error: LimenError | None = None

    async def send(self, method: str, message: dict[str, Any]) -> dict[str, Any]:
        assert method == "Audit"
        if self.error is not None:
            raise self.error
        self.messages.append(message)
        return {"position": 0}

    @property
    def ids(self) -> list[str]:
        return [event["request_id"] for m in self.messages for event in m["events"]]


def follower(path: Path, server: Server, keep: Retention | None = None) -> LogFollower:
    made = LogFollower(INSTANCE, path, keep or Retention(), server.send, lambda: None)
    made.open()
    return made


def test_an_event_says_who_what_and_why_and_no_secret() -> None:
    event = audit_event(LogLine(7, json.dumps(LINE).encode()))
    assert event is not None
    assert (event["position"], event["decision"], event["user"]) == (
        7,
        "allowed",
        "https://issuer/ann",
    )
    assert (event["address"], event["caller"]) == ("192.0.2.7", LINE["peer"])
    assert "secret" not in str(event)
    assert "example.com" not in str(event)


@pytest.mark.parametrize(
    "changes",
    [
        {"audit_rule": "[none]"},
        {"audit_rule": None},
        {"edge": "outbound"},
        {"audit_rule": None, "shadow_rule": LINE["audit_rule"]},  # on trial: reports nothing
    ],
    ids=str,
)
def test_lines_without_a_matching_audit_rule_are_no_events(changes: dict[str, Any]) -> None:
    assert audit_event(LogLine(1, json.dumps({**LINE, **changes}).encode())) is None
    assert audit_event(LogLine(1, b'{"audit_rule"')) is None


async def test_events_are_shipped_once_and_wait_out_an_outage(tmp_path: Path) -> None:
    path, server = tmp_path / "envoy.log", Server()
    write(path, LINE, {"edge": "other"}, {**LINE, "request_id": "id-2"})
    first = follower(path, server)
    server.error = Unavailable("away")
    await first.step()
    assert (server.ids, first.pending) == ([], True)
    assert "away" in first.trouble
    first.save()
    server.error = None
    second = follower(path, server)  # the next agent
    await second.step()
    assert server.ids == ["id-1", "id-2"]
    assert not second.pending
    second.save()
    write(path, {**LINE, "request_id": "id-3"})
    third = follower(path, server)
    await third.step()
    await third.step()
    assert server.ids == ["id-1", "id-2", "id-3"]
    assert {m["log"] for m in server.messages} == {third.log.log_id}


async def test_many_events_go_in_bounded_messages(tmp_path: Path) -> None:
    path, server = tmp_path / "envoy.log", Server()
    write(path, *({**LINE, "request_id": str(n)} for n in range(2 * MAX_EVENTS + 1)))
    await follower(path, server).step()
    assert [len(m["events"]) for m in server.messages] == [MAX_EVENTS, MAX_EVENTS, 1]


async def test_what_a_full_log_drops_is_counted_and_told(tmp_path: Path) -> None:
    path, server = tmp_path / "envoy.log", Server()
    small = Retention(keep_bytes=3000)
    made = follower(path, server, small)
    server.error = Unavailable("away")
    for number in range(40):
        write(path, {**LINE, "request_id": str(number)})
        await made.step()
    server.error = None
    made._next_s = 0.0
    await made.step()
    assert 0 < made.dropped < 40
    assert server.messages[-1]["dropped"] == made.dropped
    assert [int(i) for i in server.ids] == list(range(made.dropped, 40))  # all others came


async def test_a_message_that_is_never_taken_does_not_stop_the_others(tmp_path: Path) -> None:
    path, server = tmp_path / "envoy.log", Server()
    write(path, LINE)
    made = follower(path, server)
    server.error = InvalidInput("not understood", code="invalid-audit-event")
    await made.step()
    server.error = None
    write(path, {**LINE, "request_id": "id-2"})
    await made.step()
    assert (server.ids, made.dropped, server.messages[-1]["dropped"]) == (["id-2"], 1, 1)


def plaintext(address: str, second: int, port: int = 9080) -> bytes:
    line = {
        "edge": "plaintext-request",
        "peer_address": f"{address}:40000",
        "port": port,
        "user_agent": "curl/8",
        "time": f"2026-12-01T00:00:{second:02}.000Z",
    }
    return json.dumps(line).encode()


def test_plaintext_is_counted_by_port_and_source_and_survives_a_restart() -> None:
    seen = PlaintextSeen(5.0)
    assert [seen.count(plaintext(a, n)) for n, a in enumerate(("192.0.2.1",) * 2)] == [True, False]
    assert seen.count(plaintext("192.0.2.2", 2))
    assert not seen.count(json.dumps(LINE).encode())
    again = PlaintextSeen.load(json.loads(json.dumps(seen.to_json())), 99.0)
    again.count(plaintext("192.0.2.1", 3))
    (port,) = again.to_json()["ports"]
    assert (again.since_s, port["port"], port["requests"]) == (5.0, 9080, 4)
    assert port["last"] == "2026-12-01T00:00:03.000Z"
    assert [(s["address"], s["requests"]) for s in port["sources"]] == [
        ("192.0.2.2", 1),
        ("192.0.2.1", 3),
    ]
    assert PlaintextSeen.load({"ports": [{}]}, 7.0).since_s == 7.0


def test_sources_and_ports_are_bounded_and_no_request_is_lost_from_the_count() -> None:
    seen = PlaintextSeen(0.0)
    for number in range(200):
        seen.count(plaintext(f"192.0.2.{number}", 0))
    (port,) = seen.to_json()["ports"]
    assert (port["requests"], len(port["sources"])) == (200, MAX_SOURCES)
    for number in range(1, 1000):
        seen.count(plaintext("192.0.2.1", 0, port=number))
    assert len(seen.to_json()["ports"]) <= 64


async def test_logs_of_ended_workloads_are_searched_shipped_and_then_forgotten(
    tmp_path: Path,
) -> None:
    kept, root, server = tmp_path / "logs", tmp_path / "w", Server()
    root.mkdir()
    path = root / "envoy.log"
    write(path, LINE)
    follower(path, server).save()
    keep_log(kept, path)
    assert not list(root.iterdir())
    logs = KeptLogs(kept, Retention(), server.send)
    (log,) = logs.logs()
    assert len(find_lines([log], "id-1").lines) == 1
    assert find_lines([log], "id-9").oldest == LINE["time"]
    await logs.look()
    await logs.look()
    assert server.ids == ["id-1"]
    assert logs.logs() == [log]
    await KeptLogs(kept, Retention(keep_s=-1.0), server.send).look()
    assert not list(kept.iterdir())


def test_nothing_is_kept_of_a_workload_that_wrote_nothing(tmp_path: Path) -> None:
    keep_log(tmp_path / "logs", tmp_path / "envoy.log")
    assert not (tmp_path / "logs").exists()


def test_lines_are_found_in_rotated_parts(tmp_path: Path) -> None:
    path = tmp_path / "envoy.log"
    log = LogFiles(path)
    log.rotate(Retention(), 1.0)
    write(path, LINE)
    log.rotate(Retention(keep_bytes=10), 2.0)
    write(path, {**LINE, "request_id": "id-2"})
    assert [len(find_lines([path], i).lines) for i in ("id-1", "id-2", "id-3")] == [1, 1, 0]
