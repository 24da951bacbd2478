"""How soon a workload is ready, and what agent and Envoy cost when idle.

Measures, medians over several runs: a bare Envoy to its first answer (baseline); a workload added
to a running agent; `limen run` with a running agent until the program starts; resident memory of
an agent with ten idle workloads; private memory of each Envoy. The server is the real one.
Goals: under 1 s, 80 MB, 20 MB.

    python -m bench.startup [--runs 5] [--workloads 10] [-o json]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.agent_harness import LIMEN, Host, application, host
from tests.services.server_harness import running

from limen.adapters.envoy_process import find_envoy
from limen.services.agent.probing import free_port, wait_listening

GOALS = {"run_ready_s": 1.0, "agent_rss_mb": 80.0, "envoy_private_mb": 20.0}


def memory_mb(pid: int, *fields: str) -> float:
    """Sum of `fields` of /proc/PID/smaps_rollup, MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    return sum(int(found[field]) for field in fields) / 1024


async def bare_envoy_s() -> float:
    """From exec to the first accepted connection of an Envoy that does nothing."""
    port = free_port()
    config = {
        "admin": {
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        }
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        started = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *(str(find_envoy()), "-c", file.name, "--disable-hot-restart", "--concurrency", "1"),
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await wait_listening("127.0.0.1", port, 10)
            return time.perf_counter() - started
        finally:
            process.terminate()
            await process.wait()


async def run_ready_s(box: Host, port: int) -> float:
    """From `limen run` to the program's first line."""
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *LIMEN,
        *("run", "--service", "probe", "--port", str(port), *box.places, "--", "echo", "ready"),
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdout is None or await process.stdout.readline() != b"ready\n":
        raise RuntimeError("limen run did not start the program")
    took = time.perf_counter() - started
    await process.wait()
    return took


async def add_s(box: Host, name: str, port: int) -> float:
    """A workload added to a running agent, until its Envoy serves."""
    started = time.perf_counter()
    await box.add(name, port)
    return time.perf_counter() - started


async def measure(runs: int, workloads: int) -> dict[str, float]:
    """All values, medians."""
    bare = [await bare_envoy_s() for _ in range(runs)]
    names = [f"s{n}" for n in range(workloads)]
    with tempfile.TemporaryDirectory() as folder:
        return await _measure(Path(folder), names, runs, bare)


async def _measure(
    folder: Path, names: list[str], runs: int, bare: list[float]
) -> dict[str, float]:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(folder))
        box = await stack.enter_async_context(host(await server.token("probe", *names)))
        app = await stack.enter_async_context(application("a"))
        await box.start("--log-level", "warning")
        ready = [await run_ready_s(box, app.port) for _ in range(runs)]
        added = [await add_s(box, name, app.port) for name in names]
        await asyncio.sleep(2)  # idle is what is measured
        agent = box.agent.pid if box.agent else 0
        private = [memory_mb(pid, "Private_Clean", "Private_Dirty") for pid in box.envoy_pids()]
        median = statistics.median
        return {
            "bare_envoy_s": median(bare),
            "add_workload_s": median(added),
            "run_ready_s": median(ready),
            "add_to_bare_ratio": median(added) / median(bare),
            "agent_rss_mb": memory_mb(agent, "Rss"),
            "agent_private_mb": memory_mb(agent, "Private_Clean", "Private_Dirty"),
            "envoy_private_mb": median(private),
            "envoy_rss_mb": median(memory_mb(pid, "Rss") for pid in box.envoy_pids()),
        }


def main() -> int:
    """Print the values; exit 1 if a goal is missed (not with `--short`: two runs say little)."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="two runs, ten workloads")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workloads", type=int, default=10)
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table")
    options = parser.parse_args()
    runs = 2 if options.short else options.runs
    values = asyncio.run(measure(runs, options.workloads))
    missed = [name for name, goal in GOALS.items() if values[name] > goal]
    if options.output == "json":
        print(json.dumps({"values": values, "goals": GOALS, "missed": missed}, indent=2))
    else:
        for name, value in values.items():
            goal = f"  goal {GOALS[name]:g}" if name in GOALS else ""
            print(f"{name:20} {value:8.3f}{goal}{'  MISSED' if name in missed else ''}")
    return 1 if missed and not options.short else 0


if __name__ == "__main__":
    sys.exit(main())
