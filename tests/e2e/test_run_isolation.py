"""Workloads apart: network namespaces with a veth made here, users with a kernel rule; refusals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.agent_harness import Application, application
from tests.e2e.mesh_harness import PROGRAM, mesh

from limen.adapters.netns import find_namespace, is_other_namespace, run_inside
from limen.services.agent.probing import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.mesh_harness import Mesh

root_only = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None,
    reason="needs root and iproute2 to make a network namespace",
)
nft_only = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nft", path="/usr/sbin:/sbin") is None,
    reason="needs root and nftables",
)
PYTHON = "/usr/bin/python3"
"""Of the system: another user cannot read the one of a virtual environment below /root."""
CURL = shutil.which("curl") or ""
needs_curl = pytest.mark.skipif(
    not CURL or not Path(PYTHON).exists(), reason="needs curl and the system's Python"
)
OUTSIDE, INSIDE = "10.213.77.1", "10.213.77.2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=10)


@contextlib.contextmanager
def namespace(*, veth: bool = True, loopback: bool = True) -> Iterator[str]:
    """A network namespace of our own, joined to this one by a veth pair."""
    name = f"limen-t-{secrets.token_hex(3)}"
    ip("netns", "add", name)
    try:
        if loopback:
            ip("-n", name, "link", "set", "lo", "up")
        if veth:
            here, there = f"v{name[-6:]}a", f"v{name[-6:]}b"
            ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
            ip("addr", "add", f"{OUTSIDE}/30", "dev", here)
            ip("link", "set", here, "up")
            ip("-n", name, "addr", "add", f"{INSIDE}/30", "dev", there)
            ip("-n", name, "link", "set", there, "up")
        yield name
    finally:
        ip("netns", "del", name)


class InsideApplication(Application):
    """Answers inside a namespace, served by this process's loop."""

    async def start_in(self, path: str) -> None:
        def listen() -> socket.socket:
            return socket.create_server(("127.0.0.1", 0))

        listener = run_inside(path, listen)
        self._server = await asyncio.start_server(self._serve, sock=listener)
        self.port = listener.getsockname()[1]


def fetch_in(path: str, port: int, host: str, headers: str = "") -> str:
    """A plain request to a loopback port of a namespace: status line and body."""

    def ask() -> str:
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            head = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"
            connection.sendall(head.encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    return run_inside(path, ask)


def inode(path: str) -> int:
    return Path(path).stat().st_ino


async def envoy_pid(m: Mesh, instance: str) -> int:
    return int((await m.box.workload(instance))["envoy_pid"])


@root_only
async def test_program_and_proxy_live_in_a_namespace_and_call_both_ways(tmp_path: Path) -> None:
    with namespace() as name:
        path = find_namespace(name)
        async with mesh(tmp_path, "web", "items") as m, application("items") as app:
            inner = InsideApplication("web")
            await inner.start_in(path)
            web_local = run_inside(path, free_port)
            items = await m.run("items", app.port, "--address", OUTSIDE)
            web = await m.run(
                "web", inner.port, "--netns", name, "--local-port", f"{web_local}=items"
            )
            await m.allow(("web", "items"), ("items", "web"))
            assert web.environment["LIMEN_ISOLATION"] == "NetworkNamespace"
            assert web.environment["LIMEN_GUARDED_ADDRESS"].startswith(f"{INSIDE}:")
            # the program and its proxy are in there, the agent is not
            pid = await envoy_pid(m, f"default/web/{web.instance.rpartition('/')[2]}")
            there = inode(path)
            assert inode(f"/proc/{pid}/ns/net") == there
            runner = web.process.pid
            child = Path(f"/proc/{runner}/task/{runner}/children").read_text().split()[0]
            assert inode(f"/proc/{child}/ns/net") == there
            # from outside in, through both proxies
            assert await items.way.get("http://web.mesh/") == (200, b"web")
            # from inside out: by the proxy address, and by a plain local port
            guard = f"Proxy-Authorization: {web.way.authorization}\r\n"
            port = web.way.info["outbound_port"]
            answer = await asyncio.to_thread(fetch_in, path, port, "items.mesh", guard)
            assert answer.endswith("items")
            assert (await asyncio.to_thread(fetch_in, path, web_local, "x")).endswith("items")
            # neither is there outside
            for closed in (port, web_local):
                with pytest.raises(OSError, match="refused"):
                    socket.create_connection(("127.0.0.1", closed), 2)
            state = await m.box.workload(web.instance)
            assert (state["application_listening"], state["ready"]) == (True, True)
            await inner.stop()
            await m.box.until(web.instance, lambda w: not w["application_listening"])


@root_only
async def test_envoy_comes_back_into_its_namespace_and_a_restarted_agent_finds_it(
    tmp_path: Path,
) -> None:
    with namespace() as name:
        path = find_namespace(name)
        async with mesh(tmp_path, "web") as m:
            inner = InsideApplication("web")
            await inner.start_in(path)
            web = await m.run("web", inner.port, "--netns", name)
            before = await envoy_pid(m, web.instance)
            os.kill(before, 9)
            again = await m.box.until(
                web.instance,
                lambda w: w["envoy_pid"] not in {None, before} and w["envoy_connected"],
            )
            assert inode(f"/proc/{again['envoy_pid']}/ns/net") == inode(path)
            await m.box.kill()
            await m.box.start()
            state = await m.box.until(web.instance, lambda w: w["server_connected"])
            assert state["envoy_pid"] == again["envoy_pid"]
            assert state["isolation"] == "NetworkNamespace"
            await inner.stop()


@root_only
async def test_a_process_that_lives_in_a_namespace_takes_its_proxy_there(tmp_path: Path) -> None:
    with namespace() as name:
        path = find_namespace(name)
        async with mesh(tmp_path, "web") as m:
            sleeper = await asyncio.create_subprocess_exec(
                "ip", "netns", "exec", name, "sleep", "60"
            )
            async with asyncio.timeout(5):
                while not is_other_namespace(f"/proc/{sleeper.pid}/ns/net"):  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.01)
            from limen.adapters.peercred import read_process  # noqa: PLC0415 - only here

            found = read_process(sleeper.pid)
            assert found is not None
            process = {"pid": found[0].pid, "start_ticks": found[0].start_ticks}
            way = await m.box.add("web", 8080, instance="one", process=process)
            assert way.info["isolation"] == "NetworkNamespace"
            assert way.info["address"] == INSIDE
            pid = await envoy_pid(m, "default/web/one")
            assert inode(f"/proc/{pid}/ns/net") == inode(path)
            sleeper.kill()
            await sleeper.wait()
            async with asyncio.timeout(10):
                while (await m.box.ask("status"))["workloads"]:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.02)


@root_only
async def test_namespaces_that_cannot_serve_are_refused_with_what_to_do(tmp_path: Path) -> None:
    async with mesh(tmp_path, "web") as m:
        assert "netns-not-found" in await m.refused("web", 8080, "--netns", "nowhere")
        assert "invalid-netns" in await m.refused("web", 8080, "--netns", "/etc/hostname")
        with namespace(veth=False) as name:
            text = await m.refused("web", 8080, "--netns", name)
            assert "netns-unreachable" in text
            assert "veth" in text
        with namespace(loopback=False) as name:
            text = await m.refused("web", 8080, "--netns", name)
            assert "netns-loopback-down" in text
            assert "link set lo up" in text
        with namespace() as name:
            text = await m.refused("web", 8080, "--netns", name, "--address", OUTSIDE)
            assert "invalid-address" in text  # an address of this host, not of the namespace
        assert not m.box.envoy_pids()


# --- users


def rules() -> str:
    done = subprocess.run(
        ["nft", "list", "ruleset"], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout


@nft_only
@needs_curl
async def test_a_users_local_port_is_that_users_alone(tmp_path: Path) -> None:
    uid = pwd.getpwnam("nobody").pw_uid
    async with mesh(tmp_path, "web", "items") as m, application("items") as app:
        m.box.root.chmod(0o711)
        await m.run("items", app.port)
        port = free_port()
        before = rules()
        web = await m.run(
            "web",
            app.port,
            *("--user", "nobody", "--local-port", f"{port}=items"),
            program=(PYTHON, "-c", PROGRAM),
        )
        assert web.environment["LIMEN_ISOLATION"] == "Uid"
        await m.allow(("web", "items"))
        assert f"skuid != {uid}" in rules()
        url = f"http://127.0.0.1:{port}/"

        def ask(user: int) -> tuple[int, str]:
            done = subprocess.run(
                [CURL, "-s", "--noproxy", "*", "-m", "5", url],
                capture_output=True, text=True, check=False, user=user, timeout=10,
            )  # fmt: skip
            return done.returncode, done.stdout

        assert await asyncio.to_thread(ask, uid) == (0, "items")
        for other in (0, uid - 1):
            assert await asyncio.to_thread(ask, other) == (7, ""), other
        # another workload of that user would share it
        text = await m.refused("items", app.port, "--user", "nobody")
        assert "uid-shared" in text
        # a killed agent leaves the rule; the next one goes on
        await m.box.kill()
        assert f"skuid != {uid}" in rules()
        await m.box.start()
        await m.box.until(web.instance, lambda w: w["server_connected"])
        assert await asyncio.to_thread(ask, uid) == (0, "items")
        assert await asyncio.to_thread(ask, 0) == (7, "")
        await web.stop()
        assert rules() == before


@nft_only
async def test_local_ports_are_refused_without_isolation_or_when_taken(tmp_path: Path) -> None:
    async with mesh(tmp_path, "web", "items") as m, application("items") as app:
        before = rules()
        text = await m.refused("web", app.port, "--local-port", "9999=items")
        assert "isolation-too-weak" in text
        taken = f"{app.port}=items"
        text = await m.refused("web", app.port, "--user", "nobody", "--local-port", taken)
        assert "port-taken" in text
        for bad in ("x=items", "99999=items", "9999=Böse", "9999"):
            text = await m.refused("web", app.port, "--user", "nobody", "--local-port", bad)
            assert "Traceback" not in text
        twice = ("--local-port", "9999=items", "--local-port", "9999=web")
        assert "invalid-local-port" in await m.refused("web", app.port, *twice)
        assert rules() == before
        assert not m.box.envoy_pids()


async def test_without_nft_local_ports_of_a_user_are_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from limen.adapters import nft  # noqa: PLC0415 - only here
    from limen.core.model.mesh import Isolation  # noqa: PLC0415 - only here
    from limen.errors import InvalidInput  # noqa: PLC0415 - only here
    from limen.services.agent.local_ports import require_allowed  # noqa: PLC0415 - only here
    from limen.services.agent.spec import WorkloadSpec  # noqa: PLC0415 - only here

    monkeypatch.setattr(nft.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    spec = WorkloadSpec("web", 1, 1234, instance="i", local_ports=((9000, "items"),))
    with pytest.raises(InvalidInput, match="no program nft"):
        require_allowed(spec, Isolation.UID, ())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InvalidInput, match="not root"):
        require_allowed(spec, Isolation.UID, ())
