"""What the spool holds and what of it intake has not read: a stuck intake is visible even if nothing else is.

`JobTable` calls `look` with how far the job table says each segment was read; the rest is read from the segments
themselves, so nobody has to be alive to be seen. Bounded: headers of a few thousand records, then file sizes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from relaypacs.model import Checkpoint, ObjectRecord
from relaypacs.spool.inspect import unread
from relaypacs.spool.segment import SEGMENTS, SUFFIX

_MOST_RECORDS = 2000
_MOST_OF_A_SEGMENT = 500


@dataclass(frozen=True, slots=True)
class Backlog:
    """The spool at one moment."""

    in_use_bytes: int
    """Size of the segments that hold something."""
    oldest_segment_seconds: float
    """Age of the oldest of these; 0 without any."""
    unread_bytes: int
    """Committed and not in the job table yet; of a long backlog an upper bound."""
    unread_seconds: float
    """How long the oldest object of it has waited; 0 if nothing waits."""


def look(folder: Path, read_to: Mapping[str, Checkpoint], now: float) -> Backlog:
    """Look at the spool in `folder`; `read_to`: how far each generation was taken in, `now`: seconds since 1970."""
    in_use = waiting = 0
    oldest = received = now
    left = _MOST_RECORDS
    for path in _segments(folder):
        # Freed under our eyes, or damaged: intake tells.
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            in_use += size
            oldest = min(oldest, _begun_at(path.stem, now))
            at = read_to.get(path.stem, Checkpoint(path.stem))
            if left <= 0:
                waiting += max(0, size - at.end)
                continue
            records = unread(path, at, most=min(left, _MOST_OF_A_SEGMENT))
            objects = [record for record in records if isinstance(record, ObjectRecord)]
            left -= len(records)
            received = min([received, *(record.meta.received_at for record in objects)])
            if len(records) < _MOST_OF_A_SEGMENT:
                waiting += sum(record.dataset_length for record in objects)
            else:
                waiting += max(0, size - at.end)
    return Backlog(in_use, max(0.0, now - oldest), waiting, max(0.0, now - received))


def _segments(folder: Path) -> list[Path]:
    """Oldest first: a generation's name begins with the time."""
    try:
        with os.scandir(folder / SEGMENTS) as entries:
            return [Path(entry.path) for entry in sorted(entries, key=lambda one: one.name) if _is_segment(entry.name)]
    except OSError:
        return []


def _is_segment(name: str) -> bool:
    return name.endswith(SUFFIX)


def _begun_at(generation: str, now: float) -> float:
    try:
        return int(generation[:10], 16) / 256
    except ValueError:
        return now
