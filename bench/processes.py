"""Processes under measurement: start an Envoy, read CPU and memory, stop it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from limen.adapters.ports import free_port as free_port  # noqa: PLC0414 - for the benchmarks

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def private_mb(pid: int) -> float:
    """Private (unshared) resident memory in MB."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean", "Private_Dirty")):
            total += int(line.split()[1])
    return total / 1024


def resident_mb(pid: int) -> float:
    """Resident memory in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def wait_for_port(port: int, timeout_s: float = 20) -> None:
    """Return when something listens on the loopback port. Raises TimeoutError."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        with socket.socket() as s:
            s.settimeout(0.5)
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


def envoy_binary() -> str:
    """The Envoy of this virtual environment, or the one on PATH."""
    beside = Path(sys.executable).with_name("envoy")
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if not found:
        raise FileNotFoundError("no envoy: make venv installs it")
    return found


class Envoy:
    """A running Envoy with a static configuration; a context manager."""

    def __init__(self, name: str, config: dict[str, Any], directory: Path, port: int) -> None:
        path = directory / f"{name}.json"
        path.write_text(json.dumps(config))
        with (directory / f"{name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    envoy_binary(), "-c", str(path), "--concurrency", "1",
                    "--disable-hot-restart", "-l", "warning",
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.pid = self.process.pid
        self.port = port

    def __enter__(self) -> Self:
        wait_for_port(self.port)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def generate_load(
    port: int, connections: int, seconds: float, target: str, headers: list[str]
) -> dict[str, float]:
    """Run the load generator in a process of its own; its figures."""
    done = subprocess.run(
        [
            sys.executable, str(Path(__file__).with_name("loadgen.py")),
            "127.0.0.1", str(port), str(connections), str(seconds), target,
        ],
        input="\n".join(headers),
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )  # fmt: skip
    result: dict[str, float] = json.loads(done.stdout)
    return result
