"""The policies that one decision point holds: a whole set, taken over at once or not at all.

A policy that a new set leaves as it was keeps its engine. One whose epoch is lower than that of the
same policy here is an old publish that comes again: the set is refused.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limen.adapters.attributes.places import Places
from limen.adapters.attributes.point import InformationPoint, needs_extra
from limen.core.model.source_json import source_from_json
from limen.core.policy.rego.source import DEFAULT_ENTRY, RegoModule
from limen.core.policy.sources import SourceBook
from limen.core.policy.xacml.access import XacmlPolicyEngine
from limen.core.policy.xacml.engine import load_policies
from limen.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from limen.core.policy.engine import PolicyEngine

Loaded = dict[str, "Held"]


@dataclass(frozen=True, slots=True)
class Held:
    """One policy, ready to be asked. `content` is what it was loaded from.

    `stale_after_s`: it refuses when its server was not heard of for longer; None: it does not.
    `point` finds attributes that requests lack.
    """

    path: str
    epoch: int
    stale_after_s: float | None
    engine: PolicyEngine
    content: str
    point: InformationPoint | None = None

    @property
    def name(self) -> str:
        """`XacmlPolicy/NAMESPACE/NAME@EPOCH`: what a decision says that it came from."""
        return f"{self.path[1:]}@{self.epoch}"


class Corpus:
    """What is held now. `fresh` says that the server was heard of a while ago.

    Files of sources are below `sources`, in a directory for each namespace.
    """

    def __init__(self, sources: Path) -> None:
        self._sources = sources
        self._held: Loaded = {}
        self._heard_s = time.monotonic()

    def find(self, path: str) -> Held | None:
        """The policy that answers at `path`."""
        return self._held.get(path)

    def forget(self) -> None:
        """What comes next is of another store: its epochs are another count."""
        self._held = {}

    def is_stale(self, held: Held) -> bool:
        """Whether it refuses because its server was not heard of for too long."""
        limit_s = held.stale_after_s
        return limit_s is not None and time.monotonic() - self._heard_s > limit_s

    def fresh(self, age_s: float) -> None:
        """The server was heard of `age_s` ago."""
        self._heard_s = time.monotonic() - age_s

    async def take(self, policies: list[Mapping[str, Any]]) -> None:
        """Hold these, all of them, from now on. Raises InvalidInput; nothing changes then."""
        loaded: Loaded = {}
        for policy in policies:
            one = await self._load(policy)
            loaded[one.path] = one
        self._held = loaded

    async def _load(self, policy: Mapping[str, Any]) -> Held:
        path, epoch = str(policy["path"]), int(policy["epoch"])
        content = json.dumps({k: v for k, v in policy.items() if k != "epoch"}, sort_keys=True)
        known = self._held.get(path)
        if known is not None and epoch < known.epoch:
            message = f"{path[1:]} has epoch {epoch}, here it is {known.epoch} already"
            raise InvalidInput(message, code="policy-too-old", hint="publish it again")
        limit_s = None if policy["on_stale"] == "Keep" else policy.get("stale_after_s")
        if known is not None and known.content == content:
            return Held(path, epoch, limit_s, known.engine, content, known.point)
        point = self._point(path, policy.get("sources", ()))
        book = None if point is None else point.book
        if policy["language"] == "rego":
            engine = _rego(policy)  # stays on this thread, as the engine wants
        else:
            engine = await asyncio.to_thread(_xacml, policy, book)
        return Held(path, epoch, limit_s, engine, content, point)

    def _point(self, path: str, sources: Sequence[dict[str, Any]]) -> InformationPoint | None:
        if not sources:
            return None
        found = [source_from_json(source) for source in sources]
        for source in found:
            missing = needs_extra(source)
            if missing:
                message = f"the source {source} cannot be asked on this host"
                raise InvalidInput(message, code="source-extra", hint=missing)
        folder = self._sources / path.split("/")[2]
        return InformationPoint(SourceBook(found), Places(folder, folder))


def _xacml(policy: Mapping[str, Any], book: SourceBook | None) -> PolicyEngine:
    documents = [one["text"].encode() for one in policy["texts"]]
    names = [one["name"] for one in policy["texts"]]
    compiled = load_policies(documents, policy["root"] or None, files=names)
    return XacmlPolicyEngine(compiled, book)


def _rego(policy: Mapping[str, Any]) -> PolicyEngine:
    from limen.core.policy.rego.engine import load_rego  # noqa: PLC0415 - XACML needs no Rego

    modules = [RegoModule(one["name"], one["text"]) for one in policy["texts"]]
    data = [one["text"].encode() for one in policy["data"]]
    return load_rego(modules, data, policy["root"] or DEFAULT_ENTRY)
