"""The tour: each step does something for real and records what it expected and what it saw."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

import httpx

from limen.cli.demo import direct
from limen.cli.demo.processes import end_process
from limen.cli.demo.strangers import foreign_identity, visitor_identity
from limen.cli.demo.world import MAY_CALL, SERVICES, World, policies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from limen.cli.demo.report import Report

Event = dict[str, Any]

EVENT_S = 10.0
OPEN_STREAM_LIMIT_S = 2.0
RESPAWN_LIMIT_S = 3.0
SHORT_LIVED_S = 10
PERMISSION = "/v1/resources/TrafficPermission/users-callers"
NOBODY = "refused before any HTTP answer"


def _outcome(status: int) -> str:
    return f"HTTP {status}" if status else NOBODY


async def start(world: World, report: Report) -> None:
    """A server, an agent, three services; and that without a permission nothing goes."""
    with report.step("starting a server, an agent and three services"):
        began = time.monotonic()
        await world.start_server()
        await world.start_agent()
        await asyncio.gather(*(world.start_service(name) for name in SERVICES))
        report.measure("start", time.monotonic() - began)
        status = (await world.ask("invoices", "/call", to="users"))["status"]
        report.check("before any permission, invoices → users", expected=403, seen=status)
        await world.apply("marketplace.yaml", policies())


async def table(world: World, report: Report) -> None:
    """Nine calls through both proxies, and nine straight to the callee's mTLS port."""
    with report.step("who may call whom: 3 by 3 through both proxies, and past the caller's own"):
        for caller in SERVICES:
            for callee in SERVICES:
                expected = 200 if (caller, callee) in MAY_CALL else 403
                seen = await world.ask(caller, "/call", to=callee)
                report.check(f"{caller} → {callee}", expected=expected, seen=seen["status"])
                address = await world.guarded_address(callee)
                seen = await world.ask(caller, "/direct", address=address)
                report.check(
                    f"{caller} → {callee}, straight to its mTLS port",
                    expected=expected,
                    seen=seen["status"],
                )


async def strangers(world: World, report: Report) -> None:
    """Callers that have no business here."""
    with report.step("strangers at users' mTLS port"):
        host, _, port_text = (await world.guarded_address("users")).rpartition(":")
        port = int(port_text)
        wanted = (await world.ask("invoices", "/identity"))["spiffe_id"]
        plain = await direct.get(None, host, port, "/", scheme="http")
        report.check("plaintext", expected=NOBODY, seen=_outcome(plain.status))
        bare = await direct.get(None, host, port, "/")
        report.check("TLS without a certificate", expected=NOBODY, seen=_outcome(bare.status))
        forged = await direct.get(foreign_identity(wanted), host, port, "/")
        report.check(
            f"{wanted} from another authority", expected=NOBODY, seen=_outcome(forged.status)
        )
        other = await visitor_identity(world, "other", "invoices")
        answer = await direct.get(other, host, port, "/")
        report.check(
            f"{other.spiffe_id} of another mesh", expected=NOBODY, seen=_outcome(answer.status)
        )
        world.expiring = await short_lived_identity(world)
        answer = await direct.get(world.expiring, host, port, "/")
        report.check(
            f"invoices' certificate, valid for {SHORT_LIVED_S} s more",
            expected="HTTP 200",
            seen=_outcome(answer.status),
        )


async def short_lived_identity(world: World) -> direct.Identity:
    """A certificate of the mesh's own authority that soon expires."""
    short = policies().replace("expiration: 24h", f"expiration: {SHORT_LIVED_S}s")
    await world.apply("short.yaml", short)
    identity = await visitor_identity(world, "default", "invoices")
    await world.apply("marketplace.yaml", policies())
    return identity


async def expired(world: World, report: Report) -> None:
    """The certificate that was still good in the beginning."""
    with report.step("the certificate that was valid a while ago"):
        identity = world.expiring
        assert identity is not None  # noqa: S101 - made in an earlier step
        host, _, port = (await world.guarded_address("users")).rpartition(":")
        await asyncio.sleep(max(0.0, identity.not_after - time.time() + 0.5))
        answer = await direct.get(identity, host, int(port), "/")
        report.check("an expired certificate", expected=NOBODY, seen=_outcome(answer.status))


class Observer:
    """Long observations by a service's program; each event goes into the observation's queue."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tasks: list[asyncio.Task[None]] = []

    def observe(self, service: str, path: str, **query: str | float) -> asyncio.Queue[Event]:
        """Start one. The queue ends with an event of status -1 if the program itself is lost."""
        queue: asyncio.Queue[Event] = asyncio.Queue()

        async def collect() -> None:
            try:
                async for event in self._world.follow(service, path, **query):
                    queue.put_nowait(event)
            except httpx.HTTPError:
                queue.put_nowait({"at": time.monotonic(), "event": "lost", "status": -1})

        self._tasks.append(asyncio.create_task(collect()))
        return queue

    async def end(self) -> None:
        """Stop all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _until(queue: asyncio.Queue[Event], wanted: Callable[[Event], bool]) -> float:
    """When the first event that is wanted happened (`time.monotonic`, the same for all here)."""
    async with asyncio.timeout(EVENT_S):
        while not wanted(event := await queue.get()):
            pass
    return float(event["at"])


def _is_allowed(event: Event) -> bool:
    return bool(event["status"] == 200)


def _is_refused(event: Event) -> bool:
    return bool(event["status"] != 200)


async def withdrawal(world: World, report: Report) -> None:
    """A permission is taken away and given back, while requests and streams are open."""
    with report.step("a permission is withdrawn, and given back"):
        address = await world.guarded_address("users")
        observer = Observer(world)
        ways = {"past its own proxy": {"address": address}, "through both proxies": {"to": "users"}}
        calls = {
            w: observer.observe("invoices", "/watch", seconds=30, **q) for w, q in ways.items()
        }
        streams = {w: observer.observe("invoices", "/hold", **q) for w, q in ways.items()}
        try:
            for queue in calls.values():
                await _until(queue, _is_allowed)
            for queue in streams.values():
                await _until(queue, lambda e: e["event"] == "open 200")
            began = time.monotonic()
            await world.call("delete", PERMISSION)
            for way, queue in calls.items():
                at = await _until(queue, _is_refused) - began
                report.measure(f"next request refused, {way}", at)
                _within(report, f"next request on an open connection refused, {way}", at, 0.5)
            for way, queue in streams.items():
                at = await _until(queue, lambda e: e["event"] == "closed") - began
                report.measure(f"open stream closed, {way}", at)
                _within(report, f"open stream closed, {way}", at, OPEN_STREAM_LIMIT_S)
            began = time.monotonic()
            await world.apply("marketplace.yaml", policies())
            for way, queue in calls.items():
                at = await _until(queue, _is_allowed) - began
                _within(report, f"given back, {way}", at, 2.0)
        except TimeoutError:
            report.check("withdrawal is seen", expected=f"within {EVENT_S:.0f} s", seen="not seen")
        finally:
            await observer.end()


def _within(report: Report, name: str, seen_s: float, limit_s: float) -> None:
    """A check of a time, shown in milliseconds."""
    report.check(
        name,
        expected=f"within {limit_s:.1f} s",
        seen=f"after {seen_s * 1000:.0f} ms",
        passed=seen_s <= limit_s,
    )


async def _under_load(
    world: World, report: Report, what: str, disturb: Callable[[], Awaitable[None]], seconds: float
) -> None:
    """Call without pause while `disturb` happens; no call may fail."""
    load = asyncio.create_task(world.ask("invoices", "/load", to="users", seconds=seconds))
    await asyncio.sleep(0.3)
    await disturb()
    result = await load
    counts: dict[str, int] = result["counts"]
    failed = sum(n for status, n in counts.items() if status != "200")
    total = sum(counts.values())
    report.check(
        what,
        expected="0 failed",
        seen=f"{failed} failed of {total} requests" + (f" {counts}" if failed else ""),
        passed=failed == 0 and total > 0,
    )


async def rotation(world: World, report: Report) -> None:
    """New certificates while a load runs."""
    with report.step("certificates are rotated under load"):
        before = {s: (await world.ask(s, "/identity"))["serial"] for s in ("invoices", "users")}

        async def rotate() -> None:
            for _ in range(3):
                await world.agent_command("rotate")
                await asyncio.sleep(0.5)

        await _under_load(world, report, "requests during three rotations", rotate, 3.0)
        after = {s: (await world.ask(s, "/identity"))["serial"] for s in before}
        changed = all(after[s] != before[s] for s in before)
        report.check("both have new certificates", expected=True, seen=changed)


async def outages(world: World, report: Report) -> None:
    """The server dies and comes back; a proxy dies; the server is dead and all else restarts."""
    with report.step("the server is killed and started again under load"):

        async def restart() -> None:
            assert world.server is not None  # noqa: S101 - started in the first step
            await world.server.kill()
            await asyncio.sleep(0.5)
            await world.start_server()

        await _under_load(world, report, "requests while the server restarts", restart, 4.0)
    with report.step("a proxy is killed"):
        await _kill_proxy(world, report, "users' proxy answers again")
    with report.step("the server is dead; agent and proxy are restarted"):
        assert world.server is not None  # noqa: S101 - as above
        assert world.agent is not None  # noqa: S101 - as above
        await world.server.kill()
        await world.agent.kill()
        await _under_load(world, report, "requests while the agent starts", world.start_agent, 3.0)
        await _kill_proxy(world, report, "users' proxy answers again, with the server dead")
        await world.start_server()


async def _kill_proxy(world: World, report: Report, what: str) -> None:
    """Kill users' proxy and call users until a call passes; the caller's proxy tries again, too."""
    pid = await world.envoy_pid("users")
    began = time.monotonic()
    end_process(pid, signal.SIGKILL)
    status = 0
    while status != 200 and time.monotonic() < began + EVENT_S:
        status = (await world.ask("invoices", "/call", to="users"))["status"]
    at = time.monotonic() - began
    report.measure(what, at)
    _within(report, what if status == 200 else f"{what} (never)", at, RESPAWN_LIMIT_S)
    new = await world.envoy_pid("users")
    report.check("it is another process", expected=True, seen=new != pid)


STEPS = (start, table, strangers, withdrawal, rotation, outages, expired)
