"""The schedule notation of DICOM routers, and how long each wait is."""

from __future__ import annotations

import pytest

from relaypacs.policy.retry import JITTER, next_wait, parse_schedule

DEFAULT = "5x1m,12x5m,24x1h,7x1d"


def test_notation() -> None:
    assert parse_schedule(DEFAULT) == ((5, 60), (12, 300), (24, 3600), (7, 86400))
    assert parse_schedule(" 1x1s , 2x3h ") == ((1, 1), (2, 10800))


@pytest.mark.parametrize("text", ["", ",", "5", "x1m", "5x", "5x1", "5x1w", "0x1m", "5x0m", "-1x1m", "5x1m,", "٥x1m1"])
def test_what_is_no_notation(text: str) -> None:
    with pytest.raises(ValueError, match="COUNTxINTERVAL"):
        parse_schedule(text)


def test_default_lasts_about_eight_days() -> None:
    schedule = parse_schedule(DEFAULT)
    waits = []
    while (wait := next_wait(schedule, len(waits) + 1, lambda: 0.0)) is not None:
        waits.append(wait)
    assert len(waits) == 5 + 12 + 24 + 7
    assert waits[:6] == [60, 60, 60, 60, 60, 300]
    assert 8.0 < sum(waits) / 86400 < 8.2


def test_jitter_only_lengthens() -> None:
    schedule = parse_schedule("1x100s")
    assert next_wait(schedule, 1, lambda: 0.0) == 100
    longest = next_wait(schedule, 1, lambda: 0.999)
    assert longest is not None
    assert 100 < longest < 100 * (1 + JITTER)
    assert next_wait(schedule, 2, lambda: 0.0) is None
