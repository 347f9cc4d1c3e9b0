"""The rooms around forwarding, real ones in a temporary folder: spool, job table, staging, wake-ups."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from relaypacs.config.model import Destination
from relaypacs.forward.dispatch import Forwarder
from relaypacs.forward.source import ByteSource
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Arrival, AtOnce, TraceDelivery
from relaypacs.model import Checkpoint, Committed, ObjectMeta, ObjectRecord, Route, Routed, RoutingKeys, State
from relaypacs.spool.reader import SpoolReader
from relaypacs.spool.writer import SpoolWriter
from relaypacs.staging.filesystem import FilesystemStaging
from relaypacs.staging.keys import staged_key
from relaypacs.wake.local import LocalWake
from relaypacs.wake.protocol import Windows
from relaypacs.wake.windows import LocalWindows
from tests.unit.forward.deliveries import CT, EXPLICIT, STUDY, dataset

NODE = "house"


class House:
    """`receive` objects, `forward` them; `states` says how they stand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._committed: list[Committed] = []
        self.writer = SpoolWriter(
            folder / "spool",
            segment_bytes=16 << 20,
            min_free_bytes=0,
            max_object_bytes=8 << 30,
            recycle=True,
            durable=False,
            on_commit=self._committed.append,
        )
        self.reader = SpoolReader(folder / "spool", recycle=True, recycle_segments=4)
        self.staging = FilesystemStaging(folder / "staging")
        self.jobs = JobStore.open(f"sqlite:///{folder}/jobs.sqlite")
        self.jobs.migrate()
        self.wake = LocalWake()
        self._checkpoints: dict[str, Checkpoint] = {}
        self._serial = 0
        self.takers: Forwarder | None = None
        """Who is handed what it has room for; without, all is queued."""
        self.lease_seconds = 60.0

    def receive(
        self,
        count: int = 1,
        *,
        to: Sequence[str] = ("there",),
        pixels: int = 512,
        study: str = STUDY,
        transfer_syntax: str = EXPLICIT,
        priority: int = 0,
        bodies: Mapping[str, bytes] | None = None,
        series: bool = False,
        association: str = "association",
    ) -> list[str]:
        """Receive generated CTs, or `bodies` by SOP Instance UID; returns their SOP Instance UIDs. `series`: their
        rows have a Series Instance UID. `association`: the id of the one they came by."""
        if bodies is None:
            made = {}
            for _ in range(count):
                self._serial += 1
                uid = f"{STUDY}.50.{self._serial}"
                made[uid] = dataset(uid, pixels=pixels, study=study)
            bodies = made
        for uid, body in bodies.items():
            meta = ObjectMeta(association, "CT1", "RELAYPACS", "10.0.0.7:40123", time.time(), CT, uid, transfer_syntax)
            append = self.writer.begin(meta)
            append.write([body])
            append.commit()
        self._take_in(to, study, f"{study}.1" if series else "", priority)
        return list(bodies)

    def _take_in(self, to: Sequence[str], study: str, series: str, priority: int) -> None:
        ends = {one.generation: one.end for one in self._committed}
        self._committed.clear()
        for generation, end in ends.items():
            at = self._checkpoints.get(generation, Checkpoint(generation))
            while at.end < end:
                records, at = self.reader.read(at, committed_end=end)
                arrivals = [
                    Arrival(
                        record,
                        RoutingKeys(
                            study_instance_uid=study,
                            series_instance_uid=series,
                            sop_instance_uid=record.meta.sop_instance_uid,
                        ),
                        hashlib.sha256(record.meta.sop_instance_uid.encode()).hexdigest(),
                        Route(Routed.ROUTED, tuple(to), priority, "all"),
                        "forward-both",
                        "requeue",
                    )
                    for record in records
                    if isinstance(record, ObjectRecord)
                ]
                since = time.monotonic(), time.time()
                room = self.takers.room() if self.takers is not None else {}
                taken = self.jobs.take_in(NODE, arrivals, [], [at], since[1], at_once=AtOnce(room, self.lease_seconds))
                if self.takers is not None:
                    self.takers.hand_over(taken.claims, since)
                    for name, count in taken.queued.items():
                        if count:
                            self.takers.queued(name)
            self._checkpoints[generation] = at
        if self.takers is None:
            for destination in to:
                self.wake.notify(destination)

    def stage_everything(self) -> None:
        """Copy what is only in the spool to staging, and free the segments."""
        found = self.jobs.to_stage(NODE, received_before=time.time() + 1, keep=True, limit=10_000)
        keys = []
        for one in found:
            key = staged_key(
                b"k" * 32,
                study_uid=one.study_instance_uid,
                sop_instance_uid=one.sop_instance_uid,
                digest=one.digest,
                date=one.study_date,
            )
            assert self.jobs.will_stage([(one.instance_id, key)], node=NODE)
            with self.reader.pin(one.generation) as pin:
                self.staging.put(key, pin.fileno(), one.file_offset, one.file_length)
            keys.append((one.instance_id, key))
        self.staging.sync()
        self.jobs.staged(keys, time.time())
        self.writer.close()
        for generation in self.reader.generations():
            assert self.reader.free(generation)
            self.jobs.forget_segment(NODE, generation)

    def forwarder(
        self,
        destinations: Sequence[Destination],
        *,
        lease_seconds: float = 60.0,
        study_quiet_seconds: float = 60.0,
        windows: Windows | None = None,
    ) -> Forwarder:
        """A forwarder over these rooms, not started."""
        return Forwarder(
            destinations,
            jobs=self.jobs,
            source=ByteSource(self.reader, self.staging),
            wake=self.wake,
            windows=windows or LocalWindows(),
            node=NODE,
            lease_seconds=lease_seconds,
            calling_ae="RELAYPACS",
            study_quiet_seconds=study_quiet_seconds,
        )

    def deliveries(self, study: str = STUDY) -> list[TraceDelivery]:
        """Every delivery of a study."""
        return [one for row in self.jobs.trace(study) for one in row.deliveries]

    def states(self, study: str = STUDY) -> dict[State, int]:
        """How many deliveries of a study are in each state."""
        counts: dict[State, int] = {}
        for one in self.deliveries(study):
            counts[one.state] = counts.get(one.state, 0) + 1
        return counts

    def wait_states(self, expected: dict[State, int], *, seconds: float = 20.0, study: str = STUDY) -> None:
        """Return when the deliveries stand so; AssertionError otherwise."""
        end = time.monotonic() + seconds
        while (found := self.states(study)) != expected:
            assert time.monotonic() < end, f"{found} instead of {expected}"
            time.sleep(0.02)

    def close(self) -> None:
        """Close the job table and the spool."""
        self.writer.close()
        self.jobs.close()
