"""No crash state violates a promise; and the simulator sees it when the spool is broken."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from relaypacs.model import Checkpoint
from relaypacs.spool import segment, writer
from relaypacs.spool.reader import SpoolReader
from relaypacs.spool.writer import SpoolWriter
from tests.crash.spool import workload
from tests.crash.spool.mutants import MUTANTS, copy_with
from tests.crash.spool.simulate import scan_state, simulate
from tests.crash.spool.states import DiskModel
from tests.crash.spool.workload import Workload

ROOT = Path(__file__).parents[3]
LEAST = 12 << 10


def test_no_crash_state_breaks_a_promise() -> None:
    counts = simulate(0, 20_000)
    assert counts.violations == []
    assert counts.states >= 20_000
    assert counts.flips > 300


def test_no_crash_state_of_groups_that_make_a_fresh_file_grow_breaks_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added at once is small here, so that a group needs more."""
    grown = []

    def grow(spool: SpoolWriter, one: segment.Segment, room: int) -> None:
        before = one.solid
        as_it_is(spool, one, room)
        grown.append(room > LEAST and one.solid > before)

    as_it_is = SpoolWriter.grow
    monkeypatch.setattr(SpoolWriter, "grow", grow)
    for module in (segment, writer):
        monkeypatch.setattr(module, "GROW_LEAST_BYTES", LEAST)
        monkeypatch.setattr(module, "GROW_MOST_BYTES", LEAST)
    monkeypatch.setattr(workload, "SEGMENT_BYTES", 200_000)
    counts = simulate(300, 14_000)
    assert counts.violations == []
    assert sum(grown) > 10


def test_the_reader_finds_in_a_folder_what_recovery_finds_in_bytes(tmp_path: Path) -> None:
    """The simulator judges the pure core; here real folders in crash states are read, freed and written again."""
    draw = random.Random(3)
    (tmp_path / "life").mkdir()
    trace = Workload(tmp_path / "life", 109).run(90)
    model = DiskModel(512)
    read = 0
    for index, op in enumerate(trace):
        if op.note is None:
            model.apply(op)
        if index % 3:
            continue
        folder = tmp_path / str(index)
        state = model.crash(draw)
        for name, content in state.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        reader = SpoolReader(folder, recycle=True, recycle_segments=5)
        for generation in reader.generations():
            image = state[f"segments/{generation}.tar"]
            expected = scan_state(generation, image, state).records
            found, after = reader.read(Checkpoint(generation), committed_end=None)
            # Behind a record of the last group that is no good the others come with the next reading.
            more = found
            while more:
                more, after = reader.read(after, committed_end=None)
                found = found + more
            assert found == expected
            assert reader.read(after, committed_end=None) == ([], after)
            read += len(found)
            assert reader.free(generation)
        assert reader.generations() == reader.quarantined() == []
        spool = SpoolWriter(
            folder,
            segment_bytes=1 << 20,
            min_free_bytes=0,
            max_object_bytes=1 << 20,
            recycle=True,
            durable=True,
            on_commit=lambda committed: None,
        )
        at = spool.append_event("again", 1.0, {})
        assert [record.at for record in reader.read(Checkpoint(at.generation), committed_end=at.end)[0]] == [at]
        spool.close()
        reader.close()
    assert read > 50  # 108 to 166: the names, and with them what is drawn, differ from run to run


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_crash_state_of_a_million_breaks_a_promise() -> None:
    counts = simulate(10_000, 1_000_000)
    assert counts.violations == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_spool_is_caught(name: str, tmp_path: Path) -> None:
    copy_with(MUTANTS[name], tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.spool.simulate", "--first-violation", "--states", "60000"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["package"].startswith(str(tmp_path)), "the copy must be what was simulated"
    assert found["violation_count"] > 0, f"{name} survived {found['states']} states"
