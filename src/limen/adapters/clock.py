"""What time it is. The only place that asks the system; everything else is told.

`now_s` is the wall clock, which may jump; `monotonic_s` never goes back and says how long.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Both times in seconds; `now_s` since 1970, UTC."""

    def now_s(self) -> float:
        """Wall clock."""
        ...

    def monotonic_s(self) -> float:
        """Time that only goes forward, from an arbitrary start."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_s(self) -> float:
        """See `Clock.now_s`."""
        return time.time()

    def monotonic_s(self) -> float:
        """See `Clock.monotonic_s`."""
        return time.monotonic()


class FakeClock:
    """A clock that stands until it is moved. `set_s` jumps the wall clock, back too."""

    def __init__(self, now_s: float = 1_800_000_000.0) -> None:
        self._now_s = now_s
        self._monotonic_s = 0.0

    def now_s(self) -> float:
        """See `Clock.now_s`."""
        return self._now_s

    def monotonic_s(self) -> float:
        """See `Clock.monotonic_s`."""
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now_s += seconds
        self._monotonic_s += seconds

    def set_s(self, now_s: float) -> None:
        """Set the wall clock as an operator or NTP would."""
        self._now_s = now_s
