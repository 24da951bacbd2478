"""For whom a policy could open at all, without asking about everybody, and what widens it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.core.policy.bounds import identities_of
from limen.core.policy.decide import may_allow
from limen.core.policy.match import How
from limen.core.policy.rule import (
    AllOf,
    Always,
    AnyOf,
    Authenticated,
    Claim,
    Effect,
    HasToken,
    Method,
    Path,
    Principal,
    PrincipalNamespace,
    RequestPrincipal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from limen.core.model.names import SpiffeId
    from limen.core.policy.match import StringMatch
    from limen.core.policy.rule import Condition, Policy, Rule


def named_callers(policy: Policy) -> frozenset[str] | None:
    """The SPIFFE IDs outside which `may_allow` is False; None if anybody might be allowed.

    Law: `may_allow(policy, p)` implies that this is None or holds `str(p)`, for every identity `p`.
    """
    smallest: frozenset[str] | None = None
    needed = [layer for layer in policy.layers if layer.allows]
    if not needed and not policy.default_allow:
        return frozenset()
    for layer in needed:
        allows = tuple(r.condition for r in layer.rules if r.effect is Effect.ALLOW)
        named = identities_of(AnyOf(allows))
        if named is not None and (smallest is None or len(named) < len(smallest)):
            smallest = named
    return smallest


class Callers:
    """The identities that may make some request: `may_allow`, indexed for many questions.

    Law: `Callers(policy).include(p) == may_allow(policy, p)` for every identity `p`; with
    `anonymous` (nobody who comes has an identity there) `may_allow(policy, None)`.
    """

    __slots__ = ("_plain", "_policy", "named")

    def __init__(self, policy: Policy, *, anonymous: bool = False) -> None:
        self._policy = policy
        if anonymous:
            self._plain = may_allow(policy, None)
            nobody: frozenset[str] = frozenset()
            self.named = None if self._plain else nobody
        else:
            self._plain = _is_plain(policy)
            self.named = named_callers(policy)

    def include(self, caller: SpiffeId) -> bool:
        """Whether `caller` could make any request that the policy allows."""
        if self.named is not None and str(caller) not in self.named:
            return False
        return self._plain or may_allow(self._policy, caller)


def _is_plain(policy: Policy) -> bool:
    """Whether being named is all that it takes: one layer, no denial, identities only."""
    needed = [layer for layer in policy.layers if layer.allows]
    rules = [rule for layer in policy.layers for rule in layer.rules]
    if len(needed) != 1 or any(r.effect is Effect.DENY for r in rules):
        return False
    allows = [r.condition for r in needed[0].rules if r.effect is Effect.ALLOW]
    return bool(allows) and all(
        _is_exact(c) or isinstance(c, Always | Authenticated) for c in _atoms(iter(allows))
    )


def widens(before: Policy, after: Policy) -> bool:
    """Whether `after` provably allows every request that `before` allows.

    Conservative: False means "not proved". Used to tell a pure grant from a change that may take a
    right away.
    """
    if before == after or not _can_allow(before):
        return True
    if not _covers(_alternatives(before, Effect.DENY), _alternatives(after, Effect.DENY)):
        return False
    if not _asked(before) >= _asked(after):
        return False
    allowing = [layer for layer in after.layers if layer.allows]
    if not any(layer.allows for layer in before.layers):
        return not allowing and after.default_allow
    if not allowing:
        return after.default_allow
    wide = {
        layer.kind: list(_atoms(r.condition for r in layer.rules if r.effect is Effect.ALLOW))
        for layer in before.layers
        if layer.allows
    }
    return all(
        layer.kind in wide
        and _covers(
            list(_atoms(r.condition for r in layer.rules if r.effect is Effect.ALLOW)),
            wide[layer.kind],
        )
        for layer in allowing
    )


def _can_allow(policy: Policy) -> bool:
    """False if no request at all can be allowed."""
    needed = [layer for layer in policy.layers if layer.allows]
    if not needed:
        return policy.default_allow
    return all(any(r.effect is Effect.ALLOW for r in layer.rules) for layer in needed)


def _asked(policy: Policy) -> frozenset[tuple[str, Condition]]:
    """What providers are asked about."""
    rules = (r for layer in policy.layers for r in layer.rules if r.effect is Effect.CUSTOM)
    return frozenset((r.provider, r.condition) for r in rules)


def _alternatives(policy: Policy, effect: Effect) -> list[Condition]:
    rules: list[Rule] = [r for layer in policy.layers for r in layer.rules]
    return list(_atoms(r.condition for r in rules if r.effect is effect))


def _atoms(conditions: Iterator[Condition]) -> Iterator[Condition]:
    """Alternatives, of which one is enough."""
    for condition in conditions:
        if isinstance(condition, AnyOf):
            yield from _atoms(iter(condition.parts))
        else:
            yield condition


def _covers(wide: list[Condition], narrow: list[Condition]) -> bool:
    """Whether each of `narrow` is provably implied by one of `wide`."""
    known = set(wide)
    general = [c for c in wide if not _is_exact(c)]
    return all(n in known or any(implies(n, w) for w in general) for n in narrow)


def _is_exact(condition: Condition) -> bool:
    return (
        isinstance(condition, Principal)
        and condition.match.how is How.EXACT
        and not condition.match.ignore_case
    )


def implies(narrow: Condition, wide: Condition) -> bool:
    """Whether `narrow` provably holds only where `wide` does. Conservative."""
    if narrow == wide or isinstance(wide, Always):
        return True
    if isinstance(wide, AllOf):
        return all(implies(narrow, part) for part in wide.parts)
    if isinstance(narrow, AnyOf):
        return all(implies(part, wide) for part in narrow.parts)
    if isinstance(wide, AnyOf) and any(implies(narrow, part) for part in wide.parts):
        return True
    if isinstance(narrow, AllOf):
        return any(implies(part, wide) for part in narrow.parts)
    return _identity_implies(narrow, wide) or _text_implies(narrow, wide)


def _identity_implies(narrow: Condition, wide: Condition) -> bool:
    if not isinstance(narrow, Principal | PrincipalNamespace | Authenticated):
        return False
    if isinstance(wide, Authenticated):
        return True
    if isinstance(narrow, Principal) and isinstance(wide, Principal):
        return _within(narrow.match, wide.match)
    if isinstance(narrow, PrincipalNamespace) and isinstance(wide, PrincipalNamespace):
        return _within(narrow.match, wide.match)
    return False


def _text_implies(narrow: Condition, wide: Condition) -> bool:
    if isinstance(narrow, Path) and isinstance(wide, Path):
        return _within(narrow.match, wide.match)
    if isinstance(narrow, Method) and isinstance(wide, Method):
        return _within(narrow.match, wide.match)
    if isinstance(wide, HasToken):
        return isinstance(narrow, HasToken | RequestPrincipal | Claim)
    return False


def _within(narrow: StringMatch, wide: StringMatch) -> bool:
    """Whether every text that `narrow` matches is matched by `wide`. Conservative."""
    if narrow.ignore_case or wide.ignore_case:
        return narrow == wide
    if narrow.how in (How.EXACT, How.PATH_PREFIX) and wide.how is How.PATH_PREFIX:
        return wide.matches(narrow.value)
    return narrow == wide or (narrow.how is How.EXACT and wide.matches(narrow.value))
