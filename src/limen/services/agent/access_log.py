"""The access logs of this agent's proxies: where lines about one request are found again.

Each proxy writes into the log file of its Envoy, which is kept for a time and up to a size
(`adapters.log_files`), a while longer than its workload runs.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limen.adapters.log_files import LogFiles
from limen.core.plan import request_log as log

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_MAX_LINES = 100
_LOOK_FOR_TIME = 1000
"""Lines of other kinds that may stand before the first of a request."""


@dataclass(frozen=True, slots=True)
class Found:
    """Lines, and since when the logs that were searched have any; "" if they have none."""

    lines: tuple[str, ...]
    oldest: str


def find_lines(logs: Iterable[Path], request_id: str) -> Found:
    """Lines whose request has this id, the oldest of each log first, 100 at most. Blocking."""
    files = [LogFiles(path) for path in logs]
    found = (text for each in files for text in _matching(each, request_id))
    lines = tuple(itertools.islice(found, _MAX_LINES))
    return Found(lines, min((t for t in map(_oldest, files) if t), default=""))


def _matching(files: LogFiles, request_id: str) -> Iterator[str]:
    needle = request_id.encode("utf-8", "replace")
    for line in files.lines():
        if needle in line.raw and line.raw.startswith(b"{"):
            text = line.raw.decode("utf-8", "replace")
            if _parsed(text).get(log.REQUEST_ID) == request_id:
                yield text


def _oldest(files: LogFiles) -> str:
    for line in itertools.islice(files.lines(), _LOOK_FOR_TIME):
        if line.raw.startswith(b"{"):
            found = _parsed(line.raw.decode("utf-8", "replace")).get(log.TIME)
            if isinstance(found, str):
                return found
    return ""


def _parsed(text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return line if isinstance(line, dict) else {}
