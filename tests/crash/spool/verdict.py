"""Holds what a victim said against what its folder holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from relaypacs.errors import SpoolCorrupt
from relaypacs.model import Checkpoint, ObjectRecord
from relaypacs.spool.reader import SpoolReader
from tests.crash.spool.victim import payload


@dataclass
class Said:
    """A victim's lines, so far."""

    acks: dict[str, dict[int, int]] = field(default_factory=dict)
    """By generation and record number: the serial that was acknowledged, unless its segment was being freed."""
    freed: set[str] = field(default_factory=set)
    refused: set[int] = field(default_factory=set)
    lasting: list[int] = field(default_factory=list)
    acknowledged: int = 0

    def hear(self, lines: Iterable[str]) -> Said:
        """Take in lines."""
        for line in lines:
            what, *words = line.split()
            if what == "ack":
                self.acks.setdefault(words[0], {})[int(words[1])] = int(words[2])
                self.acknowledged += 1
            elif what == "freeing":
                self.acks.pop(words[0], None)
            elif what == "freed":
                self.freed.add(words[0])
            elif what == "refused":
                self.refused.add(int(words[0]))
            elif what == "lasting":
                self.lasting.append(int(words[0]))
        return self


def judge(folder: Path, said: Said) -> tuple[list[str], int]:
    """The broken promises in a sentence each, and the number of records found."""
    problems: list[str] = []
    reader = SpoolReader(folder, recycle=True, recycle_segments=3)
    present = reader.generations()
    problems += [f"freed segment {generation} is back" for generation in said.freed & set(present)]
    count = 0
    for generation in present:
        found: dict[int, int] = {}
        checkpoint = Checkpoint(generation)
        try:
            while (read := reader.read(checkpoint, committed_end=None))[0]:
                checkpoint = read[1]
                for record in read[0]:
                    assert isinstance(record, ObjectRecord)
                    serial = int(record.meta.sop_instance_uid.rsplit(".", 1)[1])
                    with reader.pin(generation) as pin:
                        whole = pin.view(record.dataset_offset, record.dataset_length) == payload(serial)
                    if not whole:
                        problems.append(f"record {record.at.number} of {generation} has wrong bytes")
                    found[record.at.number] = serial
        except SpoolCorrupt as problem:
            problems.append(str(problem))
        count += len(found)
        lost = said.acks.get(generation, {}).items() - found.items()
        problems += [f"object {serial}, record {number} of {generation} is lost" for number, serial in sorted(lost)]
    gone = said.acks.keys() - set(present)
    problems += [f"segment {generation} is lost" for generation in gone]
    reader.close()
    return problems, count
