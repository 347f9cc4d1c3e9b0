"""The write simulator: random lives of a spool, each cut at every call, each cut in many ways, all read back.

    python -m tests.crash.spool.simulate --first-seed 0 --states 20000 [--first-violation]

prints one JSON line: states, violations (a sentence each), flips, lives. A violation is: an acknowledged or published
record that recovery doesn't return whole; a record that was never committed in this life of the file, or not with these
bytes; a freed segment that comes back; corruption where there was only a crash; a flipped byte that passes unnoticed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import relaypacs
from relaypacs.model import Checkpoint, ObjectRecord, Record
from relaypacs.spool.format import PAGE, decode_header
from relaypacs.spool.recover import Ending, Scan, scan
from tests.crash.spool.recording import Op
from tests.crash.spool.states import DiskModel, flips
from tests.crash.spool.workload import Workload

_SEGMENT = ".tar"


@dataclass
class Promises:
    """What the trace promised so far: by generation, then by record number."""

    tried: dict[str, dict[int, set[bytes]]] = field(default_factory=dict)
    owed: dict[str, dict[int, bytes | None]] = field(default_factory=dict)
    """Acknowledged or published, and not given up: the payload, None for an event."""
    freed: set[str] = field(default_factory=set)

    def note(self, op: Op) -> None:
        """Take in a note of the trace."""
        if op.what == "try":
            generation, number, payload = op.note  # type: ignore[misc]
            self.tried.setdefault(generation, {}).setdefault(number, set()).add(payload)
        elif op.what == "ack":
            generation, number, payload = op.note  # type: ignore[misc]
            self.owed.setdefault(generation, {})[number] = payload
        elif op.what == "publish":
            generation, number = op.note  # type: ignore[misc]
            self.owed.setdefault(generation, {}).setdefault(number, None)
        elif op.what == "freeing":
            self.owed.pop(str(op.note), None)
        elif op.what == "freed":
            self.freed.add(str(op.note))


@dataclass
class Counts:
    """What a run found."""

    lives: int = 0
    states: int = 0
    flips: int = 0
    violations: list[str] = field(default_factory=list)


def scan_state(generation: str, image: bytes, state: Mapping[str, bytes]) -> Scan:
    """Recovery as on a node that starts: nobody holds the segment, a retired one ends at its mark."""
    size = len(image)
    marker = state.get(f"segments/{generation}.retired")
    if marker is not None:
        size = min(size, int(json.loads(marker)["committed_end"]))
    records: list[Record] = []
    checkpoint = Checkpoint(generation)
    while True:
        found = scan(lambda at, length: image[at : min(size, at + length)], checkpoint, size=size)
        records += found.records
        if found.ending is not Ending.TORN or found.resume is None:
            return replace(found, records=records)
        checkpoint = found.resume


def _rest(generation: str, image: bytes, found: Scan) -> Scan:
    """Everything, also behind damage."""
    records = list(found.records)
    while found.resume is not None:
        found = scan(lambda at, length: image[at : at + length], found.resume, size=len(image))
        records += found.records
    return Scan(records, found.checkpoint, found.ending)


def _last_group(image: bytes, records: list[Record]) -> int:
    """Which record was the first of the group that the last one was made durable with."""
    header = decode_header(image[records[-1].at.offset :][:PAGE])
    assert header is not None
    return header.since


def check(state: Mapping[str, bytes], promises: Promises) -> list[str]:
    """The violations of one crash state."""
    problems = []
    present = {name.removeprefix("segments/")[: -len(_SEGMENT)] for name in state if _is_segment(name)}
    problems += [f"freed segment {generation} is back" for generation in sorted(present & promises.freed)]
    for generation in present:
        image = state[f"segments/{generation}{_SEGMENT}"]
        found = scan_state(generation, image, state)
        if found.ending is Ending.CORRUPT:
            problems.append(f"corruption after a mere crash: {found.problem}")
        seen = {}
        for record in found.records:
            seen[record.at.number] = record
            if isinstance(record, ObjectRecord):
                payload = image[record.dataset_offset : record.dataset_offset + record.dataset_length]
                if payload not in promises.tried.get(generation, {}).get(record.at.number, ()):
                    problems.append(f"record {record.at.number} of {generation} was never written with these bytes")
        for number, owed in promises.owed.get(generation, {}).items():
            record = seen.get(number)
            if record is None:
                problems.append(f"record {number} of {generation} was promised and is lost")
            elif isinstance(record, ObjectRecord) and owed is not None:
                payload = image[record.dataset_offset : record.dataset_offset + record.dataset_length]
                if payload != owed:
                    problems.append(f"record {number} of {generation} has other bytes than were promised")
    gone = promises.owed.keys() - present
    problems += [f"segment {generation} was promised and is lost" for generation in sorted(gone)]
    return problems


def _is_segment(name: str) -> bool:
    return name.startswith("segments/") and name.endswith(_SEGMENT)


def check_flip(state: Mapping[str, bytes], promises: Promises, draw: random.Random) -> tuple[int, list[str]]:
    """Damage promised records of an intact state: each must be reported, and all the others still be there."""
    done, problems = 0, []
    for generation, owed in promises.owed.items():
        image = state.get(f"segments/{generation}{_SEGMENT}")
        if image is None or f"segments/{generation}.retired" in state:
            continue
        intact = scan_state(generation, image, state)
        places = {record.at.number: (record.at.offset, record.at.end) for record in intact.records}
        for number, changed in flips(image, places, draw):
            done += 1
            found = scan_state(generation, changed, state)
            whole = {record.at.number for record in _rest(generation, changed, found).records}
            last = intact.ending is not Ending.SEALED and number >= _last_group(image, intact.records)
            if found.ending is not Ending.CORRUPT and not last:
                problems.append(f"a flipped byte in record {number} of {generation} went unnoticed")
            if lost := owed.keys() - whole - {number}:
                problems.append(f"a flipped byte in record {number} of {generation} cost records {sorted(lost)}")
            if number in whole:
                problems.append(f"record {number} of {generation} was returned with a flipped byte")
    return done, problems


def simulate(first_seed: int, states: int, *, per_cut: int = 6, first_violation: bool = False) -> Counts:
    """Make at least `states` crash states, `per_cut` of them behind each call of each life."""
    counts = Counts()
    seed = first_seed
    while counts.states < states:
        folder = Path(tempfile.mkdtemp(prefix="spool-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        try:
            trace = Workload(folder, seed).run(90)
        finally:
            shutil.rmtree(folder)
        counts.lives += 1
        _cut_everywhere(trace, seed, per_cut, counts)
        if first_violation and counts.violations:
            break
        seed += 1
    return counts


def _cut_everywhere(trace: list[Op], seed: int, per_cut: int, counts: Counts) -> None:
    draw = random.Random(seed)
    model = DiskModel(draw.choice([512, 4096]))
    promises = Promises()
    for index, op in enumerate(trace):
        if op.note is None:
            model.apply(op)
        else:
            promises.note(op)
        seen = set()
        for _ in range(per_cut if model.uncertain else 1):
            state = model.crash(draw)
            if (key := hash(tuple(sorted(state.items())))) in seen:
                continue
            seen.add(key)
            counts.states += 1
            counts.violations += [f"seed {seed}, call {index} ({op.what}): {text}" for text in check(state, promises)]
        if draw.random() < 0.1:
            done, problems = check_flip(model.crash(draw), promises, draw)
            counts.flips += done
            counts.violations += [f"seed {seed}, call {index} ({op.what}): {text}" for text in problems]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--states", type=int, default=20_000)
    parser.add_argument("--first-violation", action="store_true")
    given = parser.parse_args()
    counts = simulate(given.first_seed, given.states, first_violation=given.first_violation)
    found = {
        **vars(counts),
        "package": str(relaypacs.__file__),
        "violations": counts.violations[:20],
        "violation_count": len(counts.violations),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
