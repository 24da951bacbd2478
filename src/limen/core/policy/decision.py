"""A request to be judged, and the judgement with its reasons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from limen.core.policy.rule import Effect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from limen.core.model.names import SpiffeId
    from limen.core.policy.rule import Rule


Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""A value of a claim."""


@dataclass(frozen=True, slots=True)
class Request:
    """A real or imagined request at the callee's edge.

    `principal` None is a caller without identity. Header names are lower case; each has all its
    values in order. `path` is already normalised and has no query. `host` is the authority as
    written, "" if unknown. `claims` are those of a verified token, claims of words already lists
    (`scope`); None: no token. Addresses are texts without port, "" if unknown. `consents`:
    providers of CUSTOM rules that are known to consent; any other might refuse.
    """

    principal: SpiffeId | None = None
    method: str = "GET"
    path: str = "/"
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    port: int = 0
    host: str = ""
    claims: Mapping[str, Json] | None = None
    source_ip: str = ""
    remote_ip: str = ""
    destination_ip: str = ""
    sni: str = ""
    consents: frozenset[str] = frozenset()


class NearMiss(NamedTuple):
    """A rule that did not decide, and the first field that failed: what it wanted, what it saw."""

    rule: Rule
    field: str
    wanted: str
    seen: str


@dataclass(frozen=True, slots=True)
class Decision:
    """`allowed`, why in one sentence, the rule that decided (None: deny by default), the rest.

    `dry_run` lists the rules on trial that matched, `audited` the AUDIT rules that did. `asked` are
    the CUSTOM rules that did. `undecided`: all else allows it, and it is refused only because the
    provider of `rule` was not said to consent.
    """

    allowed: bool
    reason: str
    rule: Rule | None = None
    near_misses: tuple[NearMiss, ...] = ()
    dry_run: tuple[Rule, ...] = ()
    audited: tuple[Rule, ...] = ()
    asked: tuple[Rule, ...] = ()
    undecided: bool = False

    @property
    def shadow_denied(self) -> tuple[Rule, ...]:
        """Rules on trial that would have denied it."""
        return tuple(rule for rule in self.dry_run if rule.effect is Effect.DENY)
