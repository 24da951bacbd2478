"""How often something may be tried: a token bucket per caller and one for all. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from limen.errors import Unavailable

MAX_CALLERS = 4096


@dataclass(slots=True)
class _Bucket:
    level: float
    time_s: float


class RateLimit:
    """`per_s` on average and `burst` at once for each caller; ten times that for all together."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._callers: dict[str, _Bucket] = {}
        self._all = _Bucket(burst * 10, 0.0)

    def take(self, caller: str, now_s: float) -> None:
        """Count one try at `now_s` (monotonic). Raises Unavailable (`too-many-requests`)."""
        if len(self._callers) >= MAX_CALLERS and caller not in self._callers:
            self._forget_full(now_s)
        own = self._callers.setdefault(caller, _Bucket(self._burst, now_s))
        granted = _take(own, self._per_s, self._burst, now_s) and _take(
            self._all, self._per_s * 10, self._burst * 10, now_s
        )
        if not granted:
            raise Unavailable(
                "too many attempts", code="too-many-requests", hint="try again in some seconds"
            )

    def _forget_full(self, now_s: float) -> None:
        """Make room: a bucket that is full again says nothing; else the oldest goes."""
        full_after_s = self._burst / self._per_s
        for name in [n for n, b in self._callers.items() if now_s - b.time_s > full_after_s]:
            del self._callers[name]
        while len(self._callers) >= MAX_CALLERS:
            del self._callers[next(iter(self._callers))]


def _take(bucket: _Bucket, per_s: float, burst: float, now_s: float) -> bool:
    bucket.level = min(burst, bucket.level + (now_s - bucket.time_s) * per_s)
    bucket.time_s = now_s
    if bucket.level < 1:
        return False
    bucket.level -= 1
    return True
