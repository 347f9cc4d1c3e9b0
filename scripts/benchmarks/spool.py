"""The spool against the disk itself: durable commits per second beside a bare `pwrite` + `fdatasync` loop.

    scripts/bench spool [--dir DIR] [--seconds S] [--sizes 33000,524288] [--writers 1,2,4,8] [--processes 2] [--json]

Both write recycled files (written through once before) of the same size, in rounds that alternate, so that a busy disk
hurts both; each figure is the median round. Before them the spool has one that isn't counted and makes the files that
are recycled in the others. Writers are threads of as many processes as a node has for reception. Cold: the files'
pages are dropped from memory before each round. The bare loop writes what a record's payload needs, rounded up to
4 KiB, and knows nothing of headers, checksums or tar.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from relaypacs.model import ObjectMeta
from relaypacs.spool.reader import SpoolReader
from relaypacs.spool.writer import SpoolWriter

SEGMENT_BYTES = 64 << 20
READ_BYTES = 256 << 10
"""What the lane hands over at once: a read buffer."""
MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """One line of the table; rates per second."""

    size: int
    writers: int
    cache: str
    bare: float
    spool: float

    @property
    def ratio(self) -> float:
        """How much of the bare loop's rate the spool reaches."""
        return self.spool / self.bare


def _drop(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


Work = Callable[[int, Callable[[], bool]], int]
"""`work(writer, go_on)`: write until `go_on()` is false (once at least); how many were made durable."""


def _threads(work: Work, writers: list[int], seconds: float) -> float:
    """Run `work` for each writer in a thread of its own; what they did per second."""
    counts = dict.fromkeys(writers, 0)
    began = time.perf_counter()
    until = began + seconds

    def run(writer: int) -> None:
        counts[writer] = work(writer, lambda: time.perf_counter() < until)

    threads = [threading.Thread(target=run, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts.values()) / (time.perf_counter() - began)


def _rate(
    prepare: Callable[[], tuple[Work, Callable[[], None]]], writers: int, processes: int, seconds: float
) -> float:
    """The rate of `writers` threads, spread over `processes` as a node spreads its associations.

    `prepare` is called in each process before the clock starts; it returns the work and what closes it.
    """
    fork = multiprocessing.get_context("fork")
    processes = min(processes, writers)
    start = fork.Barrier(processes)
    rates = fork.SimpleQueue()

    def child(index: int) -> None:
        work, close = prepare()
        start.wait()
        rates.put(_threads(work, list(range(index, writers, processes)), seconds))
        close()

    children = [fork.Process(target=child, args=(index,)) for index in range(processes)]
    for one in children:
        one.start()
    total = sum(rates.get() for _ in children)
    for one in children:
        one.join()
    return total


def _bare(files: list[Path], payload: bytes, writers: int, processes: int, seconds: float) -> float:
    whole = payload.ljust(-(-len(payload) // 4096) * 4096, b"\0")
    per_file = max(1, SEGMENT_BYTES // len(whole))

    def work(index: int, go_on: Callable[[], bool]) -> int:
        fd = os.open(files[index], os.O_RDWR)
        done = 0
        while go_on() or done == 0:
            os.pwrite(fd, whole, done % per_file * len(whole))
            os.fdatasync(fd)
            done += 1
        os.close(fd)
        return done

    return _rate(lambda: (work, lambda: None), writers, processes, seconds)


def _spool(folder: Path, payload: bytes, writers: int, processes: int, seconds: float) -> float:
    received = memoryview(bytearray(payload))
    *chunks, last = [[received[at : at + READ_BYTES]] for at in range(0, len(payload), READ_BYTES)]

    def prepare() -> tuple[Work, Callable[[], None]]:
        spool = SpoolWriter(
            folder,
            segment_bytes=SEGMENT_BYTES,
            min_free_bytes=0,
            max_object_bytes=1 << 40,
            recycle=True,
            durable=True,
            on_commit=lambda committed: None,
        )

        def work(index: int, go_on: Callable[[], bool]) -> int:
            done = 0
            while go_on() or done == 0:
                uid = f"1.2.{index}.{done}"
                meta = ObjectMeta(
                    f"bench-{index}", "BENCH", "RELAYPACS", "192.0.2.1:104", time.time(), MR, uid, EXPLICIT
                )
                append = spool.begin(meta)
                for chunk in chunks:
                    append.write(chunk)
                append.commit(last)
                done += 1
            return done

        return work, spool.close

    return _rate(prepare, writers, processes, seconds)


def _free_all(folder: Path, *, cold: bool) -> None:
    reader = SpoolReader(folder, recycle=True, recycle_segments=1000)
    for generation in reader.generations():
        reader.free(generation)
    reader.close()
    if cold:
        for path in (folder / "free").iterdir():
            _drop(path)


def _prepare(folder: Path, count: int, size: int) -> list[Path]:
    """`count` files written through once: for the bare loop and, as freed segments, for the spool."""
    block = os.urandom(1 << 20)
    length = SEGMENT_BYTES + size + (1 << 20)
    free = folder / "spool" / "free"
    free.mkdir(parents=True, exist_ok=True)
    bare = [folder / f"bare-{index}" for index in range(count)]
    for path in [*bare, *(free / f"{index:032x}.tar" for index in range(count * 2))]:
        with path.open("wb") as file:
            for _ in range(length // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    return bare


def measure(folder: Path, sizes: list[int], writers: list[int], processes: int, seconds: float) -> list[Row]:
    """The whole table; needs some gigabytes in `folder`."""
    rows = []
    for size in sizes:
        payload = os.urandom(size)
        bare_files = _prepare(folder, max(writers), size)
        for count in writers:
            _free_all(folder / "spool", cold=False)
            _spool(folder / "spool", payload, count, processes, seconds / ROUNDS)
            for cache in ("warm", "cold"):
                bare, spool = [], []
                for _ in range(ROUNDS):
                    _free_all(folder / "spool", cold=cache == "cold")
                    if cache == "cold":
                        for path in bare_files:
                            _drop(path)
                    bare.append(_bare(bare_files, payload, count, processes, seconds / ROUNDS))
                    spool.append(_spool(folder / "spool", payload, count, processes, seconds / ROUNDS))
                rows.append(Row(size, count, cache, statistics.median(bare), statistics.median(spool)))
                _say(rows[-1])
        shutil.rmtree(folder / "spool")
    return rows


def _say(row: Row) -> None:
    megabytes = row.spool * row.size / 1e6
    sys.stderr.write(
        f"{row.size:>9} B  {row.writers} writers  {row.cache}  bare {row.bare:7.0f}/s  spool {row.spool:7.0f}/s"
        f"  {megabytes:6.0f} MB/s  ratio {row.ratio:.2f}\n"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=None, help="folder on the disk to measure (default: /var/tmp)")
    parser.add_argument("--seconds", type=float, default=4.0, help="time per figure")
    parser.add_argument("--sizes", default="33000,524288,30000000")
    parser.add_argument("--writers", default="1,2,4,8")
    parser.add_argument("--processes", type=int, default=2, help="processes the writers are spread over, as in a node")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-spool-", dir=given.dir or "/var/tmp"))
    try:
        rows = measure(
            folder,
            [int(size) for size in given.sizes.split(",")],
            [int(n) for n in given.writers.split(",")],
            given.processes,
            given.seconds,
        )
    finally:
        shutil.rmtree(folder)
    if given.json:
        sys.stdout.write(json.dumps([{**asdict(row), "ratio": round(row.ratio, 3)} for row in rows]) + "\n")


if __name__ == "__main__":
    main()
