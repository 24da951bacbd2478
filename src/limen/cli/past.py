"""Past requests for `explain` and `replay`: lines of access logs, from a file or the agent here."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO

from limen.cli.agent import agent_paths
from limen.core.compiler.past import MAX_LINE_BYTES, PastRequest, parse_line
from limen.errors import InvalidInput, NotFound, Unavailable
from limen.services.agent.control_client import AgentGone, call_agent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def find_past(
    request_id: str | None, log: Path | None, mesh: str, runtime: Path | None
) -> PastRequest:
    """The request with that id, in a file or in the agent's logs; of a file without id the last.

    Raises NotFound (`unknown-request`), Unavailable (no agent), InvalidInput (`bad-log-line`).
    """
    if log is not None:
        found = [p for _, p in read_log(log) if request_id in (None, p.request_id)]
        where = str(log)
    else:
        found, oldest = _ask_agent(request_id or "", mesh, runtime)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        span = f"searched from {oldest} to {now}" if oldest else "they hold no line yet"
        where = f"the logs of the agent on this host ({span})"
    if not found:
        raise NotFound(
            f"no line about the request {request_id or '(any)'} is in {where}",
            code="unknown-request",
            hint="ask on the host of the service that was called; logs hold refused requests (all "
            "with MeshSettings accessLog: All); lines are kept for a day, or as `--keep-logs` says",
        )
    return found[-1]


def read_log(path: Path) -> Iterator[tuple[int, PastRequest]]:
    """Line numbers and requests. `-` is standard input. Other lines are passed over.

    Raises InvalidInput (`unreadable`, `bad-log-line` with its number).
    """
    if str(path) == "-":
        yield from _lines(sys.stdin.buffer, "standard input")
        return
    try:
        with path.open("rb") as stream:
            yield from _lines(stream, str(path))
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", code="unreadable") from None


def _lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, PastRequest]]:
    number = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise InvalidInput(f"{name}:{number}: the line is too long", code="bad-log-line")
        try:
            past = parse_line(raw.decode("utf-8", "replace"))
        except InvalidInput as error:
            raise InvalidInput(f"{name}:{number}: {error.message}", code=error.code) from None
        if past is not None:
            yield number, past


def _ask_agent(request_id: str, mesh: str, runtime: Path | None) -> tuple[list[PastRequest], str]:
    paths = agent_paths(mesh, None, runtime)
    try:
        answer = call_agent(paths.control_socket, "log", request_id=request_id)
    except AgentGone as error:
        raise Unavailable(
            f"no agent of mesh {mesh} answers here: {error}",
            code="no-agent",
            hint="ask on the host of the service that was called, or give its log with --log",
        ) from None
    found = [p for p in (parse_line(line) for line in answer["lines"]) if p is not None]
    return found, str(answer.get("oldest") or "")
