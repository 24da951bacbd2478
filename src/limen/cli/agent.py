"""`limen agent`: run it, look at it, stop it."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limen.adapters.log_files import Retention
from limen.adapters.runtime_dir import AgentPaths, default_runtime, default_state
from limen.cli.output import output_option, print_data, print_table
from limen.core.model.names import DEFAULT_MESH, parse_name
from limen.errors import InvalidInput, LimenError, NotFound
from limen.services.agent.control_client import AgentGone, call_agent
from limen.services.agent.settings import AgentSettings

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_TOKEN_BYTES = 8192


def agent_paths(mesh: str, state: Path | None, runtime: Path | None) -> AgentPaths:
    """The agent's directories as asked for, or the usual ones."""
    parse_name(mesh, "mesh")
    return AgentPaths(
        (runtime or default_runtime(mesh)).absolute(), (state or default_state(mesh)).absolute()
    )


def place_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--mesh`, `--state`, `--runtime`: which agent is meant."""
    for option in (
        click.option(
            "--runtime",
            type=click.Path(path_type=Path),
            help="Sockets, logs, sealed identities. Should be tmpfs.",
        ),
        click.option("--state", type=click.Path(path_type=Path), help="Node certificate and key."),
        click.option("--mesh", default=DEFAULT_MESH, show_default=True, help="Mesh to join."),
    ):
        function = option(function)
    return function


def read_token(token_file: str | None) -> str:
    """The join token from a file, from stdin (`-`), or from LIMEN_TOKEN; "" if there is none.

    It is taken out of the environment, so that no child inherits it.
    """
    from_environment = os.environ.pop("LIMEN_TOKEN", "")
    if token_file is None:
        return from_environment.strip()
    if token_file == "-":  # noqa: S105 - the usual name of stdin
        return sys.stdin.read(MAX_TOKEN_BYTES).strip()
    try:
        with Path(token_file).open(encoding="ascii") as file:
            return file.read(MAX_TOKEN_BYTES).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read the token file {token_file}", code="no-token") from error


@click.group()
def agent() -> None:
    """The part that runs beside the workloads: one per mesh and host."""


@agent.command("run")
@place_options
@click.option("--server", default="", help="URL of the server; as in the token unless given.")
@click.option("--token-file", help="File with the join token, or - for stdin; else LIMEN_TOKEN.")
@click.option("--envoy", default="", help="Envoy binary; default: the one that came with Limen.")
@click.option(
    "--workloads",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML list of workloads to run from the start.",
)
@click.option("--address", default="", help="IP by which other hosts reach workloads here.")
@click.option("--accept-epoch", is_flag=True, help="Follow a server restored from a backup.")
@click.option("--keep-proxies", is_flag=True, help="At SIGTERM leave the Envoys serving.")
@click.option(
    "--keep-logs", default="24h", show_default=True, envvar="LIMEN_KEEP_LOGS", show_envvar=True,
    help="How long access logs are kept, those of workloads that have ended too.",
)  # fmt: skip
@click.option(
    "--keep-logs-mb", default=15, show_default=True, type=click.IntRange(1, 100_000),
    envvar="LIMEN_KEEP_LOGS_MB", show_envvar=True,
    help="Room for the log of each workload; the oldest lines go first.",
)  # fmt: skip
@click.option("--auto-stop", is_flag=True, hidden=True)
@click.option("--notify-fd", type=int, hidden=True)
@click.option("--log-level", default="info", type=click.Choice(["debug", "info", "warning"]))
def run_(
    *,
    mesh: str,
    state: Path | None,
    runtime: Path | None,
    token_file: str | None,
    workloads: Path | None,
    log_level: str,
    keep_logs: str,
    keep_logs_mb: int,
    **options: Any,
) -> None:
    """Run the agent in the foreground until SIGTERM or `limen agent stop`.

    \b
    Example:
      limen agent run --token-file items.token --workloads workloads.yaml
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    import asyncio  # noqa: PLC0415 - `limen run` imports this module and must be quick
    import logging  # noqa: PLC0415 - as above

    from limen.cli.token import parse_duration_s  # noqa: PLC0415 - as above

    logging.basicConfig(
        level=log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    settings = AgentSettings(
        mesh=mesh,
        paths=agent_paths(mesh, state, runtime),
        token=read_token(token_file),
        workloads_file=workloads,
        keep=Retention(parse_duration_s(keep_logs), keep_logs_mb * 1024 * 1024),
        **options,
    )
    asyncio.run(_serve(settings))


async def _serve(settings: AgentSettings) -> None:
    import asyncio  # noqa: PLC0415 - as above

    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from limen.services.agent.agent import Agent  # noqa: PLC0415 - gRPC loads only for this verb

    running = Agent(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.shutdown)
    try:
        await running.start()
    except LimenError as error:
        _notify(settings.notify_fd, error)
        await running.abandon()
        raise
    except BaseException:
        await running.abandon()
        raise
    _notify(settings.notify_fd, None)
    await running.run()


def _notify(descriptor: int | None, error: LimenError | None) -> None:
    """Tell the `limen run` that started this agent how it went."""
    if descriptor is None:
        return
    from limen.services.agent.answers import to_answer  # noqa: PLC0415 - only for this verb

    answer = {"ok": True} if error is None else to_answer(error)
    with os.fdopen(descriptor, "w", encoding="utf-8") as pipe:
        pipe.write(json.dumps(answer) + "\n")


def ask(paths: AgentPaths, verb: str, **fields: Any) -> dict[str, Any]:
    """One control call. Raises NotFound if no agent runs there."""
    try:
        answer: dict[str, Any] = call_agent(paths.control_socket, verb, **fields)
    except AgentGone as error:
        raise NotFound(
            f"no agent runs at {paths.runtime}",
            code="no-agent",
            hint="start one with `limen agent run` or `limen run`, or name it with --runtime",
        ) from error
    return answer


@agent.command("status")
@place_options
@output_option
def status(mesh: str, state: Path | None, runtime: Path | None, output: str) -> None:
    """What the agent of this host does for a mesh.

    \b
    Example:
      limen agent status
      limen agent status --mesh shop -o json
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    answer = ask(agent_paths(mesh, state, runtime), "status")
    answer.pop("ok", None)
    if output != "table":
        print_data(answer, output)
        return
    print(
        f"mesh {answer['mesh']}, node {answer['node_id']}, server {answer['server']}, "
        f"Limen {answer['version']}, Envoy {answer['envoy_version']}"
    )
    columns = ("instance", "ready", "port", "app", "isolation", "server", "budget", "trouble")
    print_table(columns, [_row(workload) for workload in answer["workloads"]])


def _row(workload: dict[str, Any]) -> tuple[object, ...]:
    listening = "listening" if workload["application_listening"] else "not listening"
    return (
        workload["instance"],
        "yes" if workload["ready"] else "no",
        f"{workload['address']}:{workload['port']}",
        f"{workload['service_port']} {listening}",
        workload["isolation"],
        "connected" if workload["server_connected"] else "away",
        f"{workload['outage_budget_s']:.0f} s",
        workload["refusal"] or workload["trouble"],
    )


@agent.command("rotate")
@place_options
@click.argument("instance", required=False, default="")
def rotate(mesh: str, state: Path | None, runtime: Path | None, instance: str) -> None:
    """Get new certificates now, for all workloads or for one NAMESPACE/NAME/INSTANCE.

    They renew themselves at half life; this is for when one should not wait.

    \b
    Example:
      limen agent rotate
      limen agent rotate default/items/i-1
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    answer = ask(agent_paths(mesh, state, runtime), "rotate", instance=instance)
    for key in answer["rotated"]:
        print(f"{key} has a new certificate")


@agent.command("stop")
@place_options
@click.option("--keep-proxies", is_flag=True, help="Leave the Envoys serving.")
def stop(mesh: str, state: Path | None, runtime: Path | None, *, keep_proxies: bool) -> None:
    """Drain and stop every workload's proxy, and the agent.

    \b
    Example:
      limen agent stop
      limen agent stop --mesh shop --keep-proxies
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped
    paths = agent_paths(mesh, state, runtime)
    pid = _agent_pid(paths)
    ask(paths, "shutdown", keep_proxies=keep_proxies)
    if pid is not None:
        _wait_exit(pid)
    print("stopped")


def _agent_pid(paths: AgentPaths) -> int | None:
    """A pidfd of the agent, by the credentials of its socket."""
    import socket  # noqa: PLC0415 - only here

    from limen.adapters.peercred import read_peer_credentials  # noqa: PLC0415 - only here

    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(os.fspath(paths.control_socket))
            return os.pidfd_open(read_peer_credentials(connection).pid)
        except OSError:
            return None


def _wait_exit(pidfd: int, timeout_s: float = 30.0) -> None:
    import select  # noqa: PLC0415 - only here

    select.select([pidfd], [], [], timeout_s)
    os.close(pidfd)
