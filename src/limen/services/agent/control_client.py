"""The other end of the control socket: blocking, standard library only, for the command line."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

from limen.adapters.peercred import read_peer_credentials
from limen.errors import Untrusted
from limen.services.agent.answers import raise_answer

if TYPE_CHECKING:
    from pathlib import Path

_TIMEOUT_S = 60.0


class AgentGone(ConnectionError):
    """No agent listens there, or it went away before it answered."""


def call_agent(path: Path, verb: str, timeout_s: float = _TIMEOUT_S, **fields: Any) -> Any:
    """One verb; the answer's fields. Raises AgentGone, or the error that the agent reports.

    The agent must belong to this user or to root: a socket made by anybody else is refused, since
    it would be handed programs' secrets.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(os.fspath(path))
            owner = read_peer_credentials(connection).uid
            if owner not in {0, os.geteuid()}:
                raise Untrusted(f"the agent at {path} belongs to uid {owner}")
            connection.sendall(json.dumps({"verb": verb, **fields}).encode() + b"\n")
            line = connection.makefile("rb").readline()
        except OSError as error:
            raise AgentGone(str(error)) from error
    if not line:
        raise AgentGone("the agent went away")
    answer = json.loads(line)
    raise_answer(answer)
    return answer


def is_agent_alive(path: Path) -> bool:
    """Whether an agent accepts connections there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        try:
            connection.connect(os.fspath(path))
        except OSError:
            return False
        return True
