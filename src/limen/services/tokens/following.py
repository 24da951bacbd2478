"""Follow the server: take in what changes, keep what is known while it is away.

What is known is kept in memory only: a service that starts while the server is away does not serve.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from limen.core.model.resource import DATAPLANE, TRUSTED_ISSUER, ResourceKey
from limen.errors import LimenError, Unavailable
from limen.services.tokens.state import WATCHED, Records, Rules, make_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from limen.adapters.clock import Clock
    from limen.services.tokens.link import TokenLink

RETRY_S = 0.5
FACTS_S = 60.0
"""Identities and roots are asked for again after that long, and whenever a workload changes."""
_KINDS = (*WATCHED, DATAPLANE)
_log = logging.getLogger("limen.tokens")


class Following:
    """`rules` as of now. `run` is a task; `ready` when everything was read once."""

    def __init__(
        self, link: TokenLink, clock: Clock, max_stale_s: float, on_change: Callable[[], None]
    ) -> None:
        self._link = link
        self._clock = clock
        self.issuer = ""
        self._on_change = on_change
        self.on_roots: Callable[[str], None] = lambda _: None
        self._max_stale_s = max_stale_s
        self._records: Records = {}
        self._facts: dict[str, Any] = {}
        self._revision = 0
        self._epoch = ""
        self._heard = 0.0
        self._asked = 0.0
        self._rules = Rules()
        self.ready = asyncio.Event()
        self._progress = asyncio.Event()

    @property
    def rules(self) -> Rules:
        """Raises Unavailable (`not-ready`, `stale`): nothing is decided by what is not known."""
        if not self.ready.is_set():
            raise Unavailable("the documents have not been read yet", code="not-ready")
        if self._clock.monotonic_s() - self._heard > self._max_stale_s:
            raise Unavailable(
                f"the server has not been heard of for {self._max_stale_s:g} s",
                code="stale",
                hint="look whether `limen server run` is up and reachable from here",
            )
        return self._rules

    @property
    def known(self) -> Rules:
        """What was last known, however old: who is who depends on the authority alone."""
        return self._rules

    @property
    def revision(self) -> int:
        """How far the service has come."""
        return self._revision

    async def reached(self, revision: int) -> None:
        """Return when everything up to `revision` has been taken in."""
        while self._revision < revision:
            await self._progress.wait()

    def revoke(self, by: str, value: str) -> None:
        """Know a revocation before the watch repeats it."""
        self._rules = _with_revoked(self._rules, by, value)

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self._follow()
            except LimenError as error:
                fields = {"code": error.code, "error": str(error)[:300]}
                _log.warning("the server cannot be followed", extra={"fields": fields})
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        async for line in self._link.watch(_KINDS, self._revision, self._epoch):
            await self._take(line)

    async def _ask_facts(self) -> None:
        """A later failure to learn who is registered leaves what was known; the first does not."""
        try:
            self._facts = await self._link.mesh()
        except LimenError:
            if not self._facts:
                raise
        else:
            self.on_roots(str(self._facts["bundle_pem"]))

    async def _take(self, line: Mapping[str, Any]) -> None:
        """One line. Rules are made anew where it, or the passing of time, changes them."""
        if line["reset"]:
            self._records = {}
        moved = any(one["kind"] == DATAPLANE for one in line["changes"])
        for one in line["changes"]:
            key = ResourceKey(one["kind"], one["mesh"], one["namespace"], one["name"])
            if key.kind == DATAPLANE:
                continue
            if one["body"] is None:
                self._records.pop(key, None)
            else:
                self._records[key] = one["body"]
        now = self._clock.monotonic_s()
        old = now - self._asked > FACTS_S
        if not self._facts or moved or line["reset"] or old:
            await self._ask_facts()
            self._asked = now
        if line["reset"] or line["changes"] or old:
            self._rules = make_rules(self._records, self._facts, self.issuer, self._clock.now_s())
            if any(one["kind"] == TRUSTED_ISSUER for one in line["changes"]):
                self._on_change()
            for problem in self._rules.problems:
                _log.warning("a document grants nothing", extra={"fields": {"why": problem}})
        self._revision, self._epoch = int(line["revision"]), str(line["epoch"])
        self._heard = now
        self.ready.set()
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()


def _with_revoked(rules: Rules, by: str, value: str) -> Rules:
    return replace(rules, revoked=rules.revoked | {(by, value)})
