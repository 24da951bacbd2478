"""`limen run -- PROGRAM`: put any program into the mesh."""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from limen.adapters.netns import find_namespace, run_inside
from limen.adapters.peercred import this_process
from limen.adapters.runtime_dir import make_directory
from limen.cli.agent import agent_paths, place_options, read_token
from limen.cli.keeping import agent_kept
from limen.errors import InvalidInput, LimenError, NotFound, Unavailable
from limen.services.agent.answers import raise_answer
from limen.services.agent.control_client import AgentGone, call_agent, is_agent_alive
from limen.services.agent.spec import WorkloadSpec, parse_protocol, parse_spec, spec_to_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from limen.adapters.runtime_dir import AgentPaths

_PR_SET_CHILD_SUBREAPER = 36
_FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
_WITHIN_S = 30.0
_AGAIN_S = 0.1
_STARTING = {"agent-running", "agent-starting"}
"""Another run is just starting the agent."""
_NOT_PROXIED = "localhost,127.0.0.1,::1"
"""What is on this host is in no mesh; an inherited list could name what is."""


@dataclass(frozen=True, slots=True)
class AgentStart:
    """How to start an agent if none runs."""

    mesh: str
    paths: AgentPaths
    server: str
    token: str
    envoy: str
    address: str


@click.command(context_settings={"ignore_unknown_options": True})
@place_options
@click.option("--service", required=True, help="Name of the service, such as items.")
@click.option("--port", required=True, type=click.IntRange(1, 65535), help="Program's own port.")
@click.option("--namespace", default="default", show_default=True)
@click.option("--protocol", default="http", show_default=True, help="http, http2 or grpc.")
@click.option("--instance", default="", help="Name of this copy; made up unless given.")
@click.option("--listen", default="", metavar="HOST:PORT", help="Where the guarded port is.")
@click.option("--address", default="", help="IP by which other hosts reach it.")
@click.option("--probe-port", type=click.IntRange(1, 65535), help="Port of the health probe.")
@click.option("--probe-path", default="", help="Path of the health probe.")
@click.option(
    "--local-port",
    "local_ports",
    multiple=True,
    metavar="PORT=SERVICE",
    help="Plain local port to a service, where isolation allows.",
)
@click.option(
    "--netns",
    default="",
    metavar="NAME|PATH",
    help="Run program and proxy in this network namespace (needs root).",
)
@click.option("--user", default="", help="Run the program as this user (needs root).")
@click.option("--server", default="", help="URL of the server; as in the token unless given.")
@click.option("--token-file", help="File with the join token, or -; else LIMEN_TOKEN.")
@click.option("--envoy", default="", help="Envoy binary.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    *,
    mesh: str,
    state: Path | None,
    runtime: Path | None,
    user: str,
    server: str,
    token_file: str | None,
    envoy: str,
    address: str,
    netns: str,
    program: Sequence[str],
    **options: Any,
) -> None:
    """Run PROGRAM as a service of the mesh, behind a proxy of its own.

    The program finds HTTP_PROXY, LIMEN_SERVICE, LIMEN_SPIFFE_ID, ... in its environment and calls
    others by name: http://users.mesh/

    \b
    Example:
      limen run --service items --port 8080 -- ./items-server --listen 127.0.0.1:8080
    """  # noqa: D301 - click's mark for lines that stay as they are
    account = _account(user)
    listen_host, listen_port = _listen(options.pop("listen"))
    options["netns"] = find_namespace(netns) if netns else ""
    spec = _spec(address or listen_host, listen_port, account, options)
    executable = shutil.which(program[0])
    if executable is None:
        raise NotFound(f"there is no program {program[0]}", code="program-not-found")
    start = AgentStart(
        mesh, agent_paths(mesh, state, runtime), server, read_token(token_file), envoy, ""
    )
    become_subreaper()
    answer = add_workload(start, spec)
    status = 1
    try:
        environment = program_environment(mesh, spec, answer)
        again = replace(start, token="")  # it has joined: its node certificate is kept
        name = str(answer["instance"])
        with agent_kept(start.paths.control_socket, name, lambda: start_agent(again)):
            status = _run_program(executable, program, environment, account, spec.netns)
    finally:
        remove_workload(start.paths, str(answer["instance"]))
    sys.exit(status)


def _account(user: str) -> pwd.struct_passwd | None:
    if not user:
        return None
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise InvalidInput(f"there is no user {user[:64]!a}", code="no-user") from None


def _listen(text: str) -> tuple[str, int]:
    if not text:
        return "", 0
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit():
        raise InvalidInput(f"--listen {text[:80]!a} is not HOST:PORT", code="invalid-listen")
    return host.strip("[]"), int(port)


def _spec(
    address: str, port: int, account: pwd.struct_passwd | None, options: dict[str, Any]
) -> WorkloadSpec:
    local_ports = []
    for text in options["local_ports"]:
        number, separator, service = text.partition("=")
        if not separator or not number.isdigit():
            raise InvalidInput(f"--local-port {text[:80]!a} is not PORT=SERVICE")
        local_ports.append([int(number), service])
    process = this_process()
    return parse_spec(
        {
            "service": options["service"],
            "service_port": options["port"],
            "namespace": options["namespace"],
            "protocol": parse_protocol(options["protocol"]),
            "instance": options["instance"],
            "address": address,
            "port": port,
            "probe_port": options["probe_port"],
            "probe_path": options["probe_path"],
            "local_ports": local_ports,
            "netns": options["netns"],
            "uid": os.geteuid() if account is None else account.pw_uid,
            "process": {"pid": process.pid, "start_ticks": process.start_ticks},
        }
    )


def become_subreaper() -> None:
    """Children of the program that daemonise stay below this process, and so in the workload.

    Source: prctl(2), PR_SET_CHILD_SUBREAPER.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def add_workload(start: AgentStart, spec: WorkloadSpec) -> dict[str, Any]:
    """Have an agent run the workload, starting one if none runs.

    An agent that was started for a `limen run` ends with the last of them: one that is just going
    away is replaced. Of several runs that start at once one starts the agent. A token that did not
    serve to join is redeemed by the agent if its node may not run the workload without.
    """
    last: Exception | None = None
    until_s = time.monotonic() + _WITHIN_S
    while time.monotonic() < until_s:
        try:
            token = start.token
            if not is_agent_alive(start.paths.control_socket):
                start_agent(start)
                token = ""
            answer: dict[str, Any] = call_agent(
                start.paths.control_socket, "add", workload=spec_to_json(spec), token=token
            )
        except AgentGone as error:
            last = error
        except LimenError as error:
            if error.code not in _STARTING:
                raise
            last = error
        else:
            return answer
        time.sleep(_AGAIN_S)
    if isinstance(last, LimenError):
        raise last
    raise Unavailable("the agent went away", hint=f"see {start.paths.log}") from last


def start_agent(start: AgentStart) -> None:
    """Start an agent in the background; returns when it is ready. Raises what it reports."""
    make_directory(start.paths.runtime, 0o711 if os.geteuid() == 0 else 0o700)
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "limen.cli.main", "agent", "run", "--auto-stop"]
    command += ["--mesh", start.mesh, "--notify-fd", str(writer)]
    command += ["--runtime", str(start.paths.runtime), "--state", str(start.paths.state)]
    for name in ("server", "envoy", "address"):
        if value := getattr(start, name):
            command += [f"--{name}", value]
    environment = dict(os.environ)
    if start.token:
        environment["LIMEN_TOKEN"] = start.token
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    log = os.open(start.paths.log, flags, 0o600)
    try:
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(writer,),
            start_new_session=True,
            env=environment,
            cwd="/",
        )
    finally:
        os.close(log)
        os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        line = pipe.readline()
    if not line:
        raise Unavailable("the agent did not start", hint=f"see {start.paths.log}")
    raise_answer(json.loads(line))


def program_environment(mesh: str, spec: WorkloadSpec, answer: dict[str, Any]) -> dict[str, str]:
    """What the program finds in its environment. Only there, never in an argument list."""
    proxy = (
        f"http://{answer['outbound_user']}:{answer['outbound_secret']}"
        f"@127.0.0.1:{answer['outbound_port']}"
    )
    inherited = {
        key: value
        for key, value in os.environ.items()
        if key != "LIMEN_TOKEN" and not key.lower().endswith("_proxy")
    }
    return inherited | {
        "HTTP_PROXY": proxy,
        "http_proxy": proxy,
        "grpc_proxy": proxy,
        "NO_PROXY": _NOT_PROXIED,
        "no_proxy": _NOT_PROXIED,
        "LIMEN_MESH": mesh,
        "LIMEN_SERVICE": spec.service,
        "LIMEN_NAMESPACE": spec.namespace,
        "LIMEN_INSTANCE": str(answer["instance"]),
        "LIMEN_PORT": str(spec.service_port),
        "LIMEN_GUARDED_ADDRESS": f"{answer['address']}:{answer['port']}",
        "LIMEN_SPIFFE_ID": str(answer["spiffe_id"]),
        "LIMEN_PROXY_URL": proxy,
        "LIMEN_OUTBOUND_SOCKET": str(answer["outbound_socket"]),
        "LIMEN_TOKEN_SOCKET": str(answer["token_socket"]),
        "LIMEN_ISOLATION": str(answer["isolation"]),
        "SPIFFE_ENDPOINT_SOCKET": f"unix://{answer['workload_socket']}",
    }


def _run_program(
    executable: str,
    program: Sequence[str],
    environment: dict[str, str],
    account: pwd.struct_passwd | None,
    netns: str,
) -> int:
    """The program's exit status; 128 + N if signal N ended it, as shells have it."""
    identity: dict[str, Any] = {}
    if account is not None:
        identity = {
            "user": account.pw_uid,
            "group": account.pw_gid,
            "extra_groups": os.getgrouplist(account.pw_name, account.pw_gid),
        }
    try:
        child = run_inside(
            netns,
            lambda: subprocess.Popen(
                [program[0], *program[1:]], executable=executable, env=environment, **identity
            ),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise InvalidInput(f"{program[0]} does not start: {error}") from error
    for number in _FORWARDED:
        signal.signal(number, lambda caught, _frame: child.send_signal(caught))
    if sys.stdin.isatty():  # the terminal itself sends these to the program
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    status = child.wait()
    return 128 - status if status < 0 else status


def remove_workload(paths: AgentPaths, instance: str) -> None:
    """Withdraw the workload; the agent notices our end by itself if this fails."""
    for number in _FORWARDED:
        signal.signal(number, signal.SIG_IGN)
    try:
        call_agent(paths.control_socket, "remove", timeout_s=15.0, instance=instance)
    except (AgentGone, LimenError) as error:
        print(f"limen: the workload was not withdrawn cleanly: {error}", file=sys.stderr)
