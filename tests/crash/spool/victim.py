"""A process that fills a spool and says on standard output what it was promised, for tests that hurt it.

    python -m tests.crash.spool.victim FOLDER [--objects N] [--threads N] [--free] [--segment-bytes N]

Lines: `ack GENERATION NUMBER SERIAL`, `refused SERIAL ERROR`, `freeing GENERATION`, `freed GENERATION`,
`lasting SERIAL` (refused for longer than 10 s). An object's payload follows from its serial number: `payload(serial)`.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from relaypacs.errors import SegmentGone, SpoolError
from relaypacs.model import Checkpoint, ObjectMeta
from relaypacs.spool.reader import SpoolReader
from relaypacs.spool.writer import SpoolWriter

SIZES = (33_000, 33_000, 600, 300_000, 0, 4096)


def payload(serial: int) -> bytes:
    """The dataset of object `serial`: of a size that recurs, with content that doesn't."""
    size = SIZES[serial % len(SIZES)]
    return (serial.to_bytes(4, "big") * (size // 4 + 1))[:size]


def _say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def _fill(spool: SpoolWriter, serials: range) -> None:
    for serial in serials:
        if not _commit(spool, serial):
            return


def _commit(spool: SpoolWriter, serial: int) -> bool:
    """One object, tried until it is accepted, as a modality does."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        uid = f"1.2.{serial}"
        try:
            append = spool.begin(ObjectMeta("a", "VICTIM", "RELAYPACS", "h:1", time.time(), "1.2", uid, "1.2"))
            data = payload(serial)
            for at in range(0, len(data), 65536):
                append.write([memoryview(data)[at : at + 65536]])
            at = append.commit()
        except SpoolError as problem:
            _say("refused", serial, type(problem).__name__)
            while spool.refusal() is not None and time.monotonic() < until:
                time.sleep(0.005)
        else:
            _say("ack", at.generation, at.number, serial)
            return True
    _say("lasting", serial)
    return False


def _free(folder: Path, stop: threading.Event) -> None:
    """What a relay process does for the spool: read, then free, what is sealed."""
    reader = SpoolReader(folder, recycle=True, recycle_segments=3)
    while not stop.wait(0.002):
        # Whatever fails is tried again.
        with suppress(OSError, SegmentGone):
            for generation in reader.generations():
                if reader.is_sealed(generation):
                    checkpoint = Checkpoint(generation)
                    while (found := reader.read(checkpoint, committed_end=None))[0]:
                        checkpoint = found[1]
                    _say("freeing", generation)
                    if reader.free(generation):
                        _say("freed", generation)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--objects", type=int, default=1 << 30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--segment-bytes", type=int, default=1 << 20)
    parser.add_argument("--free", action="store_true")
    given = parser.parse_args()
    spool = SpoolWriter(
        given.folder,
        segment_bytes=given.segment_bytes,
        min_free_bytes=0,
        max_object_bytes=1 << 30,
        recycle=True,
        durable=True,
        on_commit=lambda committed: None,
        probe_seconds=0.01,
    )
    stop = threading.Event()
    threads = [
        threading.Thread(target=_fill, args=(spool, range(index, given.objects, given.threads)))
        for index in range(given.threads)
    ]
    freeing = threading.Thread(target=_free, args=(given.folder, stop))
    for thread in threads:
        thread.start()
    if given.free:
        freeing.start()
    for thread in threads:
        thread.join()
    stop.set()
    if given.free:
        freeing.join()
    spool.close()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
