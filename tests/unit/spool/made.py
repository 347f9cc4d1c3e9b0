"""Writers, readers and objects for the spool's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from relaypacs.model import Checkpoint, Committed, ObjectMeta, Record
from relaypacs.spool.append import Append
from relaypacs.spool.disk import Disk
from relaypacs.spool.reader import SpoolReader
from relaypacs.spool.writer import SpoolWriter

MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"


def meta(number: int = 0, **changes: object) -> ObjectMeta:
    """An object's description, told apart by `number`."""
    values: dict[str, object] = {
        "association_id": f"assoc-{number}",
        "calling_ae": "MODALITY",
        "called_ae": "RELAYPACS",
        "peer": "192.0.2.7:40104",
        "received_at": 1_700_000_000.25 + number,
        "sop_class_uid": MR,
        "sop_instance_uid": f"1.2.826.0.1.{number}",
        "transfer_syntax_uid": EXPLICIT,
    }
    return ObjectMeta(**{**values, **changes})  # type: ignore[arg-type]


def dataset(length: int, seed: int = 0) -> bytes:
    """`length` bytes that differ from other seeds' everywhere."""
    return bytes((seed * 37 + index * 7 + (index >> 8)) & 0xFF for index in range(min(length, 4096))) * (
        length // 4096 + 1
    )


def data(length: int, seed: int = 0) -> bytes:
    """Exactly `length` bytes of `dataset`."""
    return dataset(length, seed)[:length]


def writer(folder: Path, **changes: object) -> SpoolWriter:
    """A writer with small segments; `on_commit` does nothing unless given."""
    values: dict[str, object] = {
        "segment_bytes": 1 << 20,
        "min_free_bytes": 0,
        "max_object_bytes": 1 << 30,
        "recycle": True,
        "durable": False,
        "on_commit": lambda committed: None,
    }
    return SpoolWriter(folder, **{**values, **changes})  # type: ignore[arg-type]


def reader(folder: Path, disk: Disk | None = None) -> SpoolReader:
    """A reader that recycles everything."""
    return SpoolReader(folder, recycle=True, recycle_segments=100, disk=disk)


def put(spool: SpoolWriter, payload: bytes, number: int = 0, fragments: Sequence[bytes | memoryview] = ()) -> Committed:
    """Commit one object."""
    append = spool.begin(meta(number))
    append.write(fragments or [payload])
    return append.commit()


def stream(spool: SpoolWriter, number: int = 0) -> Append:
    """An object too large to be held (the writer's `held_bytes` is less than 8 KiB): it has leased a segment."""
    append = spool.begin(meta(number))
    append.write([data(8192, number)])
    return append


def read_all(spool: SpoolReader, generation: str, max_records: int = 1000) -> list[Record]:
    """Everything of a segment that verifies."""
    records: list[Record] = []
    checkpoint = Checkpoint(generation)
    while True:
        found, checkpoint = spool.read(checkpoint, committed_end=None, max_records=max_records)
        if not found:
            return records
        records += found


def over_bytes(image: bytes) -> Callable[[int, int], bytes]:
    """`read_at` of a segment held in memory."""
    return lambda at, length: image[at : at + length]
