"""Claims over generated or real objects, and the dispatcher's side of a sender: bytes handed out, outcomes noted."""

from __future__ import annotations

import itertools
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import google_crc32c

from relaypacs.dicom.part10 import FileHead, file_head, read_file_head
from relaypacs.forward.sender import Payload, Sender, Trouble, Unreadable
from relaypacs.model import Claim, Deferred, Location, Outcome, Scope

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
STUDY = "1.2.826.0.1.3680043.10.1"
_numbers = itertools.count(1)


def element(tag: int, vr: str, value: bytes) -> bytes:
    """An Explicit VR Little Endian element (PS3.5 7.1.2)."""
    value += b"\0" * (len(value) % 2) if vr in ("UI", "OB", "OW", "UN") else b" " * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in ("OB", "OW", "UN", "SQ"):
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def dataset(uid: str, *, pixels: int = 512, sop_class: str = CT, study: str = STUDY, patient: str = "FWD-1") -> bytes:
    """A small valid dataset with `pixels` random bytes as Pixel Data; `study` may be empty."""
    body = element(0x00080016, "UI", sop_class.encode()) + element(0x00080018, "UI", uid.encode())
    body += element(0x00080060, "CS", b"CT") + element(0x00100010, "PN", b"Forward^Test")
    body += element(0x00100020, "LO", patient.encode())
    if study:
        body += element(0x0020000D, "UI", study.encode()) + element(0x0020000E, "UI", (study + ".1").encode())
    side = struct.pack("<H", 16)
    body += element(0x00280002, "US", struct.pack("<H", 1)) + element(0x00280010, "US", side)
    body += element(0x00280011, "US", struct.pack("<H", min(max(pixels // 32, 1), 65535)))
    body += element(0x00280100, "US", side) + element(0x00280101, "US", side) + element(0x00280102, "US", b"\x0f\0")
    return body + element(0x7FE00010, "OW", os.urandom(pixels))


class Deliveries:
    """What the dispatcher does for a sender, in memory: `add` or `add_file`, `deliver`, then look at `outcomes`."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.outcomes: dict[int, Outcome] = {}
        self.unreadable: set[int] = set()
        self.proceed_until: int | None = None
        self._files: dict[int, bytes | Path] = {}
        self._crcs: dict[int, int] = {}

    def add(
        self,
        body: bytes,
        *,
        uid: str,
        sop_class: str = CT,
        transfer_syntax: str = EXPLICIT,
        attempts: int = 0,
        crc32c: int | None = None,
    ) -> Claim:
        """Claim an instance with this dataset."""
        head = file_head(sop_class, uid, transfer_syntax, source_ae="MODALITY")
        crc = google_crc32c.value(body) if crc32c is None else crc32c
        found = FileHead(sop_class, uid, transfer_syntax, len(head))
        return self._claim(head + body, found, len(head) + len(body), crc, attempts)

    def add_new(self, **arguments: object) -> Claim:
        """Claim a generated CT."""
        uid = f"{STUDY}.2.{next(_numbers)}"
        return self.add(dataset(uid), uid=uid, **arguments)  # type: ignore[arg-type]

    def add_file(self, path: Path) -> Claim:
        """Claim the instance in a Part 10 file, as it is."""
        with path.open("rb") as file:
            prefix = file.read(65536)
            length = path.stat().st_size
            head = read_file_head(prefix, file_length=length)
            file.seek(head.dataset_offset)
            crc = 0
            while chunk := file.read(1 << 20):
                crc = google_crc32c.extend(crc, chunk)
        return self._claim(path, head, length, crc, 0)

    def _claim(self, file: bytes | Path, head: FileHead, length: int, crc32c: int, attempts: int) -> Claim:
        number = next(_numbers)
        offset = head.dataset_offset
        claim = Claim(
            delivery_id=number,
            instance_id=number,
            token=1,
            destination="there",
            attempts=attempts,
            first_queued_at=0.0,
            priority=0,
            sop_class_uid=head.sop_class_uid,
            sop_instance_uid=head.sop_instance_uid,
            study_instance_uid=STUDY,
            transfer_syntax_uid=head.transfer_syntax_uid,
            association_id="association",
            location=Location("node", "g", 0, length, offset, length - offset, crc32c, None),
        )
        self.claims.append(claim)
        self._files[number] = file
        return claim

    @contextmanager
    def read(self, claim: Claim) -> Iterator[Payload]:
        """As `batch.Batch.read`."""
        if claim.delivery_id in self.unreadable:
            raise Unreadable
        file = self._files[claim.delivery_id]
        at = claim.location
        if isinstance(file, bytes):
            yield Payload(memoryview(file), memoryview(file)[at.dataset_offset :], at.dataset_crc32c)
            return
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            view = memoryview(mapped)
            with view, view[at.dataset_offset :] as body:
                yield Payload(view, body, at.dataset_crc32c)

    def report(self, claim: Claim, outcome: Outcome, started_at: float, finished_at: float) -> None:
        """As `batch.Batch.report`: once per claim."""
        assert claim.delivery_id not in self.outcomes
        assert started_at <= finished_at
        self.outcomes[claim.delivery_id] = outcome

    def proceed(self, _claims: Sequence[Claim], _rest: Callable[[], None]) -> bool:
        """As `batch.Batch.proceed`."""
        return self.proceed_until is None or len(self.outcomes) < self.proceed_until

    def deliver(self, sender: Sender, claims: Sequence[Claim] | None = None) -> Trouble | None:
        """Deliver all claims, or these. Trouble before the first byte is put down to one of them, as `Batch` does."""
        claims = self.claims if claims is None else claims
        trouble = sender.deliver(claims, self.read, self.report, self.proceed)
        if trouble is not None and trouble.opening:
            untried = next(claim for claim in claims if claim.delivery_id not in self.outcomes)
            self.outcomes[untried.delivery_id] = Deferred(trouble.reason, Scope.SITE)
        return trouble

    def outcome(self, claim: Claim) -> Outcome | None:
        """How a claim ended, if it was tried."""
        return self.outcomes.get(claim.delivery_id)

    def body(self, claim: Claim) -> bytes:
        """A claim's dataset."""
        with self.read(claim) as payload:
            return bytes(payload.dataset)
