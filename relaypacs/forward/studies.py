"""When a study is quiet: nothing of it ended for a while, and nothing of it is owed any more. Said once, with its sum.

The settler tells what ended; one thread looks. The sum is the job table's own (its ledger of the study), so a restart
loses nothing but the time it began. Objects that come later are delivered like any others, nothing is sent again, and
make a follow-up of their own. A study in which something waits for another try is quiet when that has ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Counter, Histogram

from relaypacs import log
from relaypacs.errors import JobsError
from relaypacs.model import Deferred, Settlement

_MOST_STUDIES = 10_000
"""Studies looked at at once, and remembered as said; the oldest go."""
_LOOKS_A_STUDY = 4
_LEAST_LOOK_SECONDS, _MOST_LOOK_SECONDS = 0.1, 15.0

_complete = Counter(
    "upload_complete_total",
    "Studies that became quiet: complete, or incomplete where deliveries failed, are held or were given up.",
    ["status"],
)
_duration = Histogram(
    "upload_duration_seconds",
    "From a study's first object of those that were delivered together to the last delivery.",
    buckets=(0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 86400, 7 * 86400),
)


class Sum(Protocol):
    """What is known of a study's deliveries (`jobs.values.Ledger`)."""

    @property
    def instances(self) -> int: ...
    @property
    def delivered(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def held(self) -> int: ...
    @property
    def discarded(self) -> int: ...


@dataclass(slots=True)
class _Study:
    association_id: str
    first_at: float
    """When its first object of this part was received."""
    last_at: float
    ended: int = 0


class Studies:
    """`ended` from any thread; `start` and `stop` its own."""

    def __init__(self, sum_of: Callable[[str], Sum], *, quiet_seconds: float) -> None:
        """`sum_of(study)` may raise JobsError: then it is asked again."""
        self._sum_of = sum_of
        self._quiet_seconds = quiet_seconds
        self._lock = threading.Lock()
        self._open: dict[str, _Study] = {}
        self._said: dict[str, None] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="studies", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; what is not quiet yet is said after the next start, if anything of it ends then."""
        self._stopping.set()
        self._thread.join(5)

    def ended(self, settlements: Sequence[Settlement]) -> None:
        """These were settled."""
        with self._lock:
            for one in settlements:
                claim = one.claim
                study = self._open.pop(claim.study_instance_uid, None)
                if not claim.study_instance_uid:
                    continue
                if study is None:
                    study = _Study(claim.association_id, claim.first_queued_at, one.finished_at)
                study.first_at = min(study.first_at, claim.first_queued_at)
                study.last_at = max(study.last_at, one.finished_at)
                study.ended += not isinstance(one.outcome, Deferred) or one.retry_at is None
                self._open[claim.study_instance_uid] = study
            _cut(self._open)

    def _run(self) -> None:
        pause = min(max(self._quiet_seconds / _LOOKS_A_STUDY, _LEAST_LOOK_SECONDS), _MOST_LOOK_SECONDS)
        while not self._stopping.wait(pause):
            for uid in self._due(time.time()):
                if self._stopping.is_set() or not self._look(uid):
                    break

    def _due(self, now: float) -> list[str]:
        with self._lock:
            return [uid for uid, study in self._open.items() if study.last_at <= now - self._quiet_seconds]

    def _look(self, uid: str) -> bool:
        """Say the study if nothing of it is owed; False if the job table can't be asked."""
        try:
            found = self._sum_of(uid)
        except JobsError:
            return False
        with self._lock:
            study = self._open.get(uid)
            if study is None or study.last_at > time.time() - self._quiet_seconds:
                return True  # something of it ended meanwhile
            # What is owed ends some time, and is told then.
            del self._open[uid]
            follow_up = uid in self._said
            if not found.pending:
                self._said[uid] = None
                _cut(self._said)
        if not found.pending:
            _say(uid, study, found, follow_up=follow_up)
        return True


def _cut(remembered: dict[str, object] | dict[str, None] | dict[str, _Study]) -> None:
    for uid in list(remembered)[: max(len(remembered) - _MOST_STUDIES, 0)]:
        del remembered[uid]


def _say(uid: str, study: _Study, found: Sum, *, follow_up: bool) -> None:
    missing = found.failed + found.held + found.discarded
    _complete.labels("incomplete" if missing else "complete").inc()
    seconds = max(study.last_at - study.first_at, 0.0)
    _duration.observe(seconds)
    kind = "A study's late objects are delivered" if follow_up else "A study is quiet"
    log.event(
        log.WARNING if missing else log.INFO,
        "study-quiet",
        f"{kind}: {found.instances} instances, {found.delivered} deliveries done, {missing} failed, held or given up.",
        trace_id=study.association_id,
        upload_id=log.uid_hash(uid),
        latency_ms=seconds * 1000,
        instances=found.instances,
        delivered=found.delivered,
        failed=found.failed,
        held=found.held,
        discarded=found.discarded,
        ended_now=study.ended,
        follow_up=follow_up,
    )
