"""`limen run`: a program in the mesh, its environment, its exit code, and every way to fail."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.agent_fake_server import FakeServer
from tests.e2e.agent_harness import LIMEN, LOOPBACK, Host, application, host, seconds_since

from limen.adapters.peercred import read_peer_credentials
from limen.services.agent.control_client import is_agent_alive

SHOW = "import json,os;print(json.dumps(dict(os.environ)))"


async def run(
    box: Host, *options: str, program: tuple[str, ...] = ("true",), token: str = ""
) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of `limen run`."""
    process = await start_run(box, *options, program=program, token=token)
    async with asyncio.timeout(40):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def start_run(
    box: Host, *options: str, program: tuple[str, ...], token: str = ""
) -> asyncio.subprocess.Process:
    environment = dict(os.environ, LIMEN_TOKEN=token, NO_PROXY="items.mesh")
    return await asyncio.create_subprocess_exec(
        *LIMEN,
        "run",
        *box.places,
        *options,
        "--",
        *program,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def nothing_left(box: Host) -> None:
    """The agent that was started has gone, and so have its Envoys."""
    async with asyncio.timeout(15):
        while box.paths.control_socket.exists() or processes_of(box):  # noqa: ASYNC110 - seen from outside
            await asyncio.sleep(0.02)


def processes_of(box: Host) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(box.root) in line:
                found.append(line.decode())
    return found


async def test_program_runs_in_the_mesh_and_nothing_is_left_after_it() -> None:
    async with FakeServer() as server, host() as box, application("items") as app:
        token = server.token()
        status, out, err = await run(
            box,
            *("--service", "items", "--port", str(app.port), "--instance", "one"),
            program=(sys.executable, "-c", SHOW + ";raise SystemExit(7)"),
            token=token,
        )
        assert status == 7, err
        seen = json.loads(out)
        assert seen["LIMEN_SERVICE"] == "items"
        assert seen["LIMEN_MESH"] == "default"
        assert seen["LIMEN_SPIFFE_ID"] == "spiffe://default.mesh.local/ns/default/sa/items"
        assert seen["SPIFFE_ENDPOINT_SOCKET"] == f"unix://{box.paths.workload_socket}"
        assert re.fullmatch(r"http://one:[0-9a-f]{32}@127\.0\.0\.1:\d+", seen["HTTP_PROXY"])
        assert seen["HTTP_PROXY"] == seen["http_proxy"] == seen["grpc_proxy"]
        assert "items.mesh" not in seen["NO_PROXY"]
        assert token not in out
        assert "LIMEN_TOKEN" not in seen
        await nothing_left(box)
        assert server.places == {}


async def test_signals_reach_the_program_and_its_end_by_signal_is_reported() -> None:
    async with FakeServer() as server, host() as box, application("items") as app:
        code = (
            "import signal,sys,time\n"
            "signal.signal(signal.SIGUSR1, lambda *a: sys.exit(42))\n"
            "print('up', flush=True)\ntime.sleep(60)"
        )
        for number, expected in ((signal.SIGUSR1, 42), (signal.SIGTERM, 128 + signal.SIGTERM)):
            process = await start_run(
                box,
                *("--service", "items", "--port", str(app.port)),
                program=(sys.executable, "-c", code),
                token=server.token(),
            )
            assert process.stdout is not None
            assert await process.stdout.readline() == b"up\n"
            process.send_signal(number)
            await process.communicate()
            assert process.returncode == expected
        await nothing_left(box)


async def test_killed_agent_is_started_again_and_a_stopped_one_is_not() -> None:
    async with FakeServer() as server, host() as box, application("items") as app:
        process = await start_run(
            box,
            *("--service", "items", "--port", str(app.port), "--instance", "one"),
            program=("sh", "-c", "echo up; exec sleep 60"),
            token=server.token(),
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        async with asyncio.timeout(20):
            while not box.paths.sealed.exists():  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.02)
        proxy = (await box.until("default/items/one", lambda w: w["serving"]))["envoy_pid"]
        killed = agent_pid(box)
        os.kill(killed, signal.SIGKILL)
        async with asyncio.timeout(20):
            while agent_pid(box) in {0, killed}:  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.02)
        again = await box.until("default/items/one", lambda w: w["server_connected"])
        assert again["envoy_pid"] == proxy, "the proxy that served meanwhile is taken over"

        await box.ask("shutdown")
        async with asyncio.timeout(15):
            while box.paths.control_socket.exists():  # noqa: ASYNC110 - seen from outside
                await asyncio.sleep(0.02)
        process.terminate()
        await process.communicate()
        assert not await alive(box), "what was stopped on purpose stays stopped"
        await nothing_left(box)


async def alive(box: Host) -> bool:
    return await asyncio.to_thread(is_agent_alive, box.paths.control_socket)


def agent_pid(box: Host) -> int:
    """By the credentials of its socket: it is not a child of this process. 0: nobody is there."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(os.fspath(box.paths.control_socket))
            return read_peer_credentials(connection).pid
        except OSError:
            return 0


async def test_ready_within_a_second_once_the_agent_is_up() -> None:
    async with (
        FakeServer() as server,
        host(server.token()) as box,
        application("items") as app,
    ):
        await box.start()
        started = time.monotonic()
        process = await start_run(
            box, "--service", "items", "--port", str(app.port), program=("echo", "ready")
        )
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        took = seconds_since(started)
        await process.communicate()
        print(f"\nready {took:.2f} s after `limen run`")  # noqa: T201 - a measured value
        assert took < 3  # the goal is 1 s; this machine is shared


async def test_killed_run_withdraws_its_workload() -> None:
    async with FakeServer() as server, host() as box, application("items") as app:
        process = await start_run(
            box,
            *("--service", "items", "--port", str(app.port)),
            program=("sh", "-c", "echo up; exec sleep 3"),
            token=server.token(),
        )
        assert process.stdout is not None
        await process.stdout.readline()
        process.kill()
        await server.wait(lambda: not server.places)
        await process.communicate()
        await nothing_left(box)


async def _refused(box: Host, *options: str, code: str, status: int, **more: Any) -> str:
    found, out, err = await run(box, *options, program=("echo", "ran"), **more)
    assert "ran" not in out
    assert f"limen: {code}:" in err, err
    assert found == status, err
    assert "Traceback" not in err
    await nothing_left(box)
    return err


async def test_every_error_before_the_start_is_clear_and_leaves_nothing_running() -> None:
    async with FakeServer() as server, host() as box, application("items") as app:
        base = ("--port", str(app.port))
        items = ("--service", "items", *base)
        await _refused(box, *items, code="no-token", status=2)
        await _refused(box, *items, code="invalid-join-token", status=2, token="limen1.nonsense")
        await _refused(box, *items, "--protocol", "tcp", code="protocol-unsupported", status=2)
        await _refused(box, "--service", "Böse", *base, code="invalid-name", status=2)
        await _refused(box, *items, "--envoy", "/no/envoy", code="envoy-not-found", status=4)
        wrong = server.token(fingerprint="0" * 64)
        await _refused(box, *items, code="pin-mismatch", status=3, token=wrong)
        token = server.token()
        taken = ("--listen", f"{LOOPBACK}:{app.port}")
        await _refused(box, *items, *taken, code="port-taken", status=5, token=token)
        (box.paths.node).unlink()
        await _refused(box, *items, code="token-refused", status=3, token=token)
        server.entitled = {"default/users"}
        fresh = server.token()
        await _refused(box, *items, code="not-entitled", status=3, token=fresh)
        local = ("--local-port", "9999=users")
        await _refused(box, *items, *local, code="isolation-too-weak", status=2)
        await server.stop()
        await _refused(box, *items, code="server-unreachable", status=6)


async def test_old_envoy_is_refused_by_name() -> None:
    async with FakeServer() as server, host() as box, application("items") as app:
        fake = box.root / "old-envoy"
        fake.write_text("#!/bin/sh\necho 'envoy  version: abc/1.38.3/Clean/RELEASE/BoringSSL'\n")
        fake.chmod(0o755)
        err = await _refused(
            box,
            *("--service", "items", "--port", str(app.port), "--envoy", str(fake)),
            code="envoy-too-old",
            status=2,
            token=server.token(),
        )
        assert "1.38.3" in err
        assert "1.39.1" in err


async def test_program_of_another_user_has_a_way_out_that_only_it_opens() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("needs curl")
    async with FakeServer() as server, host() as box, application("items") as app:
        box.root.chmod(0o711)
        script = (
            'id -u; echo "$LIMEN_ISOLATION"; stat -c "%u %a" "$(dirname "$LIMEN_OUTBOUND_SOCKET")";'
            'stat -c "%u %a" "$LIMEN_OUTBOUND_SOCKET";'
            f'{curl} -s --noproxy "*" --unix-socket "$LIMEN_OUTBOUND_SOCKET" http://items.mesh/'
        )
        status, out, err = await run(
            box,
            *("--service", "items", "--port", str(app.port), "--user", "nobody"),
            program=("sh", "-c", script),
            token=server.token(),
        )
        assert status == 0, err
        uid = pwd.getpwnam("nobody").pw_uid
        assert out.split("\n") == [str(uid), "Uid", f"{uid} 700", f"{uid} 600", "items"]
        await nothing_left(box)
