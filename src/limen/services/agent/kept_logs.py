"""Logs of workloads that have ended: searched and shipped like those of the others, for a while."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import secrets
import shutil
import sys
import time
from typing import TYPE_CHECKING

from limen.adapters.log_files import LogFiles, Retention
from limen.adapters.runtime_dir import make_directory
from limen.errors import LimenError
from limen.services.agent.log_following import LogFollower

if TYPE_CHECKING:
    from pathlib import Path

    from limen.services.agent.log_following import Send

LOG = "envoy.log"
_EVERY_S = 5.0
_WORKLOADS = 8
"""All kept logs together take as much room as those of so many workloads."""
_AS_IT_IS = Retention(math.inf, sys.maxsize)
"""Nobody writes into it any more: nothing is rotated."""
_log = logging.getLogger("limen.agent")


def keep_log(kept: Path, log: Path) -> None:
    """Move what belongs to a log out of a directory that goes away. Needs no instance to run."""
    files = [*LogFiles(log).files(), log.with_name(f"{log.name}.seen")]
    if not any(f.exists() and f.stat().st_size for f in files if f.name.startswith(LOG)):
        return
    place = kept / secrets.token_hex(8)
    try:
        make_directory(kept)
        make_directory(place)
        for file in files:
            if file.exists():
                file.replace(place / file.name)
    except (OSError, LimenError) as error:
        _log.warning("the log %s is not kept: %s", log, error)


class KeptLogs:
    """The directory `root`, with one directory for each log."""

    def __init__(self, root: Path, keep: Retention, send: Send) -> None:
        self._root = root
        self._keep = keep
        self._send = send
        self._shipping: dict[Path, LogFollower] = {}
        self.dropped = 0

    def logs(self) -> list[Path]:
        """The live files, the oldest first."""
        found = [place / LOG for place in self._root.glob("*") if (place / LOG).exists()]
        return sorted(found, key=_age)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        """Ship what is left, and forget what is too old or too much."""
        for log in self.logs():
            if (follower := self._follower(log)) is not None:
                await follower.step()
                follower.save()
        await asyncio.to_thread(self._prune)

    def _follower(self, log: Path) -> LogFollower | None:
        """None if the server has heard all of it."""
        found = self._shipping.get(log)
        if found is None:
            instance = _instance_of(log)
            if not instance:
                return None
            found = LogFollower(instance, log, _AS_IT_IS, self._send, _nothing)
            found.open()
            self._shipping[log] = found
        return found if found.pending else None

    def _prune(self) -> None:
        room = _WORKLOADS * self._keep.keep_bytes
        now_s = time.time()
        for log in reversed(self.logs()):
            files = LogFiles(log).files()
            room -= sum(f.stat().st_size for f in files)
            if room >= 0 and now_s - _age(log) <= self._keep.keep_s:
                continue
            follower = self._shipping.pop(log, None)
            if follower is not None and follower.pending:
                self.dropped += 1
                _log.error("%s: audit events may be lost: its log is too old", follower.instance)
            with contextlib.suppress(OSError):
                shutil.rmtree(log.parent)
        for log in [log for log in self._shipping if not log.exists()]:
            del self._shipping[log]


def _instance_of(log: Path) -> str:
    try:
        found = json.loads(log.with_name(f"{LOG}.seen").read_bytes())
    except (OSError, ValueError):
        return ""
    return str(found.get("instance", "")) if isinstance(found, dict) else ""


def _age(log: Path) -> float:
    try:
        return log.stat().st_mtime
    except OSError:
        return 0.0


def _nothing() -> None:
    """Nobody waits for news of a workload that has ended."""
