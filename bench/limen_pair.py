"""The real thing under measurement: a server, an agent, a caller and a callee in a mesh.

`LimenPair(directory, application_port)` is a context manager; inside, `port` is the way out
(`authorization` opens it) and `envoy_pids` are its two proxies.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

LIMEN = [sys.executable, "-m", "limen.cli.main"]
POLICY = """
apiVersion: kuma.io/v1alpha1
kind: TrafficPermission
mesh: default
metadata: {name: callee-callers}
spec:
  sources: [{match: {kuma.io/service: caller}}]
  destinations: [{match: {kuma.io/service: callee}}]
"""
CALLER = """
import json, os, signal, sys
fd = os.open(sys.argv[1] + ".part", os.O_WRONLY | os.O_CREAT, 0o600)
os.write(fd, json.dumps(os.environ["HTTP_PROXY"]).encode())
os.close(fd)
os.rename(sys.argv[1] + ".part", sys.argv[1])
signal.pause()
"""


class LimenPair:
    """Starts everything in `directory` (made 0700) and stops it again."""

    def __init__(self, directory: Path, application_port: int) -> None:
        directory.mkdir(mode=0o700)
        self.directory = directory
        self.application_port = application_port
        self.processes: list[subprocess.Popen[bytes]] = []
        self.port = 0
        self.authorization = ""
        self.envoy_pids: list[int] = []
        self.server_pid = 0
        self.agent_pid = 0

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Run `limen ARGUMENTS…` in the background."""
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*LIMEN, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "LIMEN_CONFIG": str(self.data / "client.json")},
            )
        self.processes.append(process)
        return process

    def limen(self, *arguments: str, text: str = "") -> str:
        """Run `limen ARGUMENTS…` to its end; what it printed."""
        done = subprocess.run(
            [*LIMEN, *arguments],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LIMEN_CONFIG": str(self.data / "client.json")},
        )
        if done.returncode:
            raise RuntimeError(f"limen {arguments[0]}: {done.stderr}")
        return done.stdout

    @property
    def data(self) -> Path:
        """The server's data directory."""
        return self.directory / "server"

    def wait_for(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        """Return when `path` exists. Raises RuntimeError if `process` ends first."""
        until = time.monotonic() + 30
        while not path.exists():
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{path} did not appear: see {self.directory}/*.log")
            time.sleep(0.02)

    def start_server(self) -> None:
        """A server on free ports, with the permission applied."""
        kek = str(self.directory / "kek" / "kek")
        server = self.start(
            "server", "server", "run", "--data", str(self.data), "--kek", kek,
            "--api", "127.0.0.1:0", "--node", "127.0.0.1:0",
        )  # fmt: skip
        self.wait_for(self.data / "server.json", server)
        self.server_pid = server.pid
        self.limen("apply", "-f", "-", text=POLICY)

    def start_agent(self, services: tuple[str, ...]) -> None:
        """An agent with a token for `services`."""
        token = self.directory / "token"
        wanted = [part for name in services for part in ("--service", name)]
        self.limen("token", "create", *wanted, "--output", str(token))
        agent = self.start(
            "agent", "agent", "run", "--token-file", str(token),
            "--state", str(self.directory / "state"), "--runtime", str(self.runtime),
        )  # fmt: skip
        self.wait_for(self.runtime / "agent.sock", agent)
        self.agent_pid = agent.pid

    @property
    def runtime(self) -> Path:
        """The agent's runtime directory, on tmpfs."""
        return Path("/dev/shm") / f"limen-bench-{os.getpid()}"  # noqa: S108 - private, mode 0700

    def status(self) -> list[dict[str, Any]]:
        """The agent's workloads."""
        text = self.limen("agent", "status", "--runtime", str(self.runtime), "-o", "json")
        workloads: list[dict[str, Any]] = json.loads(text)["workloads"]
        return workloads

    def __enter__(self) -> Self:
        try:
            self.start_server()
            self.start_agent(("caller", "callee"))
            proxy = self.directory / "proxy.json"
            runtime = ("--runtime", str(self.runtime))
            self.start(
                "callee", "run", *runtime, "--service", "callee",
                "--port", str(self.application_port), "--", "sleep", "3600",
            )  # fmt: skip
            caller = self.start(
                "caller", "run", *runtime, "--service", "caller",
                "--port", "1", "--", sys.executable, "-c", CALLER, str(proxy),
            )  # fmt: skip
            self.wait_for(proxy, caller)
            self.read_proxy(json.loads(proxy.read_text()))
            self.envoy_pids = [w["envoy_pid"] for w in self.status()]
        except BaseException:
            self.__exit__()
            raise
        return self

    def read_proxy(self, url: str) -> None:
        """Split `http://ID:SECRET@127.0.0.1:PORT`."""
        parts = urlsplit(url)
        assert parts.port is not None
        self.port = parts.port
        pair = f"{parts.username}:{parts.password}".encode()
        self.authorization = "Basic " + base64.b64encode(pair).decode()

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        for process in reversed(self.processes):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.runtime, ignore_errors=True)
