"""An average is kept whatever an instance measures."""

from __future__ import annotations

import pytest

from relaypacs.forward.pace import Pace


def test_no_limit_is_no_wait() -> None:
    pace = Pace(clock=lambda: 0.0)
    assert [pace.take(1 << 40) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_objects_a_second() -> None:
    pace = Pace(objects_per_second=10, clock=lambda: 5.0)
    assert [pace.take(1) for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2])


def test_megabits_a_second_and_time_that_was_not_used_is_not_saved_up() -> None:
    now = [0.0]
    pace = Pace(megabits_per_second=8, clock=lambda: now[0])
    assert pace.take(3_000_000) == 0.0
    assert pace.take(1_000_000) == pytest.approx(3.0)
    now[0] = 100.0
    assert pace.take(1_000_000) == 0.0
    assert pace.take(1_000_000) == pytest.approx(1.0)


def test_the_tighter_limit_counts() -> None:
    pace = Pace(objects_per_second=1, megabits_per_second=8, clock=lambda: 0.0)
    pace.take(10)
    assert pace.take(2_000_000) == pytest.approx(1.0)
    assert pace.take(10) == pytest.approx(3.0)
