"""The access logs of this agent's proxies: where lines about one request are found again.

Each proxy writes into the log file of its Envoy, which is kept up to a size (`rotate_log`): the
newest lines are there, the oldest go first.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_OLDER = (".2", ".1", "")
_MAX_LINES = 100


def find_lines(logs: Iterable[Path], request_id: str) -> list[str]:
    """Lines whose request has this id, the oldest first, 100 at most. Blocking."""
    found = [line for log in logs for line in _matching(log, request_id)]
    return found[:_MAX_LINES]


def _matching(log: Path, request_id: str) -> Iterator[str]:
    needle = request_id.encode("utf-8", "replace")
    for suffix in _OLDER:
        with contextlib.suppress(OSError), log.with_name(log.name + suffix).open("rb") as stream:
            for raw in stream:
                if needle in raw and raw.startswith(b"{"):
                    text = raw.decode("utf-8", "replace").rstrip("\n")
                    if _id_of(text) == request_id:
                        yield text


def _id_of(text: str) -> str:
    try:
        line = json.loads(text)
    except ValueError:
        return ""
    return str(line.get("request_id", "")) if isinstance(line, dict) else ""
