"""Whatever is cut off half-way leaves no Envoy; what crashes Envoy is taken back; hung servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.agent_fake_server import FakeServer
from tests.e2e.agent_harness import LIMEN, Host, Load, Way, application, host

from limen.errors import LimenError, Unavailable
from limen.services.agent.control_client import AgentGone

if TYPE_CHECKING:
    from collections.abc import Callable

CRASHING = '''#!{python}
"""The real Envoy, which dies of SIGSEGV as soon as it has a cluster called `broken`."""
import ctypes, os, signal, subprocess, sys, socket, time, json
if "--version" in sys.argv:
    os.execv({envoy!r}, ["envoy", "--version"])
config = json.load(open(sys.argv[sys.argv.index("--config-path") + 1]))
admin = config["admin"]["address"]["pipe"]["path"]
with_us = lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)
child = subprocess.Popen([{envoy!r}, *sys.argv[1:]], preexec_fn=with_us)
signal.signal(signal.SIGTERM, lambda *_: (child.terminate(), child.wait(), os._exit(0)))
while child.poll() is None:
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(admin)
            s.sendall(b"GET /clusters HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
            text = b"".join(iter(lambda: s.recv(65536), b""))
    except OSError:
        text = b""
    if b"poison" in text:
        child.kill(); child.wait()
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(0.02)
sys.exit(child.returncode)
'''


class Failing(FakeServer):
    """A server whose parts fail in a chosen way."""

    ads = "well"
    held: asyncio.Event | None = None

    async def _ads(self, requests: Any) -> Any:
        if self.ads == "error":
            raise RuntimeError("ADS fails")
        if self.ads == "silent":
            await asyncio.sleep(60)
        async for item in super()._ads(requests):
            yield item

    async def _sign(self, message: dict[str, Any], context: Any) -> dict[str, Any]:
        if self.held is not None:
            await self.held.wait()
        return await super()._sign(message, context)


def envoys_below(root: Path) -> list[int]:
    """Every Envoy whose command line names `root`, remembered or not."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(root) in line and b"--config-path" in line:
                found.append(int(entry.name))
    return found


async def until(condition: Callable[[], object], timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - processes seen from outside
            await asyncio.sleep(0.01)


async def answers(way: Way, timeout_s: float = 15) -> None:
    """Return when a request through both proxies is answered; Envoy may be starting."""
    async with asyncio.timeout(timeout_s):
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if (await way.get("http://items.mesh/"))[0] == 200:
                    return
            await asyncio.sleep(0.02)


async def stopped_clean(box: Host) -> None:
    await box.stop()
    assert envoys_below(box.root) == []
    assert list(box.paths.runtime.glob("w/*")) == []
    assert "Traceback" not in box.log.read_text(), box.log.read_text()


@pytest.mark.parametrize("ads", ["error", "silent"])
async def test_an_agent_stopped_while_a_workload_waits_for_its_configuration(ads: str) -> None:
    async with Failing() as server, host(server.token()) as box, application("items") as app:
        server.ads = ads
        await box.start()
        adding = asyncio.create_task(box.add("items", app.port))
        await until(lambda: envoys_below(box.root))
        await stopped_clean(box)
        with pytest.raises((LimenError, AgentGone)):
            await adding
        assert server.places == {}


async def test_an_agent_stopped_while_the_server_is_asked_to_sign() -> None:
    async with Failing() as server, host(server.token()) as box, application("items") as app:
        server.held = asyncio.Event()
        await box.start()
        adding = asyncio.create_task(box.add("items", app.port))
        await server.wait(lambda: server.places)
        await stopped_clean(box)
        with pytest.raises((LimenError, AgentGone)):
            await adding
        server.held.set()
        await server.wait(lambda: not server.places)


async def test_an_agent_stopped_while_workloads_are_being_removed() -> None:
    async with Failing() as server, host(server.token()) as box, application("items") as app:
        await box.start()
        for name in ("one", "two"):
            await box.add("items", app.port, instance=name)
        removing = asyncio.create_task(box.ask("remove", instance="default/items/one"))
        await until(lambda: "default/items/one" not in server.places)
        await stopped_clean(box)
        await asyncio.gather(removing, return_exceptions=True)


async def test_a_run_killed_before_its_workload_is_ready_leaves_nothing() -> None:
    async with Failing() as server, host(server.token()) as box, application("items") as app:
        server.ads = "error"
        await box.start()
        running = await asyncio.create_subprocess_exec(
            *(*LIMEN, "run", *box.places, "--service", "items", "--port", str(app.port)),
            *("--", "true"),
            stderr=asyncio.subprocess.DEVNULL,
        )
        await until(lambda: envoys_below(box.root))
        running.kill()
        await running.wait()
        await until(lambda: not envoys_below(box.root))
        await until(lambda: not server.places)
        assert (await box.ask("status"))["workloads"] == []


async def test_a_workload_that_never_gets_ready_is_given_up_with_the_reason() -> None:
    async with Failing() as server, host(server.token()) as box, application("items") as app:
        server.ads = "error"
        await box.start()
        with pytest.raises(Unavailable, match="was not ready within") as caught:
            await box.add("items", app.port)
        assert caught.value.code == "workload-not-ready"
        assert envoys_below(box.root) == []
        assert server.places == {}
        server.ads = "well"
        await box.add("items", app.port)


async def test_an_envoy_that_nobody_remembers_is_stopped_by_the_next_agent() -> None:
    """The agent is killed between the start of Envoy and the note of it."""
    async with Failing() as server, host(server.token()) as box, application("items") as app:
        await box.start()
        await box.add("items", app.port, instance="one")
        await box.kill()
        (left,) = envoys_below(box.root)
        box.paths.sealed.unlink()
        await box.start()
        assert left not in envoys_below(box.root)
        assert (await box.ask("status"))["workloads"] == []
        await stopped_clean(box)


async def test_the_same_instance_may_come_again_at_once() -> None:
    async with Failing() as server, host(server.token()) as box, application("items") as app:
        await box.start()
        for _ in range(3):
            await box.add("items", app.port, instance="one")
            removing = asyncio.create_task(box.ask("remove", instance="default/items/one"))
            await until(lambda: "default/items/one" not in server.places)
            way = await box.add("items", app.port, instance="one")
            await removing
            assert (await way.get("http://items.mesh/"))[0] == 200
            await box.ask("remove", instance="default/items/one")


async def test_a_configuration_that_kills_envoy_is_taken_back_and_reported(tmp_path: Path) -> None:
    from limen.adapters.envoy_process import find_envoy  # noqa: PLC0415 - only here

    fake = tmp_path / "envoy"
    fake.write_text(CRASHING.format(python=sys.executable, envoy=str(find_envoy())))
    fake.chmod(0o755)
    async with FakeServer() as server, host(server.token()) as box, application("items") as app:
        await box.start("--envoy", str(fake))
        way = await box.add("items", app.port, instance="one")
        assert (await way.get("http://items.mesh/"))[0] == 200
        await asyncio.sleep(11)  # Envoy has to run with it for a while, to make it the one to keep
        server.send_poison()
        await server.wait(lambda: server.refusals, 30)
        assert "poison" in server.refusals[0]
        assert "Envoy died 3 times" in server.refusals[0]
        assert "signal 11" in server.refusals[0]
        await answers(way)
        found = await box.workload("default/items/one")
        assert "Envoy died" in found["refusal"]
        steady = found["envoy_pid"]
        # what comes next is taken
        server.extra = {}
        server.publish()
        await asyncio.sleep(1)
        assert (await box.workload("default/items/one"))["envoy_pid"] == steady
        assert (await way.get("http://items.mesh/"))[0] == 200


async def test_a_server_that_hangs_is_an_outage_not_a_hang() -> None:
    """SIGSTOP of a server in a process of its own: it accepts, and says nothing."""
    async with served() as (process, token), host(token) as box, application("items") as app:
        await box.start()
        way = await box.add("items", app.port, instance="one")
        load = Load(way, "http://items.mesh/")
        load.start(2)
        await load.more(50)
        process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable) as caught:
                await box.add("items", app.port, instance="two")
            assert caught.value.code == "server-unreachable"
            await box.until("default/items/one", lambda w: not w["server_connected"], 45)
            os.kill(box.envoy_pids()[0], signal.SIGKILL)
            await answers(way)
        finally:
            process.send_signal(signal.SIGCONT)
        await box.until("default/items/one", lambda w: w["server_connected"], 30)
        await load.stop()


def served() -> Any:
    code = (
        "import asyncio,sys\n"
        "from tests.e2e.agent_fake_server import FakeServer\n"
        "async def main():\n"
        "    async with FakeServer() as server:\n"
        "        print(server.token(), flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )

    @contextlib.asynccontextmanager
    async def start() -> Any:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code),
            cwd=Path(__file__).parents[2],
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            yield process, (await process.stdout.readline()).decode().strip()
        finally:
            process.kill()
            await process.wait()

    return start()
