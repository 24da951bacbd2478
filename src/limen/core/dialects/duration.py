"""Durations as Kuma writes them: `1d`, `1h30m`, `500ms`, and protobuf's `1.5s`.

Source: kuma `pkg/core/resources/apis/mesh` (the units of Prometheus durations, largest first) and
protobuf's JSON mapping of google.protobuf.Duration.
"""

from __future__ import annotations

import re

from limen.errors import InvalidInput

_UNITS_S = {"y": 365 * 86400.0, "w": 7 * 86400.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PARTS = re.compile(
    r"(?:(?P<y>[0-9]+)y)?(?:(?P<w>[0-9]+)w)?(?:(?P<d>[0-9]+)d)?(?:(?P<h>[0-9]+)h)?"
    r"(?:(?P<m>[0-9]+)m)?(?:(?P<s>[0-9]+(?:\.[0-9]{1,9})?)s)?(?:(?P<ms>[0-9]+)ms)?",
    re.ASCII,
)


def parse_duration(text: str) -> float:
    """Seconds. Raises InvalidInput (code `bad-duration`)."""
    parts = _PARTS.fullmatch(text) if 0 < len(text) <= 40 else None
    if parts is None:
        raise InvalidInput(
            f"{text[:40]!a} is not a duration",
            code="bad-duration",
            hint="write it like 24h, 1d12h, 90s or 500ms, largest unit first",
        )
    whole = sum(float(parts[unit] or 0) * seconds for unit, seconds in _UNITS_S.items())
    return whole + float(parts["ms"] or 0) / 1000
