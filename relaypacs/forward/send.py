"""Send DICOM files to any C-STORE SCP, without a node: what the command line's `send` does.

The same lane as forwarding, so the same bytes go out: the file's dataset as it is, in its own transfer syntax. No job
table, no retry: each file is reported once, and what comes after a destination's trouble is reported as not tried.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from relaypacs.dicom.part10 import FileHead, read_file_head
from relaypacs.forward.lane import Address, Lane, sentence
from relaypacs.forward.names import spoken
from relaypacs.model import Deferred, Failed, Outcome, Scope
from relaypacs.policy.outcome import no_context, store_outcome
from relaypacs.upper.errors import UpperError

_HEAD_BYTES = 65536
_FILES_LOOKED_AHEAD = 500
"""Files whose heads choose the presentation contexts of an association; bounds memory."""

Report = Callable[[Path, Outcome, float], None]
"""file, outcome, seconds it took."""


def send_files(paths: Sequence[Path], address: Address, report: Report) -> None:
    """Send the files in order and `report` each exactly once.

    Delivered, Failed (the file is no Part 10 file, can't be read, or was refused), or Deferred: the destination was
    in trouble (SITE), or said to try again later (INSTANCE). Raises nothing for what files, network or peer do.
    """
    lane = Lane(address)
    waiting = iter(paths)
    try:
        while some := list(islice(waiting, _FILES_LOOKED_AHEAD)):
            trouble = _send_some(lane, list(_heads(some, report)), report, address)
            if trouble:
                for path in waiting:
                    report(path, Deferred(trouble, Scope.SITE), 0.0)
    finally:
        lane.release()


def _heads(paths: Sequence[Path], report: Report) -> Iterator[tuple[Path, FileHead]]:
    for path in paths:
        try:
            with path.open("rb") as file:
                yield path, read_file_head(file.read(_HEAD_BYTES), file_length=path.stat().st_size)
        except (OSError, ValueError) as problem:
            report(path, Failed(_reason(problem)), 0.0)


def _send_some(lane: Lane, files: list[tuple[Path, FileHead]], report: Report, address: Address) -> str:
    """Send files whose heads were read; the destination's trouble, or nothing."""
    trouble = ""
    for number, (path, head) in enumerate(files):
        started = time.monotonic()
        outcome: Outcome
        if trouble:
            outcome = Deferred(trouble, Scope.SITE)
        else:
            pair = (head.sop_class_uid, head.transfer_syntax_uid)
            try:
                if not lane.proposed(pair):
                    lane.open((one.sop_class_uid, one.transfer_syntax_uid) for _, one in files[number:])
                outcome = _send_file(lane, path, head)
            except UpperError as problem:
                trouble = sentence(problem, response_timeout_seconds=address.response_timeout_seconds)
                outcome = Deferred(trouble, Scope.SITE)
        report(path, outcome, time.monotonic() - started)
    return trouble


def _send_file(lane: Lane, path: Path, head: FileHead) -> Outcome:
    pair = (head.sop_class_uid, head.transfer_syntax_uid)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            whole = memoryview(mapped)
            with whole, whole[head.dataset_offset :] as dataset:
                status = lane.store(pair, head.sop_instance_uid, dataset, None)
    except (OSError, ValueError) as problem:
        return Failed(_reason(problem))
    if status is None:
        return no_context(spoken(pair[0]), spoken(pair[1]))
    return store_outcome(status)


def _reason(problem: Exception) -> str:
    if isinstance(problem, OSError):
        return f"the file can't be read: {problem.strerror or type(problem).__name__}"
    return str(problem)
