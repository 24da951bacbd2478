"""While a `limen run` lasts, the agent that it needs lasts: one that dies is started again.

An agent that was stopped on purpose takes its control socket's file with it; one that crashed or
was killed leaves it. An agent that somebody else supervises (`limen agent run`) is theirs to start.
Without an agent the proxy goes on, but a withdrawn right would not reach it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
from typing import TYPE_CHECKING

from limen.errors import LimenError
from limen.services.agent.control_client import AgentGone, call_agent, is_agent_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 30.0


@contextlib.contextmanager
def agent_kept(control_socket: Path, instance: str, start: Callable[[], None]) -> Iterator[None]:
    """Watch the agent at `control_socket`; call `start` whenever it has died, until the block ends.

    An agent that comes back without `instance` (killed before it had kept it) is said, too.

    `start` raises LimenError if the agent does not come up: said on standard error, tried again.
    """
    ended, ending = socket.socketpair()
    thread = threading.Thread(
        target=_keep, args=(control_socket, instance, start, ended), name="agent", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ending.close()
        thread.join(LONGEST_WAIT_S)
        ended.close()


def _keep(
    control_socket: Path, instance: str, start: Callable[[], None], ended: socket.socket
) -> None:
    wait_s = FIRST_WAIT_S
    while True:
        if not _wait_for_its_end(control_socket, ended):
            return
        if not control_socket.exists():  # stopped on purpose
            return
        if is_agent_alive(control_socket):  # another `limen run` was quicker
            wait_s = FIRST_WAIT_S
            continue
        try:
            start()
            _check_there(control_socket, instance)
            wait_s = FIRST_WAIT_S
        except LimenError as error:
            print(f"limen: the agent died and does not start again: {error}", file=sys.stderr)
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)
        if _readable(wait_s, ended):
            return


def _check_there(control_socket: Path, instance: str) -> None:
    with contextlib.suppress(AgentGone):
        workloads = call_agent(control_socket, "status")["workloads"]
        if instance not in {workload["instance"] for workload in workloads}:
            print(
                f"limen: the agent died and came back without {instance}: run the program again",
                file=sys.stderr,
            )


def _wait_for_its_end(control_socket: Path, ended: socket.socket) -> bool:
    """Wait until the agent has gone. False: the block has ended, or the agent is not ours."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(os.fspath(control_socket))
            if not call_agent(control_socket, "status").get("auto_stop"):
                return False
        except (OSError, AgentGone):
            return not _readable(0, ended)
        return ended not in _readable(None, connection, ended)


def _readable(timeout_s: float | None, *sockets: socket.socket) -> list[socket.socket]:
    return select.select(sockets, (), (), timeout_s)[0]
