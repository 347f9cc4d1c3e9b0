"""Hours of the day, over midnight too."""

from __future__ import annotations

import pytest

from relaypacs.policy.hours import closed_for, parse_hours

NIGHT, DAY = (19 * 3600, 6 * 3600), (8 * 3600, 17 * 3600 + 1800)


@pytest.mark.parametrize(
    ("text", "hours"), [("19:00-06:00", NIGHT), (" 08:00-17:30 ", DAY), ("00:00-23:59", (0, 86340))]
)
def test_hours_are_read(text: str, hours: tuple[int, int]) -> None:
    assert parse_hours(text) == hours


@pytest.mark.parametrize("text", ["", "19-06", "19:00", "24:00-06:00", "19:60-06:00", "06:00-06:00", "19:00-06:00 UTC"])
def test_what_is_none_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="HH:MM-HH:MM"):
        parse_hours(text)


@pytest.mark.parametrize(
    ("hours", "at", "waits"),
    [
        (NIGHT, 19 * 3600, 0),
        (NIGHT, 18 * 3600 + 3599, 1),
        (NIGHT, 0, 0),
        (NIGHT, 6 * 3600 - 1, 0),
        (NIGHT, 6 * 3600, 13 * 3600),
        (DAY, 8 * 3600, 0),
        (DAY, 17 * 3600 + 1800, 14 * 3600 + 1800),
        (DAY, 0, 8 * 3600),
    ],
)
def test_how_long_it_is_closed(hours: tuple[int, int], at: int, waits: int) -> None:
    assert closed_for(hours, at) == waits
