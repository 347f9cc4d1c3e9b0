"""Studies that are opened: the first object of one, or the first after it was quiet. Intake counts them as rows commit.

Counted in memory, so a study that goes on over a restart is counted again; nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter

from relaypacs.jobs.values import Arrival

_OPENED = Counter("upload_init_total", "Studies of which a first object came in, or one after they were quiet.")
_MOST_STUDIES = 10_000


class OpenStudies:
    """For one thread."""

    def __init__(self, quiet_seconds: float) -> None:
        self._quiet_seconds = quiet_seconds
        self._last: dict[str, float] = {}

    def seen(self, arrivals: Sequence[Arrival]) -> None:
        """These have been taken in."""
        for arrival in arrivals:
            study, at = arrival.keys.study_instance_uid, arrival.record.meta.received_at
            last = self._last.pop(study, None)
            if last is None or at - last > self._quiet_seconds:
                _OPENED.inc()
            self._last[study] = at if last is None else max(at, last)
        for study in list(self._last)[: max(len(self._last) - _MOST_STUDIES, 0)]:
            del self._last[study]
