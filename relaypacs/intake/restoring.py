"""From staging to the job table: staged objects that no row names become rows again.

The relay process runs it after a database failover, `relaypacs reconcile` on demand, and `relaypacs rebuild` for a
table that was lost. An object is read whole, so what gets a row is proven to be what was received; what is not is
counted and left as it is. May run beside a living node and be cut short at any point: run again, it goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from crc32c import crc32c

from relaypacs import log
from relaypacs.dicom.part10 import read_file_head
from relaypacs.errors import ObjectArchived, ObjectMissing, StagingError
from relaypacs.intake.arrival import ArrivalOf
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Arrival
from relaypacs.model import Committed, ObjectMeta, ObjectRecord
from relaypacs.staging.protocol import StagedObject, Staging

LOOK_AT = 1000
"""Keys compared with the job table at once."""
BATCH = 100
"""Objects that get rows in one transaction."""
QUEUE_SECONDS = 86400.0
"""What was received less long ago is queued, what is older is held: a standby lags by seconds, a backup by days."""
_HEAD_BYTES = 64 * 1024
_MOST_NAMED = 20
_MOST_UNREADABLE_IN_A_ROW = 20


@dataclass
class Restoration:
    """What was found and done so far, in objects; `queued` and `held` in deliveries."""

    looked_at: int = 0
    restored: int = 0
    found_again: int = 0
    """Whose row was there, without a copy in staging."""
    surplus: int = 0
    """Second copies of what a row has another copy of."""
    unreadable: int = 0
    queued: int = 0
    held: int = 0
    notify: set[str] = field(default_factory=set)
    """Destinations with new deliveries that may be claimed."""
    unreadable_keys: list[str] = field(default_factory=list)
    """The first of them."""


class Restorer:
    """One pass over staging."""

    def __init__(
        self,
        *,
        node: str,
        jobs: JobStore,
        staging: Staging,
        arrival_of: ArrivalOf,
        queue_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Deliveries of objects received and staged less than `queue_seconds` ago are queued, the others held."""
        self._node, self._jobs, self._staging, self._arrival_of = node, jobs, staging, arrival_of
        self._queue_since = clock() - queue_seconds
        self._clock = clock
        self._in_a_row = 0
        self.done = Restoration()

    def run(
        self,
        *,
        only_count: bool = False,
        on_progress: Callable[[Restoration], None] = lambda _: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Restoration:
        """Restore all that wants restoring (`only_count`: find it); JobsError, StagingError.

        `on_progress` is called after each piece of bounded size.
        """
        scanned = self._staging.scan()
        while (some := list(islice(scanned, LOOK_AT))) and not stopped():
            unknown = self._jobs.restoring.unknown([key for key, _ in some])
            if only_count:
                self.done.restored += len(unknown)
            else:
                arrivals = self._arrivals(unknown)
                while not stopped() and (batch := list(islice(arrivals, BATCH))):
                    self._restore(batch)
                    on_progress(self.done)
            self.done.looked_at += len(some)
            on_progress(self.done)
        return self.done

    def _restore(self, batch: list[Arrival]) -> None:
        # What is named by a row must be on the disk, also where a killed process put it without a sync.
        self._staging.sync()
        did = self._jobs.restoring.restore(self._node, batch, self._clock())
        done = self.done
        done.restored += did.instances
        done.found_again += did.found_again
        done.surplus += did.surplus
        done.queued += sum(did.queued.values())
        done.held += did.held
        done.notify |= did.queued.keys()

    def _arrivals(self, keys: list[str]) -> Iterator[Arrival]:
        for key in keys:
            try:
                yield self._arrival(key)
                self._in_a_row = 0
            except ObjectMissing:
                continue  # deleted since it was listed
            except (StagingError, ValueError) as problem:
                self._in_a_row += not isinstance(problem, ObjectArchived)  # of those there may be years
                if self._in_a_row >= _MOST_UNREADABLE_IN_A_ROW and isinstance(problem, StagingError):
                    raise
                self.done.unreadable += 1
                if len(self.done.unreadable_keys) < _MOST_NAMED:
                    self.done.unreadable_keys.append(key)

    def _arrival(self, key: str) -> Arrival:
        """Read one object. ValueError if it is no object of ours, or not what its key says."""
        described = self._staging.describe(key, _HEAD_BYTES)
        with self._staging.open(key) as file:
            record = _record(file, described)
            arrival = self._arrival_of(record, lambda offset, length: file[offset : offset + length])
        if not key.endswith(f"-{arrival.digest[:16]}.dcm"):
            raise ValueError("the object is not the one its key names")
        # In a bucket that was copied everything looks as if it had been staged just now.
        since = min(described.stored_at, record.meta.received_at)
        return replace(arrival, staged_key=key, hold=since < self._queue_since)


def _record(file: memoryview, described: StagedObject) -> ObjectRecord:
    head = read_file_head(described.head, file_length=len(file))
    facts = described.facts
    with file[head.dataset_offset :] as dataset:
        checksum = crc32c(dataset)
    return ObjectRecord(
        at=Committed("", 0, 0, 1),
        meta=ObjectMeta(
            association_id=facts.association_id if facts else "",
            calling_ae=facts.calling_ae if facts else head.source_ae,
            called_ae=facts.called_ae if facts else "",
            peer=facts.peer if facts else "",
            received_at=facts.received_at if facts else described.stored_at,
            sop_class_uid=head.sop_class_uid,
            sop_instance_uid=head.sop_instance_uid,
            transfer_syntax_uid=head.transfer_syntax_uid,
        ),
        file_offset=0,
        file_length=len(file),
        dataset_offset=head.dataset_offset,
        dataset_length=len(file) - head.dataset_offset,
        dataset_crc32c=checksum,
    )


def tell(done: Restoration) -> None:
    """Log what a pass came to."""
    log.event(
        log.WARNING if done.restored or done.unreadable else log.INFO,
        "reconciled",
        f"Staging was compared with the job table: {done.restored} objects had no row and have one now, "
        f"{done.found_again} had lost their copy; {done.queued} deliveries queued, {done.held} held, "
        f"{done.unreadable} objects can't be read.",
        objects=done.looked_at,
        restored=done.restored,
        held=done.held,
    )
