"""XML Schema dates, times and durations: exact, without limit on the year, hashable by value.

Order and equality follow XQuery operators (XF, section 10): a value without time zone counts as
UTC, the engine's implicit time zone. Durations are plain numbers: `dayTimeDuration` in seconds,
`yearMonthDuration` in months.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import total_ordering
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datetime as dt

Seconds = int | Fraction

DAY = 86_400
_LAST = 999_999_999 * 366 * DAY
_ZONE = r"(Z|[+-](?:0\d|1[0-3]):[0-5]\d|[+-]14:00)?"
_TIME = r"(\d\d):(\d\d):(\d\d)(?:\.(\d{1,40}))?"
_DATE = r"(-?(?:[1-9]\d{4,8}|\d{4}))-(\d\d)-(\d\d)"
_TIME_RE = re.compile(_TIME + _ZONE, re.ASCII)
_DATE_RE = re.compile(_DATE + _ZONE, re.ASCII)
_DATE_TIME_RE = re.compile(f"{_DATE}T{_TIME}{_ZONE}", re.ASCII)
_DAY_TIME_RE = re.compile(
    r"(-)?P(?:(\d{1,15})D)?(T(?:(\d{1,15})H)?(?:(\d{1,15})M)?(?:(\d{1,15})(?:\.(\d{1,40}))?S)?)?",
    re.ASCII,
)
_YEAR_MONTH_RE = re.compile(r"(-)?P(?:(\d{1,9})Y)?(?:(\d{1,9})M)?", re.ASCII)
_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """A point in time. `local` counts seconds from 0000-03-01 in its own zone.

    `offset` is the zone in minutes east of UTC, None if the text gave none; `instant` is UTC.
    """

    local: Seconds
    offset: int | None
    instant: Seconds = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "instant", self.local - 60 * (self.offset or 0))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.instant == self.instant

    def __lt__(self, other: Moment) -> bool:
        return self.instant < other.instant

    def __hash__(self) -> int:
        return hash(self.instant)


class DateTime(Moment):
    """`xs:dateTime`."""

    __slots__ = ()


class Date(Moment):
    """`xs:date`: the moment at which the day begins."""

    __slots__ = ()


class Time(Moment):
    """`xs:time`: the moment on one fixed day."""

    __slots__ = ()


def days_of(year: int, month: int, day: int) -> int:
    """Days from 0000-03-01 in the proleptic Gregorian calendar; any year."""
    if month <= 2:
        year, month = year - 1, month + 12
    months = (153 * (month - 3) + 2) // 5
    return 365 * year + year // 4 - year // 100 + year // 400 + months + day - 1


def civil_of(days: int) -> tuple[int, int, int]:
    """Year, month, day: the inverse of `days_of`."""
    era, day = divmod(days, 146_097)
    year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    rest = day - (153 * month + 2) // 5 + 1
    year += 400 * era
    return (year, month + 3, rest) if month < 10 else (year + 1, month - 9, rest)


def days_in_month(year: int, month: int) -> int:
    """28 to 31."""
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 29 if month == 2 and leap else _MONTH_DAYS[month - 1]


def _offset(text: str | None) -> int | None:
    if not text:
        return None
    if text == "Z":
        return 0
    minutes = 60 * int(text[1:3]) + int(text[4:6])
    return -minutes if text[0] == "-" else minutes


def _fraction(digits: str | None) -> Seconds:
    if not digits or not digits.strip("0"):
        return 0
    return Fraction(int(digits), 10 ** len(digits))


def _seconds(hour: str, minute: str, second: str, fraction: str | None) -> Seconds:
    h, m, s = int(hour), int(minute), int(second)
    rest = _fraction(fraction)
    if m > 59 or s > 59 or h > 24 or (h == 24 and (m or s or rest)):
        raise ValueError("no such time of day")
    return h * 3600 + m * 60 + s + rest


def _days(year: str, month: str, day: str) -> int:
    y, m, d = int(year), int(month), int(day)
    if year.lstrip("-") == "0000":
        raise ValueError("there is no year 0000")
    if y < 0:
        y += 1
    if not 1 <= m <= 12 or not 1 <= d <= days_in_month(y, m):
        raise ValueError("no such day")
    return days_of(y, m, d)


def parse_time(text: str) -> Time:
    """`hh:mm:ss[.f][zone]`; 24:00:00 is midnight. Raises ValueError."""
    found = _TIME_RE.fullmatch(text)
    if found is None:
        raise ValueError("not hh:mm:ss with an optional time zone")
    *parts, zone = found.groups()
    return Time(_seconds(*parts) % DAY, _offset(zone))


def parse_date(text: str) -> Date:
    """`[-]yyyy-mm-dd[zone]`. Raises ValueError."""
    found = _DATE_RE.fullmatch(text)
    if found is None:
        raise ValueError("not yyyy-mm-dd with an optional time zone")
    *parts, zone = found.groups()
    return Date(_days(*parts) * DAY, _offset(zone))


def parse_date_time(text: str) -> DateTime:
    """`[-]yyyy-mm-ddThh:mm:ss[.f][zone]`. Raises ValueError."""
    found = _DATE_TIME_RE.fullmatch(text)
    if found is None:
        raise ValueError("not yyyy-mm-ddThh:mm:ss with an optional time zone")
    y, mo, d, h, mi, s, f, zone = found.groups()
    return DateTime(_days(y, mo, d) * DAY + _seconds(h, mi, s, f), _offset(zone))


def parse_day_time_duration(text: str) -> Seconds:
    """`[-]PnDTnHnMn.nS` in seconds. Raises ValueError."""
    found = _DAY_TIME_RE.fullmatch(text)
    if found is None or text[-1] in "PT":
        raise ValueError("not PnDTnHnMnS")
    sign, d, _, h, m, s, f = found.groups()
    total = int(d or 0) * DAY + int(h or 0) * 3600 + int(m or 0) * 60 + int(s or 0) + _fraction(f)
    return -total if sign else total


def parse_year_month_duration(text: str) -> int:
    """`[-]PnYnM` in months. Raises ValueError."""
    found = _YEAR_MONTH_RE.fullmatch(text)
    if found is None or text[-1] == "P":
        raise ValueError("not PnYnM")
    sign, years, months = found.groups()
    total = 12 * int(years or 0) + int(months or 0)
    return -total if sign else total


def _zone_text(offset: int | None) -> str:
    if offset is None:
        return ""
    if offset == 0:
        return "Z"
    return f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02}:{abs(offset) % 60:02}"


def _second_text(value: Seconds) -> str:
    whole, rest = divmod(value, 1)
    if not rest:
        return f"{int(whole):02}"
    scaled = Fraction(rest) * 10**40
    return f"{int(whole):02}.{int(scaled):040}".rstrip("0")


def _clock_text(value: Seconds) -> str:
    minutes, seconds = divmod(value, 60)
    return f"{int(minutes) // 60:02}:{int(minutes) % 60:02}:{_second_text(seconds)}"


def _day_text(days: int) -> str:
    year, month, day = civil_of(days)
    if year < 1:
        return f"-{1 - year:04}-{month:02}-{day:02}"
    return f"{year:04}-{month:02}-{day:02}"


def time_text(value: Time) -> str:
    """The canonical text, in its own time zone."""
    return _clock_text(value.local) + _zone_text(value.offset)


def date_text(value: Date) -> str:
    """The canonical text, in its own time zone."""
    return _day_text(int(value.local // DAY)) + _zone_text(value.offset)


def date_time_text(value: DateTime) -> str:
    """The canonical text, in its own time zone."""
    days, clock = divmod(value.local, DAY)
    return f"{_day_text(int(days))}T{_clock_text(clock)}{_zone_text(value.offset)}"


def day_time_duration_text(value: Seconds) -> str:
    """Canonical: days below no limit, hours below 24, minutes and seconds below 60."""
    if not value:
        return "PT0S"
    days, rest = divmod(-value if value < 0 else value, DAY)
    hours, rest = divmod(rest, 3600)
    minutes, seconds = divmod(rest, 60)
    text = "-P" if value < 0 else "P"
    text += f"{int(days)}D" if days else ""
    clock = f"{int(hours)}H" if hours else ""
    clock += f"{int(minutes)}M" if minutes else ""
    if seconds:
        plain = _second_text(seconds)
        clock += (plain.lstrip("0") if plain[0:2] != "00" else plain[1:]) + "S"
    return text + (f"T{clock}" if clock else "")


def year_month_duration_text(value: int) -> str:
    """Canonical: months below 12."""
    if not value:
        return "P0M"
    years, months = divmod(abs(value), 12)
    text = "-P" if value < 0 else "P"
    return text + (f"{years}Y" if years else "") + (f"{months}M" if months else "")


def plus_seconds(value: DateTime, seconds: Seconds) -> DateTime:
    """`value` later by `seconds`, in its own zone. Raises ValueError beyond year 999,999,999."""
    return DateTime(_bounded(value.local + seconds), value.offset)


def plus_months(value: DateTime | Date, months: int) -> DateTime | Date:
    """The same day of the month `months` later, or that month's last day (XSD, appendix E)."""
    clock = value.local % DAY
    days = value.local // DAY
    year, month, day = civil_of(int(days))
    years, zero_based = divmod(month - 1 + months, 12)
    year, month = year + years, zero_based + 1
    moved = days_of(year, month, min(day, days_in_month(year, month)))
    return type(value)(_bounded(moved * DAY + clock), value.offset)


def _bounded(local: Seconds) -> Seconds:
    if not -_LAST <= local <= _LAST:
        raise ValueError("the year is out of range")
    return local


def in_range(value: Time, low: Time, high: Time) -> bool:
    """`time-in-range` (core, A.3.9): low to high inclusive, high at most 24 hours later.

    A bound without zone has the zone of `value`.
    """
    at = value.instant
    first = Time(low.local, value.offset).instant if low.offset is None else low.instant
    last = Time(high.local, value.offset).instant if high.offset is None else high.instant
    return (at - first) % DAY <= (last - first) % DAY


def moments_at(now: dt.datetime) -> tuple[Time, Date, DateTime]:
    """The current time, date and date-time, in the zone of `now` (aware, else UTC is meant)."""
    delta = now.utcoffset()
    offset = 0 if delta is None else int(delta.total_seconds()) // 60
    fraction = Fraction(now.microsecond, 1_000_000) if now.microsecond else 0
    clock = now.hour * 3600 + now.minute * 60 + now.second + fraction
    days = days_of(now.year, now.month, now.day) * DAY
    return Time(clock, offset), Date(days, offset), DateTime(days + clock, offset)
