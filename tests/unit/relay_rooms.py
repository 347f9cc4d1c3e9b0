"""The rooms of a relay process in one thread: real spool, real job table, real staging, a clock set by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relaypacs.config import Config
from relaypacs.intake import ArrivalReader, CallerPolicy, Intake
from relaypacs.jobs.store import JobStore
from relaypacs.model import Claim, Committed, Delivered, ObjectMeta, Settlement
from relaypacs.policy.routing import Router
from relaypacs.spool.reader import SpoolReader
from relaypacs.spool.writer import SpoolWriter
from relaypacs.staging.filesystem import FilesystemStaging
from relaypacs.sweep import Sweep
from relaypacs.wake.hints import HintReceiver

NODE = "relaypacs"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
START = 1_790_000_000.0


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """One Explicit VR Little Endian element with a short length (PS3.5 7.1.2)."""
    value += b"" if len(value) % 2 == 0 else (b"\0" if vr == b"UI" else b" ")
    head = group.to_bytes(2, "little") + number.to_bytes(2, "little") + vr
    return head + len(value).to_bytes(2, "little") + value


def dataset(uid: str, *, study: str = "1.2.3", modality: str = "CT", body: bytes = b"pixels") -> bytes:
    """A small dataset with what routing and rows read."""
    return b"".join(
        (
            element(0x0008, 0x0016, b"UI", CT.encode()),
            element(0x0008, 0x0018, b"UI", uid.encode()),
            element(0x0008, 0x0020, b"DA", b"20260102"),
            element(0x0008, 0x0050, b"SH", b"ACC1"),
            element(0x0008, 0x0060, b"CS", modality.encode()),
            element(0x0010, 0x0020, b"LO", b"PID1"),
            element(0x0020, 0x000D, b"UI", study.encode()),
            element(0x0020, 0x000E, b"UI", (study + ".1").encode()),
            element(0x0029, 0x1001, b"LO", body),
        )
    )


@dataclass
class Clock:
    """Seconds since the epoch, moved by the test."""

    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass
class Rooms:
    """Build with a folder; `reopen()` is what a restart of the relay process does."""

    folder: Path
    keep_seconds: float | None = 7 * 86400.0
    keep_rows_seconds: float | None = None
    destinations: tuple[str, ...] = ("pacs",)
    segment_bytes: int = 1 << 20
    clock: Clock = field(default_factory=Clock)
    notified: list[str] = field(default_factory=list)
    workers_room: dict[str, int] = field(default_factory=dict)
    workers_idle: Callable[[], bool] = field(default=lambda: False)
    handed_over: list[Claim] = field(default_factory=list)
    commits: list[Committed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows_changed = threading.Event()
        self.poked = threading.Event()
        self.writer = self.new_writer()
        self.reopen()

    def new_writer(self) -> SpoolWriter:
        return SpoolWriter(
            self.folder / "spool",
            segment_bytes=self.segment_bytes,
            min_free_bytes=0,
            max_object_bytes=1 << 30,
            recycle=True,
            durable=True,
            on_commit=self.commits.append,
        )

    def reopen(self) -> None:
        self.reader = SpoolReader(self.folder / "spool", recycle=True, recycle_segments=4)
        self.jobs = JobStore.open(f"sqlite:///{self.folder}/jobs.sqlite")
        self.jobs.migrate()
        self.staging = FilesystemStaging(self.folder / "staging")
        self.hints = HintReceiver(self.folder / "hints")
        config = Config.model_validate(
            {
                "destination": [
                    {"name": name, "kind": "dimse", "host": "h", "port": 104, "called_ae": "PACS"}
                    for name in self.destinations
                ],
                "rule": [
                    {"name": "drop-us", "modality": "US", "drop": True},
                    {"name": "all-ct", "modality": "CT", "to": list(self.destinations)},
                ],
            }
        )
        self.arrival_of = ArrivalReader(Router(config.rule, config.routing.default), lambda *_: CallerPolicy())
        self.intake = Intake(
            node=NODE,
            reader=self.reader,
            jobs=self.jobs,
            arrival_of=self.arrival_of,
            hints=self.hints,
            takers=self,
            lease_seconds=120.0,
            on_rows=self.rows_changed.set,
            on_poke=self.poked.set,
            clock=self.clock,
        )
        self.sweep = self.new_sweep()

    def room(self) -> dict[str, int]:
        """As the workers of a node: none here."""
        return dict(self.workers_room)

    def idle(self) -> bool:
        """As the workers of a node."""
        return self.workers_idle()

    def hand_over(self, claims: Sequence[Claim], since: tuple[float, float]) -> None:
        """As the workers of a node."""
        self.handed_over += claims

    def queued(self, name: str) -> None:
        """As the workers of a node."""
        self.notified.append(name)

    def new_sweep(self, *, min_free_bytes: int = 0) -> Sweep:
        return Sweep(
            node=NODE,
            reader=self.reader,
            jobs=self.jobs,
            staging=self.staging,
            intake=self.intake,
            nudged=self.rows_changed,
            hash_key=b"key",
            hot_seconds=2.0,
            keep_seconds=self.keep_seconds,
            min_free_bytes=min_free_bytes,
            date="study",
            keep_rows_seconds=self.keep_rows_seconds,
            clock=self.clock,
        )

    def receive(self, uid: str, data: bytes | None = None, *, association: str = "a1") -> Committed:
        """Put an object into the spool as a receive process does."""
        append = self.writer.begin(
            ObjectMeta(
                association_id=association,
                calling_ae="CT_1",
                called_ae="RELAYPACS",
                peer="127.0.0.1:1",
                received_at=self.clock.now,
                sop_class_uid=CT,
                sop_instance_uid=uid,
                transfer_syntax_uid=EXPLICIT_LITTLE,
            )
        )
        append.write([dataset(uid) if data is None else data])
        return append.commit()

    def claims(self, destination: str = "pacs") -> list[Claim]:
        return self.jobs.claim(destination, node=NODE, limit=1000, lease_seconds=60, now=self.clock.now)

    def deliver_all(self, destination: str = "pacs") -> Sequence[Claim]:
        claims = self.claims(destination)
        now = self.clock.now
        self.jobs.settle([Settlement(claim, Delivered(), now, now) for claim in claims], now)
        return claims

    def staged_files(self) -> list[Path]:
        return sorted((self.folder / "staging").rglob("*.dcm"))

    def segments(self) -> list[Path]:
        return sorted((self.folder / "spool" / "segments").glob("*.tar"))
