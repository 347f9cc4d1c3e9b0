"""The retry schedule in the notation DICOM routers use: `5x1m,12x5m,24x1h,7x1d`."""

from __future__ import annotations

import re
from collections.abc import Callable

_STEP = re.compile(r"^(\d{1,5})x(\d{1,5})([smhd])$")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
JITTER = 0.1
"""A wait is lengthened by up to this share, so that what failed together does not come back together."""


def parse_schedule(text: str) -> tuple[tuple[int, int], ...]:
    """Parse the notation into steps of (count, interval in seconds).

    ValueError with a sentence that shows the notation if it is not one.
    """
    steps = []
    for part in text.split(","):
        match = _STEP.match(part.strip())
        if not match or int(match[1]) == 0 or int(match[2]) == 0:
            raise ValueError(
                f"{part.strip()!r} is no retry step; write COUNTxINTERVAL with s, m, h or d, such as 5x1m,12x5m,24x1h"
            )
        steps.append((int(match[1]), int(match[2]) * _SECONDS[match[3]]))
    return tuple(steps)


def next_wait(schedule: tuple[tuple[int, int], ...], attempts: int, rng: Callable[[], float]) -> float | None:
    """Seconds until the next attempt after `attempts` (≥ 1) have been made, or None when the schedule is used up.

    `rng` returns a number in [0, 1); the wait is lengthened by up to `JITTER`.
    """
    left = attempts
    for count, interval in schedule:
        if left <= count:
            return interval * (1 + JITTER * rng())
        left -= count
    return None
