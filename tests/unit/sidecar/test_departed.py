"""Files of processes that have ended: what they counted stays, what they had open does not, and few files do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from relaypacs.sidecar.departed import MOST, fold
from relaypacs.sidecar.metrics import NodeEvents

# As many processes as are asked for, one after the other; each counts, and ends.
PROGRAM = """
import os, sys
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
for number in range(int(sys.argv[2])):
    if os.fork() == 0:
        from prometheus_client import Counter, Gauge, Histogram
        Counter("a_total", "Counts.", ["of"]).labels("x").inc(number)
        Histogram("b_seconds", "Takes.", buckets=(1.0, 2.0)).observe(1.5)
        Gauge("c", "Is open.", multiprocess_mode="livesum").set(3)
        Gauge("d", "The latest.", multiprocess_mode="mostrecent").set(number)
        os._exit(0)
    os.wait()
"""


def counted(folder: Path, processes: int) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, str(folder), str(processes)], check=True, timeout=60)


def exposed(folder: Path) -> set[str]:
    registry = CollectorRegistry()
    registry.register(NodeEvents(folder))
    return {line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")}


def test_many_that_ended_leave_few_files_and_all_they_counted(tmp_path: Path) -> None:
    counted(tmp_path, 5)
    few = exposed(tmp_path)
    assert 'a_total{of="x"} 10.0' in few
    assert "d 4.0" in few
    assert not [line for line in few if line.startswith("c ")], "a dead process has nothing open"
    assert len(list(tmp_path.iterdir())) == 20
    fold(tmp_path, most=4)
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "counter_0.db", "gauge_mostrecent_0.db", "histogram_0.db",
    ]  # fmt: skip
    assert exposed(tmp_path) == few
    counted(tmp_path, MOST + 1)
    many = exposed(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3, "a scrape does it by itself"
    assert f'a_total{{of="x"}} {10 + sum(range(MOST + 1)):.1f}' in many
    assert f"b_seconds_count {5 + MOST + 1:.1f}" in many
    assert 'b_seconds_bucket{le="1.0"} 0.0' in many
    assert f"d {MOST:.1f}" in many
    assert exposed(tmp_path) == many


def test_those_that_live_are_left_alone(tmp_path: Path) -> None:
    counted(tmp_path, 2)
    for file in list(tmp_path.glob("*")):
        file.rename(file.with_stem(f"{file.stem.rpartition('_')[0]}_{os.getpid()}"))
    before = sorted(tmp_path.iterdir())
    fold(tmp_path, most=0)
    assert sorted(tmp_path.iterdir()) == before
    assert "c 3.0" in exposed(tmp_path)


@pytest.mark.skipif(not Path("/proc/1/cmdline").exists(), reason="no /proc")
def test_a_number_that_is_another_programs_by_now_has_nothing_open(tmp_path: Path) -> None:
    counted(tmp_path, 1)
    for file in list(tmp_path.glob("*")):
        file.rename(file.with_stem(f"{file.stem.rpartition('_')[0]}_1"))
    assert not [line for line in exposed(tmp_path) if line.startswith("c ")]


def test_a_file_that_is_just_made_is_left_out(tmp_path: Path) -> None:
    counted(tmp_path, 1)
    (tmp_path / "counter_99999999.db").touch()
    assert 'a_total{of="x"} 0.0' in exposed(tmp_path)
    fold(tmp_path, most=0)
    assert 'a_total{of="x"} 0.0' in exposed(tmp_path)
