"""A random life of a spool, seeded: writers, a reader, kills, failures, freed and recycled segments.

Objects have few sizes and segments are small, so that in a recycled file the records of the life before lie at the same
offsets, with valid checksums. What is promised on the way is noted in the trace.
"""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field
from pathlib import Path

from relaypacs.errors import SegmentGone, SpoolCorrupt, SpoolError
from relaypacs.model import Checkpoint, Committed, ObjectMeta
from relaypacs.spool.append import Append
from relaypacs.spool.commit import commit_together
from relaypacs.spool.group import Whole
from relaypacs.spool.reader import SpoolReader
from relaypacs.spool.segment import Segment
from relaypacs.spool.writer import SpoolWriter
from tests.crash.spool.recording import Killed, Op, RecordingDisk

SIZES = (0, 300, 5000, 5000, 5000, 9000)
SEGMENT_BYTES = 40_000


class _Writer(SpoolWriter):
    """Notes, when a group gets its segment, which records are about to be written there."""

    def prepare(self, disk: RecordingDisk) -> _Writer:
        """Where the notes go."""
        self._notes = disk
        self.group: list[tuple[Whole, bytes]] = []
        return self

    def lease(self) -> Segment:
        """As the real one."""
        segment = super().lease()
        left = (payload for record, payload in self.group if record.at is None and record.error is None)
        for number, payload in enumerate(left, segment.number):
            self._notes.note("try", (segment.generation, number, payload))
        return segment


@dataclass
class _Life:
    """One process (writer and reader share it here), from its start to its end."""

    writer: _Writer
    reader: SpoolReader
    appends: list[tuple[Append, bytes]]
    told: list[Committed]
    lasts: dict[Append, bytes] = field(default_factory=dict)
    """What comes of an object with its commit."""


class Workload:
    """`run` makes a trace. `checkpoints` stand for the job table: they survive every crash."""

    def __init__(self, root: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.disk = RecordingDisk(root)
        self.root = root
        self.checkpoints: dict[str, Checkpoint] = {}
        self.corrupt = 0
        self._serial = 0
        self._life = self._start()

    def run(self, steps: int) -> list[Op]:
        """Do `steps` random things; the trace of all calls and promises."""
        for _ in range(steps):
            try:
                self._step()
            except Killed:
                self._restart()
        self.disk.die()
        return self.disk.trace

    def _start(self) -> _Life:
        told: list[Committed] = []
        writer = _Writer(
            self.root,
            segment_bytes=SEGMENT_BYTES,
            min_free_bytes=0,
            max_object_bytes=1 << 20,
            recycle=True,
            durable=True,
            on_commit=told.append,
            probe_seconds=0.0,
            held_bytes=self.random.choice([4096, 7000, 96 << 10]),
            disk=self.disk,
        ).prepare(self.disk)
        reader = SpoolReader(self.root, recycle=True, recycle_segments=self.random.choice([0, 3, 3]), disk=self.disk)
        return _Life(writer, reader, [], told)

    def _step(self) -> None:
        draw, life = self.random, self._life
        what = draw.choices(
            ["object", "go on", "event", "hint", "scan", "free", "kill", "end", "fail"],
            [30, 30, 3, 8, 4, 12, 4, 3, 4],
        )[0]
        try:
            if what == "object" and len(life.appends) < 5:
                self._begin()
            elif what in {"object", "go on"} and life.appends:
                self._go_on()
            elif what == "event":
                life.writer.append_event("audit", 1.0, {"n": self._next()})
            elif what == "hint" and life.told:
                at = life.told.pop(draw.randrange(len(life.told)))
                self._publish(at.generation, at.end)
            elif what == "scan":
                for generation in life.reader.generations():
                    self._publish(generation, None)
            elif what == "free":
                if draw.random() < 0.2:
                    self.disk.kill_in = draw.randrange(4)
                self._free()
            elif what == "kill":
                self.disk.kill_in = draw.randrange(12)
            elif what == "end":
                life.writer.close()
                self._restart()
            elif what == "fail":
                self.disk.fail = draw.choice(
                    [("sync", errno.EIO), ("sync", errno.EIO), ("write", errno.ENOSPC), ("write", errno.EIO)]
                )
        except (SpoolError, OSError):
            # The writer refused or failed (answered 0xA700, promised nothing), or the reader tries again later.
            pass

    def _next(self) -> int:
        self._serial += 1
        return self._serial

    def _begin(self) -> None:
        serial = self._next()
        size = self.random.choice(SIZES)
        payload = serial.to_bytes(4, "big") * (size // 4 + 1)
        meta = ObjectMeta("a", "CALLER", "CALLED", "h:1", 1.0, "1.2", f"1.2.{serial:06d}", "1.2")
        append = self._life.writer.begin(meta)
        self._life.appends.append((append, payload[:size]))

    def _go_on(self) -> None:
        append, payload = self._life.appends.pop(self.random.randrange(len(self._life.appends)))
        lasts = self._life.lasts
        done = append.dataset_length + len(lasts.get(append, b""))
        if done < len(payload) and self.random.random() < 0.9:
            size = self.random.choice([1000, 4096, 9000])
            piece = payload[done : done + size]
            if done + size >= len(payload) and self.random.random() < 0.5:
                lasts[append] = piece
            else:
                append.write([piece])
            self._life.appends.append((append, payload))
        elif done < len(payload) or self.random.random() < 0.1:
            append.abandon()
        else:
            self._commit(append, payload)

    def _commit(self, append: Append, payload: bytes) -> None:
        """Streamed ones alone; those still whole together with all the others that are complete."""
        writer, segment, lasts = self._life.writer, append._segment, self._life.lasts
        last = lasts.pop(append, b"")
        if segment is not None:
            self.disk.note("try", (segment.generation, segment.number, payload))
            at = append.commit((last,))
            self.disk.note("ack", (at.generation, at.number, payload))
            return
        complete = [
            one
            for one in self._life.appends
            if one[0]._segment is None and one[0].dataset_length + len(lasts.get(one[0], b"")) == len(one[1])
        ]
        self._life.appends = [one for one in self._life.appends if one not in complete]
        writer.group = [(append.finish((last,))[1], payload)]
        writer.group += ((one.finish((lasts.pop(one, b""),))[1], data) for one, data in complete)
        try:
            commit_together(writer, [record for record, _ in writer.group])
        finally:
            for record, data in writer.group:
                if record.at is not None:
                    self.disk.note("ack", (record.at.generation, record.at.number, data))
            writer.group = []

    def _publish(self, generation: str, end: int | None) -> None:
        before = self.checkpoints.get(generation, Checkpoint(generation))
        try:
            records, after = self._life.reader.read(before, committed_end=end, max_records=self.random.choice([2, 99]))
        except SegmentGone:
            return
        except SpoolCorrupt:
            self.corrupt += 1
            return
        for record in records:
            self.disk.note("publish", (record.at.generation, record.at.number))
        if records:
            self.checkpoints[generation] = after

    def _free(self) -> None:
        reader = self._life.reader
        for generation in reader.generations():
            if reader.is_sealed(generation):
                before = self.checkpoints.get(generation)
                self._publish(generation, None)
                if before == self.checkpoints.get(generation):
                    self.disk.note("freeing", generation)
                    if reader.free(generation):
                        self.checkpoints.pop(generation, None)
                        self.disk.note("freed", generation)
                    return

    def _restart(self) -> None:
        self.disk.die()
        self._life = self._start()
        for generation in self._life.reader.generations():
            self._publish(generation, None)
