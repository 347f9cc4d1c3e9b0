"""Hours of the day in which a destination is sent to: `19:00-06:00`, local time, over midnight too. Pure."""

from __future__ import annotations

import re

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_DAY = 86400


def parse_hours(text: str) -> tuple[int, int]:
    """First and last second of the day of `HH:MM-HH:MM`; ValueError with the mend."""
    match = _HOURS.fullmatch(text.strip())
    if not match or match.group(1, 2) == match.group(3, 4):
        raise ValueError("write two different times of the day as HH:MM-HH:MM, such as 19:00-06:00")
    hour, minute, to_hour, to_minute = map(int, match.groups())
    return hour * 3600 + minute * 60, to_hour * 3600 + to_minute * 60


def closed_for(hours: tuple[int, int], second_of_day: float) -> float:
    """Seconds until the hours begin, or 0 within them; the end itself is outside."""
    begin, end = hours
    inside = begin <= second_of_day < end if begin < end else not end <= second_of_day < begin
    return 0.0 if inside else (begin - second_of_day) % _DAY
