"""`limen gateway run`: an Envoy at the edge, which serves the gateways of its mesh's documents."""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from limen.adapters.peercred import this_process
from limen.cli.agent import agent_paths, place_options, read_token
from limen.cli.keeping import agent_kept
from limen.cli.run import AgentStart, add_workload, remove_workload, start_agent
from limen.services.agent.spec import parse_spec

if TYPE_CHECKING:
    from pathlib import Path

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@click.group()
def gateway() -> None:
    """Gateways: the edge of a mesh."""


@gateway.command()
@place_options
@click.option("--service", default="ingress", show_default=True, help="The gateway's own name.")
@click.option("--namespace", "-n", default="istio-system", show_default=True)
@click.option("--instance", default="", help="Name of this copy; made up unless given.")
@click.option("--address", default="", help="IP by which other hosts reach it.")
@click.option("--server", default="", help="URL of the server; as in the token unless given.")
@click.option("--token-file", help="File with the join token, or -; else LIMEN_TOKEN.")
@click.option("--envoy", default="", help="Envoy binary.")
def run(
    *,
    mesh: str,
    state: Path | None,
    runtime: Path | None,
    service: str,
    namespace: str,
    instance: str,
    address: str,
    server: str,
    token_file: str | None,
    envoy: str,
) -> None:
    """Serve the gateways that mean this workload, until told to stop.

    Which ports it opens, with which certificates, and where requests go say documents: Gateway and
    VirtualService, or Gateway and HTTPRoute, and Secrets. Labels come from its token. An agent is
    started if none runs.

    \b
    Example:
      limen token create --gateway --service ingress -n istio-system \\
        --tag istio=ingressgateway --output ingress.token
      limen gateway run --token-file ingress.token
    """  # noqa: D301 - click's mark for lines that stay as they are
    process = this_process()
    spec = parse_spec(
        {
            "service": service,
            "service_port": 0,
            "namespace": namespace,
            "instance": instance,
            "address": address,
            "gateway": True,
            "uid": os.geteuid(),
            "process": {"pid": process.pid, "start_ticks": process.start_ticks},
        }
    )
    start = AgentStart(
        mesh, agent_paths(mesh, state, runtime), server, read_token(token_file), envoy, ""
    )
    told = threading.Event()
    for number in _ENDING:
        signal.signal(number, lambda _number, _frame: told.set())
    answer = add_workload(start, spec)
    name, again = str(answer["instance"]), replace(start, token="")
    try:
        with agent_kept(start.paths.control_socket, name, lambda: start_agent(again)):
            print(f"gateway {name} serves as {answer['spiffe_id']}", flush=True)
            told.wait()
    finally:
        remove_workload(start.paths, name)
    sys.exit(0)
