"""The agent's parts without Envoy and without a server: files, callers, specs, checks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.agent_fake_server import DOMAIN, Authority, _csr_key

from limen.adapters.envoy_process import check_envoy, find_envoy
from limen.adapters.peercred import (
    Caller,
    ProcessId,
    identify_caller,
    is_alive,
    read_ancestry,
    read_process,
    this_process,
)
from limen.adapters.runtime_dir import (
    AgentPaths,
    is_tmpfs,
    make_directory,
    require_short,
    write_atomic,
)
from limen.adapters.sealed import load_or_make_key, seal, unseal
from limen.adapters.unix_relay import UnixRelay
from limen.core.model.mesh import Isolation
from limen.core.pki.join_token import JoinToken, fingerprint_of, format_join_token
from limen.core.pki.profile import Profile, node_uri
from limen.errors import Conflict, InvalidInput, NotFound, Unavailable, Untrusted
from limen.services.agent.attestation import attest_caller
from limen.services.agent.checks import CHECKS, Level, Observed, run_checks
from limen.services.agent.control import ControlServer
from limen.services.agent.control_client import AgentGone, call_agent
from limen.services.agent.handover import WorkloadRecord, load_handover, save_handover
from limen.services.agent.identity import (
    Svid,
    accept_svid,
    build_request,
    key_to_pem,
    make_key,
)
from limen.services.agent.isolation import measure_isolation
from limen.services.agent.local_ports import require_allowed
from limen.services.agent.node_identity import NodeIdentity, save_node
from limen.services.agent.node_keeper import load_or_join
from limen.services.agent.probing import free_port, require_free
from limen.services.agent.registration import Registration, parse_registration
from limen.services.agent.settings import AgentSettings
from limen.services.agent.spec import WorkloadSpec, parse_spec, spec_to_json
from limen.services.agent.static_file import load_specs

SPEC = WorkloadSpec("items", 8080, os.geteuid(), instance="one")


# --- processes


def test_process_is_told_apart_from_another_with_its_pid() -> None:
    me = this_process()
    assert is_alive(me)
    assert not is_alive(ProcessId(me.pid, me.start_ticks + 1))
    assert read_process(2**22 + 1) is None


def test_ancestry_goes_up_to_init() -> None:
    chain = read_ancestry(os.getpid())
    assert chain[0] == this_process()
    assert chain[1].pid == os.getppid()


def test_peer_of_a_socket_is_this_process_and_a_dead_peer_is_nobody() -> None:
    left, right = socket.socketpair()
    with left, right:
        caller = identify_caller(left)
        assert caller is not None
        assert caller.uid == os.geteuid()
        assert caller.ancestry[0] == this_process()
    left, right = socket.socketpair()
    child = subprocess.Popen(["true"])
    child.wait()
    left.close()
    right.close()
    assert read_ancestry(child.pid) == ()


def _caller(uid: int, *chain: tuple[int, int]) -> Caller:
    return Caller(uid, tuple(ProcessId(*link) for link in chain))


def test_nearest_process_tree_decides_who_a_caller_is() -> None:
    outer = WorkloadSpec("outer", 1, 0, instance="a", process=ProcessId(10, 1))
    inner = WorkloadSpec("inner", 1, 0, instance="a", process=ProcessId(20, 5))
    specs = [outer, inner]
    assert attest_caller(_caller(7, (30, 9), (20, 5), (10, 1), (1, 0)), specs) == inner.key
    assert attest_caller(_caller(7, (30, 9), (10, 1)), specs) == outer.key


def test_pid_that_was_used_again_is_nobody() -> None:
    spec = WorkloadSpec("items", 1, 0, instance="a", process=ProcessId(10, 1))
    assert attest_caller(_caller(0, (10, 2)), [spec]) is None


def test_uid_decides_only_where_it_is_one_workloads_and_has_no_process() -> None:
    one = WorkloadSpec("a", 1, 1000, instance="x")
    two = WorkloadSpec("b", 1, 1000, instance="x")
    bound = WorkloadSpec("c", 1, 1000, instance="x", process=ProcessId(5, 5))
    assert attest_caller(_caller(1000, (9, 9)), [one, bound]) == one.key
    assert attest_caller(_caller(1000, (9, 9)), [one, two]) is None
    assert attest_caller(_caller(1000, (9, 9)), [bound]) is None
    assert attest_caller(_caller(1001, (9, 9)), [one]) is None
    assert attest_caller(None, [one]) is None


# --- files


def test_sealed_file_opens_with_its_key_and_context_only(tmp_path: Path) -> None:
    key = load_or_make_key(tmp_path / "k")
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    assert load_or_make_key(tmp_path / "k") == key
    blob = seal(key, b"secret", b"boot-1")
    assert b"secret" not in blob
    assert unseal(key, blob, b"boot-1") == b"secret"
    for bad in (
        lambda: unseal(key, blob, b"boot-2"),
        lambda: unseal(os.urandom(32), blob, b"boot-1"),
        lambda: unseal(key, blob[:-1] + bytes([blob[-1] ^ 1]), b"boot-1"),
        lambda: unseal(key, b"", b"boot-1"),
    ):
        with pytest.raises(Untrusted):
            bad()


def test_directory_of_somebody_else_or_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(InvalidInput, match="not a directory of this user"):
        make_directory(tmp_path / "link")
    if os.geteuid() == 0:
        (tmp_path / "theirs").mkdir()
        os.chown(tmp_path / "theirs", 65534, -1)
        with pytest.raises(InvalidInput):
            make_directory(tmp_path / "theirs")


def test_directory_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o777)
    make_directory(tmp_path / "d")
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700


def test_write_is_private_and_a_failed_one_leaves_the_old(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", b"old")
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    with pytest.raises(Unavailable):
        write_atomic(tmp_path / "no" / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"


def test_socket_path_that_is_too_long_is_refused_with_a_hint() -> None:
    with pytest.raises(InvalidInput, match="--runtime"):
        require_short(Path("/" + "x" * 120))


def test_tmpfs_is_recognised(tmp_path: Path) -> None:
    if Path("/dev/shm").is_mount():  # noqa: S108 - looked at, not written
        assert is_tmpfs(Path("/dev/shm/x"))  # noqa: S108 - as above
    assert not is_tmpfs(Path("/proc"))


def _record(svid: Svid | None) -> WorkloadRecord:
    registration = Registration("default/items/one", "spiffe://d/ns/a/sa/b", ("x",), "d", 5.0, True)
    return WorkloadRecord(SPEC, registration, svid, 4000, 12.5, "s" * 32)


def test_identities_survive_a_restart_but_neither_expiry_nor_a_reboot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = AgentPaths(tmp_path / "r", tmp_path / "s")
    for folder in (paths.runtime, paths.state):
        make_directory(folder)
    svid = Svid("spiffe://d/ns/a/sa/b", "CERT", "BUNDLE", time.time() + 60, time.time(), "KEY")
    expired = Svid("spiffe://d/ns/a/sa/b", "CERT", "BUNDLE", time.time() - 1, time.time(), "KEY")
    save_handover(paths, "default", [_record(svid), _record(expired)])
    first, second = load_handover(paths, "default")
    assert first == _record(svid)
    assert second.svid is None
    assert load_handover(paths, "other") == ()
    monkeypatch.setattr("limen.services.agent.handover.read_boot_id", lambda: "another boot")
    assert load_handover(paths, "default") == ()


# --- specs


def test_spec_reads_what_it_writes() -> None:
    spec = WorkloadSpec("items", 1, 2, instance="i", process=ProcessId(3, 4))
    assert parse_spec(spec_to_json(spec)) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"service": "Böse"},
        {"service": "a/b"},
        {"service_port": 0},
        {"service_port": True},
        {"service_port": "80"},
        {"port": 65536},
        {"uid": -1},
        {"protocol": "tcp"},
        {"protocol": "HTTP"},
        {"address": "example.org"},
        {"address": "0.0.0.0"},  # noqa: S104 - must be refused
        {"identity": "spiffe://x/ns/a/sa/b"},
        {"tags": {"version": "2"}},
        {"process": {"pid": 1}},
        {"probe_path": "no-slash"},
        {"probe_path": "/a\nb"},
        {"local_ports": [[1]]},
        {"namespace": "../x"},
    ],
)
def test_bad_spec_is_refused(change: dict[str, Any]) -> None:
    good = {"service": "items", "service_port": 80, "uid": 0}
    parse_spec(good)
    with pytest.raises(InvalidInput):
        parse_spec(good | change)


def test_workloads_file_wants_instances_and_no_aliases(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("- {service: a, service_port: 1, uid: 0, instance: x}\n")
    assert load_specs(path)[0].key == "default/a/x"
    for text in (
        "a: 1",
        "- {service: a, service_port: 1, uid: 0}",
        "- &x {service: a, service_port: 1, uid: 0, instance: x}\n- *x",
        "[" * 1000,
        "\x00",
    ):
        path.write_text(text)
        with pytest.raises(InvalidInput):
            load_specs(path)
    with pytest.raises(InvalidInput):
        load_specs(tmp_path / "none.yaml")


def test_plain_local_ports_need_isolation() -> None:
    spec = WorkloadSpec("items", 1, os.geteuid(), instance="i", local_ports=((9000, "users"),))
    assert measure_isolation(spec) is Isolation.NONE
    assert measure_isolation(replace(spec, uid=os.geteuid() + 1)) is Isolation.UID
    assert measure_isolation(replace(spec, netns="/proc/self/ns/net")) is Isolation.NONE
    with pytest.raises(InvalidInput, match="isolation is none"):
        require_allowed(spec, Isolation.NONE, ())
    require_allowed(spec, Isolation.NETWORK_NAMESPACE, (SPEC,))
    require_allowed(SPEC, Isolation.NONE, ())


def test_plain_local_ports_are_not_shared_with_another_workload_of_the_same_user() -> None:
    uid = os.geteuid() + 1
    plain = WorkloadSpec("items", 1, uid, instance="i", local_ports=((9000, "users"),))
    for new, old in ((plain, replace(SPEC, service="users", uid=uid)), (SPEC, plain)):
        other = replace(old, service="users")
        with pytest.raises(Conflict, match="are both of user"):
            require_allowed(replace(new, uid=uid), Isolation.UID, (other,))


def test_taken_port_is_a_conflict_and_a_foreign_address_is_named() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(Conflict, match="cannot be used"):
            require_free("127.0.0.1", listener.getsockname()[1])
    with pytest.raises(InvalidInput, match="not an address of this host"):
        free_port("192.0.2.1")


def test_answer_to_register_that_cannot_be_read_is_refused() -> None:
    for answer in ({}, {"instance": "x"}, {"instance": 1, "spiffe_id": 2, "dns_names": 3}):
        with pytest.raises(InvalidInput):
            parse_registration(answer)


# --- certificates


def test_certificate_for_another_key_name_or_root_is_refused() -> None:
    authority = Authority(Profile.MESH_ROOT, Profile.MESH_INTERMEDIATE, DOMAIN)
    other = Authority(Profile.MESH_ROOT, Profile.MESH_INTERMEDIATE, DOMAIN)
    key = make_key()
    name = f"spiffe://{DOMAIN}/ns/default/sa/items"
    request = build_request(key, name, ("items.default.mesh",))

    def issue(uri: str = name, lifetime_s: int = 60) -> str:
        return authority.issue(Profile.WORKLOAD, _csr_key(request), lifetime_s, uri=uri)

    times = (time.time() + 1000, time.time() + 500)
    svid = accept_svid(key, name, issue(), authority.bundle_pem, times)
    assert svid.not_after_s <= time.time() + 61
    assert svid.renew_at_s <= svid.not_after_s
    assert "PRIVATE" not in repr(svid)
    bad = (
        (make_key(), issue(), authority.bundle_pem),
        (key, issue(name + "x"), authority.bundle_pem),
        (key, issue(), other.bundle_pem),
        (key, issue(lifetime_s=-5), authority.bundle_pem),
    )
    for used, certificate, bundle in bad:
        with pytest.raises(Untrusted):
            accept_svid(used, name, certificate, bundle, times)


async def test_a_host_that_joined_one_server_says_so_when_given_a_token_of_another(
    tmp_path: Path,
) -> None:
    ours = Authority(Profile.CONTROL_ROOT, Profile.CONTROL_INTERMEDIATE)
    key = make_key()
    request = build_request(key)
    leaf = ours.issue(Profile.NODE, _csr_key(request), 60, uri=node_uri("0123456789abcdef"))
    node = NodeIdentity(
        "default", "0123456789abcdef", "https://one.example", "one.example:7444", leaf,
        ours.bundle_pem, key_to_pem(key),
    )  # fmt: skip
    paths = AgentPaths(tmp_path / "r", tmp_path / "s")
    make_directory(paths.state)
    save_node(paths.node, node)

    def settings(server: str, fingerprint: str) -> AgentSettings:
        token = format_join_token(JoinToken(server, fingerprint, "0" * 8, "k" * 32))
        return AgentSettings("default", paths, token=token)

    pin = fingerprint_of(ours.root)
    for known in (
        settings("https://two.example", pin),  # another name of the same server
        settings("https://one.example", "0" * 64),  # an old token, the root was replaced since
        AgentSettings("default", paths),
    ):
        assert await load_or_join(known, "1.40.0") == node
    with pytest.raises(InvalidInput, match=r"has joined https://one\.example.*two") as refused:
        await load_or_join(settings("https://two.example", "0" * 64), "1.40.0")
    assert refused.value.code == "other-server"
    assert str(paths.node) in refused.value.hint


# --- sockets


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = await reader.read(-1)
    writer.write(data[::-1])
    writer.write_eof()
    await writer.drain()
    writer.close()


async def test_relay_hands_each_caller_to_its_own_socket(tmp_path: Path) -> None:
    seen: list[Caller | None] = []

    def route(caller: Caller | None) -> Path:
        seen.append(caller)
        return tmp_path / "inner.sock"

    server = await asyncio.start_unix_server(_echo, tmp_path / "inner.sock")
    relay = UnixRelay(tmp_path / "outer.sock", 0o600, route)
    relay.start()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "outer.sock")
    payload = os.urandom(300_000)
    writer.write(payload)
    writer.write_eof()
    assert await reader.read(-1) == payload[::-1]
    writer.close()
    assert seen[0] is not None
    assert seen[0].ancestry[0] == this_process()
    server.close()
    with contextlib.suppress(FileNotFoundError):
        (tmp_path / "inner.sock").unlink()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "outer.sock")
    assert await reader.read(-1) == b""  # nobody there: closed, not hanging
    writer.close()
    await relay.close()
    assert not (tmp_path / "outer.sock").exists()


async def test_control_socket_answers_bad_requests_and_goes_on(tmp_path: Path) -> None:
    async def hello(request: Any) -> dict[str, Any]:
        if request.get("fail"):
            raise NotFound("no such thing", code="gone", hint="look elsewhere")
        return {"hello": request["name"]}

    control = ControlServer(tmp_path / "c.sock", {"hello": hello})
    await control.start()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "c.sock")
    for line in (b"nonsense\n", b"[1]\n", b'{"verb": "other"}\n', b"[" * 5000 + b"\n"):
        writer.write(line)
        assert b'"ok": false' in await reader.readline()
    writer.close()
    answer = await asyncio.to_thread(call_agent, tmp_path / "c.sock", "hello", name="x")
    assert answer["hello"] == "x"
    with pytest.raises(NotFound) as caught:
        await asyncio.to_thread(call_agent, tmp_path / "c.sock", "hello", fail=True)
    assert caught.value.code == "gone"
    assert caught.value.hint == "look elsewhere"
    await control.close()
    with pytest.raises(AgentGone):
        await asyncio.to_thread(call_agent, tmp_path / "c.sock", "hello")


# --- Envoy


def test_envoy_is_found_and_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LIMEN_ENVOY", raising=False)
    assert check_envoy(find_envoy()).version.startswith("1.")
    monkeypatch.setenv("LIMEN_ENVOY", str(tmp_path / "none"))
    with pytest.raises(NotFound, match="--envoy"):
        find_envoy()
    with pytest.raises(InvalidInput, match="not an Envoy"):
        check_envoy(Path("/bin/true"))
    with pytest.raises(Unavailable):
        check_envoy(Path("/bin/false"))


# --- checks


def _workload(**changes: Any) -> dict[str, Any]:
    return {
        "instance": "default/items/one",
        "server_connected": True,
        "envoy_connected": True,
        "envoy_pid": 1,
        "application_listening": True,
        "isolation": "Uid",
        "certificate_left_s": 80_000.0,
        "certificate_not_after_s": 100_000.0,
        "certificate_renew_at_s": 50_000.0,
        "outage_budget_s": 43_200.0,
        "clock_offset_s": 0.4,
        "refusal": "",
    } | changes


def _observed(tmp_path: Path, server: dict[str, Any] | None = None, **changes: Any) -> Observed:
    agent = {
        "envoy_version": "1.40.0",
        "version": "0.1.0",
        "runtime": str(tmp_path),
        "state": str(tmp_path / "s"),
        "runtime_is_tmpfs": True,
        "server_epoch": "e1",
        "workloads": [_workload(**changes)],
    }
    status = {"version": "0.1.0", "epoch": "e1"} | (server or {})
    return Observed(agent, server=status, audit={"events": 3})


def test_all_checks_pass_on_a_good_installation(tmp_path: Path) -> None:
    findings = run_checks(_observed(tmp_path))
    assert len(findings) == len(CHECKS) >= 10
    assert {f.level for f in findings} == {Level.OK}, findings


@pytest.mark.parametrize(
    ("check", "level", "changes", "server"),
    [
        ("server", Level.FAIL, {"server_connected": False}, {}),
        ("certificates", Level.FAIL, {"certificate_left_s": -1.0}, {}),
        ("certificates", Level.WARN, {"certificate_left_s": 100.0}, {}),
        ("outage budget", Level.WARN, {"outage_budget_s": 60.0}, {}),
        ("clocks", Level.WARN, {"clock_offset_s": 10.0}, {}),
        ("clocks", Level.FAIL, {"clock_offset_s": -100.0}, {}),
        ("proxies", Level.FAIL, {"envoy_pid": None}, {}),
        ("proxies", Level.FAIL, {"refusal": "cluster x: bad"}, {}),
        ("proxies", Level.WARN, {"application_listening": False}, {}),
        ("isolation", Level.WARN, {"isolation": "None"}, {}),
        ("mutual TLS", Level.WARN, {}, {"meshes_without_mtls": ["plain"]}),
        ("store epoch", Level.FAIL, {}, {"epoch": "e2"}),
        ("versions", Level.FAIL, {}, {"version": "0.9.0"}),
    ],
)
def test_each_fault_is_found_by_its_check_with_a_hint(
    tmp_path: Path, check: str, level: Level, changes: dict[str, Any], server: dict[str, Any]
) -> None:
    findings = run_checks(_observed(tmp_path, server, **changes))
    bad = [f for f in findings if f.level is not Level.OK]
    assert [(f.check, f.level) for f in bad] == [(check, level)]
    assert bad[0].hint


def test_checks_without_an_agent_fail_with_a_hint() -> None:
    findings = run_checks(Observed(None, "no agent"))
    assert findings[0].level is Level.FAIL
    assert findings[0].hint


def test_socket_open_to_others_fails_the_check(tmp_path: Path) -> None:
    (tmp_path / "agent.sock").touch(mode=0o666)
    (tmp_path / "agent.sock").chmod(0o666)
    found = next(f for f in run_checks(_observed(tmp_path)) if f.check == "socket modes")
    assert found.level is Level.FAIL


def test_command_line_loads_without_grpc() -> None:
    code = "import sys, limen.cli.run; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
