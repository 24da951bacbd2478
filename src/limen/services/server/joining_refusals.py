"""Why a join token or a node is refused, and how often that is worth an audit event of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limen.errors import Unauthenticated

if TYPE_CHECKING:
    from limen.adapters.clock import Clock
    from limen.services.server.joining_records import TokenRecord

REFUSALS_PER_MINUTE = 60
"""Refused attempts that are audited one by one; the rest are counted in the next event."""
_CLOCK_TOLERANCE_S = 60
"""A token made by another server, whose clock is ahead by so much, is good."""


class RefusalLimit:
    """At most `REFUSALS_PER_MINUTE` audit events for refusals, so that guessing fills no disk."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._window_s = clock.monotonic_s()
        self._listed = 0
        self._unheard = 0

    def admit(self) -> int | None:
        """None: do not write. Else: how many went unwritten since the last one that was."""
        now_s = self._clock.monotonic_s()
        if now_s - self._window_s >= 60:
            self._window_s, self._listed = now_s, 0
        if self._listed >= REFUSALS_PER_MINUTE:
            self._unheard += 1
            return None
        self._listed += 1
        unheard, self._unheard = self._unheard, 0
        return unheard


def certificate_expired() -> Unauthenticated:
    """What a node is told whose certificate ended while its connection was open."""
    return Unauthenticated(
        "the certificate of this connection has expired",
        code="certificate-expired",
        hint="connect with the renewed one; if there is none, join again",
    )


def refusal_of(token: TokenRecord | None, now_s: float, *, matches: bool) -> str | None:
    """The reason, for the audit log only; None if the token may be redeemed now."""
    if token is None:
        return "unknown"
    if not matches:
        return "wrong-secret"
    if token.revoked_s:
        return "revoked"
    if token.used_s:
        return "used"
    if not token.created_s - _CLOCK_TOLERANCE_S <= now_s < token.expires_s:
        return "expired"
    return None
