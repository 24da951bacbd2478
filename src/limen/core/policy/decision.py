"""A request to be judged, and the judgement with its reasons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.model.names import SpiffeId
    from limen.core.policy.rule import Rule


@dataclass(frozen=True, slots=True)
class Request:
    """A real or imagined request at the callee's edge.

    `principal` None is a caller without identity. Header names are lower case; each has all its
    values in order. `path` is already normalised and has no query.
    """

    principal: SpiffeId | None = None
    method: str = "GET"
    path: str = "/"
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    port: int = 0


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A rule that did not decide, and the first field that failed: what it wanted, what it saw."""

    rule: Rule
    field: str
    wanted: str
    seen: str


@dataclass(frozen=True, slots=True)
class Decision:
    """`allowed`, why in one sentence, the rule that decided (None: deny by default), the rest.

    `shadow_denied` lists shadow rules that matched: allowed today, would be denied.
    """

    allowed: bool
    reason: str
    rule: Rule | None = None
    near_misses: tuple[NearMiss, ...] = ()
    shadow_denied: tuple[Rule, ...] = ()
